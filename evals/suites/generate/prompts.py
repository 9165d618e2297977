"""Prompts for reinforcement learning: the suites' own questions with their checker and target, and no answer.

Drawn after all shards and training rows are: they share no prompt and no tuple of slot values with any of them. The
reference answer of each is judged right by its checker before the prompt is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.engine.base.words import Draw
from posttrain.engine.checkers import judge
from posttrain.evals.suites.generate.build import build_rows, kinds_of
from posttrain.evals.suites.generate.common import Row, Taken, draw_rows


def make_prompt(row: Row) -> dict[str, Any]:
    """The row in the format that kind grpo reads.

    Raises:
        RuntimeError: the reference answer is judged wrong.
    """
    checker, target, answer = row.kind.checker, row.filled.target, row.filled.answer
    if not judge(checker, answer, target).ok:
        raise RuntimeError(f"{row.wording_id}: the reference {answer!r} is judged wrong")
    made: dict[str, Any] = {"prompt": row.messages, "checker": checker, "target": target, "reference": answer}
    if row.filled.tools:
        made["tools"] = row.filled.tools
    return made | {"meta": {"family": row.kind.metric, "wording_id": row.wording_id, "slots": row.filled.slots}}


def build_prompts(seed: int, draws: Mapping[str, int]) -> list[dict[str, Any]]:
    """So many prompts of each metric, shuffled. Same arguments, same prompts.

    Raises:
        RuntimeError: a wording's slots have too few values for so many prompts.
    """
    taken = Taken()
    build_rows(taken)
    found: list[dict[str, Any]] = []
    for metric, num in draws.items():
        d = Draw(f"{seed}:{metric}:prompts")
        found += [make_prompt(row) for row in draw_rows(kinds_of(metric), num, False, taken, d)]
    Draw(f"{seed}:prompts:order").rng.shuffle(found)
    return found
