"""Each rule at its threshold: the bound decides and not the estimate, on the side and at the point that docs/gates.md
says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import pytest

from posttrain.evals import stats
from posttrain.evals.gate import GateReport, run_gate
from posttrain.evals.policy import Ceiling, Floor, Improve, NonInferior, Policy, Rule
from posttrain.evals.rows import EvalRun

from .build import change_header, change_row, make_row, make_run, one_metric

SM = ("s", "m")
EPS = 1e-9
N = 200
RIGHT = [1.0] * 160 + [0.0] * 40


def candidate(scores: Sequence[float] = RIGHT, wordings: int = N) -> EvalRun:
    """A run in which, unless asked otherwise, each row is a wording of its own."""
    return make_run({SM: scores}, wordings=wordings)


def champion(scores: Sequence[float], wordings: int = N) -> EvalRun:
    return make_run({SM: scores}, version="bot@1", weights="champion", wordings=wordings)


def flipped(gained: int, lost: int, n: int = N) -> tuple[list[float], list[float]]:
    """Scores of a champion and a candidate with so many flips."""
    old = [0.0] * gained + [1.0] * (n - gained)
    return old, [1.0] * (n - lost) + [0.0] * lost


def judged(policy: Policy, old: Sequence[float], new: Sequence[float], wordings: int = N) -> GateReport:
    return run_gate(policy, candidate(new, wordings), {"champion": champion(old, wordings)})


def codes(report: GateReport) -> set[str]:
    return {reason.code for reason in report.reasons}


# -- the bound decides -------------------------------------------------------------------------------------------------

SHARE = stats.proportion(RIGHT, range(N))
WORSE = stats.paired_difference(*flipped(5, 15), range(N))  # estimate -5 points
BETTER = stats.paired_difference(*flipped(15, 5), range(N))  # estimate +5 points


def test_the_bounds_lie_where_the_tables_need_them() -> None:
    assert SHARE.low + 0.04 < SHARE.estimate < SHARE.high - 0.04
    assert WORSE.low + 0.03 < WORSE.estimate < WORSE.high - 0.03 < WORSE.high < 0
    assert 0 < BETTER.low < BETTER.low + 0.03 < BETTER.estimate < BETTER.high - 0.03


@pytest.mark.parametrize(
    ("at_least", "verdict"),
    [
        (SHARE.low - EPS, "PASS"),
        (SHARE.low, "PASS"),
        (SHARE.low + EPS, "INCONCLUSIVE"),
        (SHARE.estimate - 0.01, "INCONCLUSIVE"),  # the estimate reaches it, the lower bound does not
        (SHARE.estimate + 0.01, "INCONCLUSIVE"),  # the estimate is below it, the upper bound is not
        (SHARE.high, "INCONCLUSIVE"),
        (SHARE.high + EPS, "FAIL"),
    ],
)
def test_a_floor_is_decided_by_the_bounds(at_least: float, verdict: str) -> None:
    report = run_gate(one_metric(Floor(at_least=at_least)), candidate(), {})
    assert (report.verdict, codes(report)) == (verdict, set() if verdict == "PASS" else {"FLOOR"})
    result = report.results[0]
    assert (result.estimate, result.low, result.high) == pytest.approx((0.8, SHARE.low, SHARE.high), abs=1e-9)


@pytest.mark.parametrize(
    ("at_most", "verdict"),
    [
        (SHARE.high + EPS, "PASS"),
        (SHARE.high, "PASS"),
        (SHARE.high - EPS, "INCONCLUSIVE"),
        (SHARE.estimate + 0.01, "INCONCLUSIVE"),
        (SHARE.estimate - 0.01, "INCONCLUSIVE"),
        (SHARE.low, "INCONCLUSIVE"),
        (SHARE.low - EPS, "FAIL"),
    ],
)
def test_a_ceiling_is_decided_by_the_bounds(at_most: float, verdict: str) -> None:
    report = run_gate(one_metric(Ceiling(at_most=at_most)), candidate(), {})
    assert (report.verdict, codes(report)) == (verdict, set() if verdict == "PASS" else {"CEILING"})


@pytest.mark.parametrize(
    ("margin", "verdict"),
    [
        (-WORSE.low + EPS, "PASS"),
        (-WORSE.low, "INCONCLUSIVE"),
        (-WORSE.low - EPS, "INCONCLUSIVE"),
        (-WORSE.estimate + 0.01, "INCONCLUSIVE"),
        (-WORSE.estimate - 0.01, "INCONCLUSIVE"),  # worse for certain, but not by the margin for certain
        (-WORSE.high, "INCONCLUSIVE"),
        (-WORSE.high - EPS, "FAIL"),
    ],
)
def test_non_inferiority_is_decided_by_the_bounds(margin: float, verdict: str) -> None:
    report = judged(one_metric(NonInferior(to="champion", margin=margin)), *flipped(5, 15))
    assert (report.verdict, codes(report)) == (verdict, set() if verdict == "PASS" else {"NONINF"})
    result = report.results[0]
    assert (result.gained, result.lost, result.n, result.clusters) == (5, 15, N, N)
    assert (result.estimate, result.low, result.high) == pytest.approx((-0.05, WORSE.low, WORSE.high), abs=1e-9)


@pytest.mark.parametrize(
    ("by", "verdict"),
    [
        (0.0, "PASS"),
        (BETTER.low - EPS, "PASS"),
        (BETTER.low, "INCONCLUSIVE"),
        (BETTER.low + EPS, "INCONCLUSIVE"),  # better for certain, but not by so much
        (BETTER.estimate - 0.01, "INCONCLUSIVE"),
        (BETTER.estimate + 0.01, "INCONCLUSIVE"),
        (BETTER.high, "INCONCLUSIVE"),
        (BETTER.high + EPS, "FAIL"),
    ],
)
def test_an_improvement_is_decided_by_the_bounds(by: float, verdict: str) -> None:
    report = judged(one_metric(Improve(over="champion", by=by)), *flipped(15, 5))
    assert (report.verdict, codes(report)) == (verdict, set() if verdict == "PASS" else {"IMPROVE"})
    assert report.improved, "whatever the policy asks for, the lower bound is above 0"


# -- what a rule applies to --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "parent_is_base", "verdict"),
    [("base", True, "PASS"), ("base", False, "SKIPPED"), ("always", True, "PASS"), ("always", False, "PASS")],
)
def test_when_an_improvement_is_asked_for(when: Any, parent_is_base: bool, verdict: str) -> None:
    template: dict[str, Any] = {"template": "version", "has_own": False} if parent_is_base else {}
    parent = make_run({SM: [0.0] * N}, version="bot@0", weights="parent", wordings=N, **template)
    policy = one_metric(Improve(over="parent", by=0.1, when=when), Floor(at_least=0.5))
    report = run_gate(policy, candidate(), {"parent": parent})
    assert [result.verdict for result in report.results] == [verdict, "PASS"]
    assert report.verdict == "PASS"


def test_an_id_of_the_rows_decides_what_is_clustered() -> None:
    # 50 wordings in turn, 10 clusters of 20 neighbours; the clusters of the last 40 rows are wrong as a whole.
    run = candidate(RIGHT, wordings=50)
    by_wording, by_cluster = [f"w{i % 50}" for i in range(N)], [f"c{i // 20}" for i in range(N)]
    old, new = [1.0] * N, RIGHT
    for cluster, ids in (("wording", by_wording), ("cluster", by_cluster)):
        policy = one_metric(Floor(at_least=0.7), NonInferior(to="champion", margin=0.3), cluster=cluster)
        report = run_gate(policy, run, {"champion": champion(old, wordings=50)})
        share, gap = stats.proportion(RIGHT, ids), stats.paired_difference(old, new, ids)
        for result, interval in zip(report.results, (share, gap), strict=True):
            assert (result.clusters, result.design_effect) == (
                interval.clusters,
                pytest.approx(interval.design_effect, abs=1e-9),
            )
            assert (result.low, result.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
        assert report.verdict == {"wording": "PASS", "cluster": "INCONCLUSIVE"}[cluster]
        assert report.suites[0].clusters == 50, "summaries are clustered by wording"
        assert run_gate(one_metric(Floor(at_least=0.1), cluster=cluster, min_clusters=11), run, {}).verdict == (
            "PASS" if cluster == "wording" else "INCONCLUSIVE"
        )


def test_whether_some_metric_improved_is_clustered_the_same_way() -> None:
    old, new = [0.0] * 40 + [1.0] * 160, [1.0] * N
    for cluster, improved in (("wording", True), ("cluster", False)):
        policy = one_metric(Improve(over="champion", by=0.0), cluster=cluster)
        report = judged(policy, old, new, wordings=50)
        assert report.improved is improved
        assert report.verdict == ("PASS" if improved else "INCONCLUSIVE")


@pytest.mark.parametrize(("score", "floor"), [(1.0, 0.8), (0.0, 0.7)])
def test_unseen_rows_turn_no_rule(score: float, floor: float) -> None:
    """400 rows of wordings that were never trained would turn each of these rules, were they counted."""

    def with_unseen(run: EvalRun, value: float) -> EvalRun:
        rows = [
            make_row("s", "m", 1000 + i, value, 400, shard="unseen", stop_reason="length" if value == score else "stop")
            for i in range(400)
        ]
        infos = [run.header.suites[0].model_copy(update={"num_rows": N + 400})]
        return change_header(run.model_copy(update={"rows": (*run.rows, *rows)}), suites=infos)

    relative: list[Rule] = [NonInferior(to="champion", margin=0.06), Improve(over="champion", by=0.0)]
    policy = one_metric(Floor(at_least=floor), Ceiling(at_most=0.95), *relative)
    report = run_gate(
        policy, with_unseen(candidate(RIGHT), score), {"champion": with_unseen(champion(RIGHT), 1 - score)}
    )
    plain = run_gate(policy, candidate(RIGHT), {"champion": champion(RIGHT)})
    assert report.results == plain.results
    assert report.reasons == plain.reasons
    assert report.improved is plain.improved is False
    assert [row.n for row in report.unseen] == [400]
    enough = one_metric(Floor(at_least=0.5), min_rows=N + 1)
    assert codes(run_gate(enough, with_unseen(candidate(), score), {})) == {"N_TOO_SMALL"}
    assert codes(run_gate(enough, candidate([*RIGHT, 1.0]), {})) == set()


def test_rows_of_another_metric_turn_no_rule() -> None:
    both = make_run({SM: RIGHT, ("s", "other"): [0.0] * N}, wordings=N)
    alone = run_gate(one_metric(Floor(at_least=0.7)), candidate(), {})
    report = run_gate(one_metric(Floor(at_least=0.7)), both, {})
    assert (report.verdict, report.results) == ("PASS", alone.results)


# -- truncation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "context", "options", "is_truncated"),
    [
        (10, 0, {}, False),  # 5% is allowed by default
        (11, 0, {}, True),
        (0, 10, {}, False),
        (0, 11, {}, True),
        (5, 6, {}, True),
        (20, 0, {"max_truncated": 0.1}, False),
        (20, 1, {"max_truncated": 0.1}, True),
        (0, 0, {"max_truncated": 0.0}, False),
        (1, 0, {"max_truncated": 0.0}, True),
        (100, 100, {"max_truncated": 1.0}, False),
    ],
)
def test_truncated_answers(length: int, context: int, options: dict[str, Any], is_truncated: bool) -> None:
    def cut(run: EvalRun) -> EvalRun:
        for index in range(length + context):
            run = change_row(run, index, stop_reason="length" if index < length else "context")
        return run

    policy = one_metric(NonInferior(to="champion", margin=0.1), **options)
    report = run_gate(policy, cut(candidate()), {"champion": champion(RIGHT)})
    assert (report.verdict, codes(report)) == (("FAIL", {"TRUNCATED"}) if is_truncated else ("PASS", set()))
    # The candidate's answers count; what a champion once ran into is not held against its successor.
    assert run_gate(policy, candidate(), {"champion": cut(champion(RIGHT))}).verdict == "PASS"


# -- what a baseline can carry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chance", "verdict"),
    [(SHARE.low - EPS, "PASS"), (SHARE.low, "INCONCLUSIVE"), (SHARE.estimate - 0.01, "INCONCLUSIVE")],
)
def test_a_baseline_has_to_be_proven_above_chance(chance: float, verdict: str) -> None:
    report = judged(one_metric(NonInferior(to="champion", margin=0.1), chance=chance), RIGHT, RIGHT)
    assert (report.verdict, codes(report)) == (verdict, set() if verdict == "PASS" else {"NO_SENSITIVITY"})
    assert report.results[0].verdict == "PASS"


def test_a_refuted_rule_needs_no_sensitivity() -> None:
    """Being worse than a baseline at chance is a FAIL for what it is; nothing else is said of it."""
    half = [1.0, 0.0] * (N // 2)
    report = judged(one_metric(NonInferior(to="champion", margin=0.1), chance=0.5), half, [0.0] * N)
    assert (report.verdict, codes(report)) == ("FAIL", {"NONINF"})


# -- hints -------------------------------------------------------------------------------------------------------------

Z2 = (NormalDist().inv_cdf(0.95) + NormalDist().inv_cdf(0.8)) ** 2  # 6.1826


def hint(n: int, gained: int, lost: int, margin: float, wordings: int) -> tuple[int, str]:
    report = judged(one_metric(NonInferior(to="champion", margin=margin)), *flipped(gained, lost, n), wordings)
    result = report.results[0]
    assert result.verdict == "INCONCLUSIVE"
    assert result.message in report.reasons[0].message
    return result.needed, result.message


def test_examples_needed_if_there_is_no_true_difference() -> None:
    needed, message = hint(100, 4, 6, 0.05, wordings=100)
    assert needed == math.ceil(Z2 * 0.1 / 0.05**2) == 248
    assert "248 examples would settle it with 80% power if there is no true difference (now 100)" in message


def test_examples_needed_if_the_difference_seen_is_the_true_one() -> None:
    # Enough for no difference (248 of 300), so the next assumption: -4 points, one above the margin.
    needed, message = hint(300, 9, 21, 0.05, wordings=300)
    assert needed == math.ceil(Z2 * (0.1 - 0.04**2) / 0.01**2) == 6084
    assert "6084 examples would settle it with 80% power if the difference seen is the true one (now 300)" in message


def test_no_number_of_examples_is_named_near_the_margin() -> None:
    for gained, lost in ((6, 24), (8, 23)):  # -6 points, below a margin of 5; and -5, exactly at it
        needed, message = hint(300, gained, lost, 0.05, wordings=300)
        assert needed == 0
        assert "more examples would probably not prove it" in message


def test_without_a_flip_the_hint_assumes_one() -> None:
    needed, _ = hint(30, 0, 0, 0.05, wordings=30)
    assert needed == math.ceil(Z2 / 30 / 0.05**2) == 83


def test_clustered_examples_are_needed_in_greater_number() -> None:
    effect = stats.paired_difference(*flipped(5, 15), [i % 10 for i in range(N)]).design_effect
    assert effect > 1.2
    needed, _ = hint(N, 5, 15, 0.06, wordings=10)
    assert needed == math.ceil(effect * Z2 * 0.1 / 0.06**2)
