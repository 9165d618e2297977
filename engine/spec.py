"""Every job option, declared once: here what each kind of job has of its own, in `options.py` what all training has, in
`loss_options.py` the losses on preferences, in `policy_options.py` what learning from own answers has, in
`reward_options.py` the parts of a reward.

A job is a frozen pydantic model in a union discriminated on `kind`. The protocol messages and `posttrain init` follow
these classes; tests compare them. Nothing here imports torch.

No field gives a meaning to ``None``: where there is a choice, it is a tagged one (a class per alternative, told apart
by `type`). Units are in the names (`max_tokens`, `timeout_s`). `spec_digest` identifies a spec by its canonical JSON.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationInfo, field_validator

from posttrain.engine.loss_options import (
    DpoHingeLoss,
    DpoIpoLoss,
    DpoLoss,
    DpoRobustLoss,
    DpoSigmoidLoss,
    DpoSigmoidNormLoss,
    KtoLoss,
    OrpoLoss,
    PairLoss,
    SimpoLoss,
)
from posttrain.engine.options import (
    MIN_TEMPERATURE,
    NAME_PATTERN,
    REF_PATTERN,
    Adapter,
    Averaging,
    BatchOptions,
    BuiltinTemplate,
    CheckpointOptions,
    DataSource,
    Duration,
    EmaAveraging,
    EpochsDuration,
    Fraction,
    FullAdapter,
    HeldOut,
    HeldOutData,
    HeldOutOptions,
    HeldOutShare,
    LoraAdapter,
    MemoryOptions,
    Name,
    NoAveraging,
    NoHeldOut,
    OptimizerOptions,
    Option,
    OwnTemplate,
    Positive,
    Ref,
    StepsDuration,
    TrainTemplate,
)
from posttrain.engine.policy_options import (
    AdvantageOptions,
    CompletionOptions,
    Environment,
    FixedKl,
    GrpoLoss,
    KlPenalty,
    MinibatchOptions,
    NoEnvironment,
    NonNegative,
    OnPolicyOptimizerOptions,
    PolicyLoss,
    PpoLossOptions,
    PpoUpdateOptions,
    RlooLoss,
    RolloutOptions,
    ScoreOptions,
    ToolEnvironment,
    UpdateOptions,
    ValueOptions,
)
from posttrain.engine.reward_options import (
    AnyReward,
    CheckerReward,
    LengthReward,
    ModelReward,
    OverlongReward,
    PythonReward,
    RegexReward,
    RewardOptions,
    RewardPart,
    checker_alone,
)

__all__ = [
    "JOB_SPEC", "KINDS", "MIN_TEMPERATURE", "NAME_PATTERN", "REF_PATTERN", "AnyReward", "AnySpec", "BuiltinTemplate",
    "CheckerReward", "DpoHingeLoss", "DpoIpoLoss", "DpoOptimizerOptions", "DpoRobustLoss", "DpoSigmoidLoss",
    "DpoSigmoidNormLoss", "DpoSpec", "Duration", "EmaAveraging", "EpochsDuration", "EvalTemplate", "EvaluateSpec",
    "HeldOutData", "HeldOutOptions", "HeldOutShare", "IftSpec", "JobCommon", "JobSpec", "KtoLoss", "LengthReward",
    "LoraAdapter", "MemoryOptions", "ModelReward", "Name", "NoHeldOut", "OptimizerOptions", "Option", "OrpoLoss",
    "OverlongReward", "OwnEvalTemplate", "OwnTemplate", "PairLoss", "PlainEvalTemplate", "PythonReward", "RegexReward",
    "RewardOptimizerOptions", "RewardOptions", "RewardPart", "RewardSpec", "SftSpec", "SimpoLoss", "StepsDuration",
    "Then", "ThenGate", "ThenNothing", "ToolEnvironment", "ToolUseSpec", "TrainCommon", "TrainOptions", "TrainSpec",
    "VersionEvalTemplate", "canonical_json", "parse_spec", "sha256_text", "spec_digest",
]  # fmt: skip

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


class TrainOptions(JobCommon):
    base: Ref = Field(description="the registered model to start from, NAME@VERSION or NAME@ALIAS")
    output: Name = Field(description="the model that the new version belongs to")
    data: list[DataSource] = Field(min_length=1)
    adapter: Adapter = Field(default_factory=FullAdapter)
    duration: Duration = Field(default_factory=EpochsDuration)
    optimizer: OptimizerOptions = Field(default_factory=OptimizerOptions)
    batch: BatchOptions = Field(default_factory=BatchOptions)
    checkpoint: CheckpointOptions = Field(default_factory=CheckpointOptions)
    held_out: HeldOut = Field(default_factory=NoHeldOut)
    averaging: Averaging = Field(default_factory=NoAveraging)
    memory: MemoryOptions = Field(default_factory=MemoryOptions)
    trackers: list[Literal["tensorboard", "mlflow"]] = Field(
        default_factory=list,
        description="where metrics go beside events.jsonl; an address is the server's setting, never a job's",
    )


class TrainCommon(TrainOptions):
    """Of techniques that make a language model, which suites can judge."""

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


class ToolUseSpec(TrainCommon):
    """Tool-use tuning: supervised fine-tuning on calls and final answers, each call checked against its tool."""

    kind: Literal["tool_use"] = "tool_use"
    template: TrainTemplate = Field(default_factory=OwnTemplate)
    loss_on: Literal["all_turns", "last_turn"] = Field(
        default="all_turns", description="which assistant turns are trained"
    )
    call_format: Literal["template", "hermes", "llama3", "openai"] = Field(
        default="template",
        description="how calls are written: as the chat template does, or in a format that is made part of it",
    )
    on_bad_call: Literal["fail", "skip"] = Field(
        default="fail", description="what a row with a wrong call does: fail the job, or be left out and counted"
    )
    require_tools: bool = Field(
        default=True, description="refuse rows that offer no tools; false trains them as ordinary conversations"
    )


class DpoOptimizerOptions(OptimizerOptions):
    learning_rate: Positive = Field(default=5e-7, description="peak; about ten times higher for LoRA")
    warmup_ratio: Fraction = Field(default=0.1, description="share of the steps in which the rate rises")


class DpoSpec(TrainCommon):
    """Direct preference optimisation: trains on pairs of answers, or with loss kto on answers with a label."""

    kind: Literal["dpo"] = "dpo"
    duration: Duration = Field(default_factory=lambda: EpochsDuration(num_epochs=1.0))
    optimizer: DpoOptimizerOptions = Field(default_factory=DpoOptimizerOptions)
    template: TrainTemplate = Field(default_factory=OwnTemplate)
    loss: DpoLoss = Field(default_factory=DpoSigmoidLoss)
    reference: Literal["cached", "adapter_off"] = Field(
        default="cached",
        description="the base's log-probabilities: once for all rows before the first step, or in every step with the "
        "adapter switched off",
    )
    nll_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0, description="weight of the chosen answers' mean negative log-likelihood, added to the loss"
    )

    @field_validator("reference")
    @classmethod
    def _has_adapter(cls, value: str, info: ValidationInfo) -> str:
        if value == "adapter_off" and not isinstance(info.data.get("adapter"), LoraAdapter):
            raise ValueError("there is no adapter to switch off: set adapter.type to lora, or reference to cached")
        return value

    @field_validator("nll_weight")
    @classmethod
    def _has_chosen(cls, value: float, info: ValidationInfo) -> float:
        if value and isinstance(info.data.get("loss"), KtoLoss):
            raise ValueError("loss kto has no chosen answers: leave nll_weight at 0")
        return value


class RewardOptimizerOptions(OptimizerOptions):
    learning_rate: Positive = Field(default=3e-6, description="peak; about thirty times higher for LoRA")


class RewardSpec(TrainOptions):
    """Reward modelling: trains a model that scores answers, on pairs of them."""

    then: ClassVar[ThenNothing] = ThenNothing()  # it writes no answers that a suite could judge

    kind: Literal["reward"] = "reward"
    duration: Duration = Field(default_factory=lambda: EpochsDuration(num_epochs=1.0))
    optimizer: RewardOptimizerOptions = Field(default_factory=RewardOptimizerOptions)
    template: TrainTemplate = Field(default_factory=OwnTemplate)
    centring: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.01, description="weight of the squared sum of a pair's scores, which keeps scores around 0"
    )


class OnPolicyOptions(TrainCommon):
    """Of techniques that learn from their own answers."""

    duration: Duration = Field(default_factory=lambda: EpochsDuration(num_epochs=1.0))
    optimizer: OnPolicyOptimizerOptions = Field(default_factory=OnPolicyOptimizerOptions)
    template: TrainTemplate = Field(default_factory=OwnTemplate)
    rewards: list[RewardPart] = Field(
        default_factory=checker_alone, min_length=1, description="parts of the reward; their weighted sum"
    )
    max_failed_rewards: Fraction = Field(
        default=0.1,
        description="share of completions without a reward (it raised, is NaN, took too long) that ends the job",
    )
    rollout: CompletionOptions = Field(default_factory=CompletionOptions)
    update: MinibatchOptions = Field(default_factory=MinibatchOptions)
    environment: Environment = Field(default_factory=NoEnvironment)

    @field_validator("adapter")
    @classmethod
    def _no_dropout(cls, value: Adapter) -> Adapter:
        if isinstance(value, LoraAdapter) and value.dropout:
            raise ValueError("dropout must be 0: the trainer's log-probabilities have to be those of the rollout")
        return value

    @field_validator("batch")
    @classmethod
    def _no_cut_prompts(cls, value: BatchOptions) -> BatchOptions:
        if value.overlong == "truncate":
            raise ValueError("overlong: a prompt cannot be cut; refuse the job or skip the row")
        return value


class GrpoSpec(OnPolicyOptions):
    """Reinforcement learning on verifiable rewards: the model learns from how its own answers to a prompt compare."""

    kind: Literal["grpo"] = "grpo"
    rollout: RolloutOptions = Field(default_factory=RolloutOptions)
    update: UpdateOptions = Field(default_factory=UpdateOptions)
    loss: PolicyLoss = Field(default_factory=GrpoLoss)
    beta: NonNegative = Field(
        default=0.0, description="weight of the KL divergence from the base (k3), in the loss; 0: not computed"
    )
    kl_correction: bool = Field(
        default=True,
        description="multiply the divergence by the ratio of new to old probability, so that its gradient has no bias "
        "(arXiv:2512.02556); false: as in the paper of GRPO",
    )

    @field_validator("beta")
    @classmethod
    def _has_kl(cls, value: float, info: ValidationInfo) -> float:
        if value and isinstance(info.data.get("loss"), RlooLoss):
            raise ValueError("loss rloo has no divergence term: leave beta at 0")
        return value


class PpoSpec(OnPolicyOptions):
    """Reinforcement learning with a value model, PPO: every token is judged by what is then still to be expected."""

    kind: Literal["ppo"] = "ppo"
    update: PpoUpdateOptions = Field(default_factory=PpoUpdateOptions)
    loss: PpoLossOptions = Field(default_factory=PpoLossOptions)
    kl: KlPenalty = Field(default_factory=FixedKl)
    score: ScoreOptions = Field(default_factory=ScoreOptions)
    advantage: AdvantageOptions = Field(default_factory=AdvantageOptions)
    value: ValueOptions = Field(default_factory=ValueOptions)


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
    repeat: bool = Field(
        default=False,
        description="a second run for a policy's noise floor: each answer generated anew, in batches of another size",
    )


def reward_models_of(spec: AnySpec) -> list[str]:
    """Refs of the reward models among the parts of a spec's rewards, in their order."""
    parts: list[AnyReward] = getattr(spec, "rewards", [])
    return [part.model for part in parts if isinstance(part, ModelReward)]


TrainSpec = IftSpec | SftSpec | ToolUseSpec | DpoSpec | RewardSpec | GrpoSpec | PpoSpec
AnySpec = TrainSpec | EvaluateSpec
JobSpec = Annotated[AnySpec, Field(discriminator="kind")]

JOB_SPEC: TypeAdapter[AnySpec] = TypeAdapter(JobSpec)
KINDS: dict[str, type[Option]] = {
    "ift": IftSpec,
    "sft": SftSpec,
    "tool_use": ToolUseSpec,
    "dpo": DpoSpec,
    "reward": RewardSpec,
    "grpo": GrpoSpec,
    "ppo": PpoSpec,
    "evaluate": EvaluateSpec,
}


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
