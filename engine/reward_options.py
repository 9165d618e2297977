"""Options of the parts of a reward, for jobs whose model learns from its own answers. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from posttrain.engine.options import Count, Option, Ref


class RewardOptions(Option):
    """Base of the parts of a reward."""

    weight: Annotated[float, Field(ge=-1e9, le=1e9)] = Field(default=1.0, description="of this part in the sum")


class CheckerReward(RewardOptions):
    """1 if the row's checker judges the answer right, else 0."""

    type: Literal["checker"] = "checker"


class RegexReward(RewardOptions):
    """1 if the pattern is found in the answer, else 0: for formats."""

    type: Literal["regex"] = "regex"
    pattern: Annotated[str, Field(min_length=1, max_length=1000)] = Field(
        default="Answer:", description="in the syntax of Rust's regex, matched in linear time"
    )


class OverlongReward(RewardOptions):
    """Soft overlong punishment, arXiv:2503.14476 eq. 13: 0 up to max_new_tokens - buffer_tokens, then down to -1."""

    type: Literal["overlong"] = "overlong"
    buffer_tokens: Count = Field(default=64, description="tokens before max_new_tokens over which it falls to -1")


class LengthReward(RewardOptions):
    """1 for an answer of `low` to `high` words or tokens, falling linearly to 0 over `falloff` on either side."""

    type: Literal["length"] = "length"
    unit: Literal["words", "tokens"] = Field(default="words", description="tokens count the stop token as well")
    low: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1
    high: Count = 100
    falloff: Count = Field(default=20, description="as many below low, or above high, are worth 0")

    @field_validator("high")
    @classmethod
    def _has_room(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("low", 0):
            raise ValueError("must be at least low")
        return value


class ModelReward(RewardOptions):
    """What a reward model says of prompt and answer together, ended as its training data were."""

    type: Literal["model"] = "model"
    model: Ref = Field(
        description="a registered reward model with the base's tokenizer and chat template, NAME@VERSION or NAME@ALIAS"
    )


class PythonReward(RewardOptions):
    """What a function of a module says that the server allows (`posttrain serve --reward-module`)."""

    type: Literal["python"] = "python"
    function: Annotated[
        str, Field(max_length=200, pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z][A-Za-z0-9_]*$")
    ] = Field(description="MODULE:FUNCTION, called with prompt, completion and target")

    @property
    def module(self) -> str:
        return self.function.partition(":")[0]


AnyReward = CheckerReward | RegexReward | OverlongReward | ModelReward | LengthReward | PythonReward
RewardPart = Annotated[AnyReward, Field(discriminator="type")]


def checker_alone() -> list[AnyReward]:
    return [CheckerReward()]
