"""Aliases: where they point, where they pointed, and the way back."""

from __future__ import annotations

from sqlmodel import col, desc, select

from posttrain.engine.spec import sha256_text
from posttrain.registry.errors import ConflictError, InvalidArgumentError, NotFoundError, Unmet, UnmetError
from posttrain.registry.refs import shown
from posttrain.registry.store import Store
from posttrain.registry.tables import AliasMoveRecord, AliasRecord, VersionRecord
from posttrain.registry.transaction import TransactionBase
from posttrain.registry.versions import checked_manifest, version_by_id

NO_ALIAS_ETAG = "none"


def get_alias(tx: TransactionBase, project: str, model: str, alias: str) -> AliasRecord:
    """Raises NotFoundError."""
    found = tx.session.get(AliasRecord, (project, model, alias))
    if found is None:
        raise NotFoundError(f"model {shown(model)} has no alias {shown(alias)}")
    return found


def list_aliases(tx: TransactionBase, project: str, model: str = "") -> list[AliasRecord]:
    query = select(AliasRecord).where(AliasRecord.project == project)
    if model:
        query = query.where(AliasRecord.model == model)
    return list(tx.session.exec(query.order_by(col(AliasRecord.model), col(AliasRecord.alias))).all())


def alias_history(tx: TransactionBase, project: str, model: str, alias: str) -> list[AliasMoveRecord]:
    """Every move, newest first."""
    query = select(AliasMoveRecord).where(
        AliasMoveRecord.project == project, AliasMoveRecord.model == model, AliasMoveRecord.alias == alias
    )
    return list(tx.session.exec(query.order_by(desc(AliasMoveRecord.id))).all())


def check_etag(current: AliasRecord | None, expected: str) -> None:
    """Raises ConflictError unless the alias is as expected. Empty: whatever it is; "none": it must not exist."""
    if expected and expected != (current.etag if current else NO_ALIAS_ETAG):
        raise ConflictError(f"the alias has moved: its etag is {current.etag if current else NO_ALIAS_ETAG}")


def move(
    tx: TransactionBase, target: VersionRecord, alias: str, kind: str, reason: str, promotion: str = ""
) -> AliasRecord:
    """Moves an alias, with history and audit. Only `promote` and `rollback` call it; the database refuses others."""
    current = tx.session.get(AliasRecord, (target.project, target.model, alias))
    assert target.id is not None
    record = tx.add(
        AliasMoveRecord(
            project=target.project,
            model=target.model,
            alias=alias,
            from_version=current.version if current else None,
            to_version=target.id,
            kind=kind,
            promotion=promotion or None,
            reason=reason,
            actor=tx.actor,
            time=tx.now,
        )
    )
    assert record.id is not None
    if current is None:
        current = AliasRecord(
            project=target.project,
            model=target.model,
            alias=alias,
            version=target.id,
            move=record.id,
            etag="",
            updated=tx.now,
        )
    current.version, current.move, current.promotion, current.updated = target.id, record.id, promotion, tx.now
    current.etag = alias_etag(current, target)
    tx.add(current)
    body = {"to": target.ref, "digest": target.digest, "kind": kind, "promotion": promotion, "reason": reason}
    tx.audit(target.project, "alias.move", f"{target.model}@{alias}", body)
    return current


def alias_etag(record: AliasRecord, version: VersionRecord) -> str:
    """Changes with every move, also when an alias comes back to where it was."""
    return sha256_text(f"{record.project}/{record.model}/{record.alias}/{record.move}/{version.digest}")[:16]


def rollback(
    store: Store, project: str, model: str, alias: str, reason: str, etag: str = "", actor: str = ""
) -> AliasRecord:
    """Moves an alias back to what it named before the newest promotion that was not rolled back yet.

    Raises:
        NotFoundError: no such alias.
        InvalidArgumentError: no reason is given.
        ConflictError: the alias is not at `etag`.
        UnmetError: it named nothing before.
        TamperedError: the version to go back to was changed.
    """
    if not reason.strip():
        raise InvalidArgumentError("a rollback needs a reason", "reason", "say why, for whoever reads the history")
    with store.read() as tx:
        get_alias(tx, project, model, alias)
        target = _before(tx, project, model, alias)
        files = checked_manifest(tx, target).digests
    for sha256 in files.values():
        store.artifacts.verify(sha256)
    with store.transaction(actor) as tx:
        check_etag(get_alias(tx, project, model, alias), etag)
        if _before(tx, project, model, alias).id != target.id:
            raise ConflictError(f"{model}@{alias} moved meanwhile")
        return move(tx, target, alias, "rollback", reason)


def _before(tx: TransactionBase, project: str, model: str, alias: str) -> VersionRecord:
    standing: list[int] = []
    for record in reversed(alias_history(tx, project, model, alias)):
        if record.kind == "promotion":
            standing.append(record.to_version)
        else:
            standing.pop()
    if len(standing) < 2:
        message = f"{model}@{alias} named nothing before"
        items = [Unmet("NOTHING_BEFORE", f"{model}@{alias}", message)]
        raise UnmetError(message, items, "promote another version instead")
    return version_by_id(tx, standing[-2])
