"""Models from outside: a folder, the base that the package ships, a GGUF file, or an id on the hub.

An import copies only safetensors, configurations and tokenizer files. Without a chat template its role is `base`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlmodel import col, select

from posttrain.engine.errors import ModelError, ModelNotFoundError
from posttrain.engine.spec import canonical_json
from posttrain.registry.errors import HubError, InvalidArgumentError, NotFoundError, UnsafePathError
from posttrain.registry.modelfiles import inspect_folder, weights_digest
from posttrain.registry.refs import check_name, shown
from posttrain.registry.store import Store
from posttrain.registry.tables import VersionFileRecord, VersionRecord
from posttrain.registry.transaction import TransactionBase
from posttrain.registry.versions import FileEntry, Manifest, get_version, insert_version, store_files

BUILTIN = "builtin:"
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
HUB_PATTERNS = [
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "tokenizer.model",
    "*.txt",
    "*.jinja",
    "LICENSE*",
]
TEMPLATES_FOLDER = "additional_chat_templates"
CONVERT_TIMEOUT_S = 3600


def import_model(
    store: Store,
    project: str,
    model: str,
    source: str,
    request_id: str = "",
    validate_only: bool = False,
    actor: str = "",
) -> VersionRecord:
    """Registers a model from outside. The same files under the same name again: the version that is there.

    `validate_only` looks and checks, and returns a record that is not stored (number 0).

    Raises:
        InvalidArgumentError: not a name, or a source that means nothing.
        ModelNotFoundError: no such folder, file or hub id.
        UnsafeWeightsError, ModelError, UnsafePathError: it cannot be used.
        HubError: the hub cannot be reached.
        AlreadyExistsError: the request id was used for another import.
        DiskFullError: no space left.
    """
    check_name(model, "model")
    payload = canonical_json({"model": model, "source": source})
    with store.read() as tx:
        known = tx.recall(project, "ImportModel", request_id, payload)
        if known:
            return get_version(tx, project, known)
    with _fetched(store, source) as (folder, origin):
        paths = scan_import(folder)
        if validate_only:
            found = inspect_folder(paths)
            role = found.role()
            return VersionRecord(
                project=project, model=model, number=0, role=role, form="full", digest="", weights_digest="",
                architecture=found.architecture, num_parameters=found.num_parameters, manifest_json="", created=0.0,
            )  # fmt: skip
        found, entries = store_files(store, paths)
    if found.is_adapter:
        raise ModelError("this is an adapter without its base", "merge it into its base first, or import the base")
    manifest = Manifest(
        project=project,
        model=model,
        role=found.role(),
        form="full",
        files=entries,
        weights_digest=weights_digest({entry.path: entry.sha256 for entry in entries}, found),
        template_digest=found.template_digest,
        architecture=found.architecture,
        num_parameters=found.num_parameters,
        source=origin,
    )
    with store.transaction(actor) as tx:
        known = tx.recall(project, "ImportModel", request_id, payload)
        record = get_version(tx, project, known) if known else _same_files(tx, project, model, entries)
        record = record or insert_version(tx, manifest, None)
        if not known:
            tx.remember(project, "ImportModel", request_id, payload, record.ref)
        return record


def _same_files(tx: TransactionBase, project: str, model: str, entries: list[FileEntry]) -> VersionRecord | None:
    imports = select(VersionRecord).where(
        VersionRecord.project == project, VersionRecord.model == model, col(VersionRecord.job).is_(None)
    )
    wanted = {(entry.path, entry.sha256) for entry in entries}
    for version in tx.session.exec(imports).all():
        files = tx.session.exec(select(VersionFileRecord).where(VersionFileRecord.version == version.id)).all()
        if {(file.path, file.sha256) for file in files} == wanted:
            return version
    return None


def scan_import(folder: Path) -> dict[str, Path]:
    """The top-level files (and additional chat templates) of a folder of unknown origin, links resolved inside it.

    Raises:
        ModelNotFoundError: no such folder.
        UnsafePathError: a link that leaves the folder.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"{folder}: no such folder")
    root = folder.resolve()
    found: dict[str, Path] = {}
    for place in (root, root / TEMPLATES_FOLDER):
        for path in sorted(place.iterdir()) if place.is_dir() and place.resolve().is_relative_to(root) else ():
            target = path.resolve()
            if path.is_symlink() and not target.is_relative_to(root):
                hint = "copy the model with its links followed: cp -rL"
                raise UnsafePathError(f"{shown(path.name)} is a link out of the folder", hint)
            if target.is_file():
                found[path.relative_to(root).as_posix()] = target
    return found


# -- where it comes from ----------------------------------------------------------------------------------------------


@contextmanager
def _fetched(store: Store, source: str) -> Iterator[tuple[Path, str]]:
    """The source as a folder, and how the record names it. What was made for it is removed afterwards."""
    if "\0" in source or not source.strip():
        raise InvalidArgumentError("the source is empty or has a NUL", "source", "a folder, a .gguf file or a hub id")
    path = Path(source)
    temporary = store.artifacts.temporary_path()
    try:
        if source.startswith(BUILTIN):
            yield _builtin(source.removeprefix(BUILTIN)), source
        elif path.is_dir():
            yield path, f"folder:{path.resolve()}"
        elif path.suffix.lower() == ".gguf":
            _convert(path, temporary)
            yield temporary, f"gguf:{path.resolve()}"
        elif HUB_ID.fullmatch(source) and not path.exists():
            revision = _download(source, temporary)
            yield temporary, f"hub:{source}@{revision}"
        else:
            hint = "a folder, a .gguf file, builtin:tiny-base or ORGANISATION/NAME of the hub"
            raise ModelNotFoundError(f"{shown(source)}: no such folder", hint)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _builtin(name: str) -> Path:
    from posttrain.engine.base import BASE_DIR

    if name != "tiny-base":
        raise NotFoundError(f"the package has no model {shown(name)}", "the one it has is builtin:tiny-base")
    return Path(BASE_DIR)


def _convert(source: Path, target: Path) -> None:
    """Runs the engine's GGUF reader in a process of its own, which may import torch."""
    if not source.is_file():
        raise ModelNotFoundError(f"{source}: no such file")
    command = [sys.executable, "-m", "posttrain.engine.gguf", str(source.resolve()), str(target)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=CONVERT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{source.name}: not converted within {CONVERT_TIMEOUT_S} s") from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit status {done.returncode}"]
        if lines[-1].startswith("GGUF_EXTRA_MISSING"):
            hint = "install the extra on the server's machine: pip install 'posttrain[gguf]'"
        else:
            hint = "get the file again, or import the model's Hugging Face folder"
        raise ModelError(f"{source.name} cannot be converted: {lines[-1][:500]}", hint)


def _download(hub_id: str, target: Path) -> str:
    """Fetches the files that count; returns the revision."""
    import httpx2
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise HubError(f"{hub_id}: the hub is switched off here (HF_HUB_OFFLINE)")
    try:
        revision = HfApi().model_info(hub_id, timeout=30).sha or "main"
        snapshot_download(hub_id, revision=revision, local_dir=target, allow_patterns=HUB_PATTERNS)
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(f"{hub_id}: the hub has no such model, or it is private") from error
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx2.HTTPError, ConnectionError, TimeoutError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HubError(f"{hub_id} cannot be fetched: {reason[:300]}") from error
    return revision
