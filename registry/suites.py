"""Suites in the store: manifest and sources as blobs, so that what an evaluation ran stays what it was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from sqlmodel import col, desc, select

from posttrain.engine.task import SuiteInput
from posttrain.evals.suites.load import (
    Suite,
    builtin_suites,
    load_suite,
    pack_suite,
    read_manifest,
    version_order,
)
from posttrain.registry.artifacts import scan_folder
from posttrain.registry.errors import AlreadyExistsError, InvalidArgumentError
from posttrain.registry.refs import shown
from posttrain.registry.store import Store
from posttrain.registry.tables import SuiteRecord
from posttrain.registry.transaction import TransactionBase


def add_suite(store: Store, project: str, manifest: Path, root: str = "", actor: str = "") -> SuiteRecord:
    """Copies a suite into the store. The same content again: the record that is there.

    `root` is the folder of a mirrored set, for a manifest that names an environment variable for it; empty: what the
    server's own environment says, or the manifest's folder.

    Raises:
        InvalidArgumentError: a root for a manifest that has its sources beside it.
        SuiteError: it cannot be used.
        AlreadyExistsError: this version of it has other content, there is a higher one, or the package ships a suite of
        this name.
        DiskFullError: no space left.
    """
    environment: Mapping[str, str] = os.environ
    if root:
        variable = read_manifest(manifest).root_variable
        if not variable:
            raise InvalidArgumentError(f"the sources of {manifest.name} lie beside it", "root", "leave root empty")
        environment = {variable: root}
    return _register(store, project, load_suite(manifest, environment), "added", actor)


def add_builtin_suites(store: Store, project: str, actor: str = "") -> list[SuiteRecord]:
    """Copies the suites that the package ships; a server does it when it starts."""
    return [_register(store, project, load_suite(name), "builtin", actor) for name in builtin_suites()]


def _register(store: Store, project: str, suite: Suite, source: str, actor: str) -> SuiteRecord:
    folder = store.artifacts.temporary_path()
    try:
        folder.mkdir()
        packed = load_suite(pack_suite(suite, folder), environment={})
        if packed.digest != suite.digest:
            raise AlreadyExistsError(f"suite {suite.name} changed while it was copied", "add it again")
        files = {name: store.artifacts.add_file(path).sha256 for name, path in scan_folder(folder).items()}
        examples = [example for task in packed.tasks for example in task.examples]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with store.transaction(actor) as tx:
        known = select(SuiteRecord).where(SuiteRecord.project == project, SuiteRecord.name == suite.name)
        records = tx.session.exec(known).all()
        for record in records:
            if record.version == suite.version and record.digest == suite.digest:
                return record
        for record in records:
            if record.version == suite.version:
                hint = "content changed: raise the version in the manifest"
                raise AlreadyExistsError(f"suite {suite.name} {suite.version} has other content", hint)
            if record.source == "builtin" and source != "builtin":
                raise AlreadyExistsError(f"the package ships a suite {suite.name}", "give yours another name")
            # An older package on the same data folder brings its own suites back.
            if source != "builtin" and version_order(record.version) >= version_order(suite.version):
                message = f"suite {suite.name} has version {record.version}, which is not below {suite.version}"
                raise AlreadyExistsError(message, "raise the version in the manifest")
        record = tx.add(
            SuiteRecord(
                project=project,
                name=suite.name,
                version=suite.version,
                digest=suite.digest,
                description=suite.manifest.description,
                metrics=sorted({example.metric for example in examples}),
                num_rows=len(examples),
                source=source,
                manifest=suite.path.name,
                files=files,
                created=tx.now,
            )
        )
        tx.audit(project, "suite.add", suite.name, {"version": suite.version, "digest": suite.digest})
        return record


def list_suites(tx: TransactionBase, project: str) -> list[SuiteRecord]:
    """The newest version of each suite, by name."""
    query = select(SuiteRecord).where(SuiteRecord.project == project).order_by(col(SuiteRecord.id))
    newest = {record.name: record for record in tx.session.exec(query).all()}
    return [newest[name] for name in sorted(newest)]


def get_suite(tx: TransactionBase, project: str, name: str) -> SuiteRecord:
    """The newest version of a suite.

    Raises:
        NotFoundError
    """
    query = select(SuiteRecord).where(SuiteRecord.project == project, SuiteRecord.name == name)
    return tx.one(query.order_by(desc(SuiteRecord.id)).limit(1), f"no suite {shown(name)}")


def suite_input(store: Store, project: str, name: str) -> SuiteInput:
    """A suite laid out for a worker.

    Raises:
        NotFoundError: no such suite.
        TamperedError: its stored bytes or its record were changed.
    """
    with store.read() as tx:
        record = get_suite(tx, project, name)
    folder = store.artifacts.materialise(record.files)
    return SuiteInput(name=record.name, manifest=str(folder / record.manifest), digest=record.digest)
