"""Sequential boundaries against published tables, an independent integration, and simulated looks."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from posttrain.evals import sequential
from posttrain.evals.operating import Setting, difference_chance
from posttrain.evals.sequential import Design, design, equal_looks, fixed_drift, operate, prefixes, spent

# Lan and DeMets' program for the O'Brien-Fleming type function, two-sided .05, equally spaced looks.
PUBLISHED = {
    2: (2.963, 1.969),
    3: (3.710, 2.511, 1.993),
    4: (4.333, 2.963, 2.359, 2.014),
    5: (4.877, 3.357, 2.680, 2.290, 2.031),
}
# Jennison and Turnbull, table 2.3: the classical O'Brien-Fleming constants C, bounds C sqrt(K / k), by two-sided level.
CLASSICAL = {0.05: {2: 1.977, 3: 2.004, 4: 2.024, 5: 2.040}, 0.1: {2: 1.678, 3: 1.710, 4: 1.733, 5: 1.751}}


def classical(looks: int, constant: float, futility: tuple[float, ...] = ()) -> Design:
    bounds = tuple(constant * math.sqrt(looks / (k + 1)) for k in range(looks))
    return Design(0.05, equal_looks(looks), bounds, (*(futility or (-math.inf,) * (looks - 1)), bounds[-1]))


@pytest.mark.parametrize("looks", PUBLISHED)
def test_boundaries_are_the_published_ones(looks: int) -> None:
    assert design(equal_looks(looks), 0.025).efficacy == pytest.approx(PUBLISHED[looks], abs=5.1e-4)


@pytest.mark.parametrize(("level", "looks"), [(level, looks) for level, table in CLASSICAL.items() for looks in table])
def test_the_integration_gives_classical_constants_their_level(level: float, looks: int) -> None:
    # The constants are rounded to 3 decimals: at a density of .1 that is 1e-4 of the level.
    assert operate(classical(looks, CLASSICAL[level][looks]), 0.0).proven == pytest.approx(level / 2, abs=1e-4)


@pytest.mark.parametrize("drift", [0.0, 1.3, -2.0])
def test_crossing_chances_against_a_multivariate_normal(drift: float) -> None:
    """P(going on past look k) from the joint distribution of Z instead of the recursion."""
    fractions = (0.2, 0.55, 0.8, 1.0)
    plan = design(fractions, 0.05, 0.1)
    found = operate(plan, drift)
    t = np.array(fractions)
    correlation = np.sqrt(np.minimum.outer(t, t) / np.maximum.outer(t, t))
    going = [1.0]
    for k in range(1, 4):
        going.append(
            float(
                multivariate_normal.cdf(
                    plan.efficacy[:k],
                    mean=drift * np.sqrt(t[:k]),
                    cov=correlation[:k, :k],
                    lower_limit=np.array(plan.futility[:k]),
                    abseps=1e-8,
                    releps=1e-8,
                    maxpts=2_000_000,
                    rng=np.random.default_rng(0),
                )
            )
        )
    assert found.stops == pytest.approx([a - b for a, b in pairwise([*going, 0.0])], abs=2e-6)
    assert found.mean_fraction == pytest.approx(sum(t * s for t, s in zip(fractions, found.stops, strict=True)))


def test_one_look_is_the_ordinary_test() -> None:
    plan = design((1.0,), 0.05, 0.05)
    assert plan.efficacy == plan.futility == pytest.approx((norm.isf(0.05),))
    assert plan.nominal(0) == pytest.approx(0.05)
    assert operate(plan, fixed_drift(0.05)).proven == pytest.approx(0.8)


def test_what_is_spent() -> None:
    # By hand: 2 - 2 Phi(1.959964 / .5) = 2 - 2 Phi(3.919928) = 8.858e-5.
    assert spent(0.25, 0.05) == pytest.approx(8.858e-5, rel=1e-3)
    assert (spent(0, 0.05), spent(1, 0.05), spent(1.2, 0.05)) == pytest.approx((0, 0.05, 0.05))


@given(
    cuts=st.lists(st.integers(1, 39), min_size=0, max_size=6, unique=True),
    alpha=st.sampled_from([0.001, 0.01, 0.025, 0.05]),
    futility=st.sampled_from([0.0, 0.02, 0.05, 0.2]),
)
@settings(max_examples=40, deadline=None)
def test_any_looks_keep_the_size(cuts: list[int], alpha: float, futility: float) -> None:
    plan = design((*(cut / 40 for cut in sorted(cuts)), 1.0), alpha, futility)
    bare = design(plan.fractions, alpha)
    assert bare.efficacy == plan.efficacy, "futility does not move them: it is non-binding"
    assert operate(bare, 0.0).proven == pytest.approx(alpha, abs=1e-6)
    assert operate(plan, 0.0).proven <= alpha + 1e-9
    assert sum(operate(plan, 1.0).stops) == pytest.approx(1, abs=1e-6)
    assert all(low < high for low, high in zip(plan.futility[:-1], plan.efficacy, strict=False))
    lost = operate(bare, fixed_drift(alpha)).proven - operate(plan, fixed_drift(alpha)).proven
    assert -1e-9 <= lost <= futility + 1e-9


@pytest.mark.parametrize(
    ("fractions", "alpha", "futility", "message"),
    [
        ((), 0.05, 0.0, "0 looks"),
        ((1 / 21,) * 21, 0.05, 0.0, "21 looks"),
        ((0.5, 0.9), 0.05, 0.0, "rise from above 0 to 1"),
        ((0.5, 0.5, 1.0), 0.05, 0.0, "rise"),
        ((0.0, 1.0), 0.05, 0.0, "rise"),
        ((math.nan, 1.0), 0.05, 0.0, "rise"),
        ((1.0,), 0.0, 0.0, "alpha"),
        ((1.0,), math.nan, 0.0, "alpha"),
        ((1.0,), 0.05, 0.6, "futility"),
    ],
)
def test_bad_designs(fractions: tuple[float, ...], alpha: float, futility: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        design(fractions, alpha, futility)


@pytest.mark.parametrize(
    ("sizes", "looks", "ends"),
    [
        ([1] * 8, 4, (2, 4, 6, 8)),
        ([3, 1, 1, 1, 3, 3], 4, (2, 4, 5, 6)),  # quarters of 12 rows: 3, 6, 9, 12, the first not of one cluster alone
        ([10, 1, 1], 4, (2, 3)),
        ([5, 5], 4, (2,)),
        ([5], 4, ()),
        ([], 4, ()),
    ],
)
def test_looks_wait_for_whole_clusters(sizes: list[int], looks: int, ends: tuple[int, ...]) -> None:
    assert prefixes(sizes, looks) == ends


# -- size, power and mean n --------------------------------------------------------------------------------------------

N, PSI, MARGIN = 500, 0.2, 0.05
LOOKS = Setting((1,) * N, looks=4, futility=0.05)
TRIALS = 6000


def drift_at(difference: float) -> float:
    return (difference + MARGIN) / math.sqrt((PSI - difference**2) / N)


@pytest.mark.parametrize(
    ("difference", "proven", "mean_n"), [(-0.05, 0.049, 354), (0.0, 0.789, 392), (0.05, 0.999, 257), (-0.12, 0.0, 152)]
)
def test_four_looks_at_500(difference: float, proven: float, mean_n: float) -> None:
    """4 looks with futility at n 500, psi .2, margin 5 points: by integration, and Tango's test by simulation."""
    found = operate(design(equal_looks(4), 0.05, 0.05), drift_at(difference))
    assert found.proven == pytest.approx(proven, abs=1e-3)
    assert found.mean_fraction * N == pytest.approx(mean_n, abs=1)
    run = difference_chance(LOOKS, MARGIN, PSI, difference, trials=TRIALS, seed=int(difference * 100) + 50)
    assert run.passed == pytest.approx(found.proven, abs=0.015)  # normal theory against counts, error .005
    assert run.mean_n == pytest.approx(mean_n, abs=8)


