"""The chain after a training job: where it stands. Each step is a compare-and-swap with an event of the job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import update
from sqlmodel import col, select

from posttrain.registry.errors import ConflictError, NotFoundError
from posttrain.registry.jobs import JobOperations, NewEvent
from posttrain.registry.tables import ChainRecord

FINISHED = ("DONE", "CHAIN_FAILED")
CHAIN_CHANGES = frozenset({"step", "message", "model_version", "eval_jobs", "eval_runs", "gate_run", "promotion"})


class ChainOperations(JobOperations):
    def start_chain(self, project: str, job_id: str) -> ChainRecord:
        """The job's chain, at TRAIN; the one that is there, if it is there."""
        job = self.get_job(project, job_id)
        found = self.session.get(ChainRecord, job.id)
        return found or self.add(ChainRecord(job=job.id, project=project, created=self.now, updated=self.now))

    def get_chain(self, job_id: str) -> ChainRecord | None:
        """None: the job has no chain."""
        return self.session.get(ChainRecord, job_id)

    def open_chains(self) -> list[ChainRecord]:
        """Every project's chains that are not finished, oldest first."""
        query = select(ChainRecord).where(col(ChainRecord.step).not_in(FINISHED))
        return list(self.session.exec(query.order_by(col(ChainRecord.created))).all())

    def swap_chain(self, job_id: str, expected_version: int, changes: Mapping[str, Any]) -> ChainRecord:
        """Changes a chain if it is still at `expected_version`, with a job event of type `chain` and an audit row.

        Raises:
            NotFoundError: the job has no chain.
            ConflictError: it has changed since.
        """
        unknown = set(changes) - CHAIN_CHANGES
        if unknown:
            raise ValueError(f"a chain's {sorted(unknown)} cannot be changed")
        chain = self.get_chain(job_id)
        if chain is None:
            raise NotFoundError(f"job {job_id} has no chain")
        before = chain.step
        values = {**changes, "version": expected_version + 1, "updated": self.now}
        table = ChainRecord.__table__  # type: ignore[attr-defined]
        statement = update(table).where(table.c.job == job_id, table.c.version == expected_version).values(**values)
        if self.session.connection().execute(statement).rowcount != 1:
            raise ConflictError(f"the chain of job {job_id} is at version {chain.version}, not {expected_version}")
        self.session.refresh(chain)
        job = self.get_job(chain.project, job_id)
        event = NewEvent(f"chain:{chain.version}", chain.message, "chain")
        self._add_event(job, event, before, chain.step)
        self.audit(chain.project, "chain.change", f"jobs/{job_id}", {"from": before, "to": chain.step})
        return chain
