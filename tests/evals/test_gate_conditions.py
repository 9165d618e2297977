"""Attempts, the noise floor, "at least one of k", and every option at once: what each refuses that the gate without it
lets through.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.evals import planning, stats
from posttrain.evals.gate import explain, parse_report, run_gate
from posttrain.evals.noise import noise_floor
from posttrain.evals.policy import parse_policy
from posttrain.evals.report import REASONS
from posttrain.evals.rows import EvalRun, RepeatInfo

from .build import change_header, change_row, make_run
from .designs import OLD, TEXT, N, codes, flip, policy, run

# -- attempts ----------------------------------------------------------------------------------------------------------

BUDGET = policy("attempts: {budget: 5}")


def test_re_submissions_are_counted_and_end() -> None:
    """The same good model again and again: five times by a fifth of alpha each, then never."""
    sides: dict[Any, EvalRun] = {"champion": run(OLD, "bot@1")}
    candidate = run(flip(OLD, 0.02, 0.02, 5))
    reports = [run_gate(BUDGET, candidate, sides, attempt=number) for number in range(1, 21)]
    assert [report.verdict for report in reports] == ["PASS"] * 5 + ["INCONCLUSIVE"] * 15
    assert {code for report in reports[5:] for code in codes(report)} == {"ATTEMPTS_EXHAUSTED"}
    assert "confirm on a fresh shard" in reports[5].reasons[0].message
    assert reports[0].attempt is not None
    assert (reports[0].attempt.alpha, reports[0].level, reports[0].results[0].level) == (0.01, 0.98, 0.98)
    wide = stats.paired_difference(OLD, [row.score for row in candidate.rows], range(N), alpha=0.01)
    assert (reports[0].results[0].low, reports[0].results[0].high) == pytest.approx((wide.low, wide.high), abs=1e-9)
    assert "attempt    1 of 5, one-sided level 0.0100" in explain(reports[0])


def test_a_policy_with_a_budget_needs_a_count() -> None:
    report = run_gate(BUDGET, run(OLD, "bot@3"), {"champion": run(OLD, "bot@1")})
    assert (report.verdict, codes(report)) == ("INCONCLUSIVE", {"ATTEMPTS_EXHAUSTED"})
    with pytest.raises(ValueError, match="count from 1"):
        run_gate(BUDGET, run(OLD, "bot@3"), {"champion": run(OLD, "bot@1")}, attempt=0)


def test_later_attempts_have_to_show_more() -> None:
    halving = policy("attempts: {budget: 10, spend: halving}")
    sides: dict[Any, EvalRun] = {"champion": run(OLD, "bot@1")}
    candidate = run(flip(OLD, 0.08, 0.12, 5))
    free = run_gate(policy(), candidate, sides)
    assert free.verdict == "PASS"
    lows = [run_gate(halving, candidate, sides, attempt=number).results[0].low for number in (1, 2, 5)]
    assert free.results[0].low > lows[0] > lows[1] > lows[2]
    assert run_gate(halving, candidate, sides, attempt=5).verdict == "INCONCLUSIVE"
    found = run_gate(halving, candidate, sides, attempt=5).results[0]
    assert found.needed > planning.examples_needed(0.2, 0.08, 0.0), "n needed is at this attempt's level"


def test_floors_spend_too() -> None:
    text = TEXT.replace("{type: noninferior, to: champion, margin: 0.08}", "{type: floor, at_least: 0.65}")
    found = run_gate(policy("attempts: {budget: 20}", text), run(OLD), {}, attempt=1).results[0]
    share = stats.proportion(OLD, range(N), alpha=0.05 / 20)
    assert (found.low, found.high) == pytest.approx((share.low, share.high), abs=1e-9)
    assert found.level == pytest.approx(0.995)


# -- the noise floor ---------------------------------------------------------------------------------------------------

NOISE = policy("noise_floor: {of: champion}")


def again(run_: EvalRun, num_cached: int = 0) -> EvalRun:
    """The run, marked as a second one of job `job-2`."""
    return change_header(run_, repeat=RepeatInfo(job="job-2", batch_rows=7, num_cached=num_cached))


def test_a_margin_below_the_noise_is_refused_with_its_size() -> None:
    champion, candidate = run(OLD, "bot@1"), run(OLD, "bot@3")
    quiet = run(flip(OLD, 0.01, 0.01, 1), "bot@1", dtype="bfloat16")
    report = run_gate(NOISE, candidate, {"champion": champion}, repeat=again(quiet))
    assert report.verdict == "PASS"
    assert report.noise is not None
    expected = noise_floor([OLD, [row.score for row in quiet.rows]], range(N))
    assert report.noise.metrics[0].floor == pytest.approx(expected, abs=1e-9)
    loud = run(flip(OLD, 0.02, 0.12, 1), "bot@1")
    refused = run_gate(NOISE, candidate, {"champion": champion}, repeat=again(loud))
    assert (refused.verdict, codes(refused)) == ("INCONCLUSIVE", {"NOISE_FLOOR"})
    assert "a margin of 8.0 points is below the noise floor of" in refused.reasons[0].message
    assert "noise      of the champion, points: s/m " in explain(refused)


def test_a_policy_with_a_noise_floor_needs_a_second_run_of_the_same_weights() -> None:
    champion, candidate = run(OLD, "bot@1"), run(OLD, "bot@3")
    sides: dict[Any, EvalRun] = {"champion": champion}
    assert codes(run_gate(NOISE, candidate, sides)) == {"NOISE_FLOOR"}
    for repeat in (
        run(OLD, "bot@9"),
        change_row(champion, 0, messages_digest="0" * 64),
        run(OLD, "bot@1", suite_digest="another"),
        run(OLD, "bot@1", shard="dev"),
        run(OLD[:-1], "bot@1"),
        change_header(champion, scorer_digest="0" * 64),
    ):
        report = run_gate(NOISE, candidate, sides, repeat=again(repeat))
        assert report.verdict == "INCONCLUSIVE"
        assert "PAIRING_MISMATCH" in codes(report)


def test_the_candidates_own_noise() -> None:
    mine = policy("noise_floor: {of: candidate}")
    candidate = run(OLD, "bot@3")
    report = run_gate(mine, candidate, {"champion": run(OLD, "bot@1")}, repeat=again(candidate))
    assert (report.verdict, report.noise is not None) == ("PASS", True)


@pytest.mark.parametrize("kind", ["the first run", "unmarked", "cached", "one second run on both sides"])
def test_a_copy_is_no_second_run(kind: str) -> None:
    """Equal rows show a noise floor of no flips, so it has to be known where they are from."""
    mine = policy("noise_floor: {of: candidate}")
    candidate = run(flip(OLD, 0.02, 0.02, 3), "bot@3")
    second = run(flip(OLD, 0.02, 0.02, 4), "bot@3") if kind == "unmarked" else candidate
    if kind == "cached":
        second = again(candidate, num_cached=1)
    if kind == "one second run on both sides":
        candidate = second = again(candidate)
    report = run_gate(mine, candidate, {"champion": run(OLD, "bot@1")}, repeat=second)
    assert (report.verdict, codes(report), report.noise) == ("INCONCLUSIVE", {"NOISE_FLOOR"}, None)
    assert "what was given as the second run of the candidate is none" in report.reasons[0].message


def test_the_mark_of_a_second_run_leaves_other_rows_as_they_were() -> None:
    plain = run(OLD, "bot@1")
    assert b"repeat" not in plain.canonical_bytes()
    assert b'"repeat":{"batch_rows":7,"job":"job-2","num_cached":0}' in again(plain).canonical_bytes()


# -- at least one of k -------------------------------------------------------------------------------------------------

K3 = TEXT + "".join(
    f"  - {{suite: s, metric: {name}, min_rows: 2, min_clusters: 2, rules: [{{type: floor, at_least: 0.1}}]}}\n"
    for name in ("a", "b")
)
ANY = policy("improve_any: {over: champion}", K3)


def three(scores: dict[str, Sequence[float]], version: str) -> EvalRun:
    return make_run(
        {("s", name): values for name, values in scores.items()}, version=version, weights=version, wordings=N
    )


def test_which_metrics_improved_family_wise() -> None:
    """p-values of .012 and .021: Bonferroni's .0167 lets one pass, Holm's second step (.025) both."""
    old = {"m": OLD, "a": OLD, "b": OLD}
    new = {"m": flip(OLD, 0.0600, 0.0250, 1), "a": flip(OLD, 0.0550, 0.0250, 2), "b": OLD}
    p = [stats.improvement_p(OLD, new[name], range(N)) for name in ("m", "a", "b")]
    assert p[0] < 0.05 / 3 < p[1] < 0.05 / 2 < p[2]
    report = run_gate(ANY, three(new, "bot@2"), {"champion": three(old, "bot@1")})
    assert report.improved_metrics == ["s/m", "s/a"]
    assert report.verdict == "PASS"
    assert "better     s/m, s/a" in explain(report)


def test_no_metric_improved_blocks() -> None:
    old = {"m": OLD, "a": OLD, "b": OLD}
    report = run_gate(ANY, three(old, "bot@2"), {"champion": three(old, "bot@1")})
    assert (report.verdict, codes(report), report.improved_metrics) == ("INCONCLUSIVE", {"IMPROVE"}, [])
    assert "none of 3 metrics is proven better than the champion by 0.0 points" in report.reasons[0].message
    first = run_gate(ANY, three(old, "bot@2"), {})
    assert first.improved_metrics is None, "there is no champion to be better than"
    better = {"m": flip(OLD, 0.2, 0.0, 1), "a": OLD, "b": OLD}
    copied = change_header(three(better, "bot@2"), weights_digest=three(old, "bot@1").header.weights_digest)
    same = run_gate(ANY, copied, {"champion": three(old, "bot@1")})
    assert (same.improved_metrics, same.verdict) == ([], "INCONCLUSIVE")


def test_every_code_is_explained() -> None:
    assert {"ATTEMPTS_EXHAUSTED", "NOISE_FLOOR"} <= set(REASONS)


# -- everything at once ------------------------------------------------------------------------------------------------

ALL = """
name: all
version: 1
ancestor: bot@1
sequential: {looks: 3, futility: 0.1}
attempts: {budget: 3, spend: halving}
noise_floor: {of: parent}
improve_any: {over: parent}
metrics:
  - suite: s
    metric: m
    min_rows: 2
    min_clusters: 2
    rules:
      - {type: floor, at_least: 0.2}
      - {type: noninferior, to: parent, margin: 0.3}
      - {type: noninferior, to: ancestor, margin: 0.3}
      - {type: improve, over: champion, by: 0.05}
