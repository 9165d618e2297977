"""The store of one data folder: database, artifacts, and the lock that lets one server at a time write.

    HOME/posttrain.db     SQLite, WAL
    HOME/server.lock      held while a server runs
    HOME/blobs, materialised, tmp     see artifacts.py

Synchronous: an asynchronous caller uses threads. Writers take turns (one lock in the process, BEGIN IMMEDIATE in the
database); records outlive their transaction and are then plain values.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from posttrain.engine.errors import DiskFullError
from posttrain.registry import migrations
from posttrain.registry.artifacts import Artifacts, full_disk_named
from posttrain.registry.chains import ChainOperations
from posttrain.registry.errors import ConflictError, HomeLockedError, NotFoundError

DATABASE_FILE = "posttrain.db"
LOCK_FILE = "server.lock"
BUSY_TIMEOUT_MS = 10_000
READING = {"posttrain_reads": True}

_PRAGMAS = (
    f"busy_timeout = {BUSY_TIMEOUT_MS}",
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "recursive_triggers = ON",  # else INSERT OR REPLACE deletes rows without asking the DELETE triggers
    "trusted_schema = OFF",
)


class Transaction(ChainOperations):
    """A unit of work: jobs, events, attempts, chains, audit. For models, datasets and evidence, functions take one."""


class Store:
    """Made by `open_store`; a context manager that closes it."""

    def __init__(self, home: Path, engine: Engine, lock: int, clock: Callable[[], float]) -> None:
        self.home = home
        self.engine = engine
        self.artifacts = Artifacts(home)
        self.clock = clock
        self._lock = lock
        self._turn = threading.Lock()
        self._writer = 0

    @contextmanager
    def transaction(self, actor: str = "") -> Iterator[Transaction]:
        """Commits all of it, or, if anything is raised, nothing.

        Raises:
            RuntimeError: inside another one, or the store was opened without the lock.
            DiskFullError: no space for the database.
            ConflictError: another process holds the database.
        """
        if self._lock < 0:
            raise RuntimeError("this store was opened for reading, or is closed")
        if self._writer == threading.get_ident():
            raise RuntimeError("a transaction inside a transaction would wait for itself")
        with self._turn:
            self._writer = threading.get_ident()
            try:
                with self._session(self.engine) as session:
                    yield Transaction(session, self.artifacts, self.clock(), actor)
                    session.commit()
            finally:
                self._writer = 0

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A consistent view that waits for nobody. An attempt to write is an error, not a loss."""
        with self._session(self.engine.execution_options(**READING)) as session:
            yield Transaction(session, self.artifacts, self.clock(), "")

    @contextmanager
    def _session(self, bind: Engine) -> Iterator[Session]:
        try:
            with full_disk_named("writing the database"), Session(bind, expire_on_commit=False) as session:
                yield session
        except OperationalError as error:
            text = str(error.orig)
            if "full" in text:
                raise DiskFullError("no space left while writing the database") from error
            if "locked" in text:
                raise ConflictError("another process holds the database") from error
            raise

    def close(self) -> None:
        """Gives the lock back. Closing twice is closing once."""
        self.engine.dispose()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(home: Path, exclusive: bool = True, clock: Callable[[], float] = time.time) -> Store:
    """Opens a data folder, making it and its schema as needed.

    `exclusive` takes the server's lock and cleans up after a crash; without it nothing is made or migrated.

    Raises:
        HomeLockedError: another server runs on it.
        SchemaError: it was written by a newer version of this package.
        NotFoundError: not exclusive, and there is no database.
        DiskFullError: no space left.
    """
    home = Path(os.path.abspath(home))
    database = home / DATABASE_FILE
    if not exclusive and not database.exists():
        raise NotFoundError(f"{home}: no data folder here", "name it by --home or POSTTRAIN_HOME")
    with full_disk_named("opening the data folder"):
        home.mkdir(parents=True, exist_ok=True)
        lock = _lock(home / LOCK_FILE) if exclusive else -1
    engine = make_engine(database)
    try:
        store = Store(home, engine, lock, clock)
        if exclusive:
            store.artifacts.clean_temporary()
            migrations.upgrade(engine)
        else:
            migrations.check(engine.execution_options(**READING))
    except BaseException:
        engine.dispose()
        if lock >= 0:
            os.close(lock)
        raise
    return store


def make_engine(database: Path) -> Engine:
    """An engine with explicit transactions: BEGIN IMMEDIATE, or with the option `READING` one that cannot write."""
    engine = create_engine(f"sqlite:///{database}")

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver starts no transaction of its own
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        reads = bool(connection.get_execution_options().get("posttrain_reads"))
        connection.exec_driver_sql(f"PRAGMA query_only = {int(reads)}")  # connections are pooled: say it each time
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 64).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise HomeLockedError(f"{path.parent}: another server runs here (process {holder})") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor
