"""Options of jobs that train, whatever the technique: data, batch, adapter, duration, optimiser, checkpoints, held-out
rows, averaging, memory; and the types that all options are made of. `spec.py` puts them together. Nothing here imports
torch.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    name: Literal["chatml", "llama3", "zephyr", "phi", "gemma", "mistral"] = Field(
        default="chatml", description="a chat template that this package ships"
    )


class OwnTemplate(Option):
    type: Literal["own"] = "own"


TrainTemplate = Annotated[BuiltinTemplate | OwnTemplate, Field(discriminator="type")]


class BatchOptions(Option):
    num_rows: Count = Field(default=32, description="rows per optimiser step, whatever the micro-batches")
    micro_tokens: Count = Field(
        default=4096, description="most tokens in one packed forward pass; bounds memory, never changes the loss"
    )
    max_tokens: Count = Field(default=1024, description="longest row in tokens")
    overlong: Literal["refuse", "truncate", "skip"] = Field(
        default="refuse",
        description="what to do with a row above max_tokens: refuse the job, cut its end if a loss position stays, or "
        "leave it out; cut and left-out rows are counted",
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
    quantization: Literal["none", "nf4"] = Field(
        default="none",
        description="the adapted layers' own weights in 4 bits: QLoRA, arXiv:2305.14314 (extra bitsandbytes); the "
        "output is a full model, the adapter merged into these weights",
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
    """An update rule, and how its rate rises and falls."""

    learning_rate: Positive = Field(default=2e-5, description="peak; about ten times higher for LoRA")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    beta1: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="AdamW's; so are beta2 and epsilon")
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: Positive = 1e-8
    max_grad_norm: Positive = Field(default=1.0, description="the gradient's global norm is clipped to this")
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Fraction = Field(default=0.03, description="share of the steps in which the rate rises")
    final_ratio: Fraction = Field(default=0.0, description="the rate that the decay ends at, as a share of the peak")
    name: Literal["adamw", "adamw_8bit", "adafactor"] = Field(
        default="adamw",
        description="AdamW (arXiv:1711.05101); the same with its moments in 8 bits (arXiv:2110.02861; CUDA and the "
        "extra bitsandbytes); Adafactor (arXiv:1804.04235) without its own rates and scales, for little memory",
    )

    @model_validator(mode="after")
    def _no_idle_options(self) -> Self:
        idle = [
            key
            for key in ("beta1", "beta2", "epsilon")
            if self.name == "adafactor" and getattr(self, key) != type(self).model_fields[key].default
        ]
        if idle:
            raise ValueError(f"{', '.join(idle)}: AdamW's, which adafactor does not use; leave out")
        return self


class CheckpointOptions(Option):
    every_steps: Count = Field(default=100, description="steps between checkpoints")
    keep: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2, description="newest checkpoints kept of a running attempt"
    )


class NoHeldOut(Option):
    type: Literal["none"] = "none"


class HeldOutOptions(Option):
    """What is done with the loss on rows that are not trained on."""

    every_steps: Count = Field(default=50, description="steps between evaluations; there is one after the last step")
    patience: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=0, description="evaluations in a row without a better loss that end the training; 0: never"
    )
    min_delta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0, description="how much lower a loss has to be to count as better for patience"
    )
    keep_best: Annotated[int, Field(ge=0, le=100)] = Field(
        default=0, description="checkpoints of lowest held-out loss that are kept beside the newest ones"
    )
    save: Literal["last", "best"] = Field(
        default="last", description="the weights that become the output: of the last step, or of lowest held-out loss"
    )


class HeldOutShare(HeldOutOptions):
    type: Literal["share"] = "share"
    ratio: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05, description="of each dataset's rows, drawn by the seed; they are not trained on"
    )


class HeldOutData(HeldOutOptions):
    type: Literal["data"] = "data"
    datasets: list[Ref] = Field(min_length=1, description="sealed datasets that are not trained on, each row once")


HeldOut = Annotated[NoHeldOut | HeldOutShare | HeldOutData, Field(discriminator="type")]


class NoAveraging(Option):
    type: Literal["none"] = "none"


class EmaAveraging(Option):
    """Exponential moving average of the trained weights; it is what is evaluated on held-out rows and saved."""

    type: Literal["ema"] = "ema"
    decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.999, description="weight of the past; less in the first steps: at most (1 + n) / (10 + n) in step n"
    )


Averaging = Annotated[NoAveraging | EmaAveraging, Field(discriminator="type")]


class MemoryOptions(Option):
    """Less memory for more time; the result stays the same."""

    gradient_checkpointing: bool = Field(
        default=False, description="keep only each layer's input and compute the rest again for the gradient"
    )
    offload_activations: bool = Field(
        default=False, description="keep what the gradient needs in the CPU's memory instead of the GPU's"
    )
