"""State changes of a job in a transaction: the pure table (states.py) applied to stored jobs, by compare-and-swap.

Only this module writes a job's state. The attempt number goes up in `start` and nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.engine.events import ExitRecord
from posttrain.registry.jobs import NewEvent
from posttrain.registry.store import Transaction
from posttrain.registry.tables import AttemptRecord, ChainRecord, JobRecord
from posttrain.service import states
from posttrain.service.states import JobEvent

ATTEMPTS_FOLDER = "attempts"
CHAIN_OVER = frozenset({"", "DONE", "CHAIN_FAILED"})

# Reasons of an end that is not the worker's own (which brings its error's code).
CANCELLED = "CANCELLED"
TIMEOUT = "TIMEOUT"
INTERRUPTED = "INTERRUPTED"


def attempt_folder(home: Path, job: str, number: int) -> Path:
    return home / "jobs" / job / ATTEMPTS_FOLDER / str(number)


def move(
    tx: Transaction, job: JobRecord, event: JobEvent, transition_id: str, message: str = "", **changes: Any
) -> JobRecord:
    """Applies an event to a job as it was read.

    Raises:
        IllegalTransitionError: the event cannot happen in its state.
        ConflictError: the job has changed since it was read.
    """
    state = states.apply(job.state, event)
    changes["state"] = state
    if state in states.TERMINAL:
        changes.setdefault("ended", tx.now)
    moved = tx.swap_job(job.project, job.id, job.version, changes, NewEvent(transition_id, message))
    if state in states.TERMINAL:
        _carry_chain(tx, moved)
    return moved


def _carry_chain(tx: Transaction, job: JobRecord) -> None:
    """A chain goes on, or ends, in the transaction that ends its training."""
    chain = tx.get_chain(job.id)
    if chain is None or chain.step != "TRAIN":
        return
    if job.state == states.SUCCEEDED and not job.cancel_requested:
        tx.swap_chain(job.id, chain.version, {"step": "REGISTER", "message": ""})
    else:
        message = "cancelled" if job.cancel_requested else f"training ended as {job.state}: {job.termination_reason}"
        tx.swap_chain(job.id, chain.version, {"step": "CHAIN_FAILED", "message": message})


def start(tx: Transaction, job: JobRecord, home: Path) -> JobRecord:
    """QUEUED -> STARTING: a new attempt with its folder's place."""
    number = job.attempt + 1
    changes: dict[str, Any] = {"attempt": number, "started": job.started or tx.now, "progress": {}}
    started = move(tx, job, JobEvent.STARTED, f"start:{number}", f"attempt {number}", **changes)
    tx.add_attempt(job.id, number, str(attempt_folder(home, job.id, number)))
    return started


def cancel(tx: Transaction, job: JobRecord) -> JobRecord:
    """Asks a job to stop. Without a worker it is CANCELLED at once; with one it is CANCELLING until the worker is gone.

    Raises:
        IllegalTransitionError: it is terminal, or being cancelled already.
    """
    had_worker = job.state in states.ACTIVE
    number = job.version
    job = move(tx, job, JobEvent.CANCEL_REQUESTED, f"cancel:{number}", "cancel requested", cancel_requested=True)
    if had_worker:
        return job
    return move(tx, job, JobEvent.STOPPED, f"cancelled:{number}", termination_reason=CANCELLED)


def report(tx: Transaction, job: JobRecord) -> JobRecord:
    """STARTING -> RUNNING on the worker's first event."""
    tx.change_attempt(job.id, job.attempt, state="RUNNING", started=tx.now)
    return move(tx, job, JobEvent.REPORTED, f"report:{job.attempt}")


