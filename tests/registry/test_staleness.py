"""A verdict that is not about what there is now moves nothing: changes before a promotion, and in the middle of one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from posttrain.engine.spec import sha256_text
from posttrain.evals.policy import parse_policy
from posttrain.evals.report import REASONS
from posttrain.registry import promotion, staleness
from posttrain.registry.errors import Unmet
from posttrain.registry.tables import GateRunRecord, PromotionRecord, VersionRecord
from posttrain.registry.versions import get_version

from .world import POLICY, P, World


def base_of(world: World) -> VersionRecord:
    with world.store.read() as tx:
        return get_version(tx, P, "base@1")


def items(world: World, gate: GateRunRecord) -> list[Unmet]:
    with world.store.read() as tx:
        return staleness.stale_items(tx, gate, world.policies.__getitem__)


def change_policy(world: World, _: pytest.MonkeyPatch) -> None:
    world.policies["toy"] = parse_policy(POLICY.replace("version: 1", "version: 2"))


def change_suite(world: World, _: pytest.MonkeyPatch) -> None:
    world.suite(version="2", question="an easier question")


def change_scorers(_: World, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(staleness, "scorer_digest", lambda: sha256_text("another scorer"))


def change_champion(world: World, _: pytest.MonkeyPatch) -> None:
    rival = world.candidate(base_of(world), value=9.0)
    world.gate(rival)
    assert world.promote(rival).outcome == "APPLIED"


CHANGES = {
    "policy toy has changed since": change_policy,
    "suite toy is not what the evaluations": change_suite,
    "the scorers have changed since": change_scorers,
    "the alias now names bot@2": change_champion,
}


@pytest.mark.parametrize("message", CHANGES)
@pytest.mark.parametrize("when", ["before", "in the middle"])
def test_what_changed_since_the_verdict_makes_it_stale(
    world: World, monkeypatch: pytest.MonkeyPatch, message: str, when: str
) -> None:
    """`in the middle`: after the promotion has hashed and judged everything again, and before its transaction."""
    version = world.candidate(base_of(world))
    gate = world.gate(version)
    assert (gate.verdict, items(world, gate)) == ("PASS", [])
    change: Callable[[World, pytest.MonkeyPatch], None] = CHANGES[message]
    if when == "before":
        change(world, monkeypatch)
        record = world.promote(version, gate_run=gate.id)
    else:
        record = interrupted(world, monkeypatch, version, gate, change)
    assert record.outcome == "REFUSED"
    assert {item["code"] for item in record.missing} == {"STALE"}
    assert any(message in item["message"] for item in record.missing)
    assert any(message in item.message for item in items(world, gate))
    assert world.named() == ("bot@2" if change is change_champion else "")


def interrupted(
    world: World,
    patch: pytest.MonkeyPatch,
    version: VersionRecord,
    gate: GateRunRecord,
    change: Callable[[World, pytest.MonkeyPatch], None],
) -> PromotionRecord:
    real = promotion._check_bytes

    def meanwhile(*arguments: object) -> list[Unmet]:
        found = real(*arguments)  # type: ignore[arg-type]
        patch.setattr(promotion, "_check_bytes", real)
        change(world, patch)
        return found

    patch.setattr(promotion, "_check_bytes", meanwhile)
    return world.promote(version, gate_run=gate.id)


def test_what_changed_back_is_not_stale(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    version = world.candidate(base_of(world))
    gate = world.gate(version)
    with monkeypatch.context() as patch:
        change_scorers(world, patch)
        assert items(world, gate)
    change_policy(world, monkeypatch)
    assert len(items(world, gate)) == 1
    world.policies["toy"] = parse_policy(POLICY)
    assert items(world, gate) == []
    assert world.promote(version).outcome == "APPLIED"


def test_a_policy_that_is_gone_is_said_so(world: World) -> None:
    gate = world.gate(world.candidate(base_of(world)))

    def gone(name: str) -> None:
        return parse_policy("")  # type: ignore[return-value]

    with world.store.read() as tx:
        (item,) = staleness.stale_items(tx, gate, gone)  # type: ignore[arg-type]
    assert "policy toy is not in force" in item.message


def test_stale_stands_in_the_one_table_of_codes() -> None:
    assert "judge again" in REASONS[staleness.STALE]
