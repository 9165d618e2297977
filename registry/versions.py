"""Versions: what a manifest says, how one is registered, found, checked and laid out for a worker."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from sqlmodel import col, desc, func, select

from posttrain.engine.spec import Option, canonical_json, parse_spec, sha256_text
from posttrain.engine.targets import layers_of
from posttrain.engine.task import ModelInput, TrainTask
from posttrain.registry import datasets, lineage
from posttrain.registry.artifacts import scan_folder
from posttrain.registry.errors import InvalidArgumentError, NotFoundError, TamperedError
from posttrain.registry.modelfiles import (
    CONFIG_FILE,
    ModelFolder,
    Role,
    inspect_folder,
    read_json,
    tensor_shapes,
    weights_digest,
)
from posttrain.registry.paging import Page
from posttrain.registry.refs import LATEST, check_name, parse_ref
from posttrain.registry.store import Store
from posttrain.registry.tables import AliasRecord, ModelRecord, VersionFileRecord, VersionRecord
from posttrain.registry.transaction import TransactionBase

PACKAGES = (
    "posttrain", "torch", "transformers", "tokenizers", "safetensors", "accelerate", "peft", "bitsandbytes", "numpy",
)  # fmt: skip

Form = Literal["full", "adapter", "merged", "quantized"]


class FileEntry(Option):
    path: str
    sha256: str
    num_bytes: int


class DatasetEntry(Option):
    ref: str
    sha256: str
    weight: float


class Manifest(Option):
    """All that a version is; the sha256 of its canonical JSON is its identity. Empty: does not apply (an import)."""

    format: Literal[1] = 1
    project: str
    model: str
    role: Role
    form: Form
    files: list[FileEntry]
    weights_digest: str
    template_digest: str
    architecture: str
    num_parameters: int
    source: str = ""
    parent: str = ""
    parent_digest: str = ""
    relation: str = ""
    job: str = ""
    spec_sha256: str = ""
    datasets: list[DatasetEntry] = Field(default_factory=list)
    packages: dict[str, str] = Field(default_factory=dict)

    @property
    def digest(self) -> str:
        return sha256_text(canonical_json(self))

    @property
    def digests(self) -> dict[str, str]:
        return {entry.path: entry.sha256 for entry in self.files}


# -- registering ------------------------------------------------------------------------------------------------------


def register_trained(store: Store, project: str, task: TrainTask, folder: Path, actor: str = "") -> VersionRecord:
    """The version that a training job made, from its output folder. Once per job: a second call returns the first's.

    The task, not the spec, says what was used: an alias may have moved since.

    Raises:
        InvalidArgumentError: the task is not of this job, or its parent or a dataset is not what is registered.
        UnsafeWeightsError, ModelError, UnsafePathError: the folder cannot be used.
        DiskFullError, TamperedError: see Artifacts.
    """
    with store.read() as tx:
        known = version_of_job(tx, task.job)
        if known is not None:
            return known
        job = tx.get_job(project, task.job)
        # Compared as they read now: a newer version has added defaults to a spec that was accepted before.
        if parse_spec(json.loads(job.spec_json)) != task.spec:
            raise InvalidArgumentError(f"the task has another spec than job {job.id}", "task")
        parent = get_version(tx, project, task.base.ref)
        checked_manifest(tx, parent)
        if parent.digest != task.base.digest:
            raise InvalidArgumentError(f"{task.base.ref} is not the version that the job started from", "base")
        judges = [get_version(tx, project, item.ref) for item in task.reward_models]
        for given, judge in zip(task.reward_models, judges, strict=True):
            checked_manifest(tx, judge)
            if judge.digest != given.digest:
                raise InvalidArgumentError(f"{given.ref} is not the reward model that the job used", "rewards")
        used = [datasets.get_version(tx, project, item.ref) for item in task.datasets]
        for item, record in zip(task.datasets, used, strict=True):
            if not record.sealed or record.sha256 != item.sha256:
                raise InvalidArgumentError(f"{item.ref} is not the dataset that the job used", "datasets")
    found, entries = store_files(store, scan_folder(folder))
    digests = {entry.path: entry.sha256 for entry in entries}
    manifest = Manifest(
        project=project,
        model=task.spec.output,
        role=found.role(parent.role),  # type: ignore[arg-type]  # pydantic checks
        form="adapter" if found.is_adapter else "full",
        files=entries,
        weights_digest=weights_digest(digests, found, parent.weights_digest if found.is_adapter else ""),
        template_digest=found.template_digest or (parent.template_digest if found.is_adapter else ""),
        architecture=parent.architecture if found.is_adapter else found.architecture,
        num_parameters=found.num_parameters,
        parent=parent.ref,
        parent_digest=parent.digest,
        relation="adapter" if found.is_adapter else "finetune",
        job=job.id,
        spec_sha256=job.spec_sha256,
        datasets=[
            DatasetEntry(ref=record.ref, sha256=record.sha256, weight=item.weight)
            for item, record in zip(task.datasets, used, strict=True)
        ],
        packages=package_versions(),
    )
    with store.transaction(actor) as tx:
        known = version_of_job(tx, job.id)
        if known is not None:
            return known
        made = insert_version(tx, manifest, parent)
        for judge in judges:
            lineage.add_edge(tx, project, judge.ref, made.ref, "rewarded_by", judge.digest)
        return made


def store_files(store: Store, paths: Mapping[str, Path]) -> tuple[ModelFolder, list[FileEntry]]:
    """Copies those files of a model that count into the store, and says what they are.

    Raises:
        UnsafeWeightsError, ModelError, UnsafePathError: they are no model, or not a safe one.
        DiskFullError, TamperedError: see Artifacts.
    """
    found = inspect_folder(paths)
    entries = []
    for name in found.files:
        blob = store.artifacts.add_file(paths[name])
        entries.append(FileEntry(path=name, sha256=blob.sha256, num_bytes=blob.num_bytes))
    # What was inspected could have been swapped before it was copied: what counts is what is stored.
    stored = inspect_folder({entry.path: store.artifacts.path(entry.sha256) for entry in entries})
    return dataclasses.replace(stored, ignored=found.ignored), entries


def insert_version(tx: TransactionBase, manifest: Manifest, parent: VersionRecord | None) -> VersionRecord:
    """Inserts the next version of a model, with its files, its edges and an audit row.

    Raises:
        InvalidArgumentError: a trained version lacks parent, job, spec or datasets.
    """
    check_name(manifest.model, "model")
    if not manifest.source:
        needed = ("parent", "parent_digest", "relation", "job", "spec_sha256", "datasets")
        absent = [name for name in needed if not getattr(manifest, name)]
        if absent:
            raise InvalidArgumentError(f"a version that was not imported needs its {', '.join(absent)}", absent[0])
    key = (VersionRecord.project == manifest.project, VersionRecord.model == manifest.model)
    newest = tx.session.exec(select(func.coalesce(func.max(VersionRecord.number), 0)).where(*key)).one()
    if newest == 0:
        tx.add(ModelRecord(project=manifest.project, name=manifest.model, created=tx.now))
    record = tx.add(
        VersionRecord(
            **manifest.model_dump(include=set(VersionRecord.model_fields) - {"parent", "job"}),
            number=newest + 1,
            digest=manifest.digest,
            parent=parent.id if parent else None,
            job=manifest.job or None,
            manifest_json=canonical_json(manifest),
            created=tx.now,
        )
    )
    assert record.id is not None
    for entry in manifest.files:
        tx.add(VersionFileRecord(version=record.id, **entry.model_dump()))
    if parent is not None:
        lineage.add_edge(tx, record.project, parent.ref, record.ref, manifest.relation, parent.digest)
    for item in {entry.ref: entry for entry in manifest.datasets}.values():
        lineage.add_edge(tx, record.project, item.ref, record.ref, "trained_on", item.sha256)
    body = {"digest": record.digest, "job": manifest.job, "parent": manifest.parent, "source": manifest.source}
    tx.audit(record.project, "version.register", record.ref, body)
    return record


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that shape a result; nothing is imported."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


# -- finding ----------------------------------------------------------------------------------------------------------


def get_version(tx: TransactionBase, project: str, ref: str) -> VersionRecord:
    """A version by NAME@NUMBER, NAME@latest or NAME@ALIAS.

    Raises:
        BadRefError, NotFoundError
    """
    parsed = parse_ref(ref)
    query = select(VersionRecord).where(VersionRecord.project == project, VersionRecord.model == parsed.name)
    if parsed.selector == LATEST:
        query = query.order_by(desc(VersionRecord.number)).limit(1)
    elif parsed.number:
        query = query.where(VersionRecord.number == parsed.number)
    else:
        alias = tx.session.get(AliasRecord, (project, parsed.name, parsed.selector))
        if alias is None:
            raise NotFoundError(f"model {parsed.name!r} has no alias {parsed.selector!r}")
        query = query.where(VersionRecord.id == alias.version)
    return tx.one(query, f"no model version {ref}")


def version_by_id(tx: TransactionBase, number: int | None) -> VersionRecord:
    """A version by its key in the database."""
    found = tx.session.get(VersionRecord, number)
    if found is None:
        raise NotFoundError(f"no version with key {number}")
    return found


def version_of_job(tx: TransactionBase, job_id: str) -> VersionRecord | None:
    return tx.session.exec(select(VersionRecord).where(VersionRecord.job == job_id)).first()


def list_versions(
    tx: TransactionBase, project: str, model: str = "", size: int = 0, token: str = ""
) -> Page[VersionRecord]:
    """Newest first; of one model, or of all."""
    query = select(VersionRecord).where(VersionRecord.project == project)
    if model:
        check_name(model, "model")
        query = query.where(VersionRecord.model == model)
    return tx.page(query, col(VersionRecord.id), f"versions {project} {model}", size, token)


# -- using ------------------------------------------------------------------------------------------------------------


def checked_manifest(tx: TransactionBase, version: VersionRecord) -> Manifest:
    """The version's manifest, after comparing every copy of its facts with its digest.

    Raises:
        TamperedError: the manifest, a column, the files or the parent's digest were changed.
    """
    if sha256_text(version.manifest_json) != version.digest:
        raise TamperedError(f"the manifest of {version.ref} does not have its digest")
    try:
        manifest = Manifest.model_validate_json(version.manifest_json)
    except ValidationError as error:
        raise TamperedError(f"the manifest of {version.ref} cannot be read") from error
    names = set(VersionRecord.model_fields) & set(Manifest.model_fields) - {"parent", "job"}
    wrong = [name for name in sorted(names) if getattr(version, name) != getattr(manifest, name)]
    if (version.job or "") != manifest.job:
        wrong.append("job")
    parent = version_by_id(tx, version.parent) if version.parent is not None else None
    if (parent.ref if parent else "", parent.digest if parent else "") != (manifest.parent, manifest.parent_digest):
        wrong.append("parent")
    rows = tx.session.exec(select(VersionFileRecord).where(VersionFileRecord.version == version.id)).all()
    if sorted((row.path, row.sha256, row.num_bytes) for row in rows) != sorted(
        (entry.path, entry.sha256, entry.num_bytes) for entry in manifest.files
    ):
        wrong.append("files")
    if wrong:
        raise TamperedError(f"{version.ref}: {', '.join(wrong)} in the database differ from the manifest")
    return manifest


def model_input(store: Store, project: str, ref: str) -> ModelInput:
    """A version laid out on disk for a worker: the full weights at the root of its chain, and adapters, oldest first.

    Raises:
        BadRefError, NotFoundError: no such version.
        TamperedError: a record or a byte on the way was changed.
    """
    version, chain = _chain(store, project, ref)
    folders = [(store.artifacts.materialise(manifest.digests), manifest.digests) for manifest in reversed(chain)]
    paths = [str(folder) for folder, _ in folders]
    return ModelInput(
        ref=version.ref,
        path=paths[0],
        adapters=paths[1:],
        digest=version.digest,
        weights_digest=version.weights_digest,
        files={str(folder / name): sha256 for folder, digests in folders for name, sha256 in digests.items()},
    )


def layers_of_version(store: Store, project: str, ref: str) -> list[str] | None:
    """Names of the layers that a version's weights are for, from config and headers; see `targets.layers_of`.

    Raises:
        BadRefError, NotFoundError, TamperedError: as `model_input`.
        UnsafeWeightsError, ModelError: a stored file cannot be read.
    """
    root = _chain(store, project, ref)[1][-1].digests
    shapes: dict[str, tuple[int, ...]] = {}
    for name, sha256 in root.items():
        if name.endswith(".safetensors"):
            shapes.update(tensor_shapes(store.artifacts.path(sha256)))
    return layers_of(read_json(store.artifacts.path(root[CONFIG_FILE])), shapes)


def _chain(store: Store, project: str, ref: str) -> tuple[VersionRecord, list[Manifest]]:
    """A version, and the manifests from it down to the full weights that its adapters are for."""
    with store.read() as tx:
        version = record = get_version(tx, project, ref)
        found = [checked_manifest(tx, record)]
        while found[-1].form == "adapter":
            record = version_by_id(tx, record.parent)
            found.append(checked_manifest(tx, record))
    return version, found
