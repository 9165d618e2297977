"""Every job option, declared once.

A job is a frozen pydantic model in a union discriminated on `kind`. The protocol messages and `posttrain init` follow
these classes; tests compare them. Nothing here imports torch.

No field gives a meaning to ``None``: where there is a choice, it is a tagged one (a class per alternative, told apart
by `type`). Units are in the names (`max_tokens`, `timeout_s`). `spec_digest` identifies a spec by its canonical JSON.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

# Below it sampling divides the rounding of float32 logits (about 1e-6 of 20) into what decides: greedy but for chance.
MIN_TEMPERATURE = 1e-3
NAME_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"
REF_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?@([1-9][0-9]{0,8}|[a-z][a-z0-9_-]{0,62})$"

Name = Annotated[
    str, Field(pattern=NAME_PATTERN, description="lower-case letters, digits, '.', '_' and '-', at most 63")
]
Ref = Annotated[str, Field(pattern=REF_PATTERN, description="NAME@NUMBER or, for models, NAME@ALIAS")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Option(BaseModel):
    """Base of all options: immutable, and an unknown field is an error that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False)


# -- data -------------------------------------------------------------------------------------------------------------


class DataSource(Option):
    dataset: Ref = Field(description="a sealed dataset, NAME@VERSION")
    weight: Positive = Field(
        default=1.0, description="how often its rows are drawn in an epoch: 1 is each once, 0.5 a seeded half"
    )


class BuiltinTemplate(Option):
    type: Literal["builtin"] = "builtin"
    name: Literal["chatml"] = Field(default="chatml", description="a chat template that this package ships")


class OwnTemplate(Option):
    type: Literal["own"] = "own"


TrainTemplate = Annotated[BuiltinTemplate | OwnTemplate, Field(discriminator="type")]


class BatchOptions(Option):
    num_rows: Count = Field(default=32, description="rows per optimiser step, whatever the micro-batches")
    micro_tokens: Count = Field(
        default=4096, description="most tokens in one packed forward pass; bounds memory, never changes the loss"
    )
    max_tokens: Count = Field(default=1024, description="longest row in tokens")
    overlong: Literal["refuse", "truncate"] = Field(
        default="refuse",
        description="what to do with a row above max_tokens: refuse the job, or cut its end if a loss position stays",
    )


# -- what is trained, and how -----------------------------------------------------------------------------------------


class FullAdapter(Option):
    type: Literal["full"] = "full"


class LoraAdapter(Option):
    type: Literal["lora"] = "lora"
    rank: Annotated[int, Field(ge=1, le=4096)] = 16
    alpha: Positive = Field(default=32.0, description="scale: alpha / rank, or alpha / sqrt(rank) with rank_stabilized")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    rank_stabilized: bool = Field(default=False, description="rsLoRA, arXiv:2312.03732")
    weight_decomposed: bool = Field(default=False, description="DoRA, arXiv:2402.09353")
    targets: list[str] = Field(
        default_factory=list, description="module names to adapt; empty: all linear layers but the head"
    )


Adapter = Annotated[FullAdapter | LoraAdapter, Field(discriminator="type")]


class EpochsDuration(Option):
    type: Literal["epochs"] = "epochs"
    num_epochs: Annotated[float, Field(gt=0, le=1000)] = 2.0


class StepsDuration(Option):
    type: Literal["steps"] = "steps"
    max_steps: Count = 100


Duration = Annotated[EpochsDuration | StepsDuration, Field(discriminator="type")]


class OptimizerOptions(Option):
    """AdamW (arXiv:1711.05101) with a warm-up and a decay."""

    learning_rate: Positive = Field(default=2e-5, description="peak; about ten times higher for LoRA")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: Positive = 1e-8
    max_grad_norm: Positive = Field(default=1.0, description="the gradient's global norm is clipped to this")
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Fraction = Field(default=0.03, description="share of the steps in which the rate rises from 0")
    final_ratio: Fraction = Field(default=0.0, description="the rate that the decay ends at, as a share of the peak")


class CheckpointOptions(Option):
    every_steps: Count = Field(default=100, description="steps between checkpoints")
    keep: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2, description="newest checkpoints kept of a running attempt"
    )


# -- what happens after training --------------------------------------------------------------------------------------


class ThenNothing(Option):
    type: Literal["register"] = "register"


class ThenGate(Option):
    type: Literal["gate"] = "gate"
    suites: list[Name] = Field(min_length=1, description="suites to evaluate; each must be named by the policy")
    policy: Name = Field(default="default", description="what must hold before the alias may move")
    alias: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")] = Field(
        default="production", description="moves only on PASS"
    )


