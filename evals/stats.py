"""Statistics of paired binary results, clustered by wording. Pure functions; imports no torch.

One interval everywhere: two-sided 90% (`LEVEL`), whose ends are the one-sided 5% bounds that decide. docs/gates.md
derives and simulates what is used here:

- difference of paired proportions: Tango's score interval (Statistics in Medicine 17:891, 1998), which has a width at
  zero flips and holds its level where the Wald interval does not;
- one proportion: exact Clopper-Pearson bounds (Biometrika 26:404, 1934);
- clusters: both are taken at the effective sample size n / deff, where deff >= 1 is the ratio of the cluster-robust
  variance to the independent one. While few clusters hold a flip (or an error) that ratio is not yet known: it is drawn
  towards the worst case, in which a whole cluster flips together. Fewer than two clusters have no such estimate:
  `UndefinedError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, betaincinv, ndtr, ndtri, stdtr, stdtrit

LEVEL = 0.90
ALPHA = (1 - LEVEL) / 2
POWER = 0.80


class UndefinedError(ArithmeticError):
    """The data do not determine the number asked for; a gate answers INCONCLUSIVE, never 0."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided interval.

    `n` examples in `clusters` clusters count as `n / design_effect` independent ones.
    """

    estimate: float
    low: float
    high: float
    n: int
    clusters: int
    design_effect: float
    level: float = LEVEL


@dataclass(frozen=True)
class Flips:
    """Paired outcomes: `gained` wrong -> right, `lost` right -> wrong, of `n` pairs."""

    n: int
    gained: int
    lost: int


def count_flips(baseline: Sequence[float], candidate: Sequence[float]) -> Flips:
    """Counts discordant pairs.

    Raises:
        ValueError: unequal lengths, or a score that is neither 0 nor 1.
    """
    if len(baseline) != len(candidate):
        raise ValueError(f"{len(baseline)} baseline scores, {len(candidate)} candidate scores")
    _require_binary((*baseline, *candidate))
    pairs = list(zip(baseline, candidate, strict=True))
    return Flips(len(pairs), sum(c > b for b, c in pairs), sum(c < b for b, c in pairs))


def _require_binary(scores: Sequence[float]) -> None:
    if any(score not in (0, 1) for score in scores):
        raise ValueError("scores must be 0 or 1")


# -- one pair of bounds ------------------------------------------------------------------------------------------------


def tango(n: float, gained: float, lost: float, z: float) -> tuple[float, float]:
    """Tango's score interval for P(gained) - P(lost) at normal (or t) quantile `z`; counts may be fractional.

    Raises:
        UndefinedError: no pairs.
    """
    if n <= 0:
        raise UndefinedError("no pairs")
    if min(gained, lost) < 0 or gained + lost > n * (1 + 1e-12):
        raise ValueError(f"impossible counts: n {n}, gained {gained}, lost {lost}")
    estimate = (gained - lost) / n
    low = _bisect(lambda delta: tango_z(n, gained, lost, delta) - z, -1.0, estimate)
    high = _bisect(lambda delta: tango_z(n, gained, lost, delta) + z, estimate, 1.0)
    return low, high


def tango_z(n: float, gained: float, lost: float, delta: float) -> float:
    """Tango's score statistic for P(gained) - P(lost) = delta; it falls as `delta` rises."""
    # The constrained maximum-likelihood estimate of P(lost) at this difference: the larger root of 2n q² + b q + c.
    b = -gained - lost + (2 * n - gained + lost) * delta
    c = -lost * delta * (1 - delta)
    q = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    variance = n * (2 * q + delta * (1 - delta))
    gap = gained - lost - n * delta
    if variance <= 0:
        return math.copysign(math.inf, gap) if gap else 0.0
    return gap / math.sqrt(variance)


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """The zero of a falling function."""
    for _ in range(100):
        middle = (low + high) / 2
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def clopper_pearson(n: float, right: float, alpha: float = ALPHA) -> tuple[float, float]:
    """Exact one-sided bounds of a proportion, each at `alpha`; counts may be fractional (an effective sample size).

    Raises:
        UndefinedError: no examples.
    """
    if n <= 0:
        raise UndefinedError("no examples")
    wrong = max(n - right, 0.0)
    low = 0.0 if right <= 0 else float(betaincinv(right, wrong + 1, alpha))
    high = 1.0 if wrong <= 0 else float(betaincinv(right + 1, wrong, 1 - alpha))
    return low, high


def mcnemar(flips: Flips) -> float:
    """Exact two-sided p-value of McNemar's test; 1 when nothing flips."""
    total = flips.gained + flips.lost
    if total == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(flips.gained, flips.lost), total, 0.5)))


# -- clusters ----------------------------------------------------------------------------------------------------------


