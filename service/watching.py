"""Watching jobs: a snapshot, then what changed, out of the database; nothing is buffered in memory.

A watcher holds a place in the log of all jobs' events. Each round it reads what came after that place and sends each
job that changed once, as it is now, with the sequence of its newest event. A reader that takes too long simply comes
back later to the same log: what it missed is folded together, and if that is more than the backlog allows it gets a
GAP and the snapshots again. The resume token is the place.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sqlalchemy import func
from sqlmodel import col, select

from posttrain.registry.store import Transaction
from posttrain.registry.tables import JobEventRecord, JobRecord
from posttrain.service import lifecycle, names, states, views
from posttrain.service.core import Core
from posttrain.service.errors import BadResumeTokenError
from posttrain.service.proto import jobs_pb2

Answer = jobs_pb2.WatchJobsResponse
_SNAPSHOT_JOBS = 500


@dataclass(frozen=True)
class Scope:
    """What is watched: one job, or all jobs of a project."""

    project: str
    job: str = ""

    def token(self, place: int) -> str:
        data = json.dumps([self.project, self.job, place]).encode()
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    def place(self, token: str) -> int:
        """Raises BadResumeTokenError: not a token of this watch."""
        try:
            project, job, place = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            if (project, job) != (self.project, self.job) or type(place) is not int or place < 0:
                raise ValueError("of another watch")
        except (ValueError, TypeError, binascii.Error, RecursionError) as error:
            raise BadResumeTokenError("the resume token does not belong to this watch") from error
        return place


@dataclass(frozen=True)
class Round:
    """What one look at the database gave."""

    place: int
    jobs: list[tuple[jobs_pb2.Job, int]]
    is_gap: bool = False
    is_over: bool = False


async def watch(core: Core, scope: Scope, resume_token: str) -> AsyncIterator[Answer]:
    """The answers of WatchJobs.

    Raises:
        NotFoundError: no such job.
        BadResumeTokenError: the token is not of this watch.
    """
    core.metrics.watchers.inc()
    try:
        if resume_token:
            place = scope.place(resume_token)
            first = await core.read(lambda tx: _check_place(tx, scope, place))
        else:
            first = await core.read(lambda tx: _snapshot(tx, scope))
            for answer in _send(scope, first, Answer.SNAPSHOT):
                yield answer
        place = first.place
        if not resume_token:
            yield Answer(type=Answer.SNAPSHOT_DONE, resume_token=scope.token(place))
        over = first.is_over
        while not over:
            ticket = core.bell.ticket()
            found = await core.read(lambda tx: _changes(tx, scope, place, core.settings.watch_backlog))  # noqa: B023
            if found.is_gap:
                yield Answer(type=Answer.GAP, resume_token=scope.token(place))
            for answer in _send(scope, found, Answer.SNAPSHOT if found.is_gap else Answer.CHANGED):
                yield answer
            if found.is_gap:
                yield Answer(type=Answer.SNAPSHOT_DONE, resume_token=scope.token(found.place))
            moved = found.place != place
            place, over = found.place, found.is_over
            if not moved and not over and not await core.bell.wait(ticket, core.settings.bookmark_s):
                yield Answer(type=Answer.BOOKMARK, resume_token=scope.token(place))
    finally:
        core.metrics.watchers.dec()


def _send(scope: Scope, found: Round, kind: jobs_pb2.WatchJobsResponse.Type) -> list[Answer]:
    """Only the last answer of a round moves the token: a reader that stops in the middle gets the round again."""
    answers = [Answer(type=kind, job=job, sequence=sequence) for job, sequence in found.jobs]
    if answers and kind == Answer.CHANGED:
        answers[-1].resume_token = scope.token(found.place)
    return answers


def _check_place(tx: Transaction, scope: Scope, place: int) -> Round:
    if scope.job:
        tx.get_job(scope.project, scope.job)
    if place > tx.last_event_id():
        raise BadResumeTokenError("the resume token is ahead of this data folder")
    return Round(place, [])


def _snapshot(tx: Transaction, scope: Scope) -> Round:
    place = tx.last_event_id()
    if scope.job:
        records = [tx.get_job(scope.project, scope.job)]
    else:
        query = select(JobRecord).where(JobRecord.project == scope.project).order_by(col(JobRecord.seq).desc())
        records = list(tx.session.exec(query.limit(_SNAPSHOT_JOBS)).all())
    jobs = [_current(tx, record) for record in records]
    return Round(place, jobs, is_over=bool(scope.job) and _is_over(tx, records[0]))


def _changes(tx: Transaction, scope: Scope, place: int, backlog: int) -> Round:
    events = tx.events_after(place, scope.project, scope.job, backlog + 1)
    if len(events) > backlog:
        snapshot = _snapshot(tx, scope)
        return Round(snapshot.place, snapshot.jobs, is_gap=True, is_over=snapshot.is_over)
    changed = dict.fromkeys(event.job for event in events)
    records = [tx.get_job(scope.project, job) for job in changed]
    newest = events[-1].id if events else place
    assert newest is not None
    over = bool(scope.job) and _is_over(tx, tx.get_job(scope.project, scope.job))
    return Round(newest, [_current(tx, record) for record in records], is_over=over)


def _current(tx: Transaction, record: JobRecord) -> tuple[jobs_pb2.Job, int]:
    query = select(func.max(JobEventRecord.sequence)).where(JobEventRecord.job == record.id)
    return views.job_message(record, tx.get_chain(record.id)), tx.session.exec(query).one() or 0


def _is_over(tx: Transaction, record: JobRecord) -> bool:
    """Terminal, and so is what follows it."""
    if record.state not in states.TERMINAL:
        return False
    chain = tx.get_chain(record.id)
    return chain is None or chain.step in lifecycle.CHAIN_OVER


def scope_of(parent: str, name: str) -> Scope:
    """What a WatchJobs request asks for.

    Raises:
        InvalidFieldError: neither a project nor a job, or a job of another project.
    """
    if not name:
        return Scope(*names.parse(parent, names.PROJECT, field="parent"))
    project, job = names.parse(name, names.JOB)
    if parent and parent != names.fill(names.PROJECT, project):
        raise names.invalid("name", "a job of another project than `parent`")
    return Scope(project, job)
