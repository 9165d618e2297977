"""Checkpoints: safetensors for tensors, JSON for the rest, a manifest with digests; written whole or not at all. No
pickle.

    step-00000100/
        manifest.json          step, spec digest, file digests; written last
        model.safetensors      trained parameters by name
        optimizer.safetensors  what the update rule remembers
        value_model, value_optimizer.safetensors   the same of a value model, if there is one
        average.safetensors    averaged parameters, if there is an average
        rng.safetensors        generator states
        state.json             method state, counters, held-out losses

A checkpoint is written into a hidden folder, every file fsynced, then renamed. Finding and verifying needs no torch,
so a supervisor can do it; tensors are read and written by functions that import it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.engine.errors import CheckpointError, DiskFullError
from posttrain.engine.events import fsync_folder

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 1
_NAME = re.compile(r"^step-(\d{8,})$")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its folder, the number of steps done, and what `state.json` holds."""

    folder: Path
    step: int
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one of its files."""
        from safetensors.torch import load_file  # imports torch

        return dict(load_file(self.folder / f"{name}.safetensors"))


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turns "no space left" (and a quota) into DiskFullError; other OS errors pass."""
    try:
        yield
    except DiskFullError:
        raise
    except OSError as error:
        if is_disk_full(error):
            raise DiskFullError(f"no space left while {doing}") from error
        raise
    except Exception as error:
        # safetensors reports the OS's error as text in an exception of its own.
        if any(f"(os error {code})" in str(error) for code in _FULL):
            raise DiskFullError(f"no space left while {doing}") from error
        raise


def is_disk_full(error: OSError) -> bool:
    return error.errno in _FULL


def save_checkpoint(
    parent: Path,
    step: int,
    spec_digest: str,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int,
    kept_steps: Collection[int] = (),
) -> Path:
    """Writes `step-N` under `parent`, then removes all but the newest `keep` and those of `kept_steps`.

    Those of later steps go, too: a run that went back to an earlier one has left them, damaged for instance. They must
    not take the place of what this run has, nor be resumed from.

    Raises:
        DiskFullError: no space left; what was there before is untouched.
    """
    from safetensors.torch import save_file  # imports torch

    target = step_folder(parent, step)
    temporary = parent / f".{target.name}.tmp"
    with disk_errors("writing a checkpoint"), new_folder(temporary):
        for name, group in tensors.items():
            save_file(
                {key: value.detach().contiguous().cpu() for key, value in group.items()},
                temporary / f"{name}.safetensors",
            )
        (temporary / "state.json").write_text(json.dumps(state, sort_keys=True, indent=1, allow_nan=False), "utf-8")
        files = {
            path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size}
            for path in sorted(temporary.iterdir())
        }
        manifest = {"format": FORMAT_VERSION, "step": step, "spec_digest": spec_digest, "files": files}
        (temporary / MANIFEST_FILE).write_text(json.dumps(manifest, sort_keys=True, indent=1), "utf-8")
        commit_folder(temporary, target)
    found = find_checkpoints(parent)
    earlier = [path for path in found if _step_of(path) <= step]
    for old in [*found[: len(found) - len(earlier)], *earlier[keep:]]:
        if _step_of(old) not in kept_steps:
            shutil.rmtree(old)
    return target


def carry_over(folder: Path, parent: Path, spec_digest: str) -> None:
    """Puts an earlier attempt's checkpoint beside those of this one, without copying where the disk allows it.

    Raises:
        CheckpointError: see `read_checkpoint`.
        DiskFullError: no space left.
    """
    read_checkpoint(folder, spec_digest)
    if folder.parent.resolve() == parent.resolve():
        return
    temporary = parent / f".{folder.name}.tmp"
    with disk_errors("taking a checkpoint along"), new_folder(temporary):
        for path in sorted(folder.iterdir()):
            try:
                os.link(path, temporary / path.name)
            except OSError:  # another file system, or one without links
                shutil.copyfile(path, temporary / path.name)
        commit_folder(temporary, parent / folder.name)


def step_folder(parent: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps is."""
    return parent / f"step-{step:08d}"


def find_checkpoints(parent: Path) -> list[Path]:
    """Checkpoint folders under `parent`, newest first; not verified."""
    if not parent.is_dir():
        return []
    found = [path for path in parent.iterdir() if _NAME.match(path.name) and path.is_dir()]
    return sorted(found, key=_step_of, reverse=True)


def read_checkpoint(folder: Path, spec_digest: str) -> Checkpoint:
    """Verifies every file's digest and reads the state.

    Raises:
        CheckpointError: missing, damaged, of another job, or of another format.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text("utf-8"))
        files, step = manifest["files"], int(manifest["step"])
        if manifest["format"] != FORMAT_VERSION:
            raise CheckpointError(f"checkpoint {folder.name} has format {manifest['format']}, not {FORMAT_VERSION}")
        if manifest["spec_digest"] != spec_digest:
            raise CheckpointError(
                f"checkpoint {folder.name} belongs to a job with another spec",
                hint="resume a job from its own checkpoints only",
            )
        for name, entry in files.items():
            if sha256_file(folder / name) != entry["sha256"]:
                raise CheckpointError(f"checkpoint {folder.name}: {name} does not match its digest")
        state = json.loads((folder / "state.json").read_text("utf-8"))
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {folder.name} cannot be read: {type(error).__name__}: {error}") from None
    return Checkpoint(folder, step, state)


def newest_sound(folder: Path, spec_digest: str) -> tuple[Checkpoint, list[str]]:
    """The checkpoint in `folder`, or if it is damaged the newest sound one beside it; and what was wrong with those
    skipped.

    Raises:
        CheckpointError: none can be used; a run is never silently started over.
    """
    older = [
        path
        for path in find_checkpoints(folder.parent)
        if _NAME.match(folder.name) and _step_of(path) < _step_of(folder)
    ]
    skipped: list[str] = []
    for candidate in [folder, *older]:
        try:
            return read_checkpoint(candidate, spec_digest), skipped
        except CheckpointError as error:
            skipped.append(str(error))
    raise CheckpointError("; ".join(skipped), hint="no sound checkpoint is left: submit the job again to start over")


@contextmanager
def new_folder(temporary: Path) -> Iterator[None]:
    """An empty folder for the block, removed again if it is still there afterwards (that is, if the block failed)."""
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def commit_folder(temporary: Path, target: Path) -> None:
    """Makes the folder's files durable and gives it its name."""
    for path in sorted(temporary.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    fsync_folder(temporary)
    if target.exists():
        shutil.rmtree(target)
    os.replace(temporary, target)
    fsync_folder(target.parent)


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
