"""Which checkpoints a folder keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from posttrain.engine.checkpoint import find_checkpoints, newest_sound, save_checkpoint, step_folder


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
