"""Attempts are counted, and every way around the count that we could think of is counted too."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from posttrain.evals.policy import Policy, parse_policy
from posttrain.evals.report import parse_report
from posttrain.registry import attempts, gates, migrations
from posttrain.registry.importing import import_model
from posttrain.registry.store import DATABASE_FILE, make_engine, open_store
from posttrain.registry.tables import GateRunRecord, VersionRecord
from posttrain.registry.verify import verify_home
from posttrain.registry.versions import get_version

from .world import NUM_ROWS, TEMPLATE, P, World, drop_triggers, write_model

TEXT = """
name: toy
version: 1
attempts: {budget: 4}
metrics:
  - suite: toy
    metric: toy
    min_rows: 100
    min_clusters: 40
    rules:
      - {type: floor, at_least: 0.5}
"""


def policy(change: str = "version: 1") -> Policy:
    return parse_policy(TEXT.replace("version: 1", change))


@pytest.fixture
def line(world: World) -> World:
    world.policies["toy"] = policy()
    return world


def base_of(world: World) -> VersionRecord:
    with world.store.read() as tx:
        return get_version(tx, P, "base@1")


def number_of(world: World, version: VersionRecord, under: Policy | None = None, alias: str = "production") -> int:
    gate = gates.create_gate_run(world.store, P, version.ref, under or world.policies["toy"], alias)
    report = parse_report(gate.report_json)
    assert report.attempt is not None
    assert report.attempt.number == gate.attempt
    return gate.attempt


def test_versions_are_counted_until_the_budget_is_spent(line: World) -> None:
    versions = [line.candidate(base_of(line), value=float(number)) for number in range(1, 6)]
    found = [line.gate(version) for version in versions]
    assert [gate.attempt for gate in found] == [1, 2, 3, 4, 5], "the base is no attempt"
    assert [gate.verdict for gate in found] == ["PASS"] * 4 + ["INCONCLUSIVE"]
    assert parse_report(found[0].report_json).level == 1 - 2 * 0.05 / 4
    assert gates.recheck(line.store, P, found[1]) == []
    record = line.promote(versions[4])
    assert {item["code"] for item in record.missing} == {"INCONCLUSIVE", "ATTEMPTS_EXHAUSTED"}
    assert line.promote(versions[1]).outcome == "APPLIED"


def test_the_same_question_again_is_the_same_attempt(line: World) -> None:
    version = line.candidate(base_of(line))
    gate = line.gate(version)
    line.evaluated(version)
    assert (line.gate(version).id, line.gate(version).attempt) == (gate.id, 1), "equal rows, evaluated again"
    assert number_of(line, line.candidate(base_of(line), value=2.0)) == 2


# -- ways around it ----------------------------------------------------------------------------------------------------


def test_an_evaluation_that_nobody_judges_counts(line: World) -> None:
    """Evaluate six, look at the scores, submit the best; or the service dies before it judges."""
    versions = [line.candidate(base_of(line), value=float(number)) for number in range(1, 7)]
    assert [number_of(line, versions[index]) for index in (5, 0, 4)] == [6, 1, 5]
    judged_first = line.gate(versions[5])
    assert judged_first.verdict == "INCONCLUSIVE"


def test_verdicts_that_fail_after_the_rows_were_seen_count(line: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = line.candidate(base_of(line))

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gates, "run_gate", die)
        with pytest.raises(KeyboardInterrupt):
            line.gate(first)
    assert line.query("SELECT count(*) FROM gate_runs") == [(0,)]
    assert number_of(line, line.candidate(base_of(line), value=2.0)) == 2


def test_another_evaluation_of_the_same_version_counts(line: World) -> None:
    """Other settings, until the noise is kind."""
    version = line.candidate(base_of(line))
    for number in range(2, 5):
        line.evaluated(version, NUM_ROWS - number, packages={"torch": str(number)})
    assert number_of(line, version) == 4


def test_a_second_run_counts_where_there_was_no_first(line: World) -> None:
    """A look at the dev shard pays for none at the gate's, whatever the second one is called."""
    version = line.trained(base_of(line).ref, 1.0)
    line.evaluated(version, 5, shard="dev")
    line.evaluated(version, 9, repeat=True)
    assert line.query("SELECT shard, COUNT(*) FROM shard_looks GROUP BY shard") == [("dev", 1), ("gate", 1)]
    line.evaluated(version, 10)
    line.evaluated(version, 11, repeat=True)
    assert line.query("SELECT COUNT(*) FROM shard_looks WHERE shard = 'gate'") == [(2,)]
    line.evaluated(base_of(line), 0, version.ref)
    assert line.gate(version).attempt == 2


def test_the_same_weights_as_another_version_count(line: World) -> None:
    for number in (1, 2, 3):
        again = line.candidate(base_of(line), value=1.0)
        assert number_of(line, again) == number


def test_a_renamed_output_counts(line: World) -> None:
    base = base_of(line)
    for number, name in enumerate(("bot", "totally-new", "bot"), start=1):
        version = line.trained(base.ref, float(number), name)
        line.evaluated(base, 0, version.ref)
        line.evaluated(version)
        assert number_of(line, version) == number


def test_the_same_base_under_another_name_or_in_another_project_is_the_same_line(line: World) -> None:
    first = line.candidate(base_of(line))
    assert number_of(line, first) == 1
    other = line.base("renamed")
    assert other.weights_digest == base_of(line).weights_digest
    version = line.trained(other.ref, 2.0, "fresh")
    line.evaluated(other, 0, version.ref)
    line.evaluated(version)
    assert number_of(line, version) == 2
    elsewhere = import_model(line.store, "elsewhere", "base", str(write_model(line.fresh("base"))))
    unrelated = import_model(line.store, P, "unrelated", str(write_model(line.fresh("base"), 7.0)))
    with line.store.read() as tx:
        members = attempts.line_of(tx, first)
    assert {first.id, version.id, elsewhere.id} <= members
    assert unrelated.id not in members


