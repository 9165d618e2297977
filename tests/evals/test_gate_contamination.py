"""A policy that asks for a search of the training data: what blocks, what a waiver lets through, and for how long."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from posttrain.engine.spec import sha256_text
from posttrain.evals.contamination import QuestionIndex, overlap, scan
from posttrain.evals.errors import PolicyError
from posttrain.evals.gate import GateReport, explain, parse_report, run_gate
from posttrain.evals.overlaps import Overlap, Searched
from posttrain.evals.policy import Policy, parse_policy
from posttrain.evals.rows import EvalRun
from posttrain.evals.suites.load import load_suite

from .designs import OLD, codes, policy, run

BLOCK = policy("contamination: {action: block}")
TODAY = datetime.date(2026, 11, 24)
SIDES: dict[Any, EvalRun] = {"champion": run(OLD, "bot@1")}
CANDIDATE = run(OLD, "bot@3")


def overlap_of(questions: dict[str, Any], dataset: str = "data@1", **changes: Any) -> Overlap:
    plain = {"dataset": dataset, "dataset_digest": sha256_text(dataset), "suite": "s", "num_rows": 9, "num_unread": 0}
    plain |= {"suite_digest": sha256_text("suite s"), "num_questions": 400, "questions": questions}
    return Overlap.model_validate(plain | changes)


def searched(*overlaps: Overlap, datasets: tuple[str, ...] = ("data@1",), date: datetime.date = TODAY) -> Searched:
    return Searched(date=date, datasets={name: sha256_text(name) for name in datasets}, overlaps=list(overlaps))


def judged(wanted: Policy, evidence: Searched | None) -> GateReport:
    report = run_gate(wanted, CANDIDATE, SIDES, searched=evidence)
    assert parse_report(report.canonical_json()) == report
    return report


def test_a_clean_search_passes_and_is_named() -> None:
    report = judged(BLOCK, searched(overlap_of({})))
    assert (report.verdict, codes(report)) == ("PASS", set())
    assert "searched   data@1; questions found: s 0 (0 waived)" in explain(report)
    assert report.contamination is not None
    assert report.contamination.evidence_digest == searched(overlap_of({})).digest


@pytest.mark.parametrize("kind", ["whole", "13 words", "8 words"])
def test_a_question_in_the_training_data_fails(kind: str) -> None:
    report = judged(BLOCK, searched(overlap_of({"q1": kind})))
    assert (report.verdict, codes(report)) == ("FAIL", {"CONTAMINATED"})
    assert report.reasons[0].message == "questions in the training data: 1 (q1 in data@1)"


def test_a_warning_counts_and_lets_pass() -> None:
    report = judged(policy("contamination: {action: warn}"), searched(overlap_of({"q1": "whole"})))
    assert report.verdict == "PASS"
    assert "s 1 (0 waived)" in explain(report)


def test_only_the_kinds_that_the_policy_names_count() -> None:
    wanted = policy("contamination: {action: block, kinds: [whole]}")
    assert judged(wanted, searched(overlap_of({"q1": "8 words", "q2": "13 words"}))).verdict == "PASS"
    assert judged(wanted, searched(overlap_of({"q1": "8 words", "q2": "whole"}))).verdict == "FAIL"


@pytest.mark.parametrize(
    ("evidence", "message"),
    [
        (None, "asks for a search"),
        (searched(), "data@1 was not searched"),
        (searched(overlap_of({}), datasets=("data@1", "data@2")), "data@2 was not searched"),
        (searched(overlap_of({}, dataset_digest=sha256_text("other rows"))), "data@1 was not searched"),
        (searched(overlap_of({}, suite_digest=sha256_text("another version"))), "data@1 was not searched"),
        (searched(overlap_of({}, suite="other")), "data@1 was not searched"),
        (searched(overlap_of({}, num_unread=2)), "2 rows of data@1 could not be searched"),
    ],
)
def test_what_was_not_searched_does_not_pass(evidence: Searched | None, message: str) -> None:
    report = judged(BLOCK, evidence)
    assert (report.verdict, codes(report)) == ("INCONCLUSIVE", {"CONTAMINATED"})
    assert message in report.reasons[0].message


def test_a_model_that_was_trained_on_nothing_needs_no_search() -> None:
    assert judged(BLOCK, searched(datasets=())).verdict == "PASS"


def test_a_second_search_takes_nothing_back() -> None:
    """A clean record beside one with a match is no way around it."""
    assert judged(BLOCK, searched(overlap_of({"q1": "whole"}), overlap_of({}))).verdict == "FAIL"
    assert judged(BLOCK, searched(overlap_of({}), overlap_of({"q1": "whole"}))).verdict == "FAIL"


def waived(expires: str, question: str = "s/q1") -> Policy:
    waiver = f"{{question: {question}, by: ann, reason: a greeting, expires: {expires}}}"
    return policy(f"contamination: {{action: block, waivers: [{waiver}]}}")


def test_a_waiver_holds_until_it_expires_and_for_its_question_alone() -> None:
    one = searched(overlap_of({"q1": "whole"}))
    assert judged(waived("2026-11-24"), one).verdict == "PASS"
    assert "s 1 (1 waived)" in explain(judged(waived("2026-11-24"), one))
    assert judged(waived("2026-11-23"), one).verdict == "FAIL"
    assert judged(waived("2026-11-24", "s/q2"), one).verdict == "FAIL"
    report = judged(waived("2026-11-24"), searched(overlap_of({"q1": "whole", "q2": "whole"})))
    assert report.reasons[0].message == "questions in the training data: 1 (q2 in data@1)"


def test_the_option_is_in_the_digest() -> None:
    assert len({policy().digest, BLOCK.digest, waived("2026-11-24").digest, waived("2026-11-25").digest}) == 4
    assert Policy.model_validate_json(waived("2026-11-24").model_dump_json()) == waived("2026-11-24")
    assert "contamination" not in policy().model_dump()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("{}", "contamination.action: Field required"),
        ("{action: drop}", "contamination.action"),
        ("{action: block, kinds: []}", "contamination.kinds"),
        ("{action: block, kinds: [whole, whole]}", "kinds: whole is listed twice"),
        ("{action: block, kinds: [7 words]}", "contamination.kinds.0"),
        ("{action: block, waivers: [{question: s/q, by: a, reason: b}]}", "contamination.waivers.0.expires"),
        ("{action: block, waivers: [{question: s/q, by: '', reason: b, expires: 2026-01-01}]}", "waivers.0.by"),
        ("{action: block, waivers: [{question: s/q, by: a, reason: b, expires: soon}]}", "waivers.0.expires"),
        ("{action: block, waivers: [{question: q, by: a, reason: b, expires: 2026-01-01}]}", "waivers.0.question"),
        ("{action: block, waivers: [{question: x/q, by: a, reason: b, expires: 2026-01-01}]}", "judges no such suite"),
    ],
)
def test_a_bad_option_is_refused_with_the_place(option: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message.replace(".", r"\.")):
        policy(f"contamination: {option}")
    assert parse_policy("name: t\nversion: 1\nmetrics:" + TAIL).contamination is None


TAIL = """
  - {suite: s, metric: m, min_rows: 2, min_clusters: 2, rules: [{type: floor, at_least: 0.1}]}
"""


def test_a_real_search_is_evidence_for_its_suites() -> None:
    suites = [load_suite("reasoning"), load_suite("refusal")]
    index = QuestionIndex(suites, ["gate"])
    asked = suites[0].tasks[0].examples[0]
    rows = [json.dumps({"prompt": asked.messages[-1]["content"], "completion": "7"}).encode()] * 2
    evidence = overlap(scan(rows, index), index, "data@1", sha256_text("rows"))
    assert [(item.suite, item.suite_digest, item.num_questions) for item in evidence] == [
        ("reasoning", suites[0].digest, 520),
        ("refusal", suites[1].digest, 1040),
    ]
    assert evidence[0].questions[asked.id] == "whole"
    assert evidence[1].questions == {}