def conclude(tx: Transaction, job: JobRecord, record: ExitRecord | None, progress: float, limit: int) -> JobRecord:
    """What becomes of a job whose worker is gone. `record` None: it left no exit record, which is never success.

    `progress` says how far the attempt came; `limit` how many attempts in a row may be lost without coming further.
    """
    number = job.attempt
    attempt = tx.get_attempt(job.id, number)
    stopping = attempt.exit.get("stopping", "")
    if record is not None and record.attempt != number:
        record = None
    kept = record.model_dump(mode="json") if record else {"status": "interrupted"}
    tx.change_attempt(
        job.id, number, state="ENDED", ended=tx.now, exit={**kept, "progress": progress, "stopping": stopping}
    )
    ended = f"exit:{number}"
    if record is not None and record.status != "cancelled":
        if job.state == states.STARTING and record.status == "succeeded":
            job = report(tx, job)
        if record.status == "succeeded":
            return move(tx, job, JobEvent.SUCCEEDED, ended, progress={**job.progress, "eta_s": 0.0})
        error = {"code": record.code, "message": record.message, "hint": record.hint, "retryable": record.retryable}
        return move(tx, job, JobEvent.FAILED, ended, record.message, error=error, termination_reason=record.code)
    if job.state == states.CANCELLING:
        return move(tx, job, JobEvent.STOPPED, ended, termination_reason=CANCELLED)
    if stopping == TIMEOUT:
        return fail(tx, job, ended, TIMEOUT, "the attempt ran longer than timeout_s", "raise timeout_s")
    if job.state == states.STARTING:
        if exhausted(tx, job, limit):
            return _give_up(tx, job, ended, limit)
        return move(tx, job, JobEvent.LOST, ended, "the worker was lost before its first event")
    return move(tx, job, JobEvent.LOST, ended, "the worker was lost and left no exit record")


def recover(tx: Transaction, job: JobRecord, resume_from: str, limit: int) -> JobRecord:
    """RECOVERING -> QUEUED to resume, or FAILED when attempts are lost again and again without coming further."""
    if exhausted(tx, job, limit):
        return _give_up(tx, job, f"recover:{job.attempt}", limit)
    message = f"resumes from {Path(resume_from).name}" if resume_from else "starts over: there is no checkpoint"
    return move(tx, job, JobEvent.REQUEUED, f"recover:{job.attempt}", message, resume_from=resume_from)


def exhausted(tx: Transaction, job: JobRecord, limit: int) -> bool:
    """Whether the newest `limit` attempts were all lost, none of them further on than the one before them."""
    attempts = [attempt for attempt in tx.list_attempts(job.id) if attempt.state == "ENDED"]
    lost = 0
    for index in range(len(attempts) - 1, -1, -1):
        if not _was_lost(attempts[index]):
            break
        before = _progress(attempts[index - 1]) if index else 0.0
        if _progress(attempts[index]) > before:
            break
        lost += 1
    return lost >= limit


def _was_lost(attempt: AttemptRecord) -> bool:
    return attempt.exit.get("status") in ("interrupted", "cancelled")


def _progress(attempt: AttemptRecord) -> float:
    return float(attempt.exit.get("progress", 0.0))


def _give_up(tx: Transaction, job: JobRecord, transition_id: str, limit: int) -> JobRecord:
    message = f"the worker was lost {limit} times without coming further"
    return fail(
        tx,
        job,
        transition_id,
        INTERRUPTED,
        message,
        "look at the attempts' logs: memory, disk, or a machine that restarts",
    )


def fail(tx: Transaction, job: JobRecord, transition_id: str, code: str, message: str, hint: str = "") -> JobRecord:
    """Ends a job that cannot go on."""
    error = {"code": code, "message": message, "hint": hint, "retryable": code in (TIMEOUT, INTERRUPTED)}
    return move(tx, job, JobEvent.FAILED, transition_id, message, error=error, termination_reason=code)


def cancel_chain(tx: Transaction, job: JobRecord, chain: ChainRecord) -> JobRecord:
    """Ends what follows a training job that has succeeded."""
    end_chain(tx, job, chain, "cancelled")
    return tx.get_job(job.project, job.id)


def end_chain(tx: Transaction, job: JobRecord, chain: ChainRecord, message: str) -> None:
    """Ends a chain before its time, and its evaluations with it."""
    tx.swap_chain(job.id, chain.version, {"step": "CHAIN_FAILED", "message": message})
    for child in sorted(set(chain.eval_jobs.values())):
        record = tx.get_job(job.project, child)
        if record.parent_job == job.id and record.state not in states.TERMINAL and record.state != states.CANCELLING:
            cancel(tx, record)
