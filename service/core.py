"""What every part of the server shares: the store, metrics, settings, and the bell that rings after each commit.

The store is synchronous; its work runs in threads, so that the event loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

from posttrain.evals.policy import Policy
from posttrain.registry.store import Store, Transaction
from posttrain.registry.suites import add_builtin_suites
from posttrain.service.metrics import Metrics
from posttrain.service.policies import policy_in_force

P = ParamSpec("P")
T = TypeVar("T")

NUM_THREADS = 16


@dataclass(frozen=True)
class Settings:
    """Limits and intervals of one server. Functions of `reward_modules` may be parts of a reward: they run in workers,
    with all that these may do, so name only what whoever submits jobs may run. `python_tool`: models may run Python
    while they answer, shut in (engine/environments/jail.py). `point` is called with the name of each
    place where a crash matters; tests crash there.
    """

    workers: int = 1
    threads_per_worker: int = 0
    standby: bool = True
    poll_s: float = 0.2
    grace_s: float = 30.0
    max_interruptions: int = 3
    max_upload_bytes: int = 4 * 2**30
    max_message_bytes: int = 8 * 2**20
    watch_backlog: int = 2000
    bookmark_s: float = 15.0
    builtin_suites: bool = True
    max_samples: int = 1
    sample_timeout_s: float = 600.0
    reward_modules: tuple[str, ...] = ()
    python_tool: bool = False
    point: Callable[[str], None] = field(default=lambda name: None)


class Bell:
    """Wakes whoever waits for a commit. Take a ticket, look at the database, then wait with the ticket: no ring is
    missed.
    """

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def ticket(self) -> asyncio.Event:
        return self._next

    def ring(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self, ticket: asyncio.Event, timeout_s: float) -> bool:
        """Whether it rang before the time was over."""
        try:
            await asyncio.wait_for(ticket.wait(), timeout_s)
        except TimeoutError:
            return False
        return True


class Core:
    """Made inside the event loop of the server."""

    def __init__(self, store: Store, settings: Settings, metrics: Metrics) -> None:
        self.store = store
        self.settings = settings
        self.metrics = metrics
        self.bell = Bell()
        self._suites_of: set[str] = set()
        self._threads = ThreadPoolExecutor(NUM_THREADS, "posttrain")

    @property
    def home(self) -> Path:
        return self.store.home

    def policy(self, name: str) -> Policy:
        """The policy in force by this name; an operator's own lie in HOME/policies. Raises PolicyError."""
        return policy_in_force(self.home / "policies", name)

    async def ensure_suites(self, project: str) -> None:
        """Copies the package's suites into a project's store, once per server and project."""
        if self.settings.builtin_suites and project not in self._suites_of:
            await self.thread(add_builtin_suites, self.store, project)
            self._suites_of.add(project)

    async def thread(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Runs blocking work in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*arguments, **named))

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Runs `work` on a consistent view."""

        def run() -> T:
            with self.store.read() as view:
                return work(view)

        return await self.thread(run)

    async def write(self, work: Callable[[Transaction], T], actor: str = "") -> T:
        """Runs `work` in one transaction and rings the bell. A caller that is cancelled meanwhile does not undo it."""

        def run() -> T:
            with self.store.transaction(actor) as transaction:
                return work(transaction)

        try:
            return await asyncio.shield(self.thread(run))
        finally:
            self.bell.ring()

    def close(self) -> None:
        self._threads.shutdown(wait=True)
