"""Gives queued jobs a place, oldest first, and sees to it that every job with a worker is looked after."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from posttrain.registry.errors import ConflictError
from posttrain.registry.store import Transaction
from posttrain.registry.tables import JobRecord
from posttrain.service import lifecycle, states
from posttrain.service.core import Core
from posttrain.service.executors.base import Executor
from posttrain.service.loops import StoreLoop
from posttrain.service.supervisor import look_after

log = logging.getLogger(__name__)


class Scheduler(StoreLoop):
    """Starts and supervises; when it is cancelled the workers go on."""

    NAME = "scheduler"

    def __init__(self, core: Core, executor: Executor) -> None:
        super().__init__(core)
        self._executor = executor

    async def tick(self) -> None:
        jobs = await self._core.read(
            lambda tx: tx.jobs_in([state for state in states.STATES if state not in states.TERMINAL])
        )
        self._count(jobs)
        active = [job for job in jobs if job.state in states.ACTIVE]
        queued = [job for job in jobs if job.state == states.QUEUED]
        for job in active:
            self._look_after(job)
        # A job whose supervisor is about to return counts too: its worker may not be gone yet.
        free = self._core.settings.workers - len({job.id for job in active} | set(self._tasks))
        for job in queued[: max(0, free)]:
            if job.id in self._tasks:
                continue
            try:
                self._look_after(await self._start(job))
            except ConflictError:
                log.info("a queued job changed before its start", extra={"job": job.id})

    async def _start(self, job: JobRecord) -> JobRecord:
        def begin(tx: Transaction) -> JobRecord:
            return lifecycle.start(tx, job, self._core.home)

        started = await self._core.write(begin)
        log.info("job state", extra={"job": job.id, "attempt": started.attempt, "state": started.state})
        return started

    def _look_after(self, job: JobRecord) -> None:
        if job.id not in self._tasks:
            self._tasks[job.id] = asyncio.create_task(
                look_after(self._core, self._executor, job.project, job.id), name=f"supervise {job.id}"
            )

    def _count(self, jobs: list[JobRecord]) -> None:
        counts = Counter((job.state, job.kind) for job in jobs)
        self._core.metrics.jobs.clear()
        for (state, kind), number in counts.items():
            self._core.metrics.jobs.labels(state, kind).set(number)
        self._core.metrics.queue_depth.set(sum(job.state == states.QUEUED for job in jobs))
