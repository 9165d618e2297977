"""Scorers: total functions from an answer to a score. Imports no torch.

A scorer never raises: whatever goes wrong inside is the row's `scorer_error`, which keeps every gate from passing, and
the other rows are scored all the same. `scorer_digest` identifies the code that scored, so that scores are never mixed
across versions of it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from posttrain.engine import checkers
from posttrain.evals.scorers import gsm8k, ifeval, refusal

ScorerName = Literal["checker", "ifeval", "refusal", "gsm8k"]


@dataclass(frozen=True)
class Scored:
    """Score 1 or 0 and why; `error` is empty unless the scorer itself failed, and then the score means nothing."""

    score: float
    reason: str = ""
    error: str = ""


def _checker(answer: str, checker: str, target: Any) -> tuple[bool, str]:
    judgement = checkers.judge(checker, answer, target)
    return judgement.ok, judgement.reason


def _ifeval(answer: str, _: str, target: Any) -> tuple[bool, str]:
    pairs = zip(target["instruction_id_list"], target["kwargs"], strict=True)
    broken = [name for name, arguments in pairs if not ifeval.follows(answer, name, arguments)]
    return not broken, f"not followed: {', '.join(broken)}" if broken else "all followed"


def _refusal(answer: str, _: str, target: Any) -> tuple[bool, str]:
    return refusal.judge(answer, target)


def _gsm8k(answer: str, _: str, target: Any) -> tuple[bool, str]:
    return gsm8k.judge(answer, target)


SCORERS: Mapping[ScorerName, Callable[[str, str, Any], tuple[bool, str]]] = {
    "checker": _checker,
    "ifeval": _ifeval,
    "refusal": _refusal,
    "gsm8k": _gsm8k,
}


def score(scorer: ScorerName, answer: str, checker: str, target: Any) -> Scored:
    """Scores an answer; never raises.

    `checker` is the name in `posttrain.engine.checkers` for the scorer of that name.
    """
    try:
        right, reason = SCORERS[scorer](answer, checker, target)
    except Exception as error:
        # Not swallowed: it becomes the row's scorer_error, and no gate passes with one.
        return Scored(0.0, error=f"{type(error).__name__}: {error}")
    return Scored(float(right), reason)


@functools.cache
def scorer_digest() -> str:
    """Hex sha256 over the source files of the scorers and of the checkers that they call."""
    hasher = hashlib.sha256()
    for folder in (Path(__file__).parent, Path(checkers.__file__).parent):
        for path in sorted(folder.glob("*.py")):
            content = path.read_bytes()
            hasher.update(f"{folder.name}/{path.name} {len(content)}\n".encode() + content)
    return hasher.hexdigest()
