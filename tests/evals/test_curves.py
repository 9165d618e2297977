"""Operating curves of policies: the numbers that the exact and the simulated chances give, and what is refused."""

from __future__ import annotations

import pytest
from scipy.stats import binom

from posttrain.evals import planning, stats
from posttrain.evals.curves import Curve, operating_curve
from posttrain.evals.operating import Setting, difference_chance
from posttrain.evals.policy import Policy, load_policy, parse_policy

TEXT = """
name: t
version: 1
metrics:
  - suite: s
    metric: m
    min_rows: 300
    min_clusters: 300
    rules:
      - {type: floor, at_least: 0.8}
      - {type: ceiling, at_most: 0.9}
      - {type: noninferior, to: parent, margin: 0.08}
      - {type: improve, over: parent, by: 0.02}
"""


def policy(option: str = "", clusters: int = 300) -> Policy:
    text = TEXT.replace("metrics:", f"{option}\nmetrics:", 1)
    return parse_policy(text.replace("min_clusters: 300", f"min_clusters: {clusters}"))


def by_rule(curves: list[Curve], rule: str, flips: float = 0.0) -> Curve:
    (found,) = [curve for curve in curves if curve.rule == rule and curve.flips == flips]
    return found


def test_an_exact_curve_worked_out_apart() -> None:
    found = operating_curve(policy(), flips=(0.05, 0.2))
    assert (found.trials, found.level, found.attempt, found.looks) == (0, 0.9, 0, 1)
    curve = by_rule(found.curves, "noninferior", 0.2)
    assert [point.truth for point in curve.points] == [-0.08, 0.0, 0.08]
    expected = [difference_chance(Setting((1,) * 300), 0.08, 0.2, truth).passed for truth in (-0.08, 0.0, 0.08)]
    assert [point.passed for point in curve.points] == pytest.approx(expected, abs=1e-6)
    assert curve.points[0].passed == pytest.approx(0.05, abs=0.01)
    assert curve.needed == planning.examples_needed(0.2, 0.08)
    few = by_rule(found.curves, "noninferior", 0.05)
    assert [point.passed is None for point in few.points] == [True, False, True], "5% of flips are no 8 points"
    better = by_rule(found.curves, "improve", 0.2)
    assert [point.truth for point in better.points] == pytest.approx([0.02, 0.07, 0.12])
    assert better.needed == planning.examples_needed(0.2, -0.02, 0.07)


def test_a_floor_and_a_ceiling_are_mirrors() -> None:
    found = operating_curve(policy()).curves
    floor, ceiling = by_rule(found, "floor"), by_rule(found, "ceiling")
    need = next(k for k in range(301) if stats.clopper_pearson(300, k)[0] >= 0.8)
    expected = [float(binom.sf(need - 1, 300, score)) for score in (0.8, 0.85, 0.9)]
    assert [point.passed for point in floor.points] == pytest.approx(expected, abs=1e-6)
    most = next(k for k in range(300, -1, -1) if stats.clopper_pearson(300, k)[1] <= 0.9)
    expected = [float(binom.cdf(most, 300, score)) for score in (0.9, 0.85, 0.8)]
    assert [point.truth for point in ceiling.points] == pytest.approx([0.9, 0.85, 0.8])
    assert [point.passed for point in ceiling.points] == pytest.approx(expected, abs=1e-6)
    # z^2 .85 .15 / .05^2 with z 2.486475, and .15 .85 for the ceiling's complement.
    assert (floor.needed, ceiling.needed) == (316, 316)
    high = operating_curve(parse_policy(TEXT.replace("at_least: 0.8", "at_least: 0.88"))).curves
    assert [point.passed is None for point in by_rule(high, "floor").points] == [False, False, False]
    higher = parse_policy(TEXT.replace("at_least: 0.8", "at_least: 0.97").replace("at_most: 0.9", "at_most: 0.99"))
    assert [point.passed is None for point in by_rule(operating_curve(higher).curves, "floor").points] == [
        False,
        True,
        True,
    ]


def test_clusters_looks_and_attempts_show() -> None:
    alone = by_rule(operating_curve(policy()).curves, "noninferior", 0.2)
    clustered = operating_curve(policy(clusters=30), flips=(0.2,), correlation=0.3, trials=600)
    grouped = by_rule(clustered.curves, "noninferior", 0.2)
    assert clustered.trials == 600
    assert grouped.points[0].error > 0
    assert grouped.points[1].passed is not None
    assert alone.points[1].passed is not None
    assert grouped.points[1].passed < alone.points[1].passed - 0.2
    assert grouped.needed == planning.examples_needed(0.2, 0.08, effect=1 + 9 * 0.3)
    looked = operating_curve(policy("sequential: {looks: 4}"), flips=(0.2,), trials=500)
    curve = by_rule(looked.curves, "noninferior", 0.2)
    assert looked.looks == 4
    assert curve.points[1].mean_n < 280
    assert by_rule(looked.curves, "floor").points[1].mean_n == 300, "floors are judged once"
    spent = operating_curve(policy("attempts: {budget: 5}"), attempt=2)
    assert (spent.level, spent.attempt) == (0.98, 2)
    first = by_rule(spent.curves, "noninferior", 0.2).points[0].passed
    assert first == pytest.approx(0.01, abs=0.004)


@pytest.mark.parametrize("name", ["default", "smollm2"])
def test_the_shipped_policies_let_at_most_6_percent_through(name: str) -> None:
    found = operating_curve(load_policy(name), trials=1000)
    points = [curve.points[0] for curve in found.curves if curve.points[0].passed is not None]
    assert len(points) > 8
    for point in points:
        assert point.passed is not None
        assert point.passed <= 0.06 + 3 * (0.06 * 0.94 / 1000) ** 0.5
    assert operating_curve(load_policy(name), trials=1000) == found, "the same seed, the same numbers"


def test_what_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match="shares of flips"):
        operating_curve(policy(), flips=(0.0,))
    with pytest.raises(ValueError, match="correlation"):
        operating_curve(policy(clusters=30), correlation=2.0)
    with pytest.raises(ValueError, match="s/m: 3 rows in 5 clusters"):
        operating_curve(policy(), rows=3, clusters=5)
    with pytest.raises(ValueError, match="attempt 6: the policy allows 5"):
        operating_curve(policy("attempts: {budget: 5}"), attempt=6)
