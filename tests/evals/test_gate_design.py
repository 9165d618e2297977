"""A policy's options: what is refused, pinned ancestor and looks, and that policies and reports which use none of them
have not changed. test_gate_conditions.py has the others.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.engine.spec import sha256_text
from posttrain.evals import sequential, stats
from posttrain.evals.errors import PolicyError
from posttrain.evals.gate import GateReport, parse_report, run_gate
from posttrain.evals.policy import Policy, load_policy, parse_policy

from .designs import OLD, TEXT, N, codes, draw, flip, policy, run

# -- nothing old has changed -------------------------------------------------------------------------------------------


def test_policies_and_reports_without_the_options_have_the_bytes_they_had() -> None:
    """Digests of before the options were there: stored verdicts are computed again byte by byte."""
    assert load_policy("default").digest == "965b7b07f116fefd67c47492dd2bba260d16a51acb0e2ff381cb6ccf0553de71"
    assert load_policy("smollm2").digest == "1f44cd0488a03c1e22f7446e8fbf7cecaa8c8d9c827e6df7a506c7ae10a33676"
    report = run_gate(policy(), run(flip(OLD, 0.05, 0.05, 2)), {"champion": run(OLD, "bot@1")})
    assert report.verdict == "PASS"
    plain = report.canonical_json()
    assert not {"attempt", "noise", "improved_metrics", "look", "looks"} & set(yaml.safe_load(plain))
    assert '"look' not in plain
    assert parse_report(plain) == report


@pytest.mark.parametrize(
    "option",
    [
        "sequential: {looks: 4}",
        "attempts: {budget: 5}",
        "noise_floor: {of: champion}",
        "improve_any: {over: champion}",
    ],
)
def test_an_option_changes_the_digest_and_survives_its_json(option: str) -> None:
    changed = policy(option)
    assert changed.digest != policy().digest
    assert Policy.model_validate_json(changed.model_dump_json()) == changed


# -- validation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("ancestor: bot@1", "ancestor: no rule compares with bot@1; it decides nothing"),
        ("ancestor: bot@production", "ancestor: String should match"),
        ("ancestor: bot@0", "ancestor: String should match"),
        ("ancestor: ../bot@1", "ancestor: String should match"),
        ("sequential: {looks: 1}", r"sequential\.looks: .*greater than or equal to 2"),
        ("sequential: {looks: 11}", r"sequential\.looks: .*less than or equal to 10"),
        ("sequential: {looks: 4, futility: .nan}", r"sequential\.futility"),
        ("sequential: {looks: 4, futility: 0.6}", r"sequential\.futility"),
        ("sequential: {looks: 4, alpha: 0.5}", r"sequential\.alpha: Extra inputs"),
        ("sequential: 4", r"sequential: Input should be"),
        ("attempts: {budget: 0}", r"attempts\.budget"),
        ("attempts: {budget: 101}", r"attempts\.budget"),
        ("attempts: {budget: 1.0}", r"attempts\.budget"),
        ("attempts: {}", r"attempts\.budget: Field required"),
        ("attempts: {budget: 3, spend: greedy}", r"attempts\.spend"),
        ("noise_floor: {of: grandparent}", r"noise_floor\.of"),
        ("noise_floor: 0.03", "noise_floor: Input should be"),
        ("improve_any: {over: champion, by: -0.1}", r"improve_any\.by"),
        ("improve_any: {over: best}", r"improve_any\.over"),
    ],
)
def test_a_bad_option_is_refused_with_the_place(option: str, message: str) -> None:
    with pytest.raises(PolicyError, match=f"policy: {message}"):
        policy(option)


def test_options_that_would_decide_nothing_are_refused() -> None:
    floor = TEXT.replace("{type: noninferior, to: champion, margin: 0.08}", "{type: floor, at_least: 0.5}")
    with pytest.raises(PolicyError, match="sequential: looks are for rules against a baseline"):
        policy("sequential: {looks: 4}", floor)
    with pytest.raises(PolicyError, match="noise_floor: it bounds margins"):
        policy("noise_floor: {of: parent}", floor)
    with pytest.raises(PolicyError, match="ancestor: a rule compares with the ancestor, and none is pinned"):
        policy("", TEXT.replace("to: champion", "to: ancestor"))
    with pytest.raises(PolicyError, match="ancestor: a rule compares with the ancestor, and none is pinned"):
        policy("improve_any: {over: ancestor}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 30) | st.floats() | st.sampled_from(["parent", "bot@1", "equal"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["looks", "futility", "budget", "spend", "of", "over", "by"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)


@given(value=JSON, field=st.sampled_from(["ancestor", "sequential", "attempts", "noise_floor", "improve_any"]))
@settings(max_examples=200, deadline=None)
def test_any_value_of_an_option_is_read_or_refused(value: object, field: str) -> None:
    data = {**yaml.safe_load(TEXT), field: value}
    digest, refusal = "", ""
    try:
        digest = parse_policy(yaml.safe_dump(data)).digest
    except PolicyError as error:
        refusal = str(error)
    assert field in refusal if refusal else value is None or digest != policy().digest


# -- the pinned ancestor -----------------------------------------------------------------------------------------------

PINNED = TEXT + "      - {type: noninferior, to: ancestor, margin: 0.08}\n"


def test_a_chain_of_steps_within_the_margin_is_stopped_by_the_ancestor() -> None:
    """Ten versions, each 2 points below the one before: every step passes, the chain does not."""
    n = 1000
    chain = [draw(0.8, 3, n)]
    for step in range(10):
        chain.append(flip(chain[-1], 0.01, 0.03, step))
    free, pinned = policy(), policy("ancestor: bot@1", PINNED)
    first = run(chain[0], "bot@1", wordings=n)
    verdicts = []
    for number in range(1, 11):
        champion, candidate = (run(chain[k], f"bot@{k + 1}", wordings=n) for k in (number - 1, number))
        assert run_gate(free, candidate, {"champion": champion}).verdict == "PASS"
        report = run_gate(pinned, candidate, {"champion": champion, "ancestor": first})
        verdicts.append(report.verdict)
        assert report.verdict == "PASS" or {reason.baseline for reason in report.reasons} == {"ancestor"}
    assert verdicts[:2] == ["PASS"] * 2
    assert "PASS" not in verdicts[3:]
    assert verdicts[-1] == "FAIL"


def test_only_the_pinned_version_is_the_ancestor() -> None:
    pinned = policy("ancestor: bot@1", PINNED)
    same = flip(OLD, 0.02, 0.02, 5)
    sides = {"champion": run(OLD, "bot@3"), "ancestor": run(OLD, "bot@1")}
    assert run_gate(pinned, run(same), sides).verdict == "PASS"
    other = run_gate(pinned, run(same), {**sides, "ancestor": run(OLD, "bot@4")})
    assert (other.verdict, codes(other)) == ("INCONCLUSIVE", {"PAIRING_MISMATCH"})
    assert "the policy pins bot@1" in other.reasons[0].message
    missing = run_gate(pinned, run(same), {"champion": sides["champion"]})
    assert (missing.verdict, missing.reasons[0].baseline) == ("INCONCLUSIVE", "ancestor")
    unasked = run_gate(policy(), run(same), sides)
    assert "the policy pins none" in unasked.reasons[0].message


# -- looks -------------------------------------------------------------------------------------------------------------

LOOKS = policy("sequential: {looks: 4}")


def looked(old: Sequence[float], new: Sequence[float], wordings: int = N) -> GateReport:
    return run_gate(LOOKS, run(new, wordings=wordings), {"champion": run(old, "bot@1", wordings=wordings)})


def test_a_clear_verdict_needs_few_rows_and_the_interval_is_wider() -> None:
    better = looked(OLD, flip(OLD, 0.12, 0.0, 1)).results[0]
    assert (better.verdict, better.look, better.looks, better.n) == ("PASS", 1, 4, 100)
    bad = looked(OLD, flip(OLD, 0.0, 0.4, 1)).results[0]
    assert (bad.verdict, bad.look) == ("FAIL", 1)
    design = sequential.design(sequential.equal_looks(4), stats.ALPHA, 0.05)
    z = design.efficacy[0]
    assert (better.low, better.high) == pytest.approx(stats.tango(100, better.gained, better.lost, z), abs=1e-9)
    assert better.level == 0.9


def test_a_hopeless_candidate_is_given_up() -> None:
    report = looked(OLD, flip(OLD, 0.04, 0.16, 2))
    result = report.results[0]
    assert (report.verdict, result.verdict, codes(report)) == ("INCONCLUSIVE", "INCONCLUSIVE", {"NONINF"})
    assert f"stopped for futility at look {result.look} of 4" in result.message
    assert (result.n, result.needed) == (100 * result.look, 0)
    assert result.look < 4


def test_rows_after_the_deciding_look_change_nothing() -> None:
    """What a run that was stopped does not have cannot count where it is there."""
    new = flip(OLD, 0.12, 0.0, 1)
    first = looked(OLD, new)
    order = in_order(N)
    changed = list(new)
    for i in order[100:]:
        changed[i] = 1 - changed[i]
    assert looked(OLD, changed).results[0].model_dump() == first.results[0].model_dump()
    changed = list(new)
    for i in order[:100]:
        changed[i] = 1 - changed[i]
    assert looked(OLD, changed).results[0].verdict != "PASS"


def in_order(n: int) -> list[int]:
    """The rows of `run` in the order of looks: by a hash of suite and wording."""
    return sorted(range(n), key=lambda i: sha256_text(f"s/m-w{i}"))


def test_looks_hold_the_size_through_the_gate() -> None:
    """Candidates truly at -margin: at most 6% PASS, and more with naive looks at the full level."""
    rng = random.Random(7)
    n, passed, naive, trials = 200, 0, 0, 80
    old_runs = [1.0] * 160 + [0.0] * 40
    base = run(old_runs, "bot@1", wordings=n)
    for _ in range(trials):
        kinds = [rng.random() for _ in range(n)]
        # 15% of 160 right ones lost, 20% of 40 wrong ones gained: a true difference of -24 + 8 of 200, -8 points.
        new = [float(u > 0.15) if score else float(u < 0.2) for score, u in zip(old_runs, kinds, strict=True)]
        report = run_gate(LOOKS, run(new, wordings=n), {"champion": base})
        passed += report.results[0].verdict == "PASS"
        order = in_order(n)
        ends = [50, 100, 150, 200]
        naive += any(
            stats.paired_difference([old_runs[i] for i in order[:end]], [new[i] for i in order[:end]], range(end)).low
            > -0.08
            for end in ends
        )
    assert passed / trials <= 0.06 + 3 * (0.06 * 0.94 / trials) ** 0.5
    assert naive > passed


def test_looks_wait_for_whole_wordings_and_two_of_them() -> None:
    report = looked(OLD, flip(OLD, 0.12, 0.0, 1), wordings=8)
    assert report.results[0].looks == 4
    assert report.results[0].clusters == 2 * report.results[0].look
    alone = looked(OLD, OLD, wordings=1)
    assert (alone.verdict, alone.results[0].looks) == ("INCONCLUSIVE", 0)
