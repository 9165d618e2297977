"""The chances of a rule: false PASS and power of what the gate computes, at given truths. Imports no torch.

Exact by enumeration where rows are independent and judged once; else by simulation with a seed. Rows of a cluster that
depend on one another are Dirichlet-multinomial with a given correlation. The statistics are those of
`posttrain.evals.stats`, written for arrays of trials; a test compares them row by row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, gammaln, ndtri, stdtrit, xlogy

from posttrain.evals import sequential
from posttrain.evals.stats import ALPHA, clopper_pearson

Array = NDArray[np.float64]
_CELLS = 4_000_000  # of one chunk of a simulation
_DIFFERENCES = np.array([-1.0, 0.0, 1.0])
_SCORES = np.array([0.0, 1.0])


@dataclass(frozen=True)
class Setting:
    """How a comparison is run.

    Attributes:
        sizes: rows of each cluster; all 1: independent rows.
        alpha: the one-sided level.
        looks: how often it is judged; 1: once.
        futility: of the looks, as in `sequential.design`.
    """

    sizes: tuple[int, ...]
    alpha: float = ALPHA
    looks: int = 1
    futility: float = 0.0

    @property
    def n(self) -> int:
        return sum(self.sizes)

    @property
    def is_independent(self) -> bool:
        return self.n == len(self.sizes)


@dataclass(frozen=True)
class Chance:
    """`passed`: chance of PASS. `mean_n`: rows used on the mean. `trials`: simulated ones; 0: exact."""

    passed: float
    mean_n: float
    trials: int = 0

    @property
    def error(self) -> float:
        """Standard error of `passed`; 0 where it is exact."""
        return math.sqrt(self.passed * (1 - self.passed) / self.trials) if self.trials else 0.0


def equal_sizes(n: int, clusters: int) -> tuple[int, ...]:
    """`n` rows in so many clusters, as evenly as they go."""
    return tuple(n // clusters + (i < n % clusters) for i in range(clusters))


def difference_chance(
    setting: Setting,
    margin: float,
    discordance: float,
    difference: float,
    correlation: float = 0.0,
    trials: int = 2000,
    seed: int = 0,
) -> Chance:
    """The chance that a model of this true difference is proven above -margin (below 0: an improvement by -margin).

    Raises:
        ValueError: a share of flips that does not allow this difference, or a correlation outside [0, 1].
    """
    if not abs(difference) <= discordance <= 1:
        raise ValueError(f"a share of flips of {discordance} does not allow a difference of {difference}")
    shares = np.array([(discordance - difference) / 2, 1 - discordance, (discordance + difference) / 2])
    if setting.is_independent and setting.looks == 1:
        return Chance(_exact_difference(setting.n, setting.alpha, margin, shares), setting.n)
    ends, plan = _looks(setting)
    sizes = np.array(setting.sizes, dtype=np.float64)
    passed, used, rng = 0, 0.0, np.random.default_rng(seed)
    for counts in _draws(setting, shares, correlation, trials, rng):
        going = np.ones(len(counts), dtype=bool)
        for look, end in enumerate(ends):
            part, rows = counts[:, :end], sizes[:end]
            n, effect = float(rows.sum()), design_effects(part, rows, _DIFFERENCES)
            totals = part.sum(axis=1)
            z = tango_z(n / effect, totals[:, 2] / effect, totals[:, 0] / effect, -margin)
            good = z > _quantile(end, int(n), plan.nominal(look))
            stop = good | (z <= plan.futility[look]) if look < len(ends) - 1 else np.ones_like(good)
            passed += int((going & good).sum())
            used += n * int((going & stop).sum())
            going &= ~stop
    return Chance(passed / trials, used / trials, trials)


def score_chance(
    setting: Setting,
    floor: float,
    score: float,
    correlation: float = 0.0,
    trials: int = 2000,
    seed: int = 0,
) -> Chance:
    """The chance that a model of this true score is proven to reach the floor; looks do not apply.

    A ceiling is the floor of wrong answers: 1 - at_most and 1 - score.
    """
    n, alpha = setting.n, setting.alpha
    if setting.is_independent:
        need = next((k for k in range(n + 1) if clopper_pearson(n, k, alpha)[0] >= floor), n + 1)
        k = np.arange(need, n + 1)
        log = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + xlogy(k, score) + xlogy(n - k, 1 - score)
        return Chance(min(float(np.exp(log).sum()), 1.0), n)
    sizes = np.array(setting.sizes, dtype=np.float64)
    widen = (_quantile(len(sizes), n, alpha) / float(ndtri(1 - alpha))) ** 2
    passed, rng = 0, np.random.default_rng(seed)
    for counts in _draws(setting, np.array([1 - score, score]), correlation, trials, rng):
        effect = design_effects(counts, sizes, _SCORES) * widen
        right = counts[:, :, 1].sum(axis=1)
        wrong = n - right
        low = np.where(right > 0, betaincinv(np.maximum(right, 1e-9) / effect, wrong / effect + 1, alpha), 0.0)
        passed += int((low >= floor).sum())
    return Chance(passed / trials, n, trials)


def _looks(setting: Setting) -> tuple[tuple[int, ...], sequential.Design]:
    """Clusters seen at each look, and the boundaries for the rows that they hold."""
    ends = sequential.prefixes(setting.sizes, setting.looks)
    seen = np.cumsum(setting.sizes)
    fractions = tuple(float(seen[end - 1] / setting.n) for end in ends)
    return ends, sequential.design(fractions, setting.alpha, setting.futility if setting.looks > 1 else 0.0)


def _draws(
    setting: Setting, shares: Array, correlation: float, trials: int, rng: np.random.Generator
) -> Sequence[Array]:
    """Counts of each outcome in each cluster, in chunks of (trials, clusters, outcomes)."""
    if not 0 <= correlation <= 1:
        raise ValueError(f"a correlation of {correlation} is not between 0 and 1")
    sizes = np.array(setting.sizes)
    chunk = max(_CELLS // (3 * len(sizes)), 1)
    chunks = []
    for start in range(0, trials, chunk):
        shape = (min(chunk, trials - start), len(sizes))
        if correlation == 0 or setting.is_independent:
            counts = rng.multinomial(sizes, shares, size=shape)
        elif correlation == 1:
            counts = np.eye(len(shares))[rng.choice(len(shares), size=shape, p=shares)] * sizes[None, :, None]
        else:
            weights = rng.standard_gamma(
                np.maximum(shares * (1 - correlation) / correlation, 1e-9), (*shape, len(shares))
            )
            # All gammas can underflow to 0 where the correlation is close to 1: then one outcome takes the cluster.
            empty = weights.sum(axis=-1) == 0
            weights[empty] = np.eye(len(shares))[rng.choice(len(shares), size=int(empty.sum()), p=shares)]
            counts = rng.multinomial(sizes, weights / weights.sum(axis=-1, keepdims=True))
        chunks.append(counts.astype(np.float64))
    return chunks


@lru_cache(maxsize=4096)
def _quantile(clusters: int, n: int, alpha: float) -> float:
    return float(ndtri(1 - alpha)) if clusters == n else float(stdtrit(clusters - 1, 1 - alpha))


def design_effects(counts: Array, sizes: Array, values: Array) -> Array:
    """`stats.design_effect` of many trials.

    Shapes: `counts` (trials, clusters, values), how often a cluster has a value; `sizes` (clusters,); `values`
    (values,), rising. Returns (trials,).
    """
    trials, groups, _ = counts.shape
    n = sizes.sum()
    if groups == n:
        return np.ones(trials)
    worst = (sizes**2).sum() / n
    totals = counts.sum(axis=1)
    commonest = totals.argmax(axis=1)
    departing = (counts[np.arange(trials), :, commonest] < sizes).sum(axis=1)
    sums = counts @ values
    mean = sums.sum(axis=1) / n
    independent = totals @ values**2 - n * mean**2
    robust = groups / (groups - 1) * ((sums - sizes * mean[:, None]) ** 2).sum(axis=1)
    flat = totals.max(axis=1) == n
    seen = np.maximum(1.0, robust / np.where(flat, 1.0, independent))
    weight = 1 / (1 + (departing / 4) ** 3)
    effects: Array = np.where(flat, worst, (1 - weight) * seen + weight * np.maximum(worst, seen))
    return effects


def tango_z(n: Array | float, gained: Array, lost: Array, delta: float) -> Array:
    """`stats.tango_z` of many trials."""
    b = -gained - lost + (2 * n - gained + lost) * delta
    c = -lost * delta * (1 - delta)
    q = (np.sqrt(np.maximum(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    variance = n * (2 * q + delta * (1 - delta))
    gap = gained - lost - n * delta
    safe = np.sqrt(np.where(variance > 0, variance, 1.0))
    return np.where(variance > 0, gap / safe, np.where(gap == 0, 0.0, np.copysign(np.inf, gap)))


def _exact_difference(n: int, alpha: float, margin: float, shares: Array) -> float:
    """Sum of the multinomial probabilities of the counts that pass, to 1e-9."""
    ranges = []
    for share in (shares[2], shares[0]):
        spread = 8 * math.sqrt(n * share * (1 - share)) + 12
        ranges.append(np.arange(max(0, math.floor(n * share - spread)), min(n, math.ceil(n * share + spread)) + 1.0))
    gained, lost = np.meshgrid(*ranges, indexing="ij")
    possible = gained + lost <= n
    gained, lost = gained[possible], lost[possible]
    ties = n - gained - lost
    log = gammaln(n + 1) - gammaln(gained + 1) - gammaln(lost + 1) - gammaln(ties + 1)
    log += xlogy(gained, shares[2]) + xlogy(lost, shares[0]) + xlogy(ties, shares[1])
    passing = tango_z(float(n), gained, lost, -margin) > _quantile(n, n, alpha)
    return min(float(np.exp(log[passing]).sum()), 1.0)