"""


@given(
    scores=st.lists(st.sampled_from([0.0, 1.0]), min_size=0, max_size=24),
    wordings=st.integers(1, 24),
    damage=st.sampled_from(["", "row", "header", "double", "none", "error"]),
    attempt=st.sampled_from([None, 1, 3, 4]),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_no_evidence_raises_and_none_that_is_damaged_passes(
    scores: list[float], wordings: int, damage: str, attempt: int | None, seed: int
) -> None:
    rng = random.Random(seed)
    other = [float(rng.random() < 0.5) for _ in scores]
    sides: dict[Any, EvalRun] = {
        name: run(other, version, wordings=wordings)
        for name, version in (("parent", "bot@2"), ("champion", "bot@3"), ("ancestor", "bot@1"))
    }
    candidate, repeat = run(scores, "bot@4", wordings=wordings), again(run(other, "bot@2", wordings=wordings))
    broken = False
    if damage == "none":
        sides, broken = {}, True
    elif damage == "header":
        sides["ancestor"], broken = change_header(sides["ancestor"], dtype="int8"), True
    elif damage and candidate.rows:
        broken = True
        if damage == "double":
            candidate = candidate.model_copy(update={"rows": (*candidate.rows, candidate.rows[0])})
        else:
            change = {"row": {"messages_digest": "0" * 64}, "error": {"scorer_error": "boom"}}[damage]
            candidate = change_row(candidate, 0, **change)
    report = run_gate(parse_policy(ALL), candidate, sides, attempt=attempt, repeat=repeat)
    assert parse_report(report.canonical_json()) == report
    assert explain(report)
    if broken or attempt in (None, 4) or not scores:
        assert report.verdict != "PASS"
