"""Promotion: the honest way works, and every way around it is refused, recorded and moves nothing."""

from __future__ import annotations

import os
import sqlite3
import threading
from typing import Any

import pytest

from posttrain.evals.policy import parse_policy
from posttrain.registry import aliases, gates, promotion
from posttrain.registry.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    PromotionRefusedError,
    TamperedError,
    UnmetError,
)
from posttrain.registry.store import Transaction
from posttrain.registry.tables import PromotionRecord, VersionRecord
from posttrain.registry.verify import verify_home
from posttrain.registry.versions import get_version

from .world import NUM_ROWS, POLICY, P, World, drop_triggers


def base_of(world: World) -> VersionRecord:
    with world.store.read() as tx:
        return get_version(tx, P, "base@1")


def codes(record: PromotionRecord) -> set[str]:
    return {item["code"] for item in record.missing}


def refused(world: World, version: VersionRecord, **options: Any) -> set[str]:
    """Promotes, expecting a refusal that is on record and has moved nothing; returns its codes."""
    before = (world.named(), len(world.query("SELECT * FROM alias_moves")))
    record = world.promote(version, **options)
    assert record.outcome == "REFUSED"
    assert (world.named(), len(world.query("SELECT * FROM alias_moves"))) == before
    assert (record.id, "REFUSED") in world.query("SELECT id, outcome FROM promotions")
    with pytest.raises(PromotionRefusedError) as caught:
        promotion.raise_if_refused(record)
    assert {item.code for item in caught.value.items} == codes(record)
    return codes(record)


# -- the honest way ---------------------------------------------------------------------------------------------------


def test_a_passing_version_is_promoted_and_everything_is_on_record(world: World) -> None:
    version = world.candidate(base_of(world))
    gate = world.gate(version)
    assert (gate.verdict, gate.improved) == ("PASS", True)
    record = world.promote(version, job="")
    assert (record.outcome, record.missing, record.gate_run, record.improved) == ("APPLIED", [], gate.id, True)
    assert world.named() == "bot@1"
    with world.store.read() as tx:
        alias = aliases.get_alias(tx, P, "bot", "production")
        moves = aliases.alias_history(tx, P, "bot", "production")
        assert get_version(tx, P, "bot@production").ref == "bot@1"
    assert alias.promotion == record.id
    assert [(item.kind, item.promotion, item.to_version) for item in moves] == [("promotion", record.id, version.id)]
    actions = [action for (action,) in world.query("SELECT action FROM audit ORDER BY id")]
    assert actions[-2:] == ["alias.move", "promotion"]
    assert verify_home(world.store) == []


def test_a_second_version_is_judged_against_the_first_as_champion(world: World) -> None:
    base = base_of(world)
    first = world.candidate(base)
    world.gate(first)
    world.promote(first)
    second = world.candidate(base, value=1.0)  # equal weights, another job
    assert second.weights_digest == first.weights_digest
    assert second.digest != first.digest
    gate = world.gate(second)
    assert [item["name"] for item in gate.baselines] == ["champion", "parent"]
    record = world.promote(second)
    assert (record.outcome, record.improved, record.from_version) == ("APPLIED", False, first.id)
    assert world.named() == "bot@2"


def test_the_same_inputs_give_the_same_gate_run(world: World) -> None:
    version = world.candidate(base_of(world))
    assert world.gate(version).id == world.gate(version).id
    assert world.gate(version, alias="staging").id != world.gate(version).id


def test_a_promotion_is_answered_once_per_request_and_once_per_job(world: World) -> None:
    version = world.candidate(base_of(world))
    world.gate(version)
    first = world.promote(version, request_id="r")
    assert world.promote(version, request_id="r").id == first.id
    with pytest.raises(AlreadyExistsError):
        world.promote(version, alias="staging", request_id="r")
    assert version.job is not None
    by_job = world.promote(version, job=version.job)  # the alias names it already: refused, once
    assert world.promote(version, job=version.job).id == by_job.id
    assert len(world.query("SELECT * FROM promotions")) == 2


def test_validate_only_says_it_and_does_nothing(world: World) -> None:
    version = world.candidate(base_of(world))
    world.gate(version)
    before = world.query("SELECT count(*) FROM audit")
    assert world.promote(version, validate_only=True).outcome == "APPLIED"
    assert world.query("SELECT * FROM promotions") == []
    assert world.named() == ""
    assert world.query("SELECT count(*) FROM audit") == before


