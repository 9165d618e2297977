"""A small policy to add options to, and models that differ by so many flips, for tests of a policy's options."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from posttrain.evals.gate import GateReport
from posttrain.evals.policy import Policy, parse_policy
from posttrain.evals.rows import EvalRun

from .build import make_run

SM = ("s", "m")
N = 400
TEXT = """
name: t
version: 1
metrics:
  - suite: s
    metric: m
    min_rows: 2
    min_clusters: 2
    rules:
      - {type: noninferior, to: champion, margin: 0.08}
"""


def policy(change: str = "", text: str = TEXT) -> Policy:
    return parse_policy(text.replace("metrics:", f"{change}\nmetrics:", 1))


def run(scores: Sequence[float], version: str = "bot@2", wordings: int = N, **options: Any) -> EvalRun:
    return make_run({SM: scores}, version=version, weights=version, wordings=wordings, **options)


def codes(report: GateReport) -> set[str]:
    return {reason.code for reason in report.reasons}


def draw(share: float, seed: int, n: int = N) -> list[float]:
    rng = random.Random(seed)
    return [float(rng.random() < share) for _ in range(n)]


def flip(scores: Sequence[float], gained: float, lost: float, seed: int) -> list[float]:
    """Another model's scores: so many of all rows turn right, and so many wrong, at random."""
    rng = random.Random(seed)
    out = list(scores)
    wrong = [i for i, score in enumerate(scores) if not score]
    right = [i for i, score in enumerate(scores) if score]
    for i in rng.sample(wrong, round(gained * len(scores))):
        out[i] = 1.0
    for i in rng.sample(right, round(lost * len(scores))):
        out[i] = 0.0
    return out


OLD = draw(0.7, 1)