def test_imports_under_the_name_of_the_line_count(line: World) -> None:
    """Trained elsewhere: no parent, no base in common, only the name that an alias needs."""
    assert number_of(line, line.candidate(base_of(line))) == 1
    for number in (2, 3):
        version = import_model(line.store, P, "bot", str(write_model(line.fresh("import"), 10.0 + number, TEMPLATE)))
        line.evaluated(version)
        assert number_of(line, version) == number


@pytest.mark.parametrize(
    ("changed", "alias"),
    [
        (policy("version: 2"), "production"),
        (policy("version: 1\ndescription: almost the same"), "production"),
        (parse_policy(TEXT.replace("name: toy", "name: other")), "production"),
        (parse_policy(TEXT.replace("0.5", "0.49")), "production"),
        (policy(), "staging"),
    ],
)
def test_other_text_another_policy_or_alias_is_one_more_attempt(line: World, changed: Policy, alias: str) -> None:
    version = line.candidate(base_of(line))
    assert number_of(line, version) == 1
    assert number_of(line, version, changed, alias) == 2
    assert number_of(line, version, changed, alias) == 2, "the same again"
    assert number_of(line, version) == 1
    assert number_of(line, line.candidate(base_of(line), value=2.0)) == 3


def test_a_new_version_of_the_suite_is_a_fresh_shard_only_with_fresh_questions(line: World) -> None:
    assert number_of(line, line.candidate(base_of(line), value=1.0)) == 1
    line.suite(version="2", question="say yes")
    assert number_of(line, line.candidate(base_of(line), value=2.0)) == 2
    line.suite(version="3", question="answer yes")
    assert number_of(line, line.candidate(base_of(line), value=3.0)) == 1
    line.suite(name="copied", version="1", question="say yes")
    with line.store.read() as tx:
        suites = dict(line_digests(line))
        assert attempts._is_shared(tx, "gate", suites["copied 1"], suites["toy 1"])
        assert not attempts._is_shared(tx, "gate", suites["copied 1"], suites["toy 3"])


def test_a_suite_that_cannot_be_read_is_no_fresh_shard(line: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert number_of(line, line.candidate(base_of(line), value=1.0)) == 1
    line.suite(version="2", question="answer yes")
    (old,) = line.query("SELECT files FROM suites WHERE version = '1'")[0]
    path = line.store.artifacts.path(json.loads(old)["toy.jsonl"])
    path.chmod(0o644)
    path.write_bytes(b"{}\n")
    monkeypatch.setattr(attempts, "_QUESTIONS", {})
    assert number_of(line, line.candidate(base_of(line), value=2.0)) == 2


def line_digests(world: World) -> list[tuple[str, str]]:
    return [
        (f"{name} {version}", digest)
        for name, version, digest in world.query("SELECT name, version, digest FROM suites")
    ]


def test_concurrent_verdicts_never_share_a_number(line: World) -> None:
    version = line.candidate(base_of(line))
    rivals = [policy(f"version: {number}") for number in range(1, 7)]
    start = threading.Barrier(len(rivals))
    found: list[GateRunRecord] = []

    def judge(under: Policy) -> None:
        start.wait()
        found.append(gates.create_gate_run(line.store, P, version.ref, under, "production"))

    threads = [threading.Thread(target=judge, args=(under,)) for under in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(gate.attempt for gate in found) == [1, 2, 3, 4, 5, 6]
    for gate in found:
        assert parse_report(gate.report_json).attempt.number == gate.attempt  # type: ignore[union-attr]
        assert (gate.verdict == "PASS") == (gate.attempt <= 4)
        assert gates.recheck(line.store, P, gate) == []


def test_the_count_is_neither_changed_nor_deleted(line: World) -> None:
    number_of(line, line.candidate(base_of(line)))
    for attack in (
        "DELETE FROM shard_looks",
        "UPDATE shard_looks SET numbers = '{}'",
        "INSERT OR REPLACE INTO shard_looks SELECT * FROM shard_looks LIMIT 1",
        "UPDATE gate_runs SET attempt = 0",
        "DELETE FROM eval_runs",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            line.sql(attack)


def test_an_edited_number_is_found(line: World) -> None:
    line.candidate(base_of(line), value=1.0)
    version = line.candidate(base_of(line), value=2.0)
    gate = line.gate(version)
    assert (gate.attempt, verify_home(line.store)) == (2, [])
    drop_triggers(line)
    line.sql("UPDATE gate_runs SET attempt = 1")
    assert f"the attempt of {gate.id} is not the one that its report was judged at" in verify_home(line.store)
    assert {item["code"] for item in line.promote(version).missing} == {"TAMPERED"}


# -- old data folders --------------------------------------------------------------------------------------------------


def test_verdicts_of_before_have_no_number(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / DATABASE_FILE)
    migrations.upgrade(engine, "0002")
    engine.dispose()
    with sqlite3.connect(tmp_path / DATABASE_FILE) as connection:
        connection.execute(
            "INSERT INTO gate_runs (id, project, input_digest, version, version_digest, alias, policy, policy_digest,"
            " candidate_run, baselines, verdict, improved, report_json, report_digest, created)"
            " VALUES ('gate-1', 'default', 'd', 1, 'v', 'production', 'toy', 'p', 'e', '[]', 'PASS', 0, '{}', 'r', 1.0)"
        )
    connection.close()
    with open_store(tmp_path) as opened, opened.read() as tx:
        assert gates.get_gate_run(tx, P, "gate-1").attempt == 0
    shutil.rmtree(tmp_path)