# -- what must hold ---------------------------------------------------------------------------------------------------


def test_without_a_gate_run_nothing_moves(world: World) -> None:
    assert refused(world, world.candidate(base_of(world))) == {"NO_GATE_RUN"}


@pytest.mark.parametrize(("right", "verdict"), [(60, "FAIL"), (NUM_ROWS // 2 + 5, "INCONCLUSIVE")])
def test_only_pass_moves_an_alias(world: World, right: int, verdict: str) -> None:
    version = world.candidate(base_of(world), right)
    assert world.gate(version).verdict == verdict
    assert refused(world, version) == {verdict, "FLOOR"}


def test_a_verdict_for_another_version_is_not_accepted(world: World) -> None:
    base = base_of(world)
    good, bad = world.candidate(base, value=1.0), world.candidate(base, right=0, value=2.0)
    gate = world.gate(good)
    world.gate(bad)
    assert "WRONG_VERSION" in refused(world, bad, gate_run=gate.id)


def test_a_verdict_for_another_alias_is_not_accepted(world: World) -> None:
    version = world.candidate(base_of(world))
    gate = world.gate(version, alias="staging")
    assert "WRONG_ALIAS" in refused(world, version, gate_run=gate.id)


def test_an_old_verdict_is_stale_once_the_champion_changed(world: World) -> None:
    base = base_of(world)
    first, second = world.candidate(base, value=1.0), world.candidate(base, value=2.0)
    old = world.gate(second)
    world.gate(first)
    world.promote(first)
    assert refused(world, second, gate_run=old.id) == {"STALE"}
    assert world.gate(second).id != old.id
    assert world.promote(second).outcome == "APPLIED"


def test_an_old_verdict_is_stale_after_a_rollback(world: World) -> None:
    base = base_of(world)
    first, second, third = (world.candidate(base, value=float(number)) for number in (1, 2, 3))
    for version in (first, second):
        world.gate(version)
        world.promote(version)
    gate = world.gate(third)
    aliases.rollback(world.store, P, "bot", "production", "bad answers")
    assert refused(world, third, gate_run=gate.id) == {"STALE"}


def test_a_policy_that_changed_since_makes_the_verdict_stale(world: World) -> None:
    version = world.candidate(base_of(world))
    world.gate(version)
    world.policies["toy"] = parse_policy(POLICY.replace("at_least: 0.5", "at_least: 0.6"))
    assert refused(world, version) == {"STALE"}


def test_a_laxer_policy_cannot_take_over_a_guarded_alias(world: World) -> None:
    base = base_of(world)
    first = world.candidate(base)
    world.gate(first)
    world.promote(first)
    rule = "[{type: floor, at_least: 0.01}]"
    metric = f"[{{suite: toy, metric: toy, min_rows: 2, min_clusters: 2, max_truncated: 1.0, rules: {rule}}}]"
    world.policies["lax"] = parse_policy(f"name: lax\nversion: 1\nmetrics: {metric}")
    bad = world.candidate(base, right=60, value=2.0)
    assert world.gate(bad, policy="lax").verdict == "PASS"
    assert refused(world, bad) == {"WRONG_POLICY"}


def test_a_policy_that_guards_an_alias_changes_only_with_its_version(world: World) -> None:
    base = base_of(world)
    world.gate(first := world.candidate(base))
    world.promote(first)
    lax = "name: toy\nversion: {}\nmetrics: [{{suite: toy, metric: toy, min_rows: 2, min_clusters: 2, rules: {}}}]"
    rules = "[{type: floor, at_least: 0.1}]"
    second = world.candidate(base, value=2.0)
    world.policies["toy"] = parse_policy(lax.format(1, rules))
    assert world.gate(second).verdict == "PASS"
    assert refused(world, second) == {"POLICY_CHANGED"}
    world.policies["toy"] = parse_policy(lax.format(2, rules))
    world.gate(second)
    assert world.promote(second).outcome == "APPLIED"
    world.policies["toy"] = parse_policy(lax.format(1, rules))
    world.gate(first)
    assert refused(world, first) == {"POLICY_CHANGED"}, "back to an older version is a change too"


def test_a_suite_version_only_rises(world: World) -> None:
    world.suite(version="1.10", question="an easier question")
    for version in ("1.9", "0.9", "1.10.0"):
        with pytest.raises(AlreadyExistsError, match="not below"):
            world.suite(version=version, question="the easiest question")


def test_a_renamed_easier_suite_makes_the_verdict_stale(world: World) -> None:
    version = world.candidate(base_of(world))
    world.gate(version)
    world.suite(version="2", question="an easier question")
    assert refused(world, version) == {"STALE"}
    with pytest.raises(UnmetError) as caught:
        world.gate(version)
    assert {item.code for item in caught.value.items} == {"NO_EVIDENCE"}


def test_a_suite_version_never_gets_other_content(world: World) -> None:
    with pytest.raises(AlreadyExistsError, match="has other content"):
        world.suite(version="1", question="an easier question")


def test_missing_evidence_is_named(world: World) -> None:
    version = world.trained()
    with pytest.raises(UnmetError) as caught:
        world.gate(version)
    assert [(item.code, item.subject, item.baseline) for item in caught.value.items] == [
        ("NO_EVIDENCE", "bot@1", ""),
        ("NO_EVIDENCE", "base@1", "parent"),
    ]


def test_evidence_of_another_version_cannot_be_named(world: World) -> None:
    base = base_of(world)
    good, bad = world.candidate(base, value=1.0), world.trained(value=2.0)
    with world.store.read() as tx:
        run = gates.gather(tx, P, good, world.policies["toy"], "production", {}).candidate
    with pytest.raises(InvalidArgumentError, match=r"not of bot@2"):
        gates.create_gate_run(world.store, P, bad.ref, world.policies["toy"], "production", runs={"candidate": run.id})


def test_the_champion_itself_is_not_promoted_again(world: World) -> None:
    version = world.candidate(base_of(world))
    world.gate(version)
    world.promote(version)
    world.gate(version)
    assert refused(world, version) == {"ALREADY_NAMED"}


@pytest.mark.parametrize("alias", ["latest", "3", "Production", "a b", "x" * 64, "production\n", ""])
def test_an_alias_needs_a_proper_name(world: World, alias: str) -> None:
    with pytest.raises(InvalidArgumentError):
        world.promote(world.trained(), alias=alias)


# -- tampering --------------------------------------------------------------------------------------------------------


def overwrite(world: World, sha256: str, change: bytes) -> None:
    path = world.store.artifacts.path(sha256)
    data = path.read_bytes()
    os.chmod(path, 0o644)
    path.write_bytes(data.replace(b'"score":0.0', change) if change else data[:-1] + b"x")


def test_edited_rows_are_found(world: World) -> None:
    version = world.candidate(base_of(world), right=NUM_ROWS - 1)
    world.gate(version)
    (digest,) = world.query(f"SELECT rows_digest FROM eval_runs WHERE version = {version.id}")[0]
    overwrite(world, digest, b'"score":1.0')
    assert refused(world, version) == {"TAMPERED"}


def test_edited_rows_with_an_edited_digest_are_found(world: World) -> None:
    version = world.candidate(base_of(world), right=60)
    world.gate(version)
    (digest,) = world.query(f"SELECT rows_digest FROM eval_runs WHERE version = {version.id}")[0]
    better = world.store.artifacts.read(digest).replace(b'"score":0.0', b'"score":1.0')
    blob = world.store.artifacts.add_bytes(better)
    drop_triggers(world)
    world.sql(
        f"UPDATE eval_runs SET rows_digest = '{blob.sha256}' WHERE version = {version.id}",
        "UPDATE gate_runs SET verdict = 'PASS'",
    )
    assert "TAMPERED" in refused(world, version)


def test_an_edited_verdict_is_found(world: World) -> None:
    version = world.candidate(base_of(world), right=60)
    world.gate(version)
    drop_triggers(world)
    world.sql("UPDATE gate_runs SET verdict = 'PASS'")
    assert refused(world, version) == {"TAMPERED"}


def test_an_edited_report_is_found(world: World) -> None:
    version = world.candidate(base_of(world), right=60)
    world.gate(version)
    drop_triggers(world)
    world.sql("UPDATE gate_runs SET report_json = replace(report_json, '\"FAIL\"', '\"PASS\"')")
    assert "TAMPERED" in refused(world, version)
    assert any("report" in message for message in verify_home(world.store))


def test_an_edited_policy_is_found(world: World) -> None:
    version = world.candidate(base_of(world))
    world.gate(version)
    drop_triggers(world)
    world.sql("UPDATE policies SET text = replace(text, '0.5', '0.0')")
    assert refused(world, version) == {"TAMPERED"}


def test_tampered_weights_are_found_before_promotion(world: World) -> None:
    version = world.candidate(base_of(world))
    world.gate(version)
    query = f"SELECT sha256 FROM version_files WHERE version = {version.id} AND path = 'model.safetensors'"
    overwrite(world, world.query(query)[0][0], b"")
    assert refused(world, version) == {"TAMPERED"}


def test_a_swapped_manifest_is_found(world: World) -> None:
    version = world.candidate(base_of(world))
    world.gate(version)
    drop_triggers(world)
    world.sql(f"UPDATE version_files SET sha256 = '{'0' * 64}' WHERE version = {version.id}")
    with world.store.read() as tx:
        fresh = get_version(tx, P, version.ref)
    assert refused(world, fresh) == {"TAMPERED"}


# -- the database's own rules -----------------------------------------------------------------------------------------

ATTACKS = {
    "edit a version": "UPDATE model_versions SET digest = 'x'",
    "delete a version": "DELETE FROM model_versions",
    "edit a file": "UPDATE version_files SET sha256 = 'x'",
    "edit the audit": "UPDATE audit SET actor = 'me'",
    "delete the audit": "DELETE FROM audit",
    "edit a verdict": "UPDATE gate_runs SET verdict = 'PASS'",
    "edit a promotion": "UPDATE promotions SET outcome = 'APPLIED'",
    "edit history": "UPDATE alias_moves SET reason = ''",
    "edit evidence": "UPDATE eval_runs SET rows_digest = 'x'",
    "edit a sealed dataset": "UPDATE dataset_versions SET format = 'alpaca'",
    "delete an alias": "DELETE FROM aliases",
    "point an alias elsewhere": "UPDATE aliases SET version = 1",
    "replay an old move": "UPDATE aliases SET version = 3, move = 1",
    "replace a version": "INSERT OR REPLACE INTO model_versions SELECT * FROM model_versions LIMIT 1",
    "replace the audit": "INSERT OR REPLACE INTO audit SELECT * FROM audit LIMIT 1",
    "edit a spec": "UPDATE jobs SET spec_json = '{}'",
    "change a state without counting": "UPDATE jobs SET state = 'SUCCEEDED'",
    "a move without a promotion": (
        "INSERT INTO alias_moves (project, model, alias, to_version, kind, reason, actor, time)"
        " VALUES ('default', 'bot', 'production', 3, 'promotion', '', '', 0)"
    ),
    "a move with a refused promotion": (
        "INSERT INTO alias_moves (project, model, alias, to_version, kind, promotion, reason, actor, time)"
        " SELECT project, model, alias, version, 'promotion', id, '', '', 0 FROM promotions WHERE outcome = 'REFUSED'"
    ),
    "a rollback to where it never was": (
        "INSERT INTO alias_moves (project, model, alias, to_version, kind, reason, actor, time)"
        " VALUES ('default', 'bot', 'production', 3, 'rollback', '', '', 0)"
    ),
    "another model's version": (
        "INSERT INTO alias_moves (project, model, alias, to_version, kind, reason, actor, time)"
        " VALUES ('default', 'bot', 'production', 1, 'rollback', '', '', 0)"
    ),
}


def test_the_database_refuses_edits(world: World) -> None:
    base = base_of(world)
    first = world.candidate(base)
    world.gate(first)
    world.promote(first)
    world.promote(world.candidate(base, right=0, value=2.0))
    possible = [name for name, attack in ATTACKS.items() if not is_refused(world, attack)]
    assert possible == []
    assert verify_home(world.store) == []


def is_refused(world: World, attack: str) -> bool:
    try:
        world.sql(attack)
    except sqlite3.IntegrityError:
        return True
    return False


# -- races and crashes ------------------------------------------------------------------------------------------------


def test_of_two_racing_promotions_exactly_one_is_applied(world: World) -> None:
    base = base_of(world)
    rivals = [world.candidate(base, value=float(number)) for number in (1, 2, 3, 4)]
    for version in rivals:
        world.gate(version)
    start = threading.Barrier(len(rivals))
    outcomes: list[PromotionRecord] = []

    def race(version: VersionRecord) -> None:
        start.wait()
        outcomes.append(world.promote(version))

    threads = [threading.Thread(target=race, args=(version,)) for version in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(record.outcome for record in outcomes) == ["APPLIED", "REFUSED", "REFUSED", "REFUSED"]
    assert all(codes(record) == {"STALE"} for record in outcomes if record.outcome == "REFUSED")
    winner = next(record for record in outcomes if record.outcome == "APPLIED")
    assert world.named() == next(version.ref for version in rivals if version.id == winner.version)
    assert len(world.query("SELECT * FROM alias_moves")) == 1


def test_an_etag_that_moved_on_is_a_conflict(world: World) -> None:
    base = base_of(world)
    first, second = world.candidate(base, value=1.0), world.candidate(base, value=2.0)
    world.gate(first)
    with pytest.raises(ConflictError):
        world.promote(first, expected_etag="0123456789abcdef")
    assert world.promote(first, expected_etag="none").outcome == "APPLIED"
    world.gate(second)
    with pytest.raises(ConflictError):
        world.promote(second, expected_etag="none")
    with world.store.read() as tx:
        etag = aliases.get_alias(tx, P, "bot", "production").etag
    assert world.promote(second, expected_etag=etag).outcome == "APPLIED"


@pytest.mark.parametrize("step", range(1, 5))
def test_a_crash_at_any_step_leaves_nothing_half_done(world: World, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The four rows of a promotion (promotion, move, alias, audit rows) are one commit: fail at each insert in turn."""
    version = world.candidate(base_of(world))
    world.gate(version)
    dump = "SELECT (SELECT count(*) FROM promotions), (SELECT count(*) FROM alias_moves), (SELECT count(*) FROM audit)"
    before = world.query(dump)
    calls = 0
    real = Transaction.add

    def failing(self: Transaction, record: Any) -> Any:
        nonlocal calls
        calls += 1
        made = real(self, record)
        if calls == step:
            raise KeyboardInterrupt
        return made

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "add", failing)
        with pytest.raises(KeyboardInterrupt):
            world.promote(version)
    assert calls == step
    assert world.query(dump) == before
    assert world.named() == ""
    assert world.promote(version).outcome == "APPLIED"
    assert verify_home(world.store) == []


# -- rollback ---------------------------------------------------------------------------------------------------------


def test_rollbacks_walk_back_one_promotion_at_a_time(world: World) -> None:
    base = base_of(world)
    for number in (1, 2, 3):
        version = world.candidate(base, value=float(number))
        world.gate(version)
        world.promote(version)
    for expected in ("bot@2", "bot@1"):
        aliases.rollback(world.store, P, "bot", "production", "worse in the field")
        assert world.named() == expected
    with pytest.raises(UnmetError, match="named nothing before"):
        aliases.rollback(world.store, P, "bot", "production", "again")
    with world.store.read() as tx:
        kinds = [move.kind for move in aliases.alias_history(tx, P, "bot", "production")]
        assert aliases.get_alias(tx, P, "bot", "production").promotion == ""
    assert kinds == ["rollback", "rollback", "promotion", "promotion", "promotion"]
    assert verify_home(world.store) == []


def test_a_rollback_needs_a_reason_an_alias_and_a_true_etag(world: World) -> None:
    base = base_of(world)
    with pytest.raises(NotFoundError):
        aliases.rollback(world.store, P, "bot", "production", "why")
    for number in (1, 2):
        version = world.candidate(base, value=float(number))
        world.gate(version)
        world.promote(version)
    with pytest.raises(InvalidArgumentError):
        aliases.rollback(world.store, P, "bot", "production", "  ")
    with pytest.raises(ConflictError):
        aliases.rollback(world.store, P, "bot", "production", "why", etag="stale")
    assert world.named() == "bot@2"


def test_a_rollback_never_restores_tampered_weights(world: World) -> None:
    base = base_of(world)
    first, second = world.candidate(base, value=1.0), world.candidate(base, value=2.0)
    for version in (first, second):
        world.gate(version)
        world.promote(version)
    query = f"SELECT sha256 FROM version_files WHERE version = {first.id} AND path = 'model.safetensors'"
    overwrite(world, world.query(query)[0][0], b"")
    with pytest.raises(TamperedError):
        aliases.rollback(world.store, P, "bot", "production", "why")
    assert world.named() == "bot@2"
