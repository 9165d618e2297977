"""Statistics against numbers worked by hand, independent formulas, and simulation."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest, t

from posttrain.evals import planning, stats

Z = NormalDist().inv_cdf(0.95)


def independent_tango_z(n: int, gained: int, lost: int, delta: float) -> float:
    """The score statistic from a numerical maximum of the multinomial likelihood on P(gained) - P(lost) = delta."""
    low, high = max(0.0, -delta) + 1e-12, (1 - delta) / 2 - 1e-12

    def log_likelihood(q: float) -> float:
        rest = n - gained - lost
        return (
            (gained * math.log(q + delta) if gained else 0.0)
            + (lost * math.log(q) if lost else 0.0)
            + (rest * math.log(1 - 2 * q - delta) if rest else 0.0)
        )

    for _ in range(300):  # ternary search: the log-likelihood is concave
        a, b = low + (high - low) / 3, high - (high - low) / 3
        if log_likelihood(a) < log_likelihood(b):
            low = a
        else:
            high = b
    q = (low + high) / 2
    return (gained - lost - n * delta) / math.sqrt(n * (2 * q + delta - delta**2))


@pytest.mark.parametrize(
    ("n", "gained", "lost"), [(44, 1, 16), (300, 9, 12), (500, 0, 25), (100, 40, 3), (20, 7, 0), (50, 1, 1)]
)
def test_tango_ends_satisfy_the_likelihood_equation(n: int, gained: int, lost: int) -> None:
    low, high = stats.tango(n, gained, lost, Z)
    assert independent_tango_z(n, gained, lost, low) == pytest.approx(Z, abs=2e-4)
    assert independent_tango_z(n, gained, lost, high) == pytest.approx(-Z, abs=2e-4)
    assert low < (gained - lost) / n < high


def test_tango_at_zero_flips_worked_by_hand() -> None:
    # With no discordant pair the constrained q is max(0, -d), so z^2 = n d^2 / (d (1 - d)), d = z^2 / (n + z^2).
    low, high = stats.tango(200, 0, 0, Z)
    assert high == pytest.approx(Z**2 / (200 + Z**2), rel=1e-9)
    assert low == pytest.approx(-high, rel=1e-9)


@given(n=st.integers(1, 400), data=st.data())
@settings(max_examples=150, deadline=None)
def test_tango_is_ordered_symmetric_and_never_of_zero_width(n: int, data: st.DataObject) -> None:
    gained = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n - gained))
    low, high = stats.tango(n, gained, lost, Z)
    assert -1 <= low <= (gained - lost) / n + 1e-9
    assert (gained - lost) / n - 1e-9 <= high <= 1
    assert high - low > 1e-6
    mirrored = stats.tango(n, lost, gained, Z)
    assert (-mirrored[1], -mirrored[0]) == pytest.approx((low, high), abs=1e-9)


def test_clopper_pearson_against_scipy_and_by_hand() -> None:
    for n, right in ((200, 197), (200, 200), (200, 0), (17, 5), (1, 1)):
        low, high = stats.clopper_pearson(n, right)
        expected = binomtest(right, n).proportion_ci(confidence_level=0.9, method="exact")
        assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert stats.clopper_pearson(59, 59)[0] == pytest.approx(0.05 ** (1 / 59), rel=1e-12)
    # Fractional counts are the beta quantiles in between.
    assert stats.clopper_pearson(100.5, 90.25)[0] == pytest.approx(beta.ppf(0.05, 90.25, 11.25), rel=1e-9)


def test_clopper_pearson_size_is_the_computed_one() -> None:
    """n 200, floor .98.

    P(lower bound >= .98 | p = .98) is .018; right, and not a defect (GATES: exact tests are conservative).
    """
    proving = [k for k in range(201) if stats.clopper_pearson(200, k)[0] >= 0.98]
    size = sum(binom.pmf(k, 200, 0.98) for k in proving)
    assert size == pytest.approx(0.0176, abs=5e-4)


def test_mcnemar_against_scipy_and_by_hand() -> None:
    assert stats.mcnemar(stats.Flips(100, 1, 5)) == pytest.approx(2 * (1 + 6) / 2**6)
    for gained, lost in ((0, 0), (3, 3), (10, 2), (0, 7)):
        expected = binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
        assert stats.mcnemar(stats.Flips(50, gained, lost)) == pytest.approx(min(1.0, expected), rel=1e-9)


@pytest.mark.parametrize(
    ("discordance", "margin", "needed"),
    [(0.2, 0.05, 495), (0.2, 0.03, 1374), (0.2, 0.02, 3092), (0.1, 0.05, 248), (0.1, 0.03, 687), (0.1, 0.02, 1546)],
)
def test_examples_needed_for_noninferiority(discordance: float, margin: float, needed: int) -> None:
    assert planning.examples_needed(discordance, margin) == needed


def test_examples_needed_worked_by_hand() -> None:
    # Variance .1 - .02^2 = .0996, distance .05 + .02 = .07, z 1.644854 + 1.281552, squared 8.563851:
    # 2 * 8.563851 * .0996 / .0049 = 348.14.
    assert planning.examples_needed(0.1, 0.05, 0.02, effect=2, power=0.9) == 349
    assert planning.examples_needed(0.1, 0.05, -0.02, effect=2, power=0.9) == 1896  # / .03^2: 1895.5
    assert planning.examples_needed(0.0, 0.05) == 1


def test_nothing_proves_noninferiority_at_the_margin() -> None:
    with pytest.raises(stats.UndefinedError):
        planning.examples_needed(0.2, 0.05, difference=-0.05)


def test_design_effect_worked_by_hand() -> None:
    # Two clusters of two, alike within: mean .5, robust 2/1 * (1 + 1) = 4 against 4 * .25 = 1. One cluster departs
    # from the commonest value; the worst case that it leaves in weight, (4 + 4) / 4 = 2, does not lift the 4.
    assert stats.design_effect([1, 1, 0, 0], ["a", "a", "b", "b"]) == pytest.approx(4.0)
    assert stats.design_effect([1, 0, 1, 0], ["a", "b", "c", "d"]) == 1.0
    # Nothing departs: the worst case, sum of squared sizes over n.
    assert stats.design_effect([0] * 6, ["a", "a", "a", "b", "b", "c"]) == pytest.approx((9 + 4 + 1) / 6)


def by_cluster(counts: list[int], size: int) -> tuple[list[float], list[int]]:
    """Clusters of one size, each with so many ones; returns (values, clusters)."""
    values = [float(i < count) for count in counts for i in range(size)]
    return values, [code for code in range(len(counts)) for _ in range(size)]


@pytest.mark.parametrize(
    ("counts", "size", "effect"),
    [
        # One flip in 2 of 10 pairs: squares within 2(.9^2) + 18(.1^2) = 1.8, of sums 2(.8^2) + 8(.2^2) = 1.6; 10/9 of
        # that is below 1.8, so 1. The worst case, 2, keeps 1 / (1 + (2/4)^3) = 8/9.
        ([1] * 2 + [0] * 8, 2, 1 / 9 + 8 / 9 * 2),
        # One flip in 6 of 10 pairs: 2.4 * 10/9 below 4.2, so 1 again. The worst case keeps 1 / (1 + (6/4)^3) = 8/35.
        ([1] * 6 + [0] * 4, 2, 27 / 35 + 8 / 35 * 2),
        # Three flips in 2 of 6 clusters of four: within 6(.75^2) + 18(.25^2) = 4.5, sums 2(2^2) + 4(1^2) = 12, 6/5 of
        # that is 14.4: a ratio of 3.2 is seen, and the worst case is 4.
        ([3] * 2 + [0] * 4, 4, 3.2 / 9 + 8 / 9 * 4),
        # In 6 of 12: within 18(.625^2) + 30(.375^2) = 11.25, sums 6(1.5^2) + 6(1.5^2) = 27, 12/11 of that: 2.618.
        ([3] * 6 + [0] * 6, 4, 27 / 35 * 27 * 12 / 11 / 11.25 + 8 / 35 * 4),
    ],
)
def test_design_effect_while_few_clusters_flip(counts: list[int], size: int, effect: float) -> None:
    values, clusters = by_cluster(counts, size)
    assert stats.design_effect(values, clusters) == pytest.approx(effect, rel=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_clustered_difference_uses_students_quantile(sign: int) -> None:
    flips, clusters = by_cluster([2] * 5 + [0] * 35, 12)
    old, new = [0.0] * 480, flips
    if sign < 0:
        old, new = new, old
    found = stats.paired_difference(old, new, clusters)
    effect = stats.design_effect(flips, clusters)
    counts = (10 / effect, 0.0) if sign > 0 else (0.0, 10 / effect)
    expected = stats.tango(480 / effect, *counts, t.ppf(0.95, 39))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)
    assert (found.estimate, found.design_effect) == pytest.approx((sign * 10 / 480, effect))
    assert (found.n, found.clusters, found.level) == (480, 40, 0.9)
    half = stats.paired_difference(old, new, clusters, alpha=0.025)
    expected = stats.tango(480 / effect, *counts, t.ppf(0.975, 39))
    assert (half.low, half.high) == pytest.approx(expected, rel=1e-9)
    assert half.level == 0.95


def test_a_clustered_proportion_worked_by_hand() -> None:
    # 5 clusters of four with 4, 4, 3, 4, 1 right, mean .8: squares within 16(.2^2) + 4(.8^2) = 3.2; sums .8, .8, -.2,
    # .8, -2.2, squared 6.8; 5/4 of that over 3.2 is 2.65625. Two clusters hold an error: the worst case, 4, keeps 8/9.
    scores, clusters = by_cluster([4, 4, 3, 4, 1], 4)
    found = stats.proportion(scores, clusters)
    effect = 2.65625 / 9 + 8 / 9 * 4
    assert found.design_effect == pytest.approx(effect, rel=1e-12)
    widened = effect * (t.ppf(0.95, 4) / Z) ** 2
    right, wrong = 16 / widened, 4 / widened
    expected = (beta.ppf(0.05, right, wrong + 1), beta.ppf(0.95, right + 1, wrong))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)
    assert (found.estimate, found.n, found.clusters, found.level) == (0.8, 20, 5, 0.9)


def test_fewer_than_two_clusters_is_undefined() -> None:
    for values, clusters in (([], []), ([1.0, 0.0], ["a", "a"])):
        with pytest.raises(stats.UndefinedError):
            stats.design_effect(values, clusters)
        with pytest.raises(stats.UndefinedError):
            stats.paired_difference(values, values, clusters)
        with pytest.raises(stats.UndefinedError):
            stats.proportion(values, clusters)


def test_clusters_widen_and_singletons_do_not() -> None:
    old = [1.0] * 60
    new = ([1.0] * 5 + [0.0]) * 10
    alone = stats.paired_difference(old, new, list(range(60)))
    assert (alone.low, alone.high) == pytest.approx(stats.tango(60, 0, 10, Z))
    assert alone.design_effect == 1.0
    grouped = stats.paired_difference(old, sorted(new), [i // 5 for i in range(60)])
    assert grouped.design_effect > 3
    assert grouped.low < alone.low
    assert grouped.high > alone.high
    assert alone.level == grouped.level == 0.90


def test_scores_other_than_0_and_1_are_refused() -> None:
    with pytest.raises(ValueError, match="0 or 1"):
        stats.paired_difference([0.5, 1], [1, 1], ["a", "b"])
    with pytest.raises(ValueError, match="1 baseline scores"):
        stats.count_flips([1], [1, 0])
    for scores in ([7, 7, 0, 0], [0.5, 1, 0, 1], [math.nan, 1, 0, 1], [-1, 1, 0, 1]):
        with pytest.raises(ValueError, match="0 or 1"):
            stats.proportion(scores, [0, 0, 1, 1])
        with pytest.raises(ValueError, match="0 or 1"):
            stats.paired_difference([0, 1, 0, 1], scores, [0, 0, 1, 1])


# -- simulation --------------------------------------------------------------------------------------------------------


def false_pass(clusters: int, size: int, flips: float, margin: float, icc: float, trials: int, seed: int) -> float:
    """How often a model that is truly at -margin passes.

    Flips in clusters are Dirichlet-multinomial with this correlation.
    """
    rng = np.random.default_rng(seed)
    shares = np.array([(flips - margin) / 2, (flips + margin) / 2, 1 - flips])
    codes = np.repeat(np.arange(clusters), size)
    ids = codes.tolist()
    passed = 0
    for _ in range(trials):
        if icc == 0:
            p = np.tile(shares, (clusters, 1))
        elif icc == 1:
            p = np.eye(3)[rng.choice(3, size=clusters, p=shares)]
        else:
            p = rng.dirichlet(np.maximum(shares * (1 - icc) / icc, 1e-9), size=clusters)
        u = rng.random(clusters * size)
        gained = u < p[codes, 0]
        lost = ~gained & (u < p[codes, 0] + p[codes, 1])
        effect = stats.design_effect((gained.astype(float) - lost).tolist(), ids)
        z = stats._quantile(clusters, clusters * size, stats.ALPHA)
        # The lower bound is above -margin exactly where the score statistic there is above z.
        n, g, b = clusters * size / effect, float(gained.sum()) / effect, float(lost.sum()) / effect
        linear, constant = -g - b - (2 * n - g + b) * margin, b * margin * (1 + margin)
        q = (math.sqrt(linear**2 - 8 * n * constant) - linear) / (4 * n)
        passed += (g - b + n * margin) / math.sqrt(n * (2 * q - margin * (1 + margin))) > z
    return passed / trials


def allowed(trials: int) -> float:
    """.06, and three standard errors of the simulation."""
    return 0.06 + 3 * math.sqrt(0.06 * 0.94 / trials)


@pytest.mark.parametrize("flips", [0.05, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("n", [200, 500, 1000])
def test_independent_false_pass_is_5_percent(n: int, flips: float) -> None:
    trials = 3000
    rate = false_pass(n, 1, flips, 0.05, 0.0, trials, seed=n)
    assert rate <= allowed(trials)
    if n * flips >= 10:
        assert rate >= 0.03 - 3 * math.sqrt(0.03 * 0.97 / trials)


@pytest.mark.parametrize("icc", [0.0, 0.1, 0.3, 0.6, 1.0])
@pytest.mark.parametrize(("clusters", "size"), [(40, 12), (60, 5), (30, 10), (10, 30)])
def test_clustered_false_pass(clusters: int, size: int, icc: float) -> None:
    trials = 1000
    for flips in (0.05, 0.12, 0.3):
        rate = false_pass(clusters, size, flips, 0.05, icc, trials, seed=clusters + int(10 * icc))
        assert rate <= allowed(trials), (flips, rate)
        if clusters >= 40 and flips * clusters >= 10:
            assert rate >= 0.03 - 3 * math.sqrt(0.03 * 0.97 / trials), (flips, rate)


def test_the_simulation_catches_a_naive_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation that must fail: with clusters ignored, false PASS leaves the band."""
    monkeypatch.setattr(stats, "design_effect", lambda values, clusters: 1.0)
    assert false_pass(30, 10, 0.2, 0.05, 0.3, 1000, seed=1) > 0.1


@pytest.mark.parametrize(("clusters", "size", "icc"), [(500, 1, 0.0), (40, 12, 0.1), (40, 12, 0.4), (60, 5, 0.3)])
def test_coverage_of_a_floor(clusters: int, size: int, icc: float) -> None:
    """A model truly at the floor is proven above it in at most 6% of trials."""
    rng = np.random.default_rng(clusters)
    trials, floor = 1000, 0.8
    ids = [i // size for i in range(clusters * size)]
    proven = 0
    for _ in range(trials):
        concentration = (1 - icc) / icc if icc else 0.0
        p = rng.beta(floor * concentration, (1 - floor) * concentration, clusters) if icc else np.full(clusters, floor)
        right = rng.random(clusters * size) < np.repeat(p, size)
        proven += stats.proportion(right.astype(float).tolist(), ids).low >= floor
    assert proven / trials <= allowed(trials)