def test_classical_bounds_save_a_little_more() -> None:
    """With O'Brien and Fleming's own bounds and the same futility: size .049, power .79, mean n 386, 246, 152."""
    futility = design(equal_looks(4), 0.05, 0.05).futility[:-1]
    plan = classical(4, CLASSICAL[0.1][4], futility)
    runs = [operate(plan, drift_at(difference)) for difference in (-0.05, 0.0, 0.05, -0.12)]
    assert [run.proven for run in runs[:2]] == pytest.approx([0.049, 0.787], abs=1e-3)
    assert [run.mean_fraction * N for run in runs[1:]] == pytest.approx([386, 246, 152], abs=1)


def test_naive_looks_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation that must fail: 20 looks, each at the full level, prove a model at -margin in a fifth of trials."""
    naive = Design(0.05, equal_looks(20), (norm.isf(0.05),) * 20, (-math.inf,) * 19 + (norm.isf(0.05),))
    assert operate(naive, 0.0).proven == pytest.approx(0.2145, abs=1e-3)  # .23 where counts are few
    monkeypatch.setattr(sequential, "design", lambda fractions, alpha, futility: naive)
    run = difference_chance(Setting((1,) * N, looks=20), MARGIN, PSI, -MARGIN, trials=2000)
    assert 0.18 < run.passed < 0.26


@pytest.mark.parametrize(
    ("clusters", "size", "correlation"), [(60, 8, 0.0), (60, 8, 0.2), (40, 12, 0.5), (120, 4, 1.0)]
)
def test_sequential_false_pass_of_clusters(clusters: int, size: int, correlation: float) -> None:
    setting = Setting((size,) * clusters, looks=4, futility=0.05)
    for psi in (0.06, 0.2):
        run = difference_chance(setting, MARGIN, psi, -MARGIN, correlation, trials=2000, seed=clusters)
        assert run.passed <= 0.06 + 3 * math.sqrt(0.06 * 0.94 / 2000), psi
