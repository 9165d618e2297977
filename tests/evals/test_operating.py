"""The statistics of many trials at once against `stats`, trial by trial."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from posttrain.evals import operating, sequential, stats
from posttrain.evals.operating import Setting, difference_chance, equal_sizes, score_chance


def rows(counts: np.ndarray, values: list[float]) -> tuple[list[float], list[int]]:
    """The rows that one trial's counts (clusters, values) stand for, and their clusters."""
    out: list[float] = []
    ids: list[int] = []
    for cluster, row in enumerate(counts.astype(int)):
        for count, value in zip(row, values, strict=True):
            out += [value] * int(count)
            ids += [cluster] * int(count)
    return out, ids


@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=8),
    seed=st.integers(0, 10**6),
    correlation=st.sampled_from([0.0, 0.2, 0.9, 1.0]),
    values=st.sampled_from([[-1.0, 0.0, 1.0], [0.0, 1.0]]),
)
@settings(max_examples=150, deadline=None)
def test_design_effects_are_those_of_the_gate(
    sizes: list[int], seed: int, correlation: float, values: list[float]
) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(len(values)) * 0.5)
    (counts,) = operating._draws(Setting(tuple(sizes)), shares, correlation, 5, rng)
    assert counts.sum(axis=2).tolist() == [sizes] * 5
    found = operating.design_effects(counts, np.array(sizes, dtype=float), np.array(values))
    for trial, effect in zip(counts, found, strict=True):
        assert effect == pytest.approx(stats.design_effect(*rows(trial, values)), rel=1e-9)


@given(n=st.integers(1, 300), data=st.data(), delta=st.sampled_from([-1.0, -0.5, -0.08, 0.0, 0.3]))
@settings(max_examples=200, deadline=None)
def test_score_statistics_are_those_of_the_gate(n: int, data: st.DataObject, delta: float) -> None:
    gained = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n - gained))
    found = operating.tango_z(float(n), np.array([float(gained)]), np.array([float(lost)]), delta)[0]
    assert found == pytest.approx(stats.tango_z(n, gained, lost, delta), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_simulated_decisions_are_those_of_the_gate(correlation: float) -> None:
    """The same draws judged row by row by `paired_difference` and by `proportion`."""
    setting, margin, trials = Setting(equal_sizes(53, 7)), 0.3, 60
    shares = np.array([0.3, 0.5, 0.2])
    (counts,) = operating._draws(setting, shares, correlation, trials, np.random.default_rng(5))
    passed = 0
    for trial in counts:
        gaps, ids = rows(trial, [-1.0, 0.0, 1.0])
        old, new = [float(gap < 0) for gap in gaps], [float(gap > 0) for gap in gaps]
        passed += stats.paired_difference(old, new, ids).low > -margin
    found = difference_chance(setting, margin, 0.5, -0.1, correlation, trials, seed=5)
    assert found.passed == pytest.approx(passed / trials)
    assert 0 < found.passed < 1 or correlation == 1.0
    (counts,) = operating._draws(setting, np.array([0.2, 0.8]), correlation, trials, np.random.default_rng(5))
    proven = sum(stats.proportion(*rows(trial, [0.0, 1.0])).low >= 0.6 for trial in counts)
    assert score_chance(setting, 0.6, 0.8, correlation, trials, seed=5).passed == pytest.approx(proven / trials)


def test_exact_and_simulated_agree() -> None:
    exact = difference_chance(Setting((1,) * 300), 0.05, 0.15, 0.0)
    (counts,) = operating._draws(
        Setting((1,) * 300), np.array([0.075, 0.85, 0.075]), 0.0, 4000, np.random.default_rng(3)
    )
    totals = counts.sum(axis=1)
    simulated = (
        operating.tango_z(300.0, totals[:, 2], totals[:, 0], -0.05) > operating._quantile(300, 300, 0.05)
    ).mean()
    assert exact.passed == pytest.approx(simulated, abs=4 * math.sqrt(0.25 / 4000))


def test_the_exact_chance_of_a_floor() -> None:
    # By hand: 59 of 59 are needed for a floor of .95 (.95^59 = .0485), so a model of .99 passes with .99^59.
    assert score_chance(Setting((1,) * 59), 0.95, 0.99).passed == pytest.approx(0.99**59)
    assert score_chance(Setting((1,) * 58), 0.95, 1.0).passed == 0.0
    need = next(k for k in range(201) if stats.clopper_pearson(200, k)[0] >= 0.8)
    assert score_chance(Setting((1,) * 200), 0.8, 0.85).passed == pytest.approx(binom.sf(need - 1, 200, 0.85))


def test_what_cannot_be_is_refused() -> None:
    setting = Setting((1,) * 50)
    with pytest.raises(ValueError, match="does not allow a difference"):
        difference_chance(setting, 0.05, 0.04, -0.05)
    with pytest.raises(ValueError, match="does not allow a difference"):
        difference_chance(setting, 0.05, math.nan, 0.0)
    with pytest.raises(ValueError, match="correlation"):
        difference_chance(Setting((5,) * 10), 0.05, 0.2, 0.0, correlation=1.5)


def test_a_chance_is_repeatable_and_its_seed_counts() -> None:
    setting = Setting((5,) * 30, looks=3, futility=0.05)
    first = difference_chance(setting, 0.1, 0.3, 0.0, 0.2, 300, seed=1)
    assert first == difference_chance(setting, 0.1, 0.3, 0.0, 0.2, 300, seed=1)
    assert first != difference_chance(setting, 0.1, 0.3, 0.0, 0.2, 300, seed=2)
    assert 150 * sequential.prefixes(setting.sizes, 3)[0] / 30 <= first.mean_n <= 150
    assert 0 < first.error < 0.03
