"""What n examples can show, alpha over attempts, Holm, and the noise floor: by hand and by simulation."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm, t

from posttrain.evals import planning, stats
from posttrain.evals.attempts import attempt_alpha
from posttrain.evals.noise import noise_floor
from posttrain.evals.operating import Setting, difference_chance, tango_z

Z = norm.isf(0.05)

# -- sample size and what can be detected ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("discordance", "margin", "needed"),
    [(0.2, 0.05, 495), (0.2, 0.03, 1374), (0.2, 0.02, 3092), (0.1, 0.05, 248), (0.1, 0.03, 687), (0.1, 0.02, 1546)],
)
def test_so_many_examples_have_80_percent_power(discordance: float, margin: float, needed: int) -> None:
    assert planning.examples_needed(discordance, margin) == needed
    # The exact power of Tango's test at that n: at 25 flips normal theory promises 3 points too much, later less.
    exact = difference_chance(Setting((1,) * needed), margin, discordance, 0.0).passed
    assert 0.77 < exact < 0.8
    assert needed < 400 or exact > 0.79
    assert planning.detectable_margin(needed, discordance) == pytest.approx(margin, rel=2e-3)


def test_the_detectable_margin_worked_by_hand() -> None:
    # 2.486475 * sqrt(2 * (.1 - .02^2) / 400) - .02 = 2.486475 * .0223159 - .02
    assert planning.detectable_margin(400, 0.1, 0.02, effect=2) == pytest.approx(0.0354880, abs=1e-6)
    with pytest.raises(stats.UndefinedError):
        planning.detectable_margin(0, 0.1)


@given(n=st.integers(1, 5000), psi=st.floats(0.01, 0.9), effect=st.floats(1, 20), alpha=st.sampled_from([0.01, 0.05]))
@settings(max_examples=100, deadline=None)
def test_the_detectable_difference_needs_just_these_examples(n: int, psi: float, effect: float, alpha: float) -> None:
    found = planning.detectable_difference(n, psi, effect, alpha=alpha)
    assert 0 < found <= psi
    if found < psi:
        needed = planning.examples_needed(psi, 0.0, found, effect, alpha=alpha)
        assert needed in (n, n + 1)
    with pytest.raises(stats.UndefinedError):
        planning.detectable_difference(0, psi)


# -- attempts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 2, 5, 20, 100])
@pytest.mark.parametrize("spend", ["equal", "halving"])
def test_the_attempts_spend_alpha_and_no_more(budget: int, spend: str) -> None:
    levels = [attempt_alpha(number, budget, spend) for number in range(1, budget + 1)]  # type: ignore[arg-type]
    assert math.fsum(levels) == pytest.approx(0.05)
    assert levels == sorted(levels, reverse=True)
    assert attempt_alpha(budget + 1, budget, spend) == 0.0  # type: ignore[arg-type]


def test_levels_by_hand() -> None:
    assert [attempt_alpha(i, 4, "halving") for i in range(1, 6)] == pytest.approx(
        [0.025, 0.0125, 0.00625, 0.00625, 0.0]
    )
    assert attempt_alpha(3, 5) == pytest.approx(0.01)
    for attempt, budget in ((0, 3), (-1, 3), (1, 0)):
        with pytest.raises(ValueError, match="count from 1"):
            attempt_alpha(attempt, budget)


def resubmissions(attempts: int, level: float, trials: int = 3000, n: int = 300) -> float:
    """The chance that some of so many equal candidates "improves" on one set: each flips 20% of it, evenly."""
    rng = np.random.default_rng(attempts)
    counts = rng.multinomial(n, [0.1, 0.1, 0.8], (trials, attempts)).astype(float)
    z = tango_z(float(n), counts[..., 0], counts[..., 1], 0.0)
    return float((z > norm.isf(level)).any(axis=1).mean())


@pytest.mark.parametrize(("attempts", "lucky"), [(5, 0.2), (20, 0.6), (100, 0.98)])
def test_resubmission_passes_by_luck_without_a_budget_and_not_with_one(attempts: int, lucky: float) -> None:
    size = difference_chance(Setting((1,) * 300), 0.0, 0.2, 0.0).passed
    naive = resubmissions(attempts, 0.05)
    assert naive == pytest.approx(1 - (1 - size) ** attempts, abs=0.03)
    assert naive > lucky
    assert resubmissions(attempts, attempt_alpha(1, attempts)) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 3000)


# -- Holm --------------------------------------------------------------------------------------------------------------


def test_holm_worked_by_hand() -> None:
    # .01 < .05/4, .015 < .05/3, .024 < .05/2, .049 < .05; and from the first that is not below, no more.
    assert stats.holm([0.015, 0.049, 0.01, 0.024]) == [True, True, True, True]
    assert stats.holm([0.015, 0.049, 0.01, 0.026]) == [True, False, True, False]
    assert stats.holm([0.0126, 0.0127, 0.0128, 0.9]) == [False] * 4
    assert stats.holm([]) == []
    assert stats.holm([math.nan]) == [False]


def closed_test(p_values: list[float], alpha: float) -> list[bool]:
    """Holm's procedure as a closed test: a hypothesis falls if Bonferroni rejects every set that it is in."""
    k = len(p_values)
    sets = [[i for i in range(k) if mask >> i & 1] for mask in range(1, 2**k)]
    kept = [chosen for chosen in sets if min(p_values[i] for i in chosen) >= alpha / len(chosen)]
    return [not any(i in chosen for chosen in kept) for i in range(k)]


