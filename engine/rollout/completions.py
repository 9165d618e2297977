"""How to generate, what came of it, and what tools have to do with it. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from posttrain.engine.errors import SpecError
from posttrain.engine.spec import MIN_TEMPERATURE

StopReason = Literal["stop", "length", "context", "turns", "bad_call"]


@dataclass(frozen=True)
class GenerationSettings:
    """How to generate. Temperature 0 is greedy, else it is at least MIN_TEMPERATURE. `stop_strings` need `decode`.

    Tokens are ruled out in this order: all but the `top_k` most likely (0: none), the nucleus of `top_p`, those less
    likely than `min_p` times the most likely one (arXiv:2407.01082).

    Raises:
        SpecError: a value out of its range.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    seed: int = 0
    top_k: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise SpecError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.temperature != 0 and not MIN_TEMPERATURE <= self.temperature < math.inf:
            raise SpecError(
                f"temperature must be 0 (greedy) or a number of at least {MIN_TEMPERATURE}, not {self.temperature}"
            )
        if not 0 < self.top_p <= 1:
            raise SpecError(f"top_p must be in (0, 1], not {self.top_p}")
        if self.top_k < 0:
            raise SpecError(f"top_k must be at least 0, not {self.top_k}")
        if not 0 <= self.min_p < 1:
            raise SpecError(f"min_p must be in [0, 1), not {self.min_p}")


@dataclass(frozen=True)
class ToolResult:
    """What came of one call. `text` is what the model reads, `is_error` whether that says what went wrong;
    `is_malformed`: there was no call that could be read, and `name` is empty. `arguments` is JSON."""

    name: str
    arguments: str
    text: str
    is_error: bool = False
    is_malformed: bool = False


@dataclass(frozen=True)
class Turn:
    """One turn of the model: its tokens are token_ids[start:end] of its completion, the stop token included, and
    `results` what its calls gave, before its next turn."""

    start: int
    end: int
    has_calls: bool = False
    results: tuple[ToolResult, ...] = ()


@dataclass(frozen=True)
class Completion:
    """What a prompt got.

    `token_ids` are all tokens behind the prompt, the stop token included; `answer_ids` leaves the last one out.
    `stop_reason`: a stop token or string (stop), `max_new_tokens` (length), the model's context (context), with tools
    also the most turns (turns) or a call that cannot be read (bad_call) ended it.

    `is_sampled[i]` is 1 where the model sampled token i, 0 where tools and the chat template wrote it; empty: it
    sampled all. `logps` are of the sampled tokens, in their order: their log-probability under the model itself
    (temperature 1, no top_p), `tempered_logps` that under softmax(logits / temperature), from which they were drawn but
    for what top_p and the like ruled out. `turns` are the model's, with tools only.
    """

    token_ids: tuple[int, ...]
    stop_reason: StopReason
    logps: tuple[float, ...]
    has_stop_token: bool = False
    tempered_logps: tuple[float, ...] = ()
    is_sampled: bytes = b""
    turns: tuple[Turn, ...] = ()

    @property
    def answer_ids(self) -> tuple[int, ...]:
        return self.token_ids[:-1] if self.has_stop_token else self.token_ids

    @property
    def final_ids(self) -> tuple[int, ...]:
        """The last turn's, without a stop token."""
        return self.answer_ids[self.turns[-1].start :] if self.turns else self.answer_ids

    @property
    def calling_ids(self) -> list[tuple[int, ...]]:
        """Those of each turn with calls."""
        return [self.token_ids[turn.start : turn.end] for turn in self.turns if turn.has_calls]

    @property
    def num_sampled(self) -> int:
        return len(self.logps)

    @property
    def sampled_mask(self) -> bytes:
        """`is_sampled`, written out."""
        return self.is_sampled or b"\1" * len(self.token_ids)

    @property
    def results(self) -> list[ToolResult]:
        return [result for turn in self.turns for result in turn.results]


@dataclass(frozen=True)
class Reply:
    """What a turn of the model leads to. Without a call the episode is over. `token_ids` are what stands between the
    turn's stop token and the model's next token; none if the calls did not run, or one of them ends the episode."""

    has_calls: bool = False
    results: tuple[ToolResult, ...] = ()
    token_ids: Sequence[int] = ()
    ends: bool = False


class Environment(Protocol):
    """Tools that a model's calls run. What is replied is a function of an episode's prompt and its turns."""

    @property
    def max_turns(self) -> int: ...

    def episode(self, prompt: int) -> Any:
        """A new one, for a completion of prompt number `prompt`."""
        ...

    def replies(self, asked: Sequence[tuple[Any, Sequence[int], bool]]) -> list[Reply]:
        """To the newest turns of episodes that wait at the same time, each given without its stop token. The last value
        is False where the model has no turn left: calls are seen and not run."""
        ...
