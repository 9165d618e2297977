"""Garbage collection: removes blobs that nothing reaches.

Versions, datasets, suites and evidence are never deleted, and what a job uses or a rollback may go back to is one of
them; so only what a crash left, or an upload that was never recorded, can go. Young blobs stay: somebody may be about
to refer to them.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from sqlmodel import select

from posttrain.registry.artifacts import folder_key
from posttrain.registry.datasets import FILE_NAME
from posttrain.registry.store import Store
from posttrain.registry.tables import DatasetVersionRecord, EvalRunRecord, SuiteRecord, VersionFileRecord
from posttrain.registry.transaction import TransactionBase

GRACE_S = 86400.0


@dataclass(frozen=True)
class Collected:
    """What was, or with `dry_run` would be, removed."""

    blobs: tuple[str, ...]
    folders: tuple[str, ...]
    num_bytes: int
    dry_run: bool


def collect(store: Store, dry_run: bool = True, grace_s: float = GRACE_S) -> Collected:
    """Finds, and unless `dry_run` removes, blobs and folders that nothing reaches and that are older than `grace_s`."""
    with store.transaction("gc") as tx:  # no writer can start to refer to a blob meanwhile
        blobs, folders = reached(tx)
        limit = tx.now - grace_s
        dead = [
            path
            for path in sorted(store.artifacts.blobs.glob("*/*"))
            if path.name not in blobs and path.lstat().st_mtime < limit
        ]
        views = [path for path in sorted(store.artifacts.materialised.iterdir()) if path.name not in folders]
        found = Collected(
            blobs=tuple(path.name for path in dead),
            folders=tuple(path.name for path in views),
            num_bytes=sum(path.lstat().st_size for path in dead),
            dry_run=dry_run,
        )
        if dry_run or not (dead or views):
            return found
        for view in views:
            trash = store.artifacts.temporary_path()
            os.replace(view, trash)
            shutil.rmtree(trash)
        for path in dead:
            path.unlink()
        tx.audit("", "gc", "blobs", {"blobs": list(found.blobs), "bytes": found.num_bytes})
        return found


def reached(tx: TransactionBase) -> tuple[set[str], set[str]]:
    versions: dict[int, dict[str, str]] = {}
    for file in tx.session.exec(select(VersionFileRecord)).all():
        versions.setdefault(file.version, {})[file.path] = file.sha256
    datasets = [{FILE_NAME: sha256} for sha256 in tx.session.exec(select(DatasetVersionRecord.sha256)).all()]
    suites = list(tx.session.exec(select(SuiteRecord.files)).all())
    maps = [*versions.values(), *datasets, *suites]
    rows = tx.session.exec(select(EvalRunRecord.rows_digest)).all()
    return {sha256 for files in maps for sha256 in files.values()} | set(rows), {folder_key(files) for files in maps}
