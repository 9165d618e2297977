"""Jobs, their events and their attempts: primitives that keep the order of things.

Which state may follow which is the service's business. A state change is a compare-and-swap on the job's `version`, in
one transaction with its event and its audit row. A transition id makes a repeated change a no-op. Every write of a
worker carries its attempt number; a stale one is refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, update
from sqlmodel import col, select

from posttrain.engine.events import AnyEvent
from posttrain.engine.spec import AnySpec, canonical_json, sha256_text
from posttrain.registry.errors import ConflictError, InvalidArgumentError, NotFoundError, StaleAttemptError
from posttrain.registry.paging import Page, encode_token
from posttrain.registry.refs import shown
from posttrain.registry.tables import AttemptRecord, JobEventRecord, JobRecord
from posttrain.registry.transaction import TransactionBase

JOB_CHANGES = frozenset({"state", "attempt", "termination_reason", "error", "progress"}) | frozenset(
    {"cancel_requested", "resume_from", "started", "ended"}
)
ATTEMPT_CHANGES = frozenset({"state", "pid", "process_start_time", "events_offset", "exit", "started", "ended"})
FILTERS = {"state": JobRecord.state, "kind": JobRecord.kind, "parent": JobRecord.parent_job}


@dataclass(frozen=True)
class NewEvent:
    """An event to be committed with a state change. The same `transition_id` again is the same event."""

    transition_id: str
    message: str = ""
    type: str = "state"
    body: Mapping[str, Any] = field(default_factory=dict)


class JobOperations(TransactionBase):
    # -- jobs ---------------------------------------------------------------------------------------------------------

    def create_job(
        self, project: str, spec: AnySpec, request_id: str = "", parent_job: str = "", state: str = "VALIDATING"
    ) -> JobRecord:
        """A new job with its first event; with a known `request_id` and the same spec, the job that was made then.

        Raises:
            AlreadyExistsError: the request id was used for another spec.
        """
        text = canonical_json(spec)
        known = self.recall(project, "CreateJob", request_id, text)
        if known:
            return self.get_job(project, known)
        job = self.add(
            JobRecord(
                id=f"{spec.kind}-{secrets.token_hex(5)}",
                project=project,
                kind=spec.kind,
                spec_json=text,
                spec_sha256=sha256_text(text),
                display_name=spec.display_name,
                parent_job=parent_job or None,
                state=state,
                created=self.now,
                updated=self.now,
            )
        )
        self.remember(project, "CreateJob", request_id, text, job.id)
        self._add_event(job, NewEvent("create"), "", state)
        self.audit(project, "job.create", f"jobs/{job.id}", {"spec_sha256": job.spec_sha256, "state": state})
        return job

    def get_job(self, project: str, job_id: str) -> JobRecord:
        """Raises NotFoundError."""
        query = select(JobRecord).where(JobRecord.id == job_id, JobRecord.project == project)
        return self.one(query, f"no job {shown(job_id)}")

    def list_jobs(self, project: str, filter: str = "", size: int = 0, token: str = "") -> Page[JobRecord]:
        """Newest first. `filter` is terms `state:RUNNING`, `kind:ift`, `parent:JOB`; all must match.

        Raises:
            InvalidArgumentError: an unknown term, or a token of another query.
        """
        query = select(JobRecord).where(JobRecord.project == project)
        for term in filter.split():
            name, colon, value = term.partition(":")
            if not colon or name not in FILTERS:
                hint = "write state:STATE, kind:KIND or parent:JOB"
                raise InvalidArgumentError(f"{shown(term)} is not a filter", "filter", hint)
            query = query.where(col(FILTERS[name]) == value)
        return self.page(query, col(JobRecord.seq), f"jobs {project} {filter}", size, token)

    def jobs_in(self, states: Sequence[str]) -> list[JobRecord]:
        """Every project's jobs in these states, oldest first: what a restarted server has to look after."""
        query = select(JobRecord).where(col(JobRecord.state).in_(states)).order_by(col(JobRecord.seq))
        return list(self.session.exec(query).all())

    def swap_job(
        self, project: str, job_id: str, expected_version: int, changes: Mapping[str, Any], event: NewEvent
    ) -> JobRecord:
        """Changes a job that is still at `expected_version`, with event and audit row. A known transition id: no-op.

        Raises:
            NotFoundError: no such job.
            ConflictError: it has changed since.
        """
        unknown = set(changes) - JOB_CHANGES
        if unknown:
            raise ValueError(f"a job's {sorted(unknown)} cannot be changed")
        job = self.get_job(project, job_id)
        if self._has_event(job.id, event.transition_id):
            return job
        before = job.state
        values = {**changes, "version": expected_version + 1, "updated": self.now}
        table = JobRecord.__table__  # type: ignore[attr-defined]
        statement = update(table).where(table.c.id == job.id, table.c.version == expected_version).values(**values)
        if self.session.connection().execute(statement).rowcount != 1:
            raise ConflictError(f"job {job.id} is at version {job.version}, not {expected_version}")
        self.session.refresh(job)
        self._add_event(job, event, before, job.state)
        body = {"from": before, "to": job.state, "attempt": job.attempt, "transition": event.transition_id}
        self.audit(job.project, "job.change", f"jobs/{job.id}", body)
        return job

    # -- events -------------------------------------------------------------------------------------------------------

    def _has_event(self, job_id: str, transition_id: str) -> bool:
        query = select(JobEventRecord.id).where(
            JobEventRecord.job == job_id, JobEventRecord.transition_id == transition_id
        )
        return self.session.exec(query).first() is not None

    def _next_sequence(self, job_id: str) -> int:
        newest = self.session.exec(select(func.max(JobEventRecord.sequence)).where(JobEventRecord.job == job_id)).one()
        return (newest or 0) + 1

    def _add_event(self, job: JobRecord, event: NewEvent, before: str, after: str) -> JobEventRecord:
        return self.add(
            JobEventRecord(
                job=job.id,
                project=job.project,
                sequence=self._next_sequence(job.id),
                transition_id=event.transition_id,
                attempt=job.attempt,
                type=event.type,
                from_state=before,
                to_state=after,
                message=event.message,
                body=dict(event.body),
                time=self.now,
            )
        )

    def append_events(
        self,
        project: str,
        job_id: str,
        attempt: int,
        events: Sequence[AnyEvent],
        progress: Mapping[str, Any] | None = None,
        offset: int | None = None,
    ) -> int:
        """Stores a worker's events by (attempt, seq), each once, with the job's progress and how far its file was read.

        Progress does not count the job's `version` up. Returns how many events were new.

        Raises:
            StaleAttemptError: `attempt`, or the attempt in an event, is not the job's newest.
        """
        job = self.get_job(project, job_id)
        wrong = {attempt, *(event.attempt for event in events)} - {job.attempt}
        if wrong:
            raise StaleAttemptError(f"job {job.id} is at attempt {job.attempt}; this comes from {sorted(wrong)}")
        ids = {f"worker:{attempt}:{event.seq}": event for event in events}
        query = select(JobEventRecord.transition_id).where(
            JobEventRecord.job == job.id, col(JobEventRecord.transition_id).startswith(f"worker:{attempt}:")
        )
        known = set(self.session.exec(query).all()) if ids else set()
        sequence = self._next_sequence(job.id)
        new = [(key, event) for key, event in ids.items() if key not in known]
        for position, (key, event) in enumerate(new):
            body = event.model_dump(mode="json", exclude={"seq", "time", "attempt", "type"})
            self.session.add(
                JobEventRecord(
                    job=job.id,
                    project=job.project,
                    sequence=sequence + position,
                    transition_id=key,
                    attempt=attempt,
                    type=event.type,
                    message=str(body.get("message") or body.get("phase") or ""),
                    body=body,
                    time=event.time,
                )
            )
        if progress is not None:
            job.progress = dict(progress)
            job.updated = self.now
            self.session.add(job)
        if offset is not None:
            self.change_attempt(job.id, attempt, events_offset=offset)
        self.session.flush()
        return len(new)

    def list_events(
        self, project: str, job_id: str, types: Sequence[str] = (), size: int = 0, token: str = "", follow: bool = False
    ) -> Page[JobEventRecord]:
        """A job's events, oldest first. With `follow` there is always a next token, for what comes later."""
        job = self.get_job(project, job_id)
        query = select(JobEventRecord).where(JobEventRecord.job == job.id)
        if types:
            query = query.where(col(JobEventRecord.type).in_(types))
        name = f"events {job.id} {sorted(types)}"
        page = self.page(query, col(JobEventRecord.sequence), name, size, token, newest_first=False)
        if follow and not page.next_page_token:
            return Page(page.items, encode_token(name, page.items[-1].sequence) if page.items else token)
        return page

    def events_after(self, after: int, project: str = "", job_id: str = "", limit: int = 500) -> list[JobEventRecord]:
        """Events of all jobs with `id` above `after`, in order: what a watcher reads next."""
        query = select(JobEventRecord).where(col(JobEventRecord.id) > after)
        if project:
            query = query.where(JobEventRecord.project == project)
        if job_id:
            query = query.where(JobEventRecord.job == job_id)
        return list(self.session.exec(query.order_by(col(JobEventRecord.id)).limit(limit)).all())

    def last_event_id(self) -> int:
        return self.session.exec(select(func.max(JobEventRecord.id))).one() or 0

    # -- attempts -----------------------------------------------------------------------------------------------------

    def add_attempt(self, job_id: str, number: int, folder: str) -> AttemptRecord:
        """The attempt's record; the one that is there, if it is there."""
        found = self.session.get(AttemptRecord, (job_id, number))
        return found or self.add(AttemptRecord(job=job_id, number=number, folder=folder, created=self.now))

    def get_attempt(self, job_id: str, number: int) -> AttemptRecord:
        """Raises NotFoundError."""
        found = self.session.get(AttemptRecord, (job_id, number))
        if found is None:
            raise NotFoundError(f"job {job_id} has no attempt {number}")
        return found

    def list_attempts(self, job_id: str) -> list[AttemptRecord]:
        query = select(AttemptRecord).where(AttemptRecord.job == job_id).order_by(col(AttemptRecord.number))
        return list(self.session.exec(query).all())

    def change_attempt(self, job_id: str, number: int, **changes: Any) -> AttemptRecord:
        """Raises NotFoundError; ValueError for a field that cannot be changed."""
        unknown = set(changes) - ATTEMPT_CHANGES
        if unknown:
            raise ValueError(f"an attempt's {sorted(unknown)} cannot be changed")
        attempt = self.get_attempt(job_id, number)
        for name, value in changes.items():
            setattr(attempt, name, value)
        return self.add(attempt)
