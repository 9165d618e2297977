"""Looks after one running job: launches its worker, reads what it reports, ends it when asked, and concludes.

Everything it knows is in the database and in the attempt folder, so it can be dropped at any line and begun again by
another service process: that is how a restart finds its jobs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path

from posttrain.engine.errors import EngineError
from posttrain.engine.events import EVENTS_FILE, ExitRecord, Phase, StepMetrics, read_exit
from posttrain.registry.errors import ConflictError, StaleAttemptError
from posttrain.registry.store import Transaction
from posttrain.registry.tables import AttemptRecord, JobRecord
from posttrain.service import attempts, lifecycle, states
from posttrain.service.assign import prepare, store_results
from posttrain.service.core import Core
from posttrain.service.errors import LaunchError
from posttrain.service.executors.base import Executor

BAD_EVENTS = "BAD_EVENTS"
LINGER_S = 60.0  # a worker that has written its exit record may take this long to go
log = logging.getLogger(__name__)


class Supervisor:
    """Of one job, from STARTING until it has no worker any more."""

    def __init__(self, core: Core, executor: Executor, project: str, job_id: str) -> None:
        self._core = core
        self._executor = executor
        self._project = project
        self._id = job_id
        self._phase: tuple[str, float] | None = None
        self._exit_seen = 0.0
        self._context: dict[str, object] = {"job": job_id}

    async def run(self) -> None:
        """Returns when the job is terminal or waits again."""
        while True:
            ticket = self._core.bell.ticket()
            job, attempt = await self._core.read(self._read)
            self._context = {"job": self._id, "attempt": job.attempt}
            if attempt is None or job.state not in states.ACTIVE:
                return
            try:
                idle = await self._step(job, attempt)
            except ConflictError:
                continue  # somebody, a cancel for example, changed the job meanwhile: look again
            if idle:
                await self._core.bell.wait(ticket, self._core.settings.poll_s)

    def _read(self, tx: Transaction) -> tuple[JobRecord, AttemptRecord | None]:
        job = tx.get_job(self._project, self._id)
        return job, tx.get_attempt(job.id, job.attempt) if job.attempt else None

    def _folder(self, number: int) -> Path:
        # Not what the record says: a data folder that was moved or copied works in itself, and never in the original.
        return lifecycle.attempt_folder(self._core.home, self._id, number)

    async def _step(self, job: JobRecord, attempt: AttemptRecord) -> bool:
        """Does what is next; whether there was nothing to do."""
        folder = self._folder(attempt.number)
        if job.state == states.RECOVERING:
            await self._recover(job)
            return False
        if attempt.state == "STARTING" and job.state == states.STARTING:
            await self._launch(job, folder)
            return False
        if job.state == states.CANCELLING and attempt.state != "ENDED":
            await self._executor.stop(folder, self._core.settings.grace_s)
        # In this order: once the worker is seen to be gone, nothing is written after what is read next.
        look = await self._executor.look(folder)
        try:
            moved = await self._tail(job, attempt)
        except (ValueError, StaleAttemptError) as error:
            await self._executor.stop(folder, 0)
            await self._fail(job, BAD_EVENTS, f"the worker's events cannot be read: {error}")
            return False
        if moved:
            return False
        record = read_exit(folder)
        if not look.alive:
            await self._conclude(job, folder, record)
            return False
        if record is not None and self._lingers():
            await self._executor.stop(folder, 0)
        elif record is None and look.age_s > _timeout_s(job):
            await self._time_out(job, folder)
        return True

    # -- beginning ----------------------------------------------------------------------------------------------------

    async def _launch(self, job: JobRecord, folder: Path) -> None:
        """Safe to repeat: while the attempt is at STARTING, either no worker was launched or it holds the lock."""
        point = self._core.settings.point
        look = await self._executor.look(folder)
        if not look.alive and not (folder / EVENTS_FILE).exists() and read_exit(folder) is None:
            try:
                await self._core.thread(prepare, self._core, job, folder)
                point("launch:prepared")
                await self._executor.launch(folder)
            except LaunchError as error:
                log.error("launch failed", extra={**self._context, "error": str(error)})
                await self._conclude(job, folder, None)
                return
            except EngineError as error:
                await self._fail(job, error.code, str(error), error.hint)
                return
        point("launch:launched")
        log.info("worker launched", extra=self._context)
        self._core.metrics.attempts.labels(job.kind).inc()
        await self._core.write(lambda tx: tx.change_attempt(job.id, job.attempt, state="RUNNING"))

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _tail(self, job: JobRecord, attempt: AttemptRecord) -> bool:
        """Stores the next events; whether there were any."""
        path = self._folder(attempt.number) / EVENTS_FILE
        events, offset = await self._core.thread(attempts.read_some_events, path, attempt.events_offset)
        if not events:
            return False
        progress = attempts.fold_progress(job.progress, events)

        def keep(tx: Transaction) -> None:
            tx.append_events(self._project, self._id, job.attempt, events, progress, offset)
            now = tx.get_job(self._project, self._id)
            if now.state == states.STARTING:
                lifecycle.report(tx, now)

        await self._core.write(keep)
        metrics = self._core.metrics
        metrics.event_lag_s.labels(self._id).set(max(0.0, time.time() - events[-1].time))
        for event in events:
            if isinstance(event, Phase):
                self._observe_phase(job.kind, event.time)
                self._phase = (event.phase, event.time)
            elif isinstance(event, StepMetrics) and "tokens_per_s" in event.values:
                metrics.tokens_per_s.labels(self._id).set(event.values["tokens_per_s"])
        return True

    def _observe_phase(self, kind: str, until: float) -> None:
        if self._phase is not None:
            name, since = self._phase
            self._core.metrics.phase_s.labels(kind, name).observe(max(0.0, until - since))
            self._phase = None

    def _lingers(self) -> bool:
        self._exit_seen = self._exit_seen or time.monotonic()
        return time.monotonic() - self._exit_seen > LINGER_S

    # -- ending -------------------------------------------------------------------------------------------------------

    async def _time_out(self, job: JobRecord, folder: Path) -> None:
        """The reason is stored first, so that a restart in between does not take the end for an interruption."""
        await self._core.write(lambda tx: tx.change_attempt(job.id, job.attempt, exit={"stopping": lifecycle.TIMEOUT}))
        log.warning("attempt timed out", extra=self._context)
        await self._executor.stop(folder, self._core.settings.grace_s)

    async def _conclude(self, job: JobRecord, folder: Path, record: ExitRecord | None) -> None:
        """The worker is gone: stores its results, then its end."""
        limit = self._core.settings.max_interruptions
        progress = attempts.progress_of(folder, job.kind != "evaluate")
        try:
            if record is not None and record.status == "succeeded" and record.attempt == job.attempt:
                await self._core.thread(store_results, self._core, job, folder, record)
        except EngineError as error:
            await self._fail(job, error.code, str(error), error.hint)
            return

        self._core.settings.point("exit:before")
        after = await self._core.write(lambda tx: lifecycle.conclude(tx, job, record, progress, limit))
        self._core.settings.point("exit:after")
        self._ended(after)
        if record is None and job.state != states.CANCELLING:
            self._core.metrics.interruptions.labels(job.kind).inc()

    async def _recover(self, job: JobRecord) -> None:
        tries = await self._core.read(lambda tx: tx.list_attempts(job.id))
        folders = [self._folder(attempt.number) for attempt in tries]
        if job.kind == "evaluate":
            place = attempts.newest_rows(folders)
        else:
            place = await self._core.thread(attempts.newest_checkpoint, folders, job.spec_sha256)
        limit = self._core.settings.max_interruptions
        self._core.settings.point("recover:before")
        self._ended(await self._core.write(lambda tx: lifecycle.recover(tx, job, place, limit)))

    async def _fail(self, job: JobRecord, code: str, message: str, hint: str = "") -> None:
        def fail(tx: Transaction) -> JobRecord:
            tx.change_attempt(job.id, job.attempt, state="ENDED", ended=tx.now)
            return lifecycle.fail(tx, job, f"exit:{job.attempt}", code, message, hint)

        self._ended(await self._core.write(fail))

    def _ended(self, job: JobRecord) -> None:
        reason = job.termination_reason
        level = logging.WARNING if job.state in (states.RECOVERING, states.FAILED) else logging.INFO
        said = {"reason": reason, "error": job.error.get("message", "")}
        if job.state == states.RECOVERING:
            said["reason"] = "the worker was lost and left no exit record"
        log.log(level, "job state", extra={**self._context, "state": job.state, **said})
        self._observe_phase(job.kind, time.time())
        if job.state in states.TERMINAL:
            self._core.metrics.ended.labels(job.kind, job.state, reason or "OK").inc()
            self._core.metrics.forget_job(job.id)


def _timeout_s(job: JobRecord) -> float:
    return float(json.loads(job.spec_json)["timeout_s"])


async def look_after(core: Core, executor: Executor, project: str, job_id: str) -> None:
    """Supervises a job until it has no worker; an error that nobody foresaw is logged and tried again, more and more
    slowly.
    """
    delay_s = 0.5
    while True:
        try:
            await Supervisor(core, executor, project, job_id).run()
            return
        except Exception:
            log.exception("supervising failed", extra={"job": job_id})
            core.metrics.loop_errors.labels("supervisor").inc()
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 30.0)