Then = Annotated[ThenNothing | ThenGate, Field(discriminator="type")]


# -- jobs -------------------------------------------------------------------------------------------------------------


class JobCommon(Option):
    display_name: Annotated[str, Field(max_length=200)] = Field(default="", description="a free text for people")
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    timeout_s: Annotated[int, Field(ge=1, le=30 * 86400)] = Field(
        default=86400, description="an attempt that runs longer is stopped"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of weights and arithmetic; auto: bfloat16 on CUDA, float32 on a CPU"
    )


class TrainCommon(JobCommon):
    base: Ref = Field(description="the registered model to start from, NAME@VERSION or NAME@ALIAS")
    output: Name = Field(description="the model that the new version belongs to")
    data: list[DataSource] = Field(min_length=1)
    adapter: Adapter = Field(default_factory=FullAdapter)
    duration: Duration = Field(default_factory=EpochsDuration)
    optimizer: OptimizerOptions = Field(default_factory=OptimizerOptions)
    batch: BatchOptions = Field(default_factory=BatchOptions)
    checkpoint: CheckpointOptions = Field(default_factory=CheckpointOptions)
    then: Then = Field(default_factory=ThenNothing)


class IftSpec(TrainCommon):
    """Instruction fine-tuning: makes a base model an instruct model (template, special tokens, stop tokens)."""

    kind: Literal["ift"] = "ift"
    template: TrainTemplate = Field(default_factory=BuiltinTemplate)
    loss_on: Literal["all_turns", "last_turn"] = Field(
        default="all_turns", description="which assistant turns are trained"
    )


class SftSpec(TrainCommon):
    """Supervised fine-tuning of any causal LM on prompt/completion, Alpaca or message rows."""

    kind: Literal["sft"] = "sft"
    template: TrainTemplate = Field(default_factory=OwnTemplate)
    loss_on: Literal["all_turns", "last_turn"] = Field(
        default="all_turns", description="which assistant turns are trained"
    )


class OwnEvalTemplate(Option):
    type: Literal["own"] = "own"


class VersionEvalTemplate(Option):
    type: Literal["version"] = "version"
    version: Ref = Field(description="the version whose chat template renders the prompts (a base is asked this way)")


class PlainEvalTemplate(Option):
    type: Literal["plain"] = "plain"
    num_shots: Annotated[int, Field(ge=0, le=8)] = Field(default=3, description="worked examples before the question")


EvalTemplate = Annotated[OwnEvalTemplate | VersionEvalTemplate | PlainEvalTemplate, Field(discriminator="type")]


class EvaluateSpec(JobCommon):
    """Runs suites on one version and keeps a row per example."""

    kind: Literal["evaluate"] = "evaluate"
    version: Ref
    suites: list[Name] = Field(min_length=1)
    template: EvalTemplate = Field(default_factory=OwnEvalTemplate)
    shard: Literal["gate", "dev"] = Field(default="gate", description="dev is for choosing, gate for verdicts")
    max_rows: Annotated[int, Field(ge=0)] = Field(default=0, description="stratified rows per task; 0: all of them")
    max_new_tokens: Annotated[int, Field(ge=0, le=32768)] = Field(
        default=0, description="a cap under each task's own; 0: no further cap"
    )
    batch_rows: Annotated[int, Field(ge=1, le=4096)] = Field(default=64, description="prompts generated at a time")


JobSpec = Annotated[IftSpec | SftSpec | EvaluateSpec, Field(discriminator="kind")]
TrainSpec = IftSpec | SftSpec
AnySpec = IftSpec | SftSpec | EvaluateSpec

JOB_SPEC: TypeAdapter[AnySpec] = TypeAdapter(JobSpec)
KINDS: dict[str, type[Option]] = {"ift": IftSpec, "sft": SftSpec, "evaluate": EvaluateSpec}


def parse_spec(data: object) -> AnySpec:
    """Validates a plain dict into a spec.

    Raises:
        pydantic.ValidationError: each error's `loc` is the path of the field.
    """
    return JOB_SPEC.validate_python(data)


def canonical_json(value: BaseModel | dict[str, Any] | list[Any]) -> str:
    """JSON with sorted keys, no spaces and no NaN, so that equal values have equal text."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    """Hex sha256 of the text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def spec_digest(spec: AnySpec) -> str:
    """Hex sha256 of the spec's canonical JSON, defaults included."""
    return sha256_text(canonical_json(spec))
