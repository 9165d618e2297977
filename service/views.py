"""Stored records as messages of the protocol. The only place where a resource's fields are filled in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sqlmodel import col, select

from posttrain.evals.report import GateReport, RuleResult, SuiteSummary, explain, parse_report
from posttrain.evals.rows import ResultRow
from posttrain.registry import gates, versions
from posttrain.registry.errors import Unmet
from posttrain.registry.store import Transaction
from posttrain.registry.tables import (
    AliasMoveRecord,
    AliasRecord,
    ChainRecord,
    DatasetVersionRecord,
    EvalRunRecord,
    GateRunRecord,
    JobEventRecord,
    JobRecord,
    PromotionRecord,
    SuiteRecord,
    VersionFileRecord,
    VersionRecord,
)
from posttrain.service import names
from posttrain.service.convert import spec_to_proto
from posttrain.service.proto import datasets_pb2, gates_pb2, jobs_pb2, models_pb2


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


# -- data and models --------------------------------------------------------------------------------------------------


def dataset_message(record: DatasetVersionRecord) -> datasets_pb2.DatasetVersion:
    return datasets_pb2.DatasetVersion(
        name=names.fill(names.DATASET_VERSION, record.project, record.name, record.number),
        ref=record.ref,
        sealed=record.sealed,
        format=record.format,
        num_rows=record.num_rows,
        num_bytes=record.num_bytes,
        sha256=record.sha256,
        notes=record.notes,
        create_time=timestamp(record.created),
        source=record.source,
        num_skipped=record.sealing.get("num_skipped", 0),
        num_duplicates=record.sealing.get("num_duplicates", 0),
        skipped=record.sealing.get("skipped", []),
        held_out=record.sealing.get("held_out", ""),
        held_out_of=record.sealing.get("held_out_of", ""),
    )


def preview_message(record: VersionRecord) -> models_pb2.ModelVersion:
    """A version that an import would make; it has no number yet."""
    return models_pb2.ModelVersion(
        role=record.role, form=record.form, architecture=record.architecture, num_parameters=record.num_parameters
    )


def version_message(tx: Transaction, record: VersionRecord) -> models_pb2.ModelVersion:
    files = tx.session.exec(
        select(VersionFileRecord).where(VersionFileRecord.version == record.id).order_by(col(VersionFileRecord.path))
    ).all()
    aliases = tx.session.exec(select(AliasRecord.alias).where(AliasRecord.version == record.id)).all()
    gate = gates.newest_gate_run(tx, record)
    manifest = json.loads(record.manifest_json)
    return models_pb2.ModelVersion(
        name=names.fill(names.MODEL_VERSION, record.project, record.model, record.number),
        ref=record.ref,
        role=record.role,
        form=record.form,
        digest=record.digest,
        weights_digest=record.weights_digest,
        parent=_ref(tx, record.parent),
        parent_digest=record.parent_digest,
        relation=record.relation,
        job=names.fill(names.JOB, record.project, record.job) if record.job else "",
        spec_sha256=record.spec_sha256,
        datasets=[f"{item['ref']} {item['sha256']}" for item in manifest["datasets"]],
        files=[models_pb2.ModelFile(path=f.path, sha256=f.sha256, num_bytes=f.num_bytes) for f in files],
        template_digest=record.template_digest,
        architecture=record.architecture,
        num_parameters=record.num_parameters,
        aliases=sorted(aliases),
        create_time=timestamp(record.created),
        source=record.source,
        manifest_json=record.manifest_json,
        gate_verdict=gate.verdict if gate else "",
    )


def _ref(tx: Transaction, key: int | None) -> str:
    return versions.version_by_id(tx, key).ref if key is not None else ""


def alias_message(tx: Transaction, record: AliasRecord) -> models_pb2.Alias:
    version = versions.version_by_id(tx, record.version)
    return models_pb2.Alias(
        name=names.fill(names.ALIAS, record.project, record.model, record.alias),
        alias=record.alias,
        version=version.ref,
        digest=version.digest,
        etag=record.etag,
        promotion=names.fill(names.PROMOTION, record.project, record.promotion) if record.promotion else "",
        update_time=timestamp(record.updated),
    )


def move_message(tx: Transaction, record: AliasMoveRecord) -> models_pb2.AliasMove:
    return models_pb2.AliasMove(
        alias=record.alias,
        from_version=_ref(tx, record.from_version),
        to_version=_ref(tx, record.to_version),
        kind=record.kind,
        promotion=names.fill(names.PROMOTION, record.project, record.promotion) if record.promotion else "",
        reason=record.reason,
        time=timestamp(record.time),
    )


# -- evidence ---------------------------------------------------------------------------------------------------------


def eval_run_message(tx: Transaction, record: EvalRunRecord) -> gates_pb2.EvalRun:
    return gates_pb2.EvalRun(
        name=names.fill(names.EVAL_RUN, record.project, record.id),
        job=names.fill(names.JOB, record.project, record.job),
        version=_ref(tx, record.version),
        version_digest=record.version_digest,
        suites=sorted(record.suites),
        template=record.template,
        template_digest=record.template_digest,
        shard=record.shard,
        rows_digest=record.rows_digest,
        num_rows=record.num_rows,
        scores=[gates_pb2.MetricScore(**score) for score in record.scores],
        create_time=timestamp(record.created),
        repeat=record.repeat,
    )


def row_message(row: ResultRow) -> gates_pb2.EvalRow:
    return gates_pb2.EvalRow(
        example_id=row.example_id,
        suite=row.suite,
        metric=row.metric,
        shard=row.shard,
        score=row.score,
        answer=row.answer,
        reason=row.reason,
        stop_reason=row.stop_reason,
        scorer_error=row.scorer_error,
    )


def suite_message(record: SuiteRecord) -> gates_pb2.Suite:
    return gates_pb2.Suite(
        name=record.name,
        version=record.version,
        digest=record.digest,
        description=record.description,
        metrics=record.metrics,
        num_rows=record.num_rows,
    )


def gate_message(tx: Transaction, record: GateRunRecord, stale: Sequence[Unmet] = ()) -> gates_pb2.GateRun:
    report = parse_report(record.report_json)
    runs = [record.candidate_run, *(item["eval_run"] for item in record.baselines)]
    runs += [record.repeat_run] if record.repeat_run else []
    return gates_pb2.GateRun(
        name=names.fill(names.GATE_RUN, record.project, record.id),
        verdict=record.verdict,
        candidate=_ref(tx, record.version),
        candidate_digest=record.version_digest,
        baselines=[f"{item['name']} {item['ref']}" for item in record.baselines],
        policy=record.policy,
        policy_digest=record.policy_digest,
        reasons=_reasons(report),
        metrics=[_rule_message(result) for result in report.results if result.verdict != "SKIPPED"],
        suites=[_summary_message(summary) for summary in report.suites],
        unseen=[_summary_message(summary) for summary in report.unseen],
        improved=record.improved,
        report_json=record.report_json,
        report_digest=record.report_digest,
        eval_runs=[names.fill(names.EVAL_RUN, record.project, run) for run in dict.fromkeys(runs)],
        create_time=timestamp(record.created),
        alias=record.alias,
        explanation=explain(report),
        attempt=record.attempt,
        attempts_budget=report.attempt.budget if report.attempt else 0,
        repeat_run=names.fill(names.EVAL_RUN, record.project, record.repeat_run) if record.repeat_run else "",
        stale=[gates_pb2.GateReason(code=item.code, message=item.message) for item in stale],
    )


def _reasons(report: GateReport) -> list[gates_pb2.GateReason]:
    return [
        gates_pb2.GateReason(
            code=reason.code,
            metric="/".join(part for part in (reason.suite, reason.metric) if part),
            baseline=reason.baseline,
            message=reason.message,
        )
        for reason in report.reasons
    ]


def _rule_message(result: RuleResult) -> gates_pb2.GateResult:
    return gates_pb2.GateResult(
        metric=f"{result.suite}/{result.metric}",
        baseline_name=result.baseline,
        n=result.n,
        baseline=result.baseline_score,
        candidate=result.candidate_score,
        difference=result.estimate if result.baseline else 0.0,
        low=result.low,
        high=result.high,
        level=result.level,
        rule=result.text,
        verdict=result.verdict,
        clusters=result.clusters,
    )


def _summary_message(summary: SuiteSummary) -> gates_pb2.GateResult:
    return gates_pb2.GateResult(
        metric=summary.suite,
        baseline_name=summary.baseline,
        n=summary.n,
        baseline=summary.baseline_score,
        candidate=summary.candidate_score,
        difference=summary.difference,
        low=summary.low,
        high=summary.high,
        level=summary.level,
        clusters=summary.clusters,
    )


def promotion_message(tx: Transaction, record: PromotionRecord) -> gates_pb2.Promotion:
    return gates_pb2.Promotion(
        name=names.fill(names.PROMOTION, record.project, record.id),
        version=_ref(tx, record.version),
        version_digest=record.version_digest,
        model=record.model,
        alias=record.alias,
        gate_run=names.fill(names.GATE_RUN, record.project, record.gate_run) if record.gate_run else "",
        outcome=record.outcome,
        missing=[
            gates_pb2.GateReason(
                code=item["code"], metric=item["metric"], baseline=item["baseline"], message=item["message"]
            )
            for item in record.missing
        ],
        from_version=_ref(tx, record.from_version),
        reason=record.reason,
        job=names.fill(names.JOB, record.project, record.job) if record.job else "",
        create_time=timestamp(record.created),
    )
