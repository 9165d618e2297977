"""The store: schema, lock, transactions, and job primitives."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from posttrain.engine.errors import DiskFullError
from posttrain.engine.events import Note, Phase, StepMetrics
from posttrain.engine.spec import AnySpec, parse_spec
from posttrain.registry import migrations
from posttrain.registry import store as store_module
from posttrain.registry.errors import (
    AlreadyExistsError,
    ConflictError,
    HomeLockedError,
    InvalidArgumentError,
    NotFoundError,
    SchemaError,
    StaleAttemptError,
)
from posttrain.registry.jobs import NewEvent
from posttrain.registry.paging import decode_token, encode_token
from posttrain.registry.store import DATABASE_FILE, Store, make_engine, open_store
from posttrain.registry.tables import JobRecord, Table
from posttrain.registry.triggers import TRIGGERS
from posttrain.registry.verify import verify_home

P = "default"


def spec(seed: int = 0) -> AnySpec:
    return parse_spec({"kind": "evaluate", "version": "bot@1", "suites": ["toy"], "seed": seed})


def new_job(store: Store, seed: int = 0) -> JobRecord:
    with store.transaction("me") as tx:
        return tx.create_job(P, spec(seed))


# -- schema -----------------------------------------------------------------------------------------------------------


def test_migrations_make_exactly_the_declared_schema(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Table.metadata) == []
    with sqlite3.connect(store.home / DATABASE_FILE) as connection_:
        rows = connection_.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    connection_.close()
    assert dict(rows) == TRIGGERS


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path) as first:
        job = new_job(first)
    with open_store(tmp_path) as second, second.read() as tx:
        assert tx.get_job(P, job.id).id == job.id


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    with sqlite3.connect(tmp_path / DATABASE_FILE) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(SchemaError, match="9999"):
        open_store(tmp_path)
    with pytest.raises(SchemaError):
        open_store(tmp_path, exclusive=False)
    with sqlite3.connect(tmp_path / DATABASE_FILE) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    connection.close()


def test_a_failed_migration_leaves_the_database_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(tmp_path / DATABASE_FILE)
    monkeypatch.setattr(migrations.command, "upgrade", _upgrade_then_fail(migrations.command.upgrade))
    with pytest.raises(RuntimeError, match="power cut"):
        migrations.upgrade(engine)
    engine.dispose()
    monkeypatch.undo()
    with sqlite3.connect(tmp_path / DATABASE_FILE) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    connection.close()
    open_store(tmp_path).close()


def _upgrade_then_fail(real):  # type: ignore[no-untyped-def]
    def upgrade(*arguments: object) -> None:
        real(*arguments)
        raise RuntimeError("power cut")

    return upgrade


def test_a_reader_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        open_store(tmp_path / "absent", exclusive=False)
    assert not (tmp_path / "absent").exists()


def test_the_registry_loads_no_torch() -> None:
    modules = [path.stem for path in Path(store_module.__file__).parent.glob("*.py") if path.stem != "__init__"]
    lines = ["import sys", *(f"import posttrain.registry.{name}" for name in modules)]
    lines.append("print([name for name in ('torch', 'transformers', 'lm_eval', 'peft') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- lock and transactions --------------------------------------------------------------------------------------------


def test_a_second_server_is_refused_also_from_another_process(store: Store) -> None:
    with pytest.raises(HomeLockedError, match="another server"):
        open_store(store.home)
    code = "import sys, pathlib; from posttrain.registry.store import open_store; open_store(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(store.home)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "HomeLockedError" in done.stderr
    open_store(store.home, exclusive=False).close()


def test_a_dead_server_leaves_no_lock_and_no_litter(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib\n"
        "from posttrain.registry.store import open_store\n"
        "store = open_store(pathlib.Path(sys.argv[1]))\n"
        "(store.artifacts.temporary / 'half').write_bytes(b'half a file')\n"
        "(store.artifacts.temporary / 'folder').mkdir()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == -9
    with open_store(tmp_path) as store:
        assert list(store.artifacts.temporary.iterdir()) == []


def test_whatever_is_raised_nothing_is_kept(store: Store) -> None:
    def crash() -> None:
        with store.transaction() as tx:
            tx.create_job(P, spec())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crash()
    with store.read() as tx:
        assert tx.list_jobs(P).items == []
        assert tx.last_event_id() == 0
    assert verify_home(store) == []


def test_a_view_refuses_to_write(store: Store) -> None:
    for _ in range(2):  # on the same pooled connection as the transaction between
        with pytest.raises(OperationalError, match="readonly"), store.read() as tx:
            tx.create_job(P, spec())
        new_job(store)
    with store.read() as tx:
        assert len(tx.list_jobs(P).items) == 2


def test_a_store_without_the_lock_cannot_write(store: Store) -> None:
    with open_store(store.home, exclusive=False) as reader:
        with pytest.raises(RuntimeError, match="for reading"), reader.transaction():
            pass
        with reader.read() as tx:
            assert tx.list_jobs(P).items == []


def test_a_transaction_inside_a_transaction_is_an_error_not_a_hang(store: Store) -> None:
    with store.transaction(), pytest.raises(RuntimeError, match="inside a transaction"), store.transaction():
        pass


def test_a_database_held_by_another_process_is_a_conflict(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    other = sqlite3.connect(store.home / DATABASE_FILE)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(store_module, "_PRAGMAS", ("busy_timeout = 1", *store_module._PRAGMAS[1:]))
    store.engine.dispose()  # the next connection waits 1 ms instead of 10 s
    with pytest.raises(ConflictError, match="another process"):
        new_job(store)
    other.rollback()
    other.close()
    new_job(store)


def test_a_full_disk_is_named(store: Store) -> None:
    with store.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")  # of this pooled connection, like a full disk

    def fill() -> None:
        with store.transaction() as tx:
            for seed in range(100):
                tx.create_job(P, spec(seed))

    with pytest.raises(DiskFullError):
        fill()
    with store.read() as tx:
        assert tx.list_jobs(P).items == []


def test_readers_see_one_moment_and_wait_for_nobody(store: Store) -> None:
    job = new_job(store)
    with store.read() as reader:
        assert reader.get_job(P, job.id).version == 1
        with store.transaction() as tx:
            tx.swap_job(P, job.id, 1, {"state": "QUEUED"}, NewEvent("q"))
        reader.session.expire_all()
        assert reader.get_job(P, job.id).version == 1
    with store.read() as reader:
        assert reader.get_job(P, job.id).version == 2


# -- jobs -------------------------------------------------------------------------------------------------------------


def test_creating_is_idempotent_by_request(store: Store) -> None:
    with store.transaction() as tx:
        first = tx.create_job(P, spec(), request_id="r")
        assert tx.create_job(P, spec(), request_id="r").id == first.id
        assert tx.create_job(P, spec()).id != first.id
        assert tx.create_job("other", spec(), request_id="r").id != first.id
        with pytest.raises(AlreadyExistsError):
            tx.create_job(P, spec(1), request_id="r")
        assert len(tx.list_jobs(P).items) == 2


def test_a_swap_commits_state_event_and_audit_together(store: Store) -> None:
    job = new_job(store)
    with store.transaction("me") as tx:
        changed = tx.swap_job(P, job.id, 1, {"state": "QUEUED"}, NewEvent("queue", "ready"))
    assert (changed.state, changed.version) == ("QUEUED", 2)
    with store.read() as tx:
        created, event = tx.list_events(P, job.id).items
        assert (created.type, created.to_state) == ("state", "VALIDATING")
        assert (event.from_state, event.to_state, event.message) == ("VALIDATING", "QUEUED", "ready")
    with sqlite3.connect(store.home / DATABASE_FILE) as connection:
        rows = connection.execute("SELECT actor, action FROM audit").fetchall()
    connection.close()
    assert rows == [("me", "job.create"), ("me", "job.change")]


def test_a_repeated_transition_is_a_no_op_and_a_late_one_a_conflict(store: Store) -> None:
    job = new_job(store)
    with store.transaction() as tx:
        tx.swap_job(P, job.id, 1, {"state": "QUEUED"}, NewEvent("queue"))
        assert tx.swap_job(P, job.id, 1, {"state": "FAILED"}, NewEvent("queue")).state == "QUEUED"
        with pytest.raises(ConflictError):
            tx.swap_job(P, job.id, 1, {"state": "FAILED"}, NewEvent("fail"))
        with pytest.raises(ValueError, match="spec_json"):
            tx.swap_job(P, job.id, 2, {"spec_json": "{}"}, NewEvent("cheat"))
        assert len(tx.list_events(P, job.id).items) == 2


def test_of_two_racing_swaps_one_wins(store: Store) -> None:
    job = new_job(store)
    start, results = threading.Barrier(4), []

    def race(number: int) -> None:
        start.wait()
        try:
            with store.transaction() as tx:
                tx.swap_job(P, job.id, 1, {"state": "QUEUED"}, NewEvent(f"t{number}"))
            results.append("won")
        except ConflictError:
            results.append("lost")

    threads = [threading.Thread(target=race, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["lost", "lost", "lost", "won"]


def test_worker_events_are_stored_once_and_fenced(store: Store) -> None:
    job = new_job(store)
    events = [
        Phase(phase="training", seq=1, time=1.0, attempt=1),
        StepMetrics(step=1, total_steps=2, values={"loss": 2.0}, seq=2, time=2.0, attempt=1),
        Note(message="slow", seq=3, time=3.0, attempt=1),
    ]
    with store.transaction() as tx:
        with pytest.raises(StaleAttemptError):
            tx.append_events(P, job.id, 1, events)
        tx.swap_job(P, job.id, 1, {"state": "STARTING", "attempt": 1}, NewEvent("start"))
        tx.add_attempt(job.id, 1, "attempt-1")
        assert tx.append_events(P, job.id, 1, events[:2], progress={"done": 1}, offset=10) == 2
        assert tx.append_events(P, job.id, 1, events, offset=20) == 1
        found = tx.get_job(P, job.id)
        assert (found.progress, found.version) == ({"done": 1}, 2)
        assert tx.get_attempt(job.id, 1).events_offset == 20
        assert [event.type for event in tx.list_events(P, job.id).items[2:]] == ["phase", "metrics", "note"]
        (metrics,) = tx.list_events(P, job.id, types=["metrics"]).items
        assert metrics.body == {"step": 1, "total_steps": 2, "values": {"loss": 2.0}, "eta_s": -1.0}
        tx.swap_job(P, job.id, 2, {"state": "STARTING", "attempt": 2}, NewEvent("again"))
        with pytest.raises(StaleAttemptError):
            tx.append_events(P, job.id, 1, events)
        with pytest.raises(StaleAttemptError):
            tx.append_events(P, job.id, 2, events)  # the worker says another number in its own events


def test_a_watcher_reads_all_jobs_in_one_order(store: Store) -> None:
    first, second = new_job(store, 1), new_job(store, 2)
    with store.transaction() as tx:
        tx.swap_job(P, first.id, 1, {"state": "QUEUED"}, NewEvent("q"))
        tx.start_chain(P, second.id)
        tx.swap_chain(second.id, 1, {"step": "REGISTER", "message": "storing"})
    with store.read() as tx:
        seen = tx.events_after(0)
        assert [(event.job, event.type) for event in seen] == [
            (first.id, "state"),
            (second.id, "state"),
            (first.id, "state"),
            (second.id, "chain"),
        ]
        assert [event.id for event in seen] == sorted({event.id for event in seen})
        assert tx.events_after(seen[1].id or 0, job_id=second.id)[0].message == "storing"
        assert tx.events_after(tx.last_event_id()) == []
        assert tx.events_after(0, project="other") == []


def test_chains_are_swapped_like_jobs(store: Store) -> None:
    job = new_job(store)
    with store.transaction() as tx:
        assert tx.get_chain(job.id) is None
        with pytest.raises(NotFoundError):
            tx.swap_chain(job.id, 1, {"step": "GATE"})
        tx.start_chain(P, job.id)
        assert tx.start_chain(P, job.id).version == 1
        assert [chain.job for chain in tx.open_chains()] == [job.id]
        chain = tx.swap_chain(job.id, 1, {"step": "EVALUATE", "eval_jobs": {"candidate": "j"}})
        assert (chain.version, chain.eval_jobs) == (2, {"candidate": "j"})
        with pytest.raises(ConflictError):
            tx.swap_chain(job.id, 1, {"step": "DONE"})
        tx.swap_chain(job.id, 2, {"step": "DONE"})
        assert tx.open_chains() == []


# -- listing ----------------------------------------------------------------------------------------------------------


def test_pages_show_every_job_once_newest_first(store: Store) -> None:
    ids = [new_job(store, seed).id for seed in range(7)]
    with store.read() as tx:
        seen, token = [], ""
        while True:
            page = tx.list_jobs(P, size=3, token=token)
            seen += [job.id for job in page.items]
            token = page.next_page_token
            if not token:
                break
        assert seen == ids[::-1]
        first = tx.list_jobs(P, size=3)
        with pytest.raises(InvalidArgumentError):
            tx.list_jobs(P, "kind:ift", token=first.next_page_token)
        with pytest.raises(InvalidArgumentError):
            tx.list_jobs(P, size=-1)


def test_filters_must_all_match_and_be_known(store: Store) -> None:
    first, _ = new_job(store, 1), new_job(store, 2)
    with store.transaction() as tx:
        tx.swap_job(P, first.id, 1, {"state": "QUEUED"}, NewEvent("q"))
        child = tx.create_job(P, spec(3), parent_job=first.id)
        assert [job.id for job in tx.list_jobs(P, "state:QUEUED kind:evaluate").items] == [first.id]
        assert tx.list_jobs(P, "state:QUEUED kind:ift").items == []
        assert [job.id for job in tx.list_jobs(P, f"parent:{first.id}").items] == [child.id]
        assert [job.id for job in tx.jobs_in(["QUEUED"])] == [first.id]
        for bad in ("state", "owner:me", "state=QUEUED"):
            with pytest.raises(InvalidArgumentError) as caught:
                tx.list_jobs(P, bad)
            assert caught.value.field == "filter"


def test_following_events_always_has_a_next_token(store: Store) -> None:
    job = new_job(store)
    with store.transaction() as tx:
        first = tx.list_events(P, job.id, follow=True)
        again = tx.list_events(P, job.id, token=first.next_page_token, follow=True)
        assert (len(first.items), again.items) == (1, [])
        tx.swap_job(P, job.id, 1, {"state": "QUEUED"}, NewEvent("q"))
        later = tx.list_events(P, job.id, token=again.next_page_token, follow=True)
        assert [event.to_state for event in later.items] == ["QUEUED"]


@given(st.text(), st.integers(0, 2**63 - 1))
def test_tokens_come_back_as_they_went(query: str, key: int) -> None:
    token = encode_token(query, key)
    assert decode_token(query, token, -1) == key
    with pytest.raises(InvalidArgumentError):
        decode_token(query + "x", token, -1)


@given(st.text(min_size=1))
def test_any_other_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgumentError):
        decode_token("jobs", token, 0)


def test_jobs_of_another_project_do_not_exist(store: Store) -> None:
    job = new_job(store)
    with store.read() as tx, pytest.raises(NotFoundError):
        tx.get_job("other", job.id)


# -- audit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE audit SET actor = 'somebody else' WHERE id = 2",
        "DELETE FROM audit WHERE id = 2",
        "DELETE FROM audit WHERE id = 1",
        "UPDATE audit SET time = time + 1 WHERE id = 3",
    ],
)
def test_an_edited_audit_shows(store: Store, attack: str) -> None:
    for seed in range(3):
        new_job(store, seed)
    assert verify_home(store) == []
    with sqlite3.connect(store.home / DATABASE_FILE) as connection:
        connection.execute("DROP TRIGGER audit_no_update")
        connection.execute("DROP TRIGGER audit_no_delete")
        connection.execute(attack)
    connection.close()
    found = verify_home(store)
    assert any("the audit is broken" in message for message in found)
    assert sum("the rule audit_no_" in message for message in found) == 2
