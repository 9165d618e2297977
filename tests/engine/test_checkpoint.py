"""Which checkpoints a folder keeps, which of them are read, and what is said of a full disk."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from posttrain.engine.checkpoint import (
    MANIFEST_FILE,
    carry_over,
    disk_errors,
    find_checkpoints,
    newest_sound,
    read_checkpoint,
    save_checkpoint,
    step_folder,
)
from posttrain.engine.errors import CheckpointError, DiskFullError


def save(folder: Path, step: int, keep: int, kept_steps: tuple[int, ...] = ()) -> list[int]:
    """The steps of the folder's checkpoints, newest first, after another one was saved."""
    made = save_checkpoint(folder, step, "digest", {"model": {"w": torch.zeros(1)}}, {"n": step}, keep, kept_steps)
    assert made.is_dir(), "what was just saved is there"
    return [int(path.name.removeprefix("step-")) for path in find_checkpoints(folder)]


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    assert save(tmp_path, 2, keep=2) == [2]
    assert save(tmp_path, 4, keep=2) == [4, 2]
    assert save(tmp_path, 6, keep=2) == [6, 4]
    assert save(tmp_path, 8, keep=1, kept_steps=(4,)) == [8, 4]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_what_a_run_left_that_went_back_takes_nobodys_place(tmp_path: Path, keep: int) -> None:
    """Steps 2 to 8 are there, and 8 is damaged: the run goes on from 6, and is stopped after step 7."""
    for step in (2, 4, 6, 8):
        save(tmp_path, step, keep=9)
    (step_folder(tmp_path, 8) / "model.safetensors").write_bytes(b"damaged")
    resumed, skipped = newest_sound(step_folder(tmp_path, 8), "digest")
    assert (resumed.step, len(skipped)) == (6, 1)
    assert save(tmp_path, 7, keep=keep) == [7, 6, 4][:keep]
    assert newest_sound(find_checkpoints(tmp_path)[0], "digest")[0].state == {"n": 7}


def test_instead_of_a_damaged_one_an_earlier_one_is_taken_and_never_a_later_one(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        save(tmp_path, step, keep=9)
    (step_folder(tmp_path, 4) / "model.safetensors").write_bytes(b"damaged")
    assert newest_sound(step_folder(tmp_path, 4), "digest")[0].step == 2


def test_one_of_another_format_is_no_checkpoint_of_this_program(tmp_path: Path) -> None:
    save(tmp_path, 2, keep=1)
    manifest = step_folder(tmp_path, 2) / MANIFEST_FILE
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 2}))
    with pytest.raises(CheckpointError, match="checkpoint step-00000002 has format 2, not 1"):
        read_checkpoint(step_folder(tmp_path, 2), "digest")


def test_what_is_taken_along_is_sound_and_of_this_job(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    save(old, 2, keep=1)
    with pytest.raises(CheckpointError, match="another spec"):
        carry_over(step_folder(old, 2), new, "another")
    carry_over(step_folder(old, 2), new, "digest")
    assert read_checkpoint(step_folder(new, 2), "digest").state == {"n": 2}
    (step_folder(old, 2) / "state.json").unlink()
    (step_folder(old, 2) / "state.json").write_text("{}")
    assert read_checkpoint(step_folder(new, 2), "digest").state == {"n": 2}, "the new one has files of its own names"
    with pytest.raises(CheckpointError, match="does not match its digest"):
        carry_over(step_folder(old, 2), tmp_path / "third", "digest")
    assert not (tmp_path / "third").exists()


def test_more_than_99_999_999_steps_are_in_order(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        step_folder(tmp_path, step).mkdir()
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step-100000000", "step-99999999"]


def test_every_file_is_on_disk_before_the_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut leaves cannot be tried here; that each file and folder was synchronised can."""
    synced: list[str] = []
    plain = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    save(tmp_path, 2, keep=1)
    names = sorted(path.name for path in step_folder(tmp_path, 2).iterdir())
    assert synced == [*names, ".step-00000002.tmp", tmp_path.name]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_and_a_used_up_quota_are_told_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """safetensors has the number in the text of an exception of its own, as this one was seen to be written."""
    save(tmp_path, 2, keep=1)

    def full(*given: object) -> None:
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(code)} (os error {code})")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(DiskFullError, match="no space left while writing a checkpoint"):
        save(tmp_path, 4, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"], "what was there is untouched"
    with pytest.raises(DiskFullError), disk_errors("writing"):
        raise OSError(code, "full")
    with pytest.raises(SafetensorError), disk_errors("writing"):
        raise SafetensorError("I/O error: Input/output error (os error 5)")
