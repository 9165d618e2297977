"""What a reward sees and says. Imports no torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.engine.spec import RewardOptions


@dataclass(frozen=True)
class Answer:
    """One completion, and what it is judged by: its row's checker and target.

    `num_tokens` counts its tokens, the stop token included; `max_tokens` is the limit that it was generated under.
    `is_truncated`: it ended without a stop token. `prompt` is the text that the model read. Where tools
    run, `text` is the last turn's, and `calls` is what the model wrote in those that called.
    """

    text: str
    num_tokens: int
    max_tokens: int
    is_truncated: bool
    checker: str
    target: Mapping[str, Any]
    prompt: str = ""
    calls: str = ""


Reward = Callable[[Answer], float]

MAX_VALUE = 1e9  # of a part, as of a weight: squares of what they make together fit into float32


def problem_of(value: float) -> str:
    """Why a number is no value of a part; empty if it is one."""
    if not math.isfinite(value):
        return f"is {value}"
    return f"is {value:g}, beyond {MAX_VALUE:g}" if abs(value) > MAX_VALUE else ""


@dataclass(frozen=True)
class Scored:
    """`parts` by name, those that could be computed; `failure` says in one line why one of them could not, or is
    empty."""

    parts: dict[str, float] = field(default_factory=dict)
    failure: str = ""


def names_of(options: Sequence[RewardOptions]) -> list[str]:
    """A name for each part: its type, numbered from the second one of a type on."""
    seen = Counter[str]()
    names = []
    for option in options:
        kind = str(option.type)  # type: ignore[attr-defined]
        seen[kind] += 1
        names.append(kind if seen[kind] == 1 else f"{kind}_{seen[kind]}")
    return names


def joined(scored: Scored, others: Scored, options: Sequence[RewardOptions]) -> Scored:
    """One answer's parts from two places, in the order of the spec; the first failure is told."""
    parts = {**scored.parts, **others.parts}
    return Scored({name: parts[name] for name in names_of(options) if name in parts}, scored.failure or others.failure)


def total_of(scored: Scored, options: Sequence[RewardOptions]) -> float:
    """The weighted sum; NaN if a part failed, so that nobody takes it for a number."""
    if scored.failure:
        return math.nan
    return sum(option.weight * scored.parts[name] for option, name in zip(options, names_of(options), strict=True))
