"""One unit of work: a session, the hash-chained audit, and the memory of answered requests."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlmodel import Session, desc, select
from sqlmodel.sql.expression import SelectOfScalar

from posttrain.engine.spec import canonical_json, sha256_text
from posttrain.registry.artifacts import Artifacts
from posttrain.registry.errors import AlreadyExistsError, NotFoundError
from posttrain.registry.paging import Page, decode_token, encode_token, page_size
from posttrain.registry.tables import AuditRecord, RequestRecord, Table

T = TypeVar("T", bound=Table)


class TransactionBase:
    """What every operation may use. `now` is one time for all rows of the transaction; `actor` is who asked."""

    def __init__(self, session: Session, artifacts: Artifacts, now: float, actor: str) -> None:
        self.session = session
        self.artifacts = artifacts
        self.now = now
        self.actor = actor

    def add(self, record: T) -> T:
        """Inserts a record at once, so that its number is known and a violated rule shows here."""
        self.session.add(record)
        self.session.flush()
        return record

    def one(self, statement: SelectOfScalar[T], missing: str) -> T:
        """The only record of a query.

        Raises:
            NotFoundError: there is none; `missing` says what.
        """
        found = self.session.exec(statement).first()
        if found is None:
            raise NotFoundError(missing)
        return found

    def page(
        self, statement: SelectOfScalar[T], key: Any, query: str, size: int, token: str, newest_first: bool = True
    ) -> Page[T]:
        """One page of a query in the order of `key`, an integer column of the record."""
        size = page_size(size)
        if newest_first:
            statement = statement.where(key < decode_token(query, token, 2**63 - 1)).order_by(desc(key))
        else:
            statement = statement.where(key > decode_token(query, token, 0)).order_by(key)
        items = list(self.session.exec(statement.limit(size + 1)).all())
        more = len(items) > size
        items = items[:size]
        return Page(items, encode_token(query, getattr(items[-1], key.key)) if more else "")

    # -- audit --------------------------------------------------------------------------------------------------------

    def audit(self, project: str, action: str, target: str, body: dict[str, Any] | None = None) -> AuditRecord:
        """Appends to the audit; each row holds the digest of the row before."""
        last = self.session.exec(select(AuditRecord).order_by(desc(AuditRecord.id)).limit(1)).first()
        record = AuditRecord(
            id=last.id + 1 if last else 1,
            project=project,
            time=self.now,
            actor=self.actor,
            action=action,
            target=target,
            body=body or {},
            previous=last.sha256 if last else "",
            sha256="",
        )
        record.sha256 = audit_digest(record)
        return self.add(record)

    # -- idempotent requests ------------------------------------------------------------------------------------------

    def recall(self, project: str, method: str, request_id: str, payload: str) -> str:
        """The answer that this request got before; empty: it is new (or has no id).

        Raises:
            AlreadyExistsError: the same id came with another payload.
        """
        if not request_id:
            return ""
        found = self.session.get(RequestRecord, (project, method, request_id))
        if found is None:
            return ""
        if found.payload_sha256 != sha256_text(payload):
            raise AlreadyExistsError(f"request id {request_id!r} was used for another {method}")
        return found.response

    def remember(self, project: str, method: str, request_id: str, payload: str, response: str) -> None:
        """Keeps an answer for `recall`; nothing without a request id."""
        if request_id:
            self.add(
                RequestRecord(
                    project=project,
                    method=method,
                    request_id=request_id,
                    payload_sha256=sha256_text(payload),
                    response=response,
                    created=self.now,
                )
            )


def audit_digest(record: AuditRecord) -> str:
    """What `sha256` of an audit row must be."""
    return sha256_text(canonical_json(record.model_dump(exclude={"sha256"})))
