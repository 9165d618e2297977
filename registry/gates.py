"""Gate runs: a verdict over stored rows, kept with everything needed to compute it again."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from sqlmodel import col, desc, select

from posttrain.engine.spec import canonical_json, sha256_text
from posttrain.evals.errors import EvalError
from posttrain.evals.gate import run_gate
from posttrain.evals.policy import Baseline, Policy
from posttrain.evals.report import GateReport
from posttrain.registry.attempts import Attempt, keep_attempt, next_attempt
from posttrain.registry.errors import NotFoundError, TamperedError, Unmet
from posttrain.registry.evaluations import get_run, load_run
from posttrain.registry.evidence import BASELINES, Evidence, gather
from posttrain.registry.paging import Page
from posttrain.registry.refs import check_alias, shown
from posttrain.registry.store import Store
from posttrain.registry.tables import EvalRunRecord, GateRunRecord, PolicyRecord, VersionRecord
from posttrain.registry.transaction import TransactionBase
from posttrain.registry.versions import get_version, version_by_id


def create_gate_run(
    store: Store,
    project: str,
    candidate: str,
    policy: Policy,
    alias: str,
    runs: Mapping[str, str] | None = None,
    actor: str = "",
) -> GateRunRecord:
    """Judges a version under a policy against its parent, the alias's champion and the policy's ancestor. Equal inputs:
    the same gate run.

    A policy with a budget gets the number of this attempt (attempts.py), which is recorded with the verdict.

    `runs` names the evaluations (`candidate` or a baseline -> id); those not named are the newest that fit.

    Raises:
        NotFoundError: no such version or evaluation.
        UnmetError: an evaluation is missing; the items say which.
        InvalidArgumentError: an evaluation named in `runs` is of another version, or the candidate did not come from
            the ancestor that the policy pins.
        TamperedError: rows or a manifest were changed.
    """
    check_alias(alias)
    with store.read() as tx:
        evidence = gather(tx, project, get_version(tx, project, candidate), policy, alias, runs or {})
    while True:
        with store.read() as tx:
            attempt = _attempt(tx, policy, alias, evidence)
        report = compute(store, policy, evidence, attempt.number if attempt else None)
        with store.transaction(actor) as tx:
            if _attempt(tx, policy, alias, evidence) == attempt:
                return _record(tx, project, policy, alias, evidence, report, attempt)
        # Somebody else took this number while the rows were judged: judge them at the next one's level.


def _attempt(tx: TransactionBase, policy: Policy, alias: str, evidence: Evidence) -> Attempt | None:
    return next_attempt(tx, policy, alias, evidence.version, evidence.candidate, evidence.others)


def _record(
    tx: TransactionBase,
    project: str,
    policy: Policy,
    alias: str,
    evidence: Evidence,
    report: GateReport,
    attempt: Attempt | None,
) -> GateRunRecord:
    inputs: dict[str, Any] = {
        "version": evidence.version.digest,
        "alias": alias,
        "policy": policy.digest,
        "candidate": evidence.candidate.rows_digest,
        "baselines": {name: [version.digest, run.rows_digest] for name, (version, run) in evidence.baselines.items()},
        "report": report.digest,  # the same inputs judged by other code are another gate run
    }
    if evidence.repeat is not None:
        inputs["repeat"] = evidence.repeat.rows_digest
    digest = sha256_text(canonical_json(inputs))
    query = select(GateRunRecord).where(GateRunRecord.project == project, GateRunRecord.input_digest == digest)
    known = tx.session.exec(query).first()
    if known is not None:
        return known
    if tx.session.get(PolicyRecord, (project, policy.digest)) is None:
        text = canonical_json(policy)
        tx.add(PolicyRecord(project=project, digest=policy.digest, name=policy.name, text=text, created=tx.now))
    assert evidence.version.id is not None
    record = tx.add(
        GateRunRecord(
            id=f"gate-{secrets.token_hex(5)}",
            project=project,
            input_digest=digest,
            version=evidence.version.id,
            version_digest=evidence.version.digest,
            alias=alias,
            policy=policy.name,
            policy_digest=policy.digest,
            candidate_run=evidence.candidate.id,
            baselines=[
                {"name": name, "ref": version.ref, "digest": version.digest, "eval_run": run.id}
                for name, (version, run) in sorted(evidence.baselines.items())
            ],
            verdict=report.verdict,
            improved=report.improved,
            report_json=report.canonical_json(),
            report_digest=report.digest,
            attempt=attempt.number if attempt else 0,
            repeat_run=evidence.repeat.id if evidence.repeat else None,
            created=tx.now,
        )
    )
    keep_attempt(tx, evidence.version, evidence.candidate, record, attempt)
    champion = evidence.baselines.get("champion")
    body: dict[str, Any] = {
        "version": evidence.version.ref,
        "verdict": report.verdict,
        "report": report.digest,
        "champion": champion[0].ref if champion else "",
    }
    if attempt is not None:
        body["attempt"] = attempt.number
    tx.audit(project, "gate.run", f"gateRuns/{record.id}", body)
    return record


def compute(store: Store, policy: Policy, evidence: Evidence, attempt: int | None) -> GateReport:
    """The verdict over the stored rows, every byte hashed again. `attempt` is what `run_gate` takes.

    Raises:
        TamperedError: rows are not what was recorded.
    """
    baselines = {name: load_run(store, run) for name, (_, run) in evidence.baselines.items()}
    repeat = load_run(store, evidence.repeat) if evidence.repeat else None
    return run_gate(policy, load_run(store, evidence.candidate), baselines, attempt=attempt, repeat=repeat)


def recheck(store: Store, project: str, gate: GateRunRecord) -> list[Unmet]:
    """Computes a gate run again from what is stored; empty: the verdict stands, byte for byte."""
    try:
        with store.read() as tx:
            policy = stored_policy(tx, project, gate.policy_digest)
            version = version_by_id(tx, gate.version)
            sides: dict[Baseline, tuple[VersionRecord, EvalRunRecord]] = {}
            for item in gate.baselines:
                run = get_run(tx, project, item["eval_run"])
                sides[_side(item["name"])] = (version_by_id(tx, run.version), run)
            repeat = get_run(tx, project, gate.repeat_run) if gate.repeat_run else None
            evidence = Evidence(version, get_run(tx, project, gate.candidate_run), sides, repeat)
        report = compute(store, policy, evidence, gate.attempt or None)
    except (TamperedError, NotFoundError, EvalError) as error:
        return [Unmet("TAMPERED", gate.id, f"the evidence of {gate.id} was changed: {error}")]
    stored = sha256_text(gate.report_json)
    if not report.digest == gate.report_digest == stored or report.verdict != gate.verdict:
        return [Unmet("TAMPERED", gate.id, f"{gate.id} computed again gives {report.verdict} and another report")]
    owners = [(version, report.candidate), *((sides[name][0], info) for name, info in report.baselines.items())]
    return [
        Unmet("TAMPERED", gate.id, f"rows of {gate.id} are not of {owner.ref}")
        for owner, info in owners
        if info.manifest_digest != owner.digest
    ]


def _side(name: str) -> Baseline:
    """Raises TamperedError: it is no baseline of a gate."""
    for known in BASELINES:
        if name == known:
            return known
    raise TamperedError(f"{shown(name)} is no side of a gate")


def stored_policy(tx: TransactionBase, project: str, digest: str) -> Policy:
    """A policy as it was used.

    Raises:
        TamperedError: missing, or its text does not have this digest.
    """
    record = tx.session.get(PolicyRecord, (project, digest))
    if record is None or sha256_text(record.text) != digest:
        raise TamperedError(f"the policy {digest} is not what was used")
    return Policy.model_validate_json(record.text)


def get_gate_run(tx: TransactionBase, project: str, gate_id: str) -> GateRunRecord:
    """Raises NotFoundError."""
    query = select(GateRunRecord).where(GateRunRecord.project == project, GateRunRecord.id == gate_id)
    return tx.one(query, f"no gate run {shown(gate_id)}")


def newest_gate_run(tx: TransactionBase, version: VersionRecord, alias: str = "") -> GateRunRecord | None:
    """The newest gate run of a version (for an alias); None: it was never judged."""
    query = select(GateRunRecord).where(GateRunRecord.version == version.id)
    if alias:
        query = query.where(GateRunRecord.alias == alias)
    return tx.session.exec(query.order_by(desc(GateRunRecord.seq)).limit(1)).first()


def list_gate_runs(
    tx: TransactionBase, project: str, candidate: str = "", size: int = 0, token: str = ""
) -> Page[GateRunRecord]:
    """Newest first; of one version (a ref), or of all."""
    query = select(GateRunRecord).where(GateRunRecord.project == project)
    if candidate:
        query = query.where(GateRunRecord.version == get_version(tx, project, candidate).id)
    return tx.page(query, col(GateRunRecord.seq), f"gates {project} {candidate}", size, token)
