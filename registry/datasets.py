"""Datasets: uploaded as an unsealed version, validated row by row and closed for ever by sealing (`sealing.py`)."""

from __future__ import annotations

from collections.abc import Iterable

from sqlmodel import col, desc, func, select

from posttrain.engine.task import DatasetInput
from posttrain.registry.errors import InvalidArgumentError, NotFoundError
from posttrain.registry.paging import Page
from posttrain.registry.refs import LATEST, check_name, parse_ref
from posttrain.registry.store import Store
from posttrain.registry.tables import DatasetVersionRecord
from posttrain.registry.transaction import TransactionBase

MAX_UPLOAD_BYTES = 2 * 2**30
FILE_NAME = "data.jsonl"


def upload(
    store: Store,
    project: str,
    name: str,
    chunks: Iterable[bytes],
    source: str = "",
    request_id: str = "",
    max_bytes: int = MAX_UPLOAD_BYTES,
    actor: str = "",
) -> DatasetVersionRecord:
    """Stores an upload as the dataset's next version, unsealed. The same request id and bytes: the version made then.

    Raises:
        InvalidArgumentError: not a name.
        TooLargeError: more than `max_bytes`.
        AlreadyExistsError: the request id was used for other bytes.
        DiskFullError: no space left.
    """
    check_name(name, "dataset")
    blob = store.artifacts.add_stream(chunks, max_bytes)
    payload = f"{name} {blob.sha256}"
    with store.transaction(actor) as tx:
        known = tx.recall(project, "UploadDataset", request_id, payload)
        if known:
            return get_version(tx, project, known)
        key = (DatasetVersionRecord.project == project, DatasetVersionRecord.name == name)
        newest = tx.session.exec(select(func.max(DatasetVersionRecord.number)).where(*key)).one()
        record = tx.add(
            DatasetVersionRecord(
                project=project,
                name=name,
                number=(newest or 0) + 1,
                num_bytes=blob.num_bytes,
                sha256=blob.sha256,
                source=source,
                created=tx.now,
            )
        )
        tx.remember(project, "UploadDataset", request_id, payload, record.ref)
        tx.audit(project, "dataset.upload", record.ref, {"sha256": blob.sha256, "source": source})
        return record


def get_version(tx: TransactionBase, project: str, ref: str) -> DatasetVersionRecord:
    """A version by NAME@NUMBER, sealed or not, or the newest sealed one by NAME@latest.

    Raises:
        BadRefError, NotFoundError
    """
    parsed = parse_ref(ref)
    query = select(DatasetVersionRecord).where(
        DatasetVersionRecord.project == project, DatasetVersionRecord.name == parsed.name
    )
    if parsed.selector == LATEST:
        query = query.where(col(DatasetVersionRecord.sealed)).order_by(desc(DatasetVersionRecord.number)).limit(1)
    elif parsed.number:
        query = query.where(DatasetVersionRecord.number == parsed.number)
    else:
        raise NotFoundError(f"a dataset has no aliases: {ref}", "write NAME@NUMBER or NAME@latest")
    return tx.one(query, f"no dataset version {ref}")


def get_sealed(tx: TransactionBase, project: str, ref: str) -> DatasetVersionRecord:
    """As `get_version`.

    Raises:
        InvalidArgumentError: it is not sealed.
    """
    record = get_version(tx, project, ref)
    if not record.sealed:
        raise InvalidArgumentError(f"dataset {record.ref} is not sealed", "dataset", "seal it first")
    return record


def dataset_input(store: Store, project: str, ref: str, weight: float) -> DatasetInput:
    """A sealed dataset for a worker: a read-only file whose bytes were hashed again.

    Raises:
        BadRefError, NotFoundError, InvalidArgumentError: as `get_sealed`.
        TamperedError: the stored bytes were changed.
    """
    with store.read() as tx:
        record = get_sealed(tx, project, ref)
    folder = store.artifacts.materialise({FILE_NAME: record.sha256})
    return DatasetInput.model_validate(
        {
            "ref": record.ref,
            "path": str(folder / FILE_NAME),
            "sha256": record.sha256,
            "format": record.format,
            "weight": weight,
        }
    )


def list_versions(
    tx: TransactionBase, project: str, name: str = "", size: int = 0, token: str = ""
) -> Page[DatasetVersionRecord]:
    """Newest first; of one dataset, or of all."""
    query = select(DatasetVersionRecord).where(DatasetVersionRecord.project == project)
    if name:
        check_name(name, "dataset")
        query = query.where(DatasetVersionRecord.name == name)
    return tx.page(query, col(DatasetVersionRecord.id), f"datasets {project} {name}", size, token)
