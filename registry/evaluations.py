"""Evaluation runs: the rows that a worker left become evidence, addressed by their digest."""

from __future__ import annotations

import secrets
from collections import defaultdict
from pathlib import Path
from typing import Any

from sqlmodel import col, select

from posttrain.engine.task import EvaluateTask
from posttrain.evals import stats
from posttrain.evals.rows import EvalRun, ResultRow, read_rows
from posttrain.registry import lineage
from posttrain.registry.attempts import count_evaluation
from posttrain.registry.errors import InvalidArgumentError, TamperedError
from posttrain.registry.paging import Page, decode_token, encode_token, page_size
from posttrain.registry.refs import shown
from posttrain.registry.store import Store
from posttrain.registry.suites import get_suite
from posttrain.registry.tables import EvalRunRecord
from posttrain.registry.transaction import TransactionBase
from posttrain.registry.versions import checked_manifest, get_version


def record_eval_run(store: Store, project: str, task: EvaluateTask, rows: Path, actor: str = "") -> EvalRunRecord:
    """Stores a finished evaluation's rows. Once per job: a second call returns the first's.

    Raises:
        RowsError: the file is damaged.
        InvalidArgumentError: the rows are of another version, shard or suite than the job was given.
        DiskFullError: no space left.
    """
    with store.read() as tx:
        known = run_of_job(tx, task.job)
        if known is not None:
            return known
        tx.get_job(project, task.job)
        version = get_version(tx, project, task.model.ref)
        checked_manifest(tx, version)
        current = {item.name: get_suite(tx, project, item.name) for item in task.suites}
    run = read_rows(rows)
    header = run.header
    given = {item.name: item.digest for item in task.suites}
    found = {item.name: item.digest for item in header.suites}
    facts: dict[str, tuple[object, object]] = {
        "version": (header.version, version.ref),
        "manifest digest": (header.manifest_digest, task.model.digest),
        "registered digest": (version.digest, task.model.digest),
        "weights digest": (header.weights_digest, version.weights_digest),
        "shard": (header.shard, task.spec.shard),
        "suites": (found, given),
        "rows' suites": ({row.suite for row in run.rows} - set(given), set()),
        "template": (header.template.type, task.spec.template.type),
        "second run": (header.repeat.job if header.repeat else "", task.job if task.spec.repeat else ""),
    }
    if header.template.type == "own":
        facts["template digest"] = (header.template.digest, version.template_digest)
    wrong = [name for name, (left, right) in facts.items() if left != right]
    if wrong:
        raise InvalidArgumentError(f"the rows of job {task.job} are not its own: {', '.join(wrong)} differ", "rows")
    blob = store.artifacts.add_bytes(run.canonical_bytes())
    template = header.template
    with store.transaction(actor) as tx:
        known = run_of_job(tx, task.job)
        if known is not None:
            return known
        assert version.id is not None
        record = tx.add(
            EvalRunRecord(
                id=f"eval-{secrets.token_hex(5)}",
                project=project,
                job=task.job,
                version=version.id,
                version_digest=version.digest,
                suites=found,
                template=f"version:{template.source}" if template.type == "version" else template.type,
                template_digest=template.digest,
                shard=header.shard,
                rows_digest=blob.sha256,
                num_rows=len(run.rows),
                scores=scores(run.rows),
                repeat=task.spec.repeat,
                created=tx.now,
            )
        )
        for name, suite in current.items():
            lineage.add_edge(tx, project, f"{name}@{suite.version}", version.ref, "evaluated_on", suite.digest)
        count_evaluation(tx, version, record)
        body = {"version": version.ref, "rows": blob.sha256, "job": task.job}
        tx.audit(project, "evaluation.record", f"evalRuns/{record.id}", body)
        return record


def scores(rows: tuple[ResultRow, ...]) -> list[dict[str, Any]]:
    """Per suite/metric and shard: n, score and its interval (the whole range where it is undefined)."""
    groups: dict[tuple[str, str], list[ResultRow]] = defaultdict(list)
    for row in rows:
        groups[(f"{row.suite}/{row.metric}", row.shard)].append(row)
    made = []
    for (metric, shard), members in sorted(groups.items()):
        values = [row.score for row in members]
        entry = {"metric": metric, "shard": shard, "n": len(values), "score": sum(values) / len(values)}
        try:
            share = stats.proportion(values, [row.wording_id for row in members])
            made.append({**entry, "low": share.low, "high": share.high, "level": share.level})
        except stats.UndefinedError:
            made.append({**entry, "low": 0.0, "high": 1.0, "level": stats.LEVEL})
    return made


def load_run(store: Store, record: EvalRunRecord) -> EvalRun:
    """The rows of a run, hashed again.

    Raises:
        TamperedError: they are not what was recorded.
    """
    store.artifacts.verify(record.rows_digest)
    run = read_rows(store.artifacts.path(record.rows_digest))
    if run.digest != record.rows_digest or run.header.manifest_digest != record.version_digest:
        raise TamperedError(f"the rows of {record.id} are not what was recorded")
    return run


def get_run(tx: TransactionBase, project: str, run_id: str) -> EvalRunRecord:
    """Raises NotFoundError."""
    query = select(EvalRunRecord).where(EvalRunRecord.project == project, EvalRunRecord.id == run_id)
    return tx.one(query, f"no evaluation {shown(run_id)}")


def run_of_job(tx: TransactionBase, job_id: str) -> EvalRunRecord | None:
    return tx.session.exec(select(EvalRunRecord).where(EvalRunRecord.job == job_id)).first()


def list_runs(
    tx: TransactionBase, project: str, version: str = "", size: int = 0, token: str = ""
) -> Page[EvalRunRecord]:
    """Newest first; of one version (a ref), or of all."""
    query = select(EvalRunRecord).where(EvalRunRecord.project == project)
    if version:
        query = query.where(EvalRunRecord.version == get_version(tx, project, version).id)
    return tx.page(query, col(EvalRunRecord.seq), f"evals {project} {version}", size, token)


def list_rows(
    store: Store, project: str, run_id: str, metric: str = "", size: int = 0, token: str = ""
) -> Page[ResultRow]:
    """A run's rows in their canonical order. `metric` is METRIC or SUITE/METRIC.

    Raises:
        NotFoundError, InvalidArgumentError, TamperedError
    """
    with store.read() as tx:
        record = get_run(tx, project, run_id)
    query = f"rows {run_id} {metric}"
    start, limit = decode_token(query, token, 0), page_size(size)
    rows = [row for row in load_run(store, record).rows if metric in ("", row.metric, f"{row.suite}/{row.metric}")]
    page = rows[start : start + limit]
    return Page(page, encode_token(query, start + limit) if start + limit < len(rows) else "")
