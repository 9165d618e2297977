"""Promotion: the one way by which an alias gets a new version, a transaction over stored evidence.

An alias moves only if, all at once: a gate run says PASS; it is of this version (by manifest digest) and this alias;
its rows, hashed and judged again, give the same report; its policy guards this alias; it is not STALE (staleness.py:
policy, suites, scorers and champion are what it judged by); nobody moved the alias meanwhile.
Anything else is a REFUSED promotion that says what is missing. One transaction writes promotion, move, alias and audit.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict

from sqlmodel import col, desc, select

from posttrain.engine.spec import canonical_json, sha256_text
from posttrain.evals.policy import Policy, load_policy
from posttrain.evals.report import parse_report
from posttrain.registry import aliases
from posttrain.registry.errors import PromotionRefusedError, TamperedError, Unmet
from posttrain.registry.gates import get_gate_run, newest_gate_run, recheck, stored_policy
from posttrain.registry.paging import Page
from posttrain.registry.refs import check_alias, shown
from posttrain.registry.staleness import stale_items
from posttrain.registry.store import Store
from posttrain.registry.tables import AliasRecord, GateRunRecord, PromotionRecord, VersionRecord
from posttrain.registry.transaction import TransactionBase
from posttrain.registry.versions import checked_manifest, get_version

APPLIED, REFUSED = "APPLIED", "REFUSED"


def promote(
    store: Store,
    project: str,
    version: str,
    alias: str,
    gate_run: str = "",
    reason: str = "",
    expected_etag: str = "",
    job: str = "",
    request_id: str = "",
    validate_only: bool = False,
    actor: str = "",
    policies: Callable[[str], Policy] = load_policy,
) -> PromotionRecord:
    """Moves an alias if the evidence holds; the record says APPLIED or REFUSED (see `raise_if_refused`).

    `gate_run` empty: the newest of this version and alias. The same `request_id` or `job` again: the promotion recorded
    then. `validate_only` records and moves nothing. `policies` gives the policy in force by its name.

    Raises:
        NotFoundError: no such version or gate run.
        ConflictError: the alias is not at `expected_etag`.
        AlreadyExistsError: the request id was used for something else.
    """
    check_alias(alias)
    payload = canonical_json({"version": version, "alias": alias, "gate_run": gate_run, "etag": expected_etag})
    with store.read() as tx:
        known = _known(tx, project, job, request_id, payload)
        if known is not None:
            return known
        candidate = get_version(tx, project, version)
        gate = get_gate_run(tx, project, gate_run) if gate_run else newest_gate_run(tx, candidate, alias)
    tampered = _check_bytes(store, project, candidate, gate)
    with store.transaction(actor) as tx:
        known = _known(tx, project, job, request_id, payload)
        if known is not None:
            return known
        current = tx.session.get(AliasRecord, (project, candidate.model, alias))
        aliases.check_etag(current, expected_etag)
        missing = [*_check_records(tx, candidate, alias, policies, gate, current), *tampered]
        assert candidate.id is not None
        record = PromotionRecord(
            id=f"promotion-{secrets.token_hex(5)}",
            project=project,
            model=candidate.model,
            alias=alias,
            version=candidate.id,
            version_digest=candidate.digest,
            gate_run=gate.id if gate else None,
            outcome=REFUSED if missing else APPLIED,
            missing=[asdict(item) for item in missing],
            improved=bool(gate and gate.improved and not missing),
            from_version=current.version if current else None,
            reason=reason,
            job=job or None,
            actor=actor,
            created=tx.now,
        )
        if validate_only:
            return record
        tx.add(record)
        if not missing:
            aliases.move(tx, candidate, alias, "promotion", reason, record.id)
        tx.remember(project, "CreatePromotion", request_id, payload, record.id)
        body = {"outcome": record.outcome, "version": candidate.ref, "alias": alias, "gate": record.gate_run or ""}
        tx.audit(project, "promotion", f"promotions/{record.id}", body | {"missing": [item.code for item in missing]})
        return record


def raise_if_refused(record: PromotionRecord) -> PromotionRecord:
    """The record of an applied promotion.

    Raises:
        PromotionRefusedError: it was refused; the items say what is missing.
    """
    if record.outcome == REFUSED:
        items = [Unmet(**item) for item in record.missing]
        message = f"{record.model}@{record.alias} was not moved: " + "; ".join(item.message for item in items)
        raise PromotionRefusedError(message, items, record.id)
    return record


def _known(tx: TransactionBase, project: str, job: str, request_id: str, payload: str) -> PromotionRecord | None:
    answer = tx.recall(project, "CreatePromotion", request_id, payload)
    if answer:
        return get_promotion(tx, project, answer)
    if not job:
        return None
    return tx.session.exec(
        select(PromotionRecord).where(PromotionRecord.project == project, PromotionRecord.job == job)
    ).first()


def _check_bytes(store: Store, project: str, candidate: VersionRecord, gate: GateRunRecord | None) -> list[Unmet]:
    """Hashes the candidate's files and computes the verdict again; before the transaction, because it takes time."""
    found = recheck(store, project, gate) if gate else []
    try:
        with store.read() as tx:
            files = checked_manifest(tx, candidate).digests
        for sha256 in files.values():
            store.artifacts.verify(sha256)
    except TamperedError as error:
        found.append(Unmet("TAMPERED", candidate.ref, f"{candidate.ref} was changed: {error}"))
    return found


def _check_records(
    tx: TransactionBase,
    candidate: VersionRecord,
    alias: str,
    policies: Callable[[str], Policy],
    gate: GateRunRecord | None,
    current: AliasRecord | None,
) -> list[Unmet]:
    if gate is None:
        message = f"{candidate.ref} has no gate run for {alias}"
        return [Unmet("NO_GATE_RUN", candidate.ref, message)]
    found = []
    if gate.version != candidate.id or gate.version_digest != candidate.digest:
        found.append(Unmet("WRONG_VERSION", gate.id, f"{gate.id} judged another version than {candidate.ref}"))
    if gate.alias != alias:
        found.append(Unmet("WRONG_ALIAS", gate.id, f"{gate.id} judged for {gate.alias}, not for {alias}"))
    if gate.verdict != "PASS":
        found += _why(gate)
    found += stale_items(tx, gate, policies)
    if current is not None and current.version == candidate.id:
        found.append(Unmet("ALREADY_NAMED", candidate.ref, f"the alias names {candidate.ref} already"))
    found += _check_guard(tx, candidate, gate)
    return found


def _why(gate: GateRunRecord) -> list[Unmet]:
    found = [Unmet(gate.verdict, gate.id, f"the verdict of {gate.id} is {gate.verdict}")]
    if sha256_text(gate.report_json) != gate.report_digest:
        return found  # tampered with, as `recheck` says
    report = parse_report(gate.report_json)
    for reason in report.reasons:
        metric = "/".join(part for part in (reason.suite, reason.metric) if part)
        found.append(Unmet(reason.code, metric or gate.id, reason.message, metric, reason.baseline))
    return found


def _check_guard(tx: TransactionBase, candidate: VersionRecord, gate: GateRunRecord) -> list[Unmet]:
    """An alias is guarded by the policy of its promotions: nobody can choose a laxer one, or change it unseen."""
    guard = _guard(tx, candidate, gate.alias)
    if guard is None:
        return []
    name = f"{candidate.model}@{gate.alias}"
    if guard.policy != gate.policy:
        message = f"{name} is guarded by policy {guard.policy}, not by {gate.policy}"
        return [Unmet("WRONG_POLICY", gate.policy, message)]
    if guard.policy_digest == gate.policy_digest:
        return []
    try:
        before, now = (stored_policy(tx, gate.project, run.policy_digest).version for run in (guard, gate))
    except TamperedError as error:
        return [Unmet("TAMPERED", gate.policy, str(error))]
    if now <= before:
        message = f"policy {gate.policy} is not what last moved {name}, but its version is still {now}"
        return [Unmet("POLICY_CHANGED", gate.policy, f"{message}: raise its version, so that the change is on record")]
    return []


def _guard(tx: TransactionBase, candidate: VersionRecord, alias: str) -> GateRunRecord | None:
    """The gate run of the alias's newest promotion; None: it has had none."""
    newest = (
        select(PromotionRecord)
        .where(
            PromotionRecord.project == candidate.project,
            PromotionRecord.model == candidate.model,
            PromotionRecord.alias == alias,
            PromotionRecord.outcome == APPLIED,
        )
        .order_by(desc(col(PromotionRecord.seq)))
        .limit(1)
    )
    found = tx.session.exec(newest).first()
    return get_gate_run(tx, candidate.project, found.gate_run) if found and found.gate_run else None


def get_promotion(tx: TransactionBase, project: str, promotion_id: str) -> PromotionRecord:
    """Raises NotFoundError."""
    query = select(PromotionRecord).where(PromotionRecord.project == project, PromotionRecord.id == promotion_id)
    return tx.one(query, f"no promotion {shown(promotion_id)}")


def list_promotions(
    tx: TransactionBase, project: str, model: str = "", size: int = 0, token: str = ""
) -> Page[PromotionRecord]:
    """Newest first; of one model, or of all."""
    query = select(PromotionRecord).where(PromotionRecord.project == project)
    if model:
        query = query.where(PromotionRecord.model == model)
    return tx.page(query, col(PromotionRecord.seq), f"promotions {project} {model}", size, token)
