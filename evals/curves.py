"""A policy's operating curve: how often its rules let a bad model through, and a good one. Imports no torch.

For each rule, at the policy's own least n and clusters: the chance of PASS at the rule's threshold (false PASS) and at
two better truths, for plausible shares of flips, and the examples that 80% power would take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from scipy.special import ndtri

from posttrain.evals import operating, planning, stats
from posttrain.evals.attempts import attempt_alpha
from posttrain.evals.operating import Chance, Setting, equal_sizes
from posttrain.evals.policy import Ceiling, Floor, Improve, MetricPolicy, NonInferior, Policy, baseline_of
from posttrain.evals.rows import Record
from posttrain.evals.rules import text_of

FLIPS = (0.05, 0.1, 0.2)
CORRELATION = 0.1
TRIALS = 2000
STEP = 0.05  # how much better than the threshold of a floor, a ceiling or an improvement the other truths are


class Point(Record):
    """The chance of PASS at one truth: a difference, or a score where the rule has no baseline.

    `passed` is None where there is no such model: a difference beyond the share of flips, a score above 1.
    """

    truth: float
    passed: float | None
    error: float
    mean_n: float


class Curve(Record):
    """One rule at one share of flips (0: it has no baseline).

    `points`: three, at the threshold and at two better truths.
    `needed`: examples for 80% power at the second truth; 0: unknown.
    """

    suite: str
    metric: str
    rule: Literal["floor", "ceiling", "noninferior", "improve"]
    text: str
    baseline: str
    n: int
    clusters: int
    flips: float
    points: list[Point]
    needed: int


class OperatingCurve(Record):
    """`trials` of 0: every chance is exact."""

    policy: str
    version: int
    digest: str
    level: float
    attempt: int
    looks: int
    correlation: float
    trials: int
    seed: int
    curves: list[Curve]


def operating_curve(
    policy: Policy,
    flips: Sequence[float] = FLIPS,
    correlation: float = CORRELATION,
    trials: int = TRIALS,
    seed: int = 0,
    attempt: int = 1,
    rows: int = 0,
    clusters: int = 0,
) -> OperatingCurve:
    """What a policy's rules do at `rows` in `clusters` (0: the policy's least). Equal arguments: equal numbers.

    Rows of one cluster flip with the given correlation; it does not matter where each row is a cluster. Truths of a
    rule against a baseline: -margin, 0, +margin; of the others the threshold, and 5 and 10 points better.

    Raises:
        ValueError: a share of flips or a correlation outside [0, 1], fewer rows than clusters, fewer than two clusters,
            or an attempt that the policy's budget does not have.
    """
    if not all(0 < share <= 1 for share in flips):
        raise ValueError(f"shares of flips must be above 0 and at most 1, not {list(flips)}")
    alpha = stats.ALPHA
    if policy.attempts:
        alpha = attempt_alpha(attempt, policy.attempts.budget, policy.attempts.spend)
        if not alpha:
            raise ValueError(f"attempt {attempt}: the policy allows {policy.attempts.budget}")
    plan = policy.sequential
    curves: list[Curve] = []
    for metric in policy.metrics:
        n, groups = rows or metric.min_rows, clusters or min(metric.min_clusters, rows or metric.min_rows)
        if not 2 <= groups <= n:
            raise ValueError(f"{metric.suite}/{metric.metric}: {n} rows in {groups} clusters")
        sizes = equal_sizes(n, groups)
        once = Setting(sizes, alpha)
        looked = Setting(sizes, alpha, plan.looks, plan.futility) if plan else once
        # Kish's design effect: what correlation makes of clusters of these sizes.
        effect = 1 + (sum(size * size for size in sizes) / n - 1) * correlation
        for rule in metric.rules:
            if isinstance(rule, Floor | Ceiling):
                curves.append(_score_curve(metric, rule, once, effect, correlation, trials, seed))
                continue
            for share in flips:
                curves.append(_difference_curve(metric, rule, looked, share, effect, correlation, trials, seed))
    is_exact = all(point.error == 0 for curve in curves for point in curve.points)
    return OperatingCurve(
        policy=policy.name,
        version=policy.version,
        digest=policy.digest,
        level=round(1 - 2 * alpha, 10),
        attempt=attempt if policy.attempts else 0,
        looks=plan.looks if plan else 1,
        correlation=correlation,
        trials=0 if is_exact else trials,
        seed=seed,
        curves=curves,
    )


def _difference_curve(
    metric: MetricPolicy,
    rule: NonInferior | Improve,
    setting: Setting,
    share: float,
    effect: float,
    correlation: float,
    trials: int,
    seed: int,
) -> Curve:
    margin = rule.margin if isinstance(rule, NonInferior) else -rule.by
    step = rule.margin if isinstance(rule, NonInferior) else STEP
    points = [
        _point(truth, _difference_chance(setting, margin, share, truth, correlation, trials, seed))
        if abs(truth) <= share
        else Point(truth=round(truth, 10), passed=None, error=0.0, mean_n=0.0)
        for truth in (-margin, -margin + step, -margin + 2 * step)
    ]
    aim = -margin + step
    needed = planning.examples_needed(share, margin, aim, effect, alpha=setting.alpha) if abs(aim) <= share else 0
    return _curve(metric, rule, setting, share, points, needed)


def _score_curve(
    metric: MetricPolicy,
    rule: Floor | Ceiling,
    setting: Setting,
    effect: float,
    correlation: float,
    trials: int,
    seed: int,
) -> Curve:
    """A ceiling of the score is a floor of its complement."""
    is_floor = isinstance(rule, Floor)
    floor = rule.at_least if isinstance(rule, Floor) else 1 - rule.at_most
    points = []
    for truth in (floor, floor + STEP, floor + 2 * STEP):
        shown = truth if is_floor else 1 - truth
        if truth <= 1:
            points.append(_point(shown, _score_chance(setting, floor, truth, correlation, trials, seed)))
        else:
            points.append(Point(truth=round(shown, 10), passed=None, error=0.0, mean_n=0.0))
    needed = 0
    if floor + STEP < 1:
        z = float(ndtri(1 - setting.alpha)) + float(ndtri(stats.POWER))
        aim = floor + STEP
        needed = max(math.ceil(effect * z * z * aim * (1 - aim) / STEP**2), 1)
    return _curve(metric, rule, setting, 0.0, points, needed)


def _curve(
    metric: MetricPolicy,
    rule: Floor | Ceiling | NonInferior | Improve,
    setting: Setting,
    share: float,
    points: list[Point],
    needed: int,
) -> Curve:
    return Curve(
        suite=metric.suite,
        metric=metric.metric,
        rule=rule.type,
        text=text_of(rule),
        baseline=baseline_of(rule),
        n=setting.n,
        clusters=len(setting.sizes),
        flips=share,
        points=points,
        needed=needed,
    )


def _point(truth: float, chance: Chance) -> Point:
    return Point(
        truth=round(truth, 10), passed=round(chance.passed, 6), error=round(chance.error, 6), mean_n=chance.mean_n
    )


# Many metrics of a policy ask the same.
_difference_chance = lru_cache(maxsize=1024)(operating.difference_chance)
_score_chance = lru_cache(maxsize=1024)(operating.score_chance)
