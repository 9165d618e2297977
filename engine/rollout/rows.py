"""Completions on their way: which start next, and what ends one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from posttrain.engine.errors import DataError
from posttrain.engine.rollout.completions import Completion, GenerationSettings, StopReason, Turn

PREFILL_TOKENS = 4096


@dataclass(eq=False)
class Row:
    """One completion on its way. `uniforms` are its draws, made beforehand from its own generator. `index` is its place
    in the results, `shared` its prompt's among the prompts. With an `episode` it has several turns, the newest
    from token `started` on, and `is_sampled` is written up to there."""

    index: int
    prompt: Sequence[int]
    uniforms: Tensor | None
    token_ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    tempered_logps: list[float] = field(default_factory=list)
    shared: int = -1
    name: str = ""
    episode: Any = None
    turns: list[Turn] = field(default_factory=list)
    is_sampled: bytearray = field(default_factory=bytearray)
    started: int = 0

    def go_on(self, token_ids: Sequence[int]) -> None:
        """What others wrote stands between the newest turn and the next."""
        self.is_sampled.extend(b"\1" * (len(self.token_ids) - len(self.is_sampled)) + bytes(len(token_ids)))
        self.token_ids.extend(token_ids)
        self.started = len(self.token_ids)

    def completion(self, reason: StopReason, has_stop_token: bool) -> Completion:
        if self.is_sampled:
            self.go_on(())
        return Completion(
            tuple(self.token_ids), reason, tuple(self.logps), has_stop_token, tuple(self.tempered_logps),
            bytes(self.is_sampled), tuple(self.turns),
        )  # fmt: skip


def check_prompts(context: int, prompts: Sequence[Sequence[int]], overlong: str) -> None:
    empty = [index for index, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise DataError(f"prompt {empty[0]} is empty ({len(empty)} in all)", hint="a prompt needs at least one token")
    long = [index for index, prompt in enumerate(prompts) if len(prompt) >= context]
    if long and overlong == "refuse":
        shown = ", ".join(f"prompt {index} ({len(prompts[index])} tokens)" for index in long[:5])
        raise DataError(
            f"{len(long)} prompts leave no room in the model's context of {context}: {shown}",
            hint="shorten these prompts",
        )


def take(
    waiting: list[int],
    places: Sequence[tuple[int, int]],
    prompts: Sequence[Sequence[int]],
    names: Sequence[str],
    free: int,
    settings: GenerationSettings,
) -> list[Row]:
    """The next rows, those of one prompt side by side: as many as have slots, in at most PREFILL_TOKENS of prompts (one
    prompt at least)."""
    rows: list[Row] = []
    tokens = 0
    while waiting and len(rows) < free:
        shared, stream = places[waiting[-1]]
        prompt = prompts[shared]
        if not rows or rows[-1].shared != shared:
            if rows and tokens + len(prompt) > PREFILL_TOKENS:
                break
            tokens += len(prompt)
        uniforms = None
        if settings.temperature > 0:
            generator = torch.Generator().manual_seed(stream)
            uniforms = torch.rand(settings.max_new_tokens, generator=generator, dtype=torch.float64)
        name = names[shared] if names else f"prompt {shared}"
        rows.append(Row(waiting.pop(), prompt, uniforms, shared=shared, name=name))
    return rows


def ended(
    row: Row, settings: GenerationSettings, context: int, decode: Callable[[Sequence[int]], str] | None
) -> StopReason | None:
    """Why the row's newest token ended its turn, if it did."""
    has_stop_token = row.token_ids[-1] in settings.stop_token_ids
    if has_stop_token or (decode is not None and _has_stop_string(row.token_ids, settings.stop_strings, decode)):
        return "stop"
    if len(row.logps) >= settings.max_new_tokens:
        return "length"
    return "context" if len(row.prompt) + len(row.token_ids) >= context else None


def _has_stop_string(token_ids: list[int], stops: Sequence[str], decode: Callable[[Sequence[int]], str]) -> bool:
    if not stops:
        return False
    # A token may hold less than a character, so as many tokens as the longest string has bytes, and a few more.
    tail = decode(token_ids[-(max(len(stop.encode()) for stop in stops) + 4) :])
    return any(stop in tail for stop in stops)
