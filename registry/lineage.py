"""Lineage: which version came from which, on which data. Acyclic; an edge is never changed."""

from __future__ import annotations

from sqlmodel import col, select

from posttrain.registry.errors import InvalidArgumentError
from posttrain.registry.tables import EdgeRecord, VersionRecord
from posttrain.registry.transaction import TransactionBase

VERSION_KINDS = ("finetune", "adapter", "merge", "quantized")  # from a version to a version
# From a dataset, from a reward model (no ancestor: none of its weights are in the child), from a suite.
KINDS = (*VERSION_KINDS, "trained_on", "rewarded_by", "evaluated_on")


def add_edge(tx: TransactionBase, project: str, parent: str, child: str, kind: str, digest: str) -> EdgeRecord:
    """Adds an edge; the one that is there, if it is there. `digest` is the parent's.

    Raises:
        InvalidArgumentError: an unknown kind, or an edge that would close a circle.
    """
    if kind not in KINDS:
        raise InvalidArgumentError(f"{kind!r} is not a kind of lineage", "kind", f"one of {', '.join(KINDS)}")
    if kind in VERSION_KINDS and (parent == child or child in ancestors(tx, project, parent)):
        raise InvalidArgumentError(f"{child} would descend from itself", "parent", "name another parent")
    query = select(EdgeRecord).where(
        EdgeRecord.project == project, EdgeRecord.parent == parent, EdgeRecord.child == child, EdgeRecord.kind == kind
    )
    found = tx.session.exec(query).first()
    return found or tx.add(EdgeRecord(project=project, parent=parent, child=child, kind=kind, digest=digest))


def ancestors(tx: TransactionBase, project: str, ref: str) -> set[str]:
    """Refs of all versions that a version came from, itself excluded."""
    return _reach(tx, project, ref, upwards=True)


def descendants(tx: TransactionBase, project: str, ref: str) -> set[str]:
    """Refs of all versions that came from a version, itself excluded."""
    return _reach(tx, project, ref, upwards=False)


def _reach(tx: TransactionBase, project: str, ref: str, upwards: bool) -> set[str]:
    near, far = (EdgeRecord.child, EdgeRecord.parent) if upwards else (EdgeRecord.parent, EdgeRecord.child)
    seen: set[str] = set()
    border = {ref}
    while border:
        query = select(far).where(
            EdgeRecord.project == project, col(near).in_(border), col(EdgeRecord.kind).in_(VERSION_KINDS)
        )
        border = set(tx.session.exec(query).all()) - seen
        seen |= border
    return seen


def get_lineage(tx: TransactionBase, project: str, ref: str = "") -> tuple[list[VersionRecord], list[EdgeRecord]]:
    """Versions, parents before children, and the edges that end at them; of one version's family, or of the project."""
    versions = select(VersionRecord).where(VersionRecord.project == project).order_by(col(VersionRecord.id))
    found = list(tx.session.exec(versions).all())
    if ref:
        family = {ref} | ancestors(tx, project, ref) | descendants(tx, project, ref)
        found = [version for version in found if version.ref in family]
    names = {version.ref for version in found}
    edges = select(EdgeRecord).where(EdgeRecord.project == project).order_by(col(EdgeRecord.id))
    return found, [edge for edge in tx.session.exec(edges).all() if edge.child in names]
