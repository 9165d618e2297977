"""What a policy asks for beside rows of parent and champion, as the registry gives it to a gate and keeps it."""

from __future__ import annotations

import json

import pytest

from posttrain.evals.gate import run_gate
from posttrain.evals.policy import parse_policy
from posttrain.evals.report import GateReport, parse_report
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
