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
from posttrain.service.supervisor import look_after

log = logging.getLogger(__name__)
IDLE_S = 2.0


class Scheduler:
    def __init__(self, core: Core, executor: Executor) -> None:
        self._core = core
        self._executor = executor
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until it is cancelled; the workers go on."""
        try:
            while True:
                ticket = self._core.bell.ticket()
                try:
                    await self._tick()
                except Exception:
                    log.exception("scheduling failed")
                    self._core.metrics.loop_errors.labels("scheduler").inc()
                await self._core.bell.wait(ticket, IDLE_S)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _tick(self) -> None:
        jobs = await self._core.read(
            lambda tx: tx.jobs_in([state for state in states.STATES if state not in states.TERMINAL])
        )
        self._count(jobs)
        self._tasks = {job_id: task for job_id, task in self._tasks.items() if not task.done()}
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
