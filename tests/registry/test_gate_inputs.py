"""What a policy asks for beside rows of parent and champion, as the registry gives it to a gate and keeps it."""

from __future__ import annotations

import json

import pytest

from posttrain.evals.gate import run_gate
from posttrain.evals.policy import parse_policy
from posttrain.evals.report import GateReport, parse_report
from posttrain.evals.rows import RepeatInfo
from posttrain.registry import gates
from posttrain.registry.errors import InvalidArgumentError, UnmetError
from posttrain.registry.evaluations import get_run, load_run
from posttrain.registry.tables import GateRunRecord, VersionRecord
from posttrain.registry.versions import get_version

from .world import P, World, drop_triggers

# -- a pinned ancestor -------------------------------------------------------------------------------------------------

ANCESTOR = """
name: toy
version: 1
ancestor: bot@1
metrics:
  - suite: toy
    metric: toy
    min_rows: 100
    min_clusters: 40
    rules:
      - {type: noninferior, to: champion, margin: 0.1}
      - {type: noninferior, to: ancestor, margin: 0.1}
"""


def base_of(world: World) -> VersionRecord:
    with world.store.read() as tx:
        return get_version(tx, P, "base@1")


def report_of(gate: GateRunRecord) -> GateReport:
    return parse_report(gate.report_json)


def grown(world: World, parent: VersionRecord, right: int) -> VersionRecord:
    """A version trained from `parent`, evaluated under its own template."""
    version = world.trained(parent.ref, float(right))
    world.evaluated(version, right)
    return version


def test_a_chain_of_small_steps_ends_at_the_ancestor(world: World) -> None:
    """Each step loses less than the margin against its champion; the pinned version says where it drifted to."""
    first = world.candidate(base_of(world), right=230)
    world.gate(first)
    assert world.promote(first).outcome == "APPLIED"
    free = parse_policy(ANCESTOR.replace("ancestor: bot@1\n", "").replace(ANCESTOR.splitlines()[-1], ""))
    world.policies["toy"] = parse_policy(ANCESTOR.replace("version: 1", "version: 2"))
    version, verdicts = first, []
    for right in (222, 214, 206):
        version = grown(world, version, right)
        alone = gates.create_gate_run(world.store, P, version.ref, free, "production")
        gate = world.gate(version)
        verdicts.append((alone.verdict, gate.verdict))
        names = [(item["name"], item["ref"]) for item in gate.baselines]
        assert names[0] == ("ancestor", "bot@1")
        world.promote(version)
    assert verdicts == [("PASS", "PASS"), ("PASS", "PASS"), ("PASS", "INCONCLUSIVE")]
    with world.store.read() as tx:
        last = gates.newest_gate_run(tx, version)
    assert last is not None
    assert {(reason.code, reason.baseline) for reason in report_of(last).reasons} >= {("NONINF", "ancestor")}


def test_the_ancestors_rows_are_kept_with_the_gate_run_and_judge_the_same_again(world: World) -> None:
    world.policies["toy"] = parse_policy(ANCESTOR)
    first = world.candidate(base_of(world), right=230)
    second = grown(world, first, 228)
    gate = world.gate(second)
    assert gate.verdict == "PASS"
    (item,) = [item for item in gate.baselines if item["name"] == "ancestor"]
    assert (item["ref"], item["digest"]) == ("bot@1", first.digest)
    with world.store.read() as tx:
        runs = {side["name"]: get_run(tx, P, side["eval_run"]) for side in gate.baselines}
        candidate = get_run(tx, P, gate.candidate_run)
    sides = {name: load_run(world.store, run) for name, run in runs.items()}
    report = run_gate(world.policies["toy"], load_run(world.store, candidate), sides)  # type: ignore[arg-type]
    assert report.canonical_json() == gate.report_json
    assert gates.recheck(world.store, P, gate) == []
    assert world.promote(second).outcome == "APPLIED"
    drop_triggers(world)
    world.sql(f"UPDATE gate_runs SET baselines = '{json.dumps([{**item, 'name': 'nobody'}])}'")
    with world.store.read() as tx:
        edited = gates.get_gate_run(tx, P, gate.id)
    assert [unmet.code for unmet in gates.recheck(world.store, P, edited)] == ["TAMPERED"]


@pytest.mark.parametrize(
    ("pinned", "message"),
    [
        ("bot@9", "pins the ancestor bot@9, and there is no such version"),
        ("other@1", "pins the ancestor other@1, and bot@1 did not come from it"),
        ("bot@1", "bot@1 did not come from it"),
        ("bot@2", "bot@1 did not come from it"),
    ],
)
def test_an_ancestor_is_one(world: World, pinned: str, message: str) -> None:
    """Not a version that does not exist, of another family, the candidate itself, or its child."""
    base = base_of(world)
    world.base("other")
    version = world.candidate(base)
    grown(world, version, 200)
    world.policies["toy"] = parse_policy(ANCESTOR.replace("bot@1", pinned))
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        world.gate(version)
    assert caught.value.field == "policy"


def test_an_ancestor_without_rows_is_named(world: World) -> None:
    world.policies["toy"] = parse_policy(ANCESTOR)
    first = world.trained()
    middle = grown(world, first, 230)
    version = grown(world, middle, 230)
    with pytest.raises(UnmetError) as caught:
        world.gate(version)
    assert [(item.code, item.subject, item.baseline) for item in caught.value.items] == [
        ("NO_EVIDENCE", "bot@1", "ancestor")
    ]


# -- a second run for the noise floor ----------------------------------------------------------------------------------

NOISE = """
name: toy
version: 1
noise_floor: {of: OF}
metrics:
  - suite: toy
    metric: toy
    min_rows: 100
    min_clusters: 40
    rules:
      - {type: floor, at_least: 0.5}
      - {type: noninferior, to: parent, margin: 0.1}
"""


def test_a_second_run_is_evidence_of_the_noise_floor_alone(world: World) -> None:
    world.policies["toy"] = parse_policy(NOISE.replace("OF", "parent"))
    first = world.candidate(base_of(world), right=230)
    second = grown(world, first, 230)
    with pytest.raises(UnmetError) as caught:
        world.gate(second)
    (item,) = caught.value.items
    assert (item.code, item.subject, item.baseline) == ("NO_EVIDENCE", "bot@1", "parent")
    assert "was not evaluated a second time (`posttrain eval --repeat`)" in item.message
    again = world.evaluated(first, 228, repeat=True)
    assert again.repeat
    gate = world.gate(second)
    assert (gate.verdict, gate.repeat_run) == ("PASS", again.id)
    with world.store.read() as tx:
        sides = {item["name"]: get_run(tx, P, item["eval_run"]) for item in gate.baselines}
    assert not sides["parent"].repeat, "the newest rows of the parent are not its evidence"
    noise = report_of(gate).noise
    assert noise is not None
    assert noise.repeat.evidence_digest == again.rows_digest
    assert gates.recheck(world.store, P, gate) == []
    assert world.promote(second).outcome == "APPLIED"
    for side, run in (("parent", again.id), ("repeat", sides["parent"].id)):
        with pytest.raises(InvalidArgumentError, match="second run"):
            gates.create_gate_run(world.store, P, second.ref, world.policies["toy"], "production", runs={side: run})


def test_a_margin_below_the_noise_is_not_judged(world: World) -> None:
    world.policies["toy"] = parse_policy(NOISE.replace("OF", "candidate").replace("margin: 0.1", "margin: 0.08"))
    first = world.candidate(base_of(world), right=230)
    second = grown(world, first, 230)
    world.evaluated(second, 210, repeat=True)
    gate = world.gate(second)
    assert gate.verdict == "INCONCLUSIVE"
    assert [reason.code for reason in report_of(gate).reasons] == ["NOISE_FLOOR"]
    louder = world.evaluated(second, 229, repeat=True)
    better = world.gate(second)
    assert (better.id != gate.id, better.repeat_run) == (True, louder.id), "another second run is another verdict"


def test_rows_and_job_agree_on_what_a_second_run_is(world: World) -> None:
    version = world.candidate(base_of(world))
    for repeat, mark in (
        (True, None),
        (True, RepeatInfo(job="another", batch_rows=7)),
        (False, RepeatInfo(job="another", batch_rows=7)),
    ):
        with pytest.raises(InvalidArgumentError, match="second run differ"):
            world.evaluated(version, repeat=repeat, mark=mark)


def test_a_second_run_is_an_attempt_only_where_it_is_the_first_look(world: World) -> None:
    """Else one could see the scores of twenty versions by second runs alone."""
    world.policies["toy"] = parse_policy(
        NOISE.replace("noise_floor: {of: OF}", "attempts: {budget: 9}").replace("to: parent", "to: champion")
    )
    seen = world.trained(value=1.0)
    world.evaluated(base_of(world), 0, seen.ref)
    world.evaluated(seen, 230, repeat=True)
    world.evaluated(seen, 231, repeat=True)
    version = world.candidate(base_of(world), value=2.0)
    assert world.gate(version).attempt == 2
