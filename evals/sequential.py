"""Group-sequential looks with O'Brien-Fleming-type boundaries and futility. Pure functions; imports no torch.

A comparison may be looked at several times while its rows come in. At information fraction t the one-sided level
alpha has spent alpha(t) = 2 - 2 Phi(z(alpha/2) / sqrt t) (Lan and DeMets, Biometrika 70:659, 1983), so that almost all
of it is left for the last look. Futility spends its share linearly in t (Kim and DeMets, Biometrika 74:149, 1987, rho =
1) under the drift at which a test without looks has 80% power; it is non-binding: alpha is held whether or not somebody
stops.

Boundaries come from the joint density of the looks by recursive integration (Armitage, McPherson and Rowe, JRSS A
132:235, 1969; Jennison and Turnbull, Group Sequential Methods, 2000, chapter 19), on the Brownian scale S(t) = Z sqrt t
with S(t) ~ N(drift t, t).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from posttrain.evals.stats import POWER

_NODES = 160  # of a Gauss-Legendre rule over a continuation region: crossing probabilities to 1e-9 at 20 looks
_TAIL = 9.0  # standard deviations of S that are integrated
MAX_LOOKS = 20

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """Boundaries of a one-sided test, look by look.

    Attributes:
        alpha: the size, spent over the looks.
        fractions: information fractions, rising, the last one 1.
        efficacy: Z at or above it ends the test with a proof.
        futility: Z at or below it ends the test without one (-inf: never). At the last look it is the efficacy bound.
    """

    alpha: float
    fractions: tuple[float, ...]
    efficacy: tuple[float, ...]
    futility: tuple[float, ...]

    def nominal(self, look: int) -> float:
        """The one-sided level at which look number `look` (from 0) is judged."""
        return float(ndtr(-self.efficacy[look]))


@dataclass(frozen=True)
class Operation:
    """What a design does at one drift.

    Attributes:
        proven: chance that it ends with a proof.
        stops: chance that each look is the last one.
        mean_fraction: mean information used, as a share of the whole.
    """

    proven: float
    stops: tuple[float, ...]
    mean_fraction: float


def spent(fraction: float, level: float) -> float:
    """What of `level` is spent at an information fraction: Lan-DeMets' O'Brien-Fleming type, one-sided."""
    if fraction <= 0:
        return 0.0
    return 2 * float(ndtr(float(ndtri(level / 2)) / math.sqrt(min(fraction, 1.0))))


@lru_cache(maxsize=256)
def design(fractions: tuple[float, ...], alpha: float, futility: float = 0.0) -> Design:
    """The boundaries for looks at these information fractions.

    `futility` is the chance of a futile stop where a test without looks would prove its point with 80% power; 0: no
    such stops. The power lost is less, since many of those paths would not have ended with a proof.

    Raises:
        ValueError: fractions that do not rise to 1, too many looks, a level outside (0, .5), futility outside [0, .5].
    """
    if not 1 <= len(fractions) <= MAX_LOOKS:
        raise ValueError(f"{len(fractions)} looks; there can be 1 to {MAX_LOOKS}")
    rising = all(b - a > 1e-9 for a, b in zip((0.0, *fractions), fractions, strict=False))
    if not rising or fractions[-1] != 1:
        raise ValueError(f"information fractions must rise from above 0 to 1, not {list(fractions)}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha {alpha} is not between 0 and .5")
    if not 0 <= futility <= 0.5:
        raise ValueError(f"futility {futility} is not between 0 and .5")
    efficacy = _efficacy(fractions, alpha)
    return Design(alpha, fractions, efficacy, _futility(fractions, efficacy, futility, fixed_drift(alpha)))


def fixed_drift(alpha: float, power: float = POWER) -> float:
    """The mean of Z at which a one-sided test without looks has this power."""
    return float(ndtri(1 - alpha) + ndtri(power))


def equal_looks(looks: int) -> tuple[float, ...]:
    """Information fractions of equally spaced looks."""
    return tuple((k + 1) / looks for k in range(looks))


def prefixes(sizes: Sequence[int], looks: int) -> tuple[int, ...]:
    """How many clusters, in their order, are in at each of `looks` equally spaced looks.

    A look waits for whole clusters. Looks that would see the same clusters, or fewer than two, are one.
    """
    total, seen = sum(sizes), 0
    ends: list[int] = []
    for count, size in enumerate(sizes, start=1):
        seen += size
        if seen * looks >= total * (len(ends) + 1) and count >= 2:
            ends.append(count)
            while seen * looks >= total * (len(ends) + 1):
                ends.append(count)
    return tuple(sorted(set(ends)))


def operate(plan: Design, drift: float) -> Operation:
    """How often the design ends with a proof, and where it stops, if Z at the last look has this mean."""
    proven, stops = 0.0, []
    state = _start()
    last = len(plan.fractions) - 1
    for k, t in enumerate(plan.fractions):
        root = math.sqrt(t)
        upper = state.above(plan.efficacy[k] * root, t, drift)
        lower = state.below(plan.futility[k] * root, t, drift) if plan.futility[k] > -math.inf else 0.0
        proven += upper
        stops.append(upper + lower if k < last else state.mass)
        if k < last:
            state = state.step(plan.futility[k] * root, plan.efficacy[k] * root, t, drift)
    mean = sum(t * share for t, share in zip(plan.fractions, stops, strict=True))
    return Operation(proven, tuple(stops), mean)


def _efficacy(fractions: Sequence[float], alpha: float) -> tuple[float, ...]:
    bounds: list[float] = []
    state, before = _start(), 0.0
    for t in fractions:
        now = spent(t, alpha)
        root = math.sqrt(t)
        bound = _root(partial(state.above, t=t, drift=0.0), root, max(now - before, 0.0), falling=True)
        bounds.append(bound)
        state, before = state.step(-math.inf, bound * root, t, 0.0), now
    return tuple(bounds)


def _futility(fractions: Sequence[float], efficacy: Sequence[float], beta: float, drift: float) -> tuple[float, ...]:
    if not beta:
        return (*(-math.inf for _ in fractions[:-1]), efficacy[-1])
    bounds: list[float] = []
    state, before = _start(), 0.0
    for k, t in enumerate(fractions[:-1]):
        now, root = beta * t, math.sqrt(t)
        bound = _root(partial(state.below, t=t, drift=drift), root, now - before, falling=False)
        bound = min(bound, efficacy[k] - 1e-6)  # a region to go on in is always left
        bounds.append(bound)
        state, before = state.step(bound * root, efficacy[k] * root, t, drift), now
    return (*bounds, efficacy[-1])


def _root(crossing: Callable[[float], float], root: float, target: float, falling: bool) -> float:
    """The Z whose S = Z * `root` is crossed with this chance; the end of the range where it never gets there."""

    def gap(z: float) -> float:
        return crossing(z * root) - target

    if gap(-_TAIL) * gap(_TAIL) >= 0:
        return _TAIL if falling else -_TAIL
    return float(brentq(gap, -_TAIL, _TAIL, xtol=1e-12))


@dataclass(frozen=True)
class _State:
    """The density of S at the last look among paths that go on: `mass` at `points`; before the first look all at 0."""

    time: float
    points: Array
    weights: Array

    @property
    def mass(self) -> float:
        return float(self.weights.sum())

    def above(self, bound: float, t: float, drift: float) -> float:
        """Chance of going on until now and then being at or above `bound` at time t."""
        return float(self.weights @ ndtr((self._mean(t, drift) - bound) / math.sqrt(t - self.time)))

    def below(self, bound: float, t: float, drift: float) -> float:
        return float(self.weights @ ndtr((bound - self._mean(t, drift)) / math.sqrt(t - self.time)))

    def step(self, low: float, high: float, t: float, drift: float) -> _State:
        """The paths that are between the bounds at time t."""
        root = math.sqrt(t)
        low, high = max(low, drift * t - _TAIL * root), min(high, drift * t + _TAIL * root)
        nodes, weights = _rule()
        points = (high + low) / 2 + (high - low) / 2 * nodes
        scale = math.sqrt(t - self.time)
        gaps = (points[:, None] - self._mean(t, drift)[None, :]) / scale
        density = np.exp(-gaps * gaps / 2) @ self.weights / (scale * math.sqrt(2 * math.pi))
        return _State(t, points, density * weights * (high - low) / 2)

    def _mean(self, t: float, drift: float) -> Array:
        return self.points + drift * (t - self.time)


def _start() -> _State:
    return _State(0.0, np.zeros(1), np.ones(1))


@lru_cache(maxsize=1)
def _rule() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights
