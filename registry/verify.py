"""Checks a data folder: every digest, the audit's chain, the database's own rules. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy import text
from sqlmodel import col, select

from posttrain.engine.spec import sha256_text
from posttrain.evals.report import parse_report
from posttrain.registry.aliases import alias_etag, alias_history
from posttrain.registry.collect import reached
from posttrain.registry.errors import NotFoundError, TamperedError
from posttrain.registry.gates import stored_policy
from posttrain.registry.store import Store
from posttrain.registry.tables import AliasRecord, AuditRecord, GateRunRecord, JobRecord, PolicyRecord, VersionRecord
from posttrain.registry.transaction import TransactionBase, audit_digest
from posttrain.registry.triggers import TRIGGERS
from posttrain.registry.versions import checked_manifest, version_by_id


def verify_home(store: Store, deep: bool = True) -> list[str]:
    """One sentence for each thing that is wrong; empty: all is well. `deep` also hashes every blob."""
    with store.read() as tx:
        found = [message for check in CHECKS for message in check(tx)]
        blobs, _ = reached(tx)
    for sha256 in sorted(blobs) if deep else ():
        try:
            store.artifacts.verify(sha256)
        except TamperedError as error:
            found.append(str(error))
    return found


def _database(tx: TransactionBase) -> Iterator[str]:
    connection = tx.session.connection()
    for (line,) in connection.execute(text("PRAGMA integrity_check")).all():
        if line != "ok":
            yield f"the database is damaged: {line}"
    for row in connection.execute(text("PRAGMA foreign_key_check")).all():
        yield f"a row of {row[0]} refers to a row of {row[2]} that is gone"
    rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")).all()
    there = {row[0]: row[1] for row in rows}
    for name in sorted(set(TRIGGERS) | set(there)):
        if there.get(name) != TRIGGERS.get(name):
            yield f"the rule {name} was dropped, added or changed"


def _audit(tx: TransactionBase) -> Iterator[str]:
    previous = ""
    for number, record in enumerate(tx.session.exec(select(AuditRecord).order_by(col(AuditRecord.id))).all(), start=1):
        if record.id != number or record.previous != previous or audit_digest(record) != record.sha256:
            yield f"the audit is broken at row {record.id}"
            return
        previous = record.sha256


def _versions(tx: TransactionBase) -> Iterator[str]:
    registered = {
        record.target: record.body.get("digest")
        for record in tx.session.exec(select(AuditRecord).where(AuditRecord.action == "version.register")).all()
    }
    for version in tx.session.exec(select(VersionRecord).order_by(col(VersionRecord.id))).all():
        try:
            checked_manifest(tx, version)
        except (TamperedError, NotFoundError) as error:
            yield str(error)
        if registered.pop(version.ref, None) != version.digest:
            yield f"{version.ref} is not what the audit says was registered"
    for ref in registered:
        yield f"{ref} is in the audit and no longer in the registry"


def _aliases(tx: TransactionBase) -> Iterator[str]:
    for alias in tx.session.exec(select(AliasRecord)).all():
        moves = alias_history(tx, alias.project, alias.model, alias.alias)
        target = version_by_id(tx, alias.version)
        if not moves or (moves[0].id, moves[0].to_version) != (alias.move, alias.version):
            yield f"{alias.model}@{alias.alias} does not name what its newest move says"
        elif alias.etag != alias_etag(alias, target):
            yield f"{alias.model}@{alias.alias} was changed without a move"


def _evidence(tx: TransactionBase) -> Iterator[str]:
    for policy in tx.session.exec(select(PolicyRecord)).all():
        try:
            stored_policy(tx, policy.project, policy.digest)
        except TamperedError as error:
            yield str(error)
    for gate in tx.session.exec(select(GateRunRecord)).all():
        if sha256_text(gate.report_json) != gate.report_digest:
            yield f"the report of {gate.id} was changed"
            continue
        counted = parse_report(gate.report_json).attempt
        if gate.attempt != (counted.number if counted else 0):
            yield f"the attempt of {gate.id} is not the one that its report was judged at"
    for job in tx.session.exec(select(JobRecord)).all():
        if sha256_text(job.spec_json) != job.spec_sha256:
            yield f"the spec of job {job.id} was changed"


CHECKS: tuple[Callable[[TransactionBase], Iterator[str]], ...] = (_database, _audit, _versions, _aliases, _evidence)
