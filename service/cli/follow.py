"""Waiting for a job and its chain (train -> register -> evaluate -> gate -> promote), and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Final

from posttrain.service.cli.exits import Exit
from posttrain.service.cli.progress import Progress
from posttrain.service.cli.records import enum_name
from posttrain.service.cli.text import one_line, span_s
from posttrain.service.client import AsyncClient, ClientError, RetryNotice, is_over, short
from posttrain.service.proto import gates_pb2, jobs_pb2

CHILDREN_EVERY_S: Final = 1.0
PATIENCE_S: Final = 600.0  # a restarting service may be away for a while; the job goes on meanwhile


@dataclass
class Outcome:
    """A job that is over, with the evidence and the decision of its chain."""

    job: jobs_pb2.Job
    gate_run: gates_pb2.GateRun | None = None
    promotion: gates_pb2.Promotion | None = None
    evaluations: list[jobs_pb2.Job] = field(default_factory=list)

    @property
    def evaluation_s(self) -> float:
        """Seconds in evaluation jobs that this chain ran itself."""
        spans = [span_s(job.start_time, job.end_time) for job in self.evaluations]
        return sum(span for span in spans if span == span)


def exit_of(outcome: Outcome) -> Exit:
    """The exit code that tells how it ended."""
    job, gate_run, promotion = outcome.job, outcome.gate_run, outcome.promotion
    if job.state == jobs_pb2.CANCELLED:
        return Exit.CANCELLED
    if job.state != jobs_pb2.SUCCEEDED:
        return Exit.JOB_FAILED
    if gate_run is not None and gate_run.verdict != gates_pb2.PASS:
        return exit_of_verdict(gate_run.verdict)
    if promotion is not None and promotion.outcome != gates_pb2.Promotion.APPLIED:
        return Exit.REFUSED
    return Exit.JOB_FAILED if job.chain.step == jobs_pb2.CHAIN_FAILED else Exit.OK


def exit_of_verdict(verdict: int) -> Exit:
    known: dict[int, Exit] = {
        gates_pb2.PASS: Exit.OK,
        gates_pb2.FAIL: Exit.GATE_FAIL,
        gates_pb2.INCONCLUSIVE: Exit.INCONCLUSIVE,
    }
    return known.get(verdict, Exit.UNEXPECTED)


async def follow(client: AsyncClient, job: str, progress: Progress) -> Outcome:
    """Shows a job and its chain until they are over."""
    shown = Shown(progress)
    children: asyncio.Task[None] | None = None

    def on_retry(notice: RetryNotice) -> None:
        progress.note(f"lost the server for {notice.away_s:.0f}s; trying again in {notice.delay_s:.1f}s")

    last: jobs_pb2.Job | None = None
    try:
        async with aclosing(client.watch(job, patience_s=PATIENCE_S, on_retry=on_retry)) as changes:
            async for change in changes:
                if not change.HasField("job"):
                    continue
                last = change.job
                shown.job(last)
                if last.chain.step == jobs_pb2.EVALUATE and children is None:
                    children = asyncio.create_task(_show_children(client, last.name, shown))
                if is_over(last):
                    break
    finally:
        if children is not None:
            children.cancel()
            with suppress(asyncio.CancelledError):
                await children
    outcome = await outcome_of(client, last if last is not None else await client.get_job(job))
    for evaluation in outcome.evaluations:  # a quick one may begin and end between two questions
        shown.job(evaluation)
    return outcome


async def outcome_of(client: AsyncClient, job: jobs_pb2.Job) -> Outcome:
    """What came of a job, as the server has it on record."""
    outcome = Outcome(job)
    if job.chain.gate_run:
        outcome.gate_run = await client.get_gate_run(job.chain.gate_run)
    if job.chain.promotion:
        outcome.promotion = await client.get_promotion(job.chain.promotion)
    # Rows of an earlier evaluation are used again: those that this chain ran are its children.
    outcome.evaluations = await client.list_jobs(f"parent:{short(job.name)}") if job.chain.step else []
    return outcome


async def _show_children(client: AsyncClient, parent: str, shown: Shown) -> None:
    """Shows the chain's evaluations; a question each second, since a watch of all jobs would send all jobs."""
    while True:
        try:
            jobs = await client.list_jobs(f"parent:{short(parent)}")
        except ClientError as error:
            if not error.is_retryable:  # the watch beside this one says when a server is away
                raise
            jobs = []
        for job in jobs:
            shown.job(job)
        await asyncio.sleep(CHILDREN_EVERY_S)


class Shown:
    """Turns snapshots of jobs into lines, one for each change of state, and bars."""

    def __init__(self, progress: Progress, say: Callable[[str], None] | None = None) -> None:
        self._progress = progress
        self._say = say or progress.note
        self._said: dict[str, tuple[int, int, int]] = {}
        self._bar: dict[str, str] = {}

    def job(self, job: jobs_pb2.Job) -> None:
        state = (job.state, job.attempt, job.chain.step)
        label = short(job.name) if short(job.name).startswith(job.kind) else f"{job.kind} {short(job.name)}"
        if self._said.get(job.name) != state:
            self._said[job.name] = state
            self._say(f"{label}: {state_text(job)}")
        bar = f"{label} {job.progress.phase}" if job.progress.total > 0 else ""
        before = self._bar.get(job.name, "")
        if before and before != bar:
            self._progress.finish(before)
        self._bar[job.name] = bar
        if bar and job.state in {jobs_pb2.RUNNING, jobs_pb2.PAUSING, jobs_pb2.CANCELLING}:
            progress = job.progress
            self._progress.update(bar, progress.done, progress.total, progress.eta_s, dict(progress.values))


def state_text(job: jobs_pb2.Job) -> str:
    """A job's state in one line: with its reason, its error and where its chain is."""
    parts = [enum_name(jobs_pb2.JobState, job.state)]
    if job.attempt > 1:
        parts.append(f"attempt {job.attempt}")
    if job.termination_reason not in {job.error.code, *parts}:
        parts.append(job.termination_reason)
    if job.error.code:
        parts.append(
            f"{job.error.code}: {job.error.message}" + (f" (hint: {job.error.hint})" if job.error.hint else "")
        )
    step = job.chain.step
    if job.state == jobs_pb2.SUCCEEDED and step != jobs_pb2.CHAIN_STEP_UNSPECIFIED:
        detail = " ".join(filter(None, [job.chain.version, job.chain.message]))
        parts.append(f"chain {enum_name(jobs_pb2.ChainStep, step)}" + (f": {detail}" if detail else ""))
    return one_line(", ".join(parts))
