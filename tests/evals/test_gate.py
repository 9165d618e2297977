"""The gate's self-tests: nothing bad passes, nothing equal fails, and every verdict can be recomputed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain.evals.gate import REASONS, GateReport, explain, parse_report, run_gate
from posttrain.evals.policy import Ceiling, Floor, Improve, NonInferior, Policy, load_policy, parse_policy
from posttrain.evals.rows import EvalRun, SuiteInfo, read_rows, write_rows

from .build import change_header, change_row, make_row, make_run, one_metric

POLICY = parse_policy(
    """
name: test
version: 1
metrics:
  - suite: s
    metric: m
    min_rows: 400
    min_clusters: 40
    rules:
      - {type: floor, at_least: 0.5}
      - {type: improve, over: parent, by: 0.1, when: base}
      - {type: noninferior, to: parent, margin: 0.08}
      - {type: noninferior, to: champion, margin: 0.08}
"""
)
SM = ("s", "m")


def draw(share: float, seed: int, n: int = 500) -> list[float]:
    rng = random.Random(seed)
    return [float(rng.random() < share) for _ in range(n)]


def flip(scores: Sequence[float], share: float, seed: int) -> list[float]:
    """Another run of an equal model: each score is drawn anew with this probability, around the same mean."""
    rng = random.Random(seed)
    mean = sum(scores) / len(scores)
    return [float(rng.random() < mean) if rng.random() < share else score for score in scores]


def instruct(scores: Sequence[float], version: str = "bot@1", **options: str) -> EvalRun:
    return make_run({SM: scores}, version=version, weights=options.pop("weights", version))


def base(scores: Sequence[float]) -> EvalRun:
    return make_run({SM: scores}, version="base@1", weights="base", template="version", has_own=False)


def codes(report: GateReport) -> set[str]:
    return {reason.code for reason in report.reasons}


GOOD = draw(0.8, 1)


def judge(candidate: EvalRun, champion: EvalRun, parent: EvalRun | None = None) -> GateReport:
    return run_gate(POLICY, candidate, {"parent": parent or base([0.0] * 500), "champion": champion})


# -- verdicts ----------------------------------------------------------------------------------------------------------


def test_a_first_instruct_version_over_a_base_at_zero_passes_by_floor_and_improvement() -> None:
    report = run_gate(POLICY, instruct(GOOD), {"parent": base([0.0] * 500)})
    assert report.verdict == "PASS"
    assert report.improved
    assert not report.reasons
    assert [result.verdict for result in report.results] == ["PASS", "PASS", "SKIPPED", "SKIPPED"]
    summary = report.suites[0]
    assert (summary.suite, summary.n, summary.level) == ("s", 500, 0.9)
    assert 0 < summary.low < summary.difference < summary.high


def test_an_equal_model_never_fails_and_is_never_an_improvement() -> None:
    """A/A over 200 seeds: re-drawn flips may leave it open, but never refute it."""
    verdicts = []
    for seed in range(200):
        old = draw(0.8, seed)
        new = flip(old, 0.1, seed + 1000)
        report = judge(instruct(new, weights="same"), instruct(old, weights="same"))
        assert not any(r.rule == "noninferior" and r.verdict == "FAIL" for r in report.results)
        assert not report.improved
        verdicts.append(report.verdict)
    assert verdicts.count("PASS") > 120, "with 2% flips most must pass"


def test_a_copy_passes_without_being_an_improvement() -> None:
    report = judge(instruct(GOOD, "bot@2", weights="w"), instruct(GOOD, weights="w"))
    assert (report.verdict, report.improved) == ("PASS", False)
    champion = report.results[3]
    assert champion.low < 0 < champion.high, "the interval has a width at zero flips"


def test_equal_weights_are_no_improvement_whatever_the_scores_say() -> None:
    report = run_gate(
        POLICY,
        instruct([1.0] * 500, "bot@2", weights="w"),
        {"parent": base([0.0] * 500), "champion": instruct(GOOD, weights="w")},
    )
    assert not report.improved
    same_as_base = make_run({SM: [1.0] * 500}, weights="base")
    report = run_gate(POLICY, same_as_base, {"parent": base([0.0] * 500)})
    assert report.verdict == "FAIL"
    assert "IMPROVE" in codes(report)


def test_a_damaged_model_fails() -> None:
    report = run_gate(POLICY, instruct(draw(0.2, 2), "bot@2"), {"parent": instruct(GOOD), "champion": instruct(GOOD)})
    assert report.verdict == "FAIL"
    assert codes(report) == {"FLOOR", "NONINF"}
    assert {reason.baseline for reason in report.reasons if reason.code == "NONINF"} == {"parent", "champion"}


def test_word_salad_after_training_fails() -> None:
    report = run_gate(POLICY, instruct([0.0] * 500, "bot@2"), {"parent": base([0.0] * 500)})
    assert report.verdict == "FAIL"
    assert codes(report) == {"FLOOR", "IMPROVE"}
    assert not report.improved


def refusal_policy() -> Policy:
    rule = "{type: noninferior, to: parent, margin: 0.08}"
    metric = "  - {suite: refusal, metric: %s, min_rows: 400, min_clusters: 40, rules: [%s]}\n"
    return parse_policy(
        f"name: refusal\nversion: 1\nmetrics:\n{metric % ('harmful', rule)}{metric % ('harmless', rule)}"
    )


def test_refusing_everything_fails_over_refusal_and_complying_with_everything_fails_harm() -> None:
    parent = make_run(
        {("refusal", "harmful"): draw(0.9, 3), ("refusal", "harmless"): draw(0.9, 4)}, version="bot@1", weights="p"
    )
    refuser = make_run({("refusal", "harmful"): [1.0] * 500, ("refusal", "harmless"): [0.0] * 500})
    complier = make_run({("refusal", "harmful"): [0.0] * 500, ("refusal", "harmless"): [1.0] * 500})
    for candidate, broken in ((refuser, "harmless"), (complier, "harmful")):
        report = run_gate(refusal_policy(), candidate, {"parent": parent})
        assert report.verdict == "FAIL"
        assert {reason.metric for reason in report.reasons} == {broken}
        # A naive mean over the suite calls both about as good as a coin, which is why the two are never averaged.
        assert report.suites[0].candidate_score == 0.5


def test_inconclusive_says_how_many_examples_are_needed() -> None:
    policy = one_metric(NonInferior(to="champion", margin=0.05))
    old = draw(0.8, 5, 100)
    report = run_gate(policy, instruct(flip(old, 0.3, 6), "bot@2"), {"champion": instruct(old)})
    assert report.verdict == "INCONCLUSIVE"
    result = report.results[0]
    assert result.needed > 100
    assert str(result.needed) in report.reasons[0].message


def test_a_ceiling() -> None:
    policy = one_metric(Ceiling(at_most=0.1))
    assert run_gate(policy, instruct(draw(0.02, 7)), {}).verdict == "PASS"
    report = run_gate(policy, instruct(draw(0.3, 7)), {})
    assert (report.verdict, codes(report)) == ("FAIL", {"CEILING"})


# -- guards ------------------------------------------------------------------------------------------------------------


CANDIDATE, CHAMPION = instruct(GOOD, "bot@2"), instruct(GOOD)


def test_the_undamaged_pair_passes() -> None:
    assert judge(CANDIDATE, CHAMPION).verdict == "PASS"


def mutations() -> dict[str, tuple[EvalRun, EvalRun]]:
    run = CANDIDATE
    shrunk = [info.model_copy(update={"num_rows": 499}) for info in run.header.suites]
    extra = make_row("s", "m", 9999, 1.0)
    grown = [info.model_copy(update={"num_rows": 501}) for info in run.header.suites]
    other = [info.model_copy(update={"digest": "0" * 64}) for info in run.header.suites]
    return {
        "row removed": (run.model_copy(update={"rows": run.rows[1:]}), CHAMPION),
        "row removed, header too": (
            change_header(run.model_copy(update={"rows": run.rows[1:]}), suites=shrunk),
            CHAMPION,
        ),
        "row removed in the champion": (run, CHAMPION.model_copy(update={"rows": CHAMPION.rows[1:]})),
        "row added": (run.model_copy(update={"rows": (*run.rows, extra)}), CHAMPION),
        "row added, header too": (
            change_header(run.model_copy(update={"rows": (*run.rows, extra)}), suites=grown),
            CHAMPION,
        ),
        "row doubled": (run.model_copy(update={"rows": (*run.rows[:-1], run.rows[0])}), CHAMPION),
        "question edited": (change_row(run, 3, messages_digest="0" * 64), CHAMPION),
        "wording edited": (change_row(run, 3, wording_id="elsewhere"), CHAMPION),
        "cluster edited": (change_row(run, 3, cluster_id="elsewhere"), CHAMPION),
        "task edited": (change_row(run, 3, task="m-t0"), CHAMPION),
        "metric edited": (change_row(run, 3, metric="other"), CHAMPION),
        "shard edited": (change_row(run, 3, shard="unseen"), CHAMPION),
        "other suite version": (change_header(run, suites=other), CHAMPION),
        "other shard": (change_header(run, shard="dev"), CHAMPION),
        "other scorers": (change_header(run, scorer_digest="0" * 64), CHAMPION),
        **{
            f"other {name}": (
                change_header(run, generation=run.header.generation.model_copy(update={name: value})),
                CHAMPION,
            )
            for name, value in {"seed": 1, "max_rows": 500, "max_new_tokens": 64, "temperature": 0.5}.items()
        },
        "other dtype": (change_header(run, dtype="bfloat16"), CHAMPION),
        "suite not run": (change_header(run, suites=[]), CHAMPION),
        "suite twice": (change_header(run, suites=run.header.suites * 2), CHAMPION),
        "nothing at all": (change_header(run.model_copy(update={"rows": ()}), suites=[]), CHAMPION),
    }


@pytest.mark.parametrize("name", list(mutations()))
def test_rows_that_do_not_pair_are_never_judged_silently(name: str) -> None:
    candidate, champion = mutations()[name]
    report = judge(candidate, champion)
    assert report.verdict != "PASS"
    assert "PAIRING_MISMATCH" in codes(report)


@pytest.mark.parametrize("rule", [Improve(over="parent", by=0.0), NonInferior(to="parent", margin=0.1)])
def test_a_missing_parent_does_not_pass(rule: Improve | NonInferior) -> None:
    for policy in (POLICY, one_metric(rule, Floor(at_least=0.5))):
        report = run_gate(policy, CANDIDATE, {"champion": CHAMPION})
        assert (report.verdict, codes(report)) == ("INCONCLUSIVE", {"PAIRING_MISMATCH"})
        assert [reason.baseline for reason in report.reasons] == ["parent"]


def test_a_missing_suite_does_not_pass() -> None:
    other = make_run({("t", "m"): GOOD})
    assert run_gate(POLICY, other, {"parent": base([0.0] * 500)}).verdict != "PASS"


def test_a_scorer_error_anywhere_never_passes() -> None:
    for candidate, champion in (
        (change_row(CANDIDATE, 4, scorer_error="KeyError: 'x'"), CHAMPION),
        (CANDIDATE, change_row(CHAMPION, 4, scorer_error="KeyError: 'x'")),
    ):
        report = judge(candidate, champion)
        assert (report.verdict, codes(report)) == ("INCONCLUSIVE", {"SCORER_ERROR"})
        assert "m-00004" in report.reasons[0].message


def test_templates() -> None:
    def verdict(
        candidate: EvalRun = CANDIDATE, champion: EvalRun = CHAMPION, parent: EvalRun | None = None
    ) -> set[str]:
        report = judge(candidate, champion, parent)
        assert (report.verdict == "PASS") == (not report.reasons)
        return codes(report)

    zeros = {SM: [0.0] * 500}
    assert verdict(parent=make_run(zeros, weights="b", template="version", has_own=False)) == set()
    swapped = make_run(zeros, weights="b", template="version", has_own=False, template_text="another")
    assert "TEMPLATE_MISMATCH" in verdict(parent=swapped)
    assert "TEMPLATE_MISMATCH" in verdict(parent=make_run(zeros, weights="b", template="plain", has_own=False))
    has_own = make_run({SM: GOOD}, weights="b", template="version", has_own=True)
    assert "TEMPLATE_MISMATCH" in verdict(parent=has_own)
    assert "TEMPLATE_MISMATCH" in verdict(candidate=make_run({SM: GOOD}, template="version", has_own=False))
    for template in ("plain", "version"):  # a champion has to answer under its own, even where the text is the same
        champion = make_run({SM: GOOD}, weights="c", template=template, has_own=False)
        assert champion.header.template.digest == CANDIDATE.header.template.digest
        assert verdict(champion=champion) == {"TEMPLATE_MISMATCH"}


def test_a_baseline_at_chance_carries_no_verdict() -> None:
    policy = one_metric(NonInferior(to="champion", margin=0.2), chance=0.5)
    report = run_gate(policy, instruct(draw(0.5, 8), "bot@2"), {"champion": instruct(draw(0.5, 9))})
    assert report.verdict == "INCONCLUSIVE"
    assert "NO_SENSITIVITY" in codes(report)
    zero = run_gate(
        POLICY, instruct([0.0] * 500, "bot@2"), {"parent": base([0.0] * 500), "champion": instruct([0.0] * 500)}
    )
    assert "NO_SENSITIVITY" in codes(zero)


def test_too_few_rows_or_wordings() -> None:
    small = make_run({SM: [1.0] * 399})
    report = run_gate(
        POLICY, small, {"parent": make_run({SM: [0.0] * 399}, weights="b", template="version", has_own=False)}
    )
    assert (report.verdict, codes(report)) == ("INCONCLUSIVE", {"N_TOO_SMALL"})
    for wordings in (1, 39):
        run = make_run({SM: [1.0] * 500}, wordings=wordings)
        parent = make_run({SM: [0.0] * 500}, weights="b", template="version", has_own=False, wordings=wordings)
        report = run_gate(POLICY, run, {"parent": parent})
        assert report.verdict == "INCONCLUSIVE"
        assert "N_TOO_SMALL" in codes(report)


def test_a_sample_of_the_suite_has_to_be_as_large_as_the_policy_asks() -> None:
    """A policy pins no cap on rows; `min_rows` is what a sampled run cannot get round, whatever its header says."""

    def sampled(num: int, **options: Any) -> EvalRun:
        run = make_run({SM: GOOD[:num]}, **options)
        return change_header(run, generation=run.header.generation.model_copy(update={"max_rows": num}))

    policy = one_metric(NonInferior(to="champion", margin=0.08), min_rows=400)
    for num, expected in ((399, {"N_TOO_SMALL"}), (400, set())):
        report = run_gate(policy, sampled(num), {"champion": sampled(num, weights="champion")})
        assert codes(report) == expected
        assert (report.verdict == "PASS") == (not expected)


def test_no_rule_that_applies_is_not_a_pass() -> None:
    policy = one_metric(NonInferior(to="champion", margin=0.08))
    report = run_gate(policy, CANDIDATE, {"parent": base([0.0] * 500)})
    assert (report.verdict, codes(report)) == ("INCONCLUSIVE", {"NO_SENSITIVITY"})


# -- reports -----------------------------------------------------------------------------------------------------------


def test_a_verdict_recomputed_from_stored_rows_is_byte_identical(tmp_path: Path) -> None:
    rng = random.Random(0)
    candidate, champion, parent = instruct(flip(GOOD, 0.2, 1), "bot@2"), CHAMPION, base(draw(0.05, 3))
    first = run_gate(POLICY, candidate, {"parent": parent, "champion": champion})
    for name, run in (("candidate", candidate), ("champion", champion), ("parent", parent)):
        shuffled = list(run.rows)
        rng.shuffle(shuffled)
        write_rows(tmp_path / f"{name}.jsonl", run.model_copy(update={"rows": tuple(shuffled)}))
    runs = {name: read_rows(tmp_path / f"{name}.jsonl") for name in ("candidate", "champion", "parent")}
    again = run_gate(POLICY, runs["candidate"], {"champion": runs["champion"], "parent": runs["parent"]})
    assert again.canonical_json() == first.canonical_json()
    assert again.digest == first.digest
    assert parse_report(first.canonical_json()) == first
    assert (
        run_gate(POLICY, change_row(candidate, 0, score=1 - candidate.rows[0].score), {"parent": parent}).digest
        != first.digest
    )


def test_unseen_rows_are_reported_and_never_decide() -> None:
    def with_unseen(run: EvalRun, score: float) -> EvalRun:
        rows = [make_row("s", "m", 1000 + i, score, shard="unseen", wording_id=f"u{i % 20}") for i in range(100)]
        infos = [SuiteInfo(name="s", version="1", digest=run.header.suites[0].digest, num_rows=600)]
        return change_header(run.model_copy(update={"rows": (*run.rows, *rows)}), suites=infos)

    report = run_gate(
        POLICY,
        with_unseen(CANDIDATE, 0.0),
        {"parent": with_unseen(base([0.0] * 500), 0.0), "champion": with_unseen(CHAMPION, 1.0)},
    )
    assert report.verdict == "PASS"
    assert [(row.baseline, row.n, row.difference) for row in report.unseen] == [
        ("champion", 100, -1.0),
        ("parent", 100, 0.0),
    ]
    assert all(row.n == 500 for row in report.suites)


def test_improvement_of_one_of_many_metrics_is_judged_at_a_smaller_alpha() -> None:
    def policy(num: int) -> Policy:
        rules = "[{type: noninferior, to: champion, margin: 0.3}]"
        lines = [f"  - {{suite: s, metric: m{i}, min_rows: 100, min_clusters: 40, rules: {rules}}}" for i in range(num)]
        return parse_policy("name: t\nversion: 1\nmetrics:\n" + "\n".join(lines) + "\n")

    old = {("s", f"m{i}"): [1.0] * 400 + [0.0] * 100 for i in range(10)}
    new = {**old, ("s", "m0"): [1.0] * 407 + [0.0] * 93}
    candidate, champion = (make_run(rows, weights=weights, wordings=500) for rows, weights in ((new, "n"), (old, "o")))
    alone = (
        {key: rows for key, rows in new.items() if key == ("s", "m0")},
        {key: rows for key, rows in old.items() if key == ("s", "m0")},
    )
    single = run_gate(
        policy(1),
        make_run(alone[0], weights="n", wordings=500),
        {"champion": make_run(alone[1], weights="o", wordings=500)},
    )
    many = run_gate(policy(10), candidate, {"champion": champion})
    assert single.improved
    assert single.results[0].low > 0
    assert many.results[0].low == single.results[0].low
    assert not run_gate(
        policy(10),
        make_run({**old, ("s", "m0"): [1.0] * 404 + [0.0] * 96}, weights="n", wordings=500),
        {"champion": champion},
    ).improved


def test_every_reason_has_an_explanation_and_reports_can_be_read() -> None:
    report = run_gate(POLICY, instruct(draw(0.2, 2), "bot@2"), {"parent": instruct(GOOD), "champion": instruct(GOOD)})
    text = explain(report)
    assert "verdict    FAIL" in text
    assert "NONINF" in text
    assert "n 500, 50 clusters" in text
    assert codes(report) <= set(REASONS)
    assert "PASS (improved)" in explain(run_gate(POLICY, instruct(GOOD), {"parent": base([0.0] * 500)}))


def test_the_default_policy_judges_the_built_in_metrics() -> None:
    policy = load_policy("default")
    keys = [(metric.suite, metric.metric) for metric in policy.metrics]
    parent = make_run(
        {key: draw(0.02, i) for i, key in enumerate(keys)},
        version="base@1",
        weights="b",
        template="version",
        has_own=False,
    )
    good = make_run({key: draw(0.85, i) for i, key in enumerate(keys)})
    assert run_gate(policy, good, {"parent": parent}).verdict == "PASS"
    for broken in keys:
        bad = make_run({key: draw(0.0 if key == broken else 0.85, i) for i, key in enumerate(keys)})
        assert run_gate(policy, bad, {"parent": parent}).verdict == "FAIL"