@given(p_values=st.lists(st.floats(0, 0.1), min_size=1, max_size=6), alpha=st.sampled_from([0.01, 0.05]))
@settings(max_examples=200, deadline=None)
def test_holm_is_the_closed_test(p_values: list[float], alpha: float) -> None:
    assert stats.holm(p_values, alpha) == closed_test(p_values, alpha)


def test_holm_does_not_depend_on_the_order() -> None:
    values = [0.01, 0.02, 0.2]
    for order in permutations(range(3)):
        assert stats.holm([values[i] for i in order]) == [stats.holm(values)[i] for i in order]


@pytest.mark.parametrize("wordings", [60, 20])
def test_the_p_value_belongs_to_the_interval(wordings: int) -> None:
    old, new = [0.0] * 20 + [1.0] * 40, [1.0] * 12 + [0.0] * 8 + [0.0] * 4 + [1.0] * 36
    clusters = [i % wordings for i in range(60)]
    low = stats.paired_difference(old, new, clusters).low
    assert stats.improvement_p(old, new, clusters, by=low) == pytest.approx(0.05, abs=1e-6)
    if wordings == 60:  # by hand: at difference 0 the score statistic is (g - l) / sqrt(g + l)
        assert stats.improvement_p(old, new, clusters) == pytest.approx(norm.sf(8 / 4))
    else:
        effect = stats.design_effect([b - a for a, b in zip(old, new, strict=True)], clusters)
        assert stats.improvement_p(old, new, clusters) == pytest.approx(t.sf(2 / math.sqrt(effect), 19))
    assert stats.improvement_p(old, old, clusters) == 0.5


# -- the noise floor ---------------------------------------------------------------------------------------------------


def test_the_noise_floor_is_the_farther_end_of_the_interval() -> None:
    again = [1.0] * 190 + [0.0] * 10
    first = [0.0] * 3 + [1.0] * 196 + [0.0]
    gap = stats.paired_difference(first, again, range(200))
    assert (gap.estimate, gap.low) == (pytest.approx(-0.03), noise_floor([again, first], range(200)) * -1)
    assert noise_floor([first, again], range(200)) == noise_floor([again, first], range(200))


def test_no_flips_are_no_proof_of_no_noise() -> None:
    assert noise_floor([[1.0] * 200] * 2, range(200)) == pytest.approx(Z**2 / (200 + Z**2))


def test_more_runs_show_more_and_one_shows_nothing() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(300) < 0.6
    runs = [np.where(rng.random(300) < 0.05, ~base, base).astype(float).tolist() for _ in range(4)]
    floors = [noise_floor(runs[:count], range(300)) for count in (2, 3, 4)]
    assert floors == sorted(floors)
    with pytest.raises(stats.UndefinedError, match="1 run"):
        noise_floor(runs[:1], range(300))
    with pytest.raises(ValueError, match="0 or 1"):
        noise_floor([[0.5, 1.0], [1.0, 1.0]], range(2))


def test_an_equal_model_is_not_failed_at_the_noise_floor() -> None:
    """100 A/A pairs: judged by a margin at the floor of another pair, none is proven worse."""
    rng = np.random.default_rng(1)
    base = rng.random(300) < 0.6
    runs = [np.where(rng.random(300) < 0.04, ~base, base).astype(float).tolist() for _ in range(202)]
    floor = noise_floor(runs[:2], range(300))
    assert 0.02 < floor < 0.08
    worse = [
        stats.paired_difference(a, b, range(300)).high < -floor for a, b in zip(runs[2::2], runs[3::2], strict=True)
    ]
    assert len(worse) == 100
    assert not any(worse)


# -- chances -----------------------------------------------------------------------------------------------------------


def test_an_exact_chance_against_every_outcome() -> None:
    """n 30 by hand: the binomials of flips and of gains among them, Tango's bound decides."""
    n, psi, difference, margin = 30, 0.4, -0.1, 0.2
    share = (psi + difference) / 2 / psi
    total = 0.0
    for flips in range(n + 1):
        for gained in range(flips + 1):
            if stats.tango(n, gained, flips - gained, Z)[0] > -margin:
                total += binom.pmf(flips, n, psi) * binom.pmf(gained, flips, share)
    found = difference_chance(Setting((1,) * n), margin, psi, difference)
    assert found.passed == pytest.approx(total, rel=1e-9)
    assert (found.trials, found.error, found.mean_n) == (0, 0.0, n)
