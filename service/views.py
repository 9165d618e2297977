"""Stored records as messages of the protocol. The only place where a resource's fields are filled in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from posttrain.registry.tables import ChainRecord, JobEventRecord, JobRecord
from posttrain.service import names
from posttrain.service.convert import spec_to_proto
from posttrain.service.proto import jobs_pb2


def timestamp(seconds: float) -> Timestamp | None:
    """Seconds since the epoch; 0 means "not yet" and is left out."""
    if not seconds:
        return None
    whole = int(seconds // 1)
    return Timestamp(seconds=whole, nanos=int((seconds - whole) * 1e9))


def job_message(job: JobRecord, chain: ChainRecord | None) -> jobs_pb2.Job:
    progress: Mapping[str, Any] = job.progress
    return jobs_pb2.Job(
        name=names.fill(names.JOB, job.project, job.id),
        etag=str(job.version),
        spec=spec_to_proto(json.loads(job.spec_json)),
        spec_sha256=job.spec_sha256,
        spec_json=job.spec_json,
        kind=job.kind,
        display_name=job.display_name,
        state=job.state,
        termination_reason=job.termination_reason,
        error=jobs_pb2.JobError(**job.error) if job.error else None,
        attempt=job.attempt,
        progress=jobs_pb2.JobProgress(
            phase=progress.get("phase", ""),
            done=progress.get("done", 0),
            total=progress.get("total", 0),
            eta_s=progress.get("eta_s", -1.0),
            values=progress.get("values", {}),
        ),
        chain=chain_message(chain),
        parent_job=names.fill(names.JOB, job.project, job.parent_job) if job.parent_job else "",
        create_time=timestamp(job.created),
        start_time=timestamp(job.started),
        end_time=timestamp(job.ended),
        update_time=timestamp(max(job.updated, chain.updated if chain else 0.0)),
    )


def chain_message(chain: ChainRecord | None) -> jobs_pb2.Chain | None:
    if chain is None:
        return None
    return jobs_pb2.Chain(
        step=chain.step,
        version=chain.model_version,
        eval_runs=[names.fill(names.EVAL_RUN, chain.project, run) for run in chain.eval_runs],
        gate_run=names.fill(names.GATE_RUN, chain.project, chain.gate_run) if chain.gate_run else "",
        promotion=names.fill(names.PROMOTION, chain.project, chain.promotion) if chain.promotion else "",
        message=chain.message,
    )


def event_message(event: JobEventRecord) -> jobs_pb2.JobEvent:
    message = event.message
    if event.type == "chain":
        message = f"chain {event.from_state} -> {event.to_state}" + (f": {message}" if message else "")
    is_state = event.type == "state"
    return jobs_pb2.JobEvent(
        sequence=event.sequence,
        attempt=event.attempt,
        time=timestamp(event.time),
        type=event.type,
        from_state=event.from_state or None if is_state else None,
        to_state=event.to_state or None if is_state else None,
        message=message,
    )


def metric_message(event: JobEventRecord) -> jobs_pb2.MetricPoint:
    return jobs_pb2.MetricPoint(
        step=event.body["step"],
        total_steps=event.body["total_steps"],
        attempt=event.attempt,
        time=timestamp(event.time),
        values=event.body["values"],
    )