def design_effect(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Cluster-robust variance of the mean over the independent one, at least 1; exactly 1 where nothing is clustered.

    The ratio cannot be seen before some clusters depart from the commonest value. With k clusters that do, the worst
    case (Kish: sum of squared sizes over n, everything in a cluster flips together) keeps the weight 1 / (1 + (k /
    4)^3): .5 at 4, .06 at 10. Without it rare flips in whole clusters pass far too often; docs/gates.md has the
    simulation.

    Raises:
        UndefinedError: fewer than two clusters.
    """
    if len(values) != len(clusters):
        raise ValueError("each value needs its cluster")
    index: dict[Hashable, int] = {}
    codes = np.array([index.setdefault(cluster, len(index)) for cluster in clusters], dtype=np.int64)
    groups, n = len(index), len(values)
    if groups < 2:
        raise UndefinedError(f"{groups} cluster(s): the spread between clusters needs at least two")
    if groups == n:
        return 1.0
    x = np.asarray(values, dtype=np.float64)
    sizes = np.bincount(codes).astype(np.float64)
    worst = float((sizes**2).sum() / n)
    kinds, counts = np.unique(x, return_counts=True)
    departing = len(set(codes[x != kinds[counts.argmax()]].tolist()))
    residuals = x - x.mean()
    independent = float((residuals**2).sum())
    if independent == 0:
        return worst
    sums = np.bincount(codes, weights=residuals)
    robust = groups / (groups - 1) * float((sums**2).sum())
    seen = max(1.0, robust / independent)
    weight = 1 / (1 + (departing / 4) ** 3)
    return (1 - weight) * seen + weight * max(worst, seen)


def _quantile(clusters: int, n: int, alpha: float) -> float:
    """The one-sided quantile: Student's with clusters - 1 degrees of freedom, normal where nothing is clustered."""
    return float(ndtri(1 - alpha)) if clusters == n else float(stdtrit(clusters - 1, 1 - alpha))


def paired_difference(
    baseline: Sequence[float], candidate: Sequence[float], clusters: Sequence[Hashable], alpha: float = ALPHA
) -> Interval:
    """Candidate minus baseline with Tango's interval at the effective sample size.

    Each end is a one-sided bound at `alpha`.

    Raises:
        UndefinedError: fewer than two clusters.
        ValueError: unequal lengths or scores other than 0 and 1.
    """
    flips = count_flips(baseline, candidate)
    effect = design_effect([c - b for b, c in zip(baseline, candidate, strict=True)], clusters)
    num_clusters = len(set(clusters))
    z = _quantile(num_clusters, flips.n, alpha)
    low, high = tango(flips.n / effect, flips.gained / effect, flips.lost / effect, z)
    return Interval((flips.gained - flips.lost) / flips.n, low, high, flips.n, num_clusters, effect, 1 - 2 * alpha)


def improvement_p(
    baseline: Sequence[float], candidate: Sequence[float], clusters: Sequence[Hashable], by: float = 0.0
) -> float:
    """One-sided p-value of "candidate - baseline is at most `by`": the test of which `paired_difference` is the
    interval.

    Raises:
        UndefinedError: fewer than two clusters.
        ValueError: unequal lengths or scores other than 0 and 1.
    """
    flips = count_flips(baseline, candidate)
    effect = design_effect([c - b for b, c in zip(baseline, candidate, strict=True)], clusters)
    z = tango_z(flips.n / effect, flips.gained / effect, flips.lost / effect, by)
    num_clusters = len(set(clusters))
    return float(ndtr(-z)) if num_clusters == flips.n else float(stdtr(num_clusters - 1, -z))


def holm(p_values: Sequence[float], alpha: float = ALPHA) -> list[bool]:
    """Which hypotheses are rejected with a family-wise error of at most `alpha`.

    Holm, Scandinavian Journal of Statistics 6:65, 1979: the smallest p-value is compared with alpha / k, the next with
    alpha / (k - 1), and so on until one is not below.
    """
    rejected = [False] * len(p_values)
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if not p_values[index] < alpha / (len(p_values) - step):
            break
        rejected[index] = True
    return rejected


def proportion(scores: Sequence[float], clusters: Sequence[Hashable], alpha: float = ALPHA) -> Interval:
    """The share of right answers with Clopper-Pearson bounds at the effective sample size.

    Exact where nothing is clustered.

    Raises:
        UndefinedError: fewer than two clusters.
        ValueError: scores other than 0 and 1.
    """
    _require_binary(scores)
    effect = design_effect(scores, clusters)
    n, right, num_clusters = len(scores), float(sum(scores)), len(set(clusters))
    # Student's quantile widens the normal one by this ratio; the same for the sample size keeps few clusters honest.
    widened = effect * (_quantile(num_clusters, n, alpha) / float(ndtri(1 - alpha))) ** 2
    low, high = clopper_pearson(n / widened, right / widened, alpha)
    return Interval(right / n, low, high, n, num_clusters, effect, 1 - 2 * alpha)
