"""Attempts that are stopped or killed, and go on from a checkpoint to the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from posttrain.engine.checkpoint import find_checkpoints
from posttrain.engine.events import (
    CheckpointSaved,
    Note,
    Resumed,
    read_exit,
)
from posttrain.engine.loop import Trainer
from posttrain.engine.run import run_training
from tests.engine.test_run import LORA, events_of, kill_after, losses_of, succeeded, with_task
from tests.engine.tiny import make_task


@pytest.mark.parametrize("adapter", [{"type": "full"}, LORA])
@pytest.mark.parametrize("killed_at", [3, 5])
def test_resumed_equals_uninterrupted_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: dict[str, Any], killed_at: int
) -> None:
    task = make_task(tmp_path, "ift", adapter=adapter, duration={"type": "steps", "max_steps": 9})
    whole = succeeded(task, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, killed_at)
        assert run_training(task, tmp_path / "a1").code == "INTERNAL"
    checkpoint = tmp_path / "a1" / "checkpoints" / f"step-{killed_at // 2 * 2:08d}"
    resumed = with_task(task, attempt=2, resume_from=str(checkpoint))
    record = succeeded(resumed, tmp_path / "a2")
    for key in ("loss", "steps", "tokens", "trained_tokens", "rows"):
        assert record.summary[key] == whole.summary[key], key
    expected, found = losses_of(tmp_path / "whole"), losses_of(tmp_path / "a2")
    assert min(found) == killed_at // 2 * 2 + 1
    assert all(found[step] == expected[step] for step in found)
    assert events_of(tmp_path / "a2", Resumed)[0].step == killed_at // 2 * 2
    for path in (tmp_path / "whole" / "output").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "a2" / "output" / path.name).read_bytes()


CHILD = """
import sys, torch
from pathlib import Path
from posttrain.engine.run import run_training
from posttrain.engine.task import TrainTask
torch.set_num_threads(1)
run_training(TrainTask.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_digits(tmp_path: Path) -> None:
    task = make_task(tmp_path, "sft", duration={"type": "steps", "max_steps": 40}, checkpoint={"every_steps": 3})
    whole = succeeded(task, tmp_path / "whole")
    path = tmp_path / "task.json"
    path.write_text(task.model_dump_json())
    killed = subprocess.Popen([sys.executable, "-c", CHILD, str(path), str(tmp_path / "a1")])
    checkpoints = tmp_path / "a1" / "checkpoints"
    deadline = time.monotonic() + 240
    while not find_checkpoints(checkpoints):
        assert killed.poll() is None, "the worker ended early"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert read_exit(tmp_path / "a1") is None  # interrupted, not succeeded

    resumed = with_task(task, attempt=2, resume_from=str(find_checkpoints(checkpoints)[0]))
    assert succeeded(resumed, tmp_path / "a2").summary["loss"] == whole.summary["loss"]
    for file in (tmp_path / "whole" / "output").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "a2" / "output" / file.name).read_bytes()


def test_a_stopped_attempt_finishes_its_step_and_says_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(tmp_path, "sft", duration={"type": "steps", "max_steps": 9})
    whole = succeeded(task, tmp_path / "whole")
    plain = Trainer._step

    def stopping(self: Trainer) -> dict[str, float]:
        if self._counters.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stopping)
        record = run_training(task, tmp_path / "a1")
    assert (record.status, record.code) == ("cancelled", "CANCELLED")
    assert max(losses_of(tmp_path / "a1")) == 5
    last = events_of(tmp_path / "a1", CheckpointSaved)[-1]
    assert last.step == 5  # nothing done was lost
    resumed = with_task(task, attempt=2, resume_from=str(tmp_path / "a1" / "checkpoints" / last.path))
    assert succeeded(resumed, tmp_path / "a2").summary["loss"] == whole.summary["loss"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder: cut(folder / "model.safetensors"), id="truncated weights"),
        pytest.param(lambda folder: cut(folder / "manifest.json"), id="truncated manifest"),
        pytest.param(lambda folder: (folder / "rng.safetensors").unlink(), id="missing generators"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    task = make_task(tmp_path, "sft")
    whole = succeeded(task, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, 5)
        run_training(task, tmp_path / "a1")
    folder = tmp_path / "a1" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", "step-00000004"]
    damage(folder / "step-00000004")
    record = succeeded(with_task(task, attempt=2, resume_from=str(folder / "step-00000004")), tmp_path / "a2")
    assert record.summary["loss"] == whole.summary["loss"]
    assert events_of(tmp_path / "a2", Resumed)[0].step == 2
    assert "skipped: checkpoint step-00000004" in events_of(tmp_path / "a2", Note)[-1].message

    cut(folder / "step-00000002" / "optimizer.safetensors")
    failed = run_training(with_task(task, attempt=3, resume_from=str(folder / "step-00000004")), tmp_path / "a3")
    assert (failed.code, failed.status) == ("BAD_CHECKPOINT", "failed")
    assert "step-00000002" in failed.message


def test_a_checkpoint_of_another_spec_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(tmp_path, "sft")
    with monkeypatch.context() as patch:
        kill_after(patch, 3)
        run_training(task, tmp_path / "a1")
    checkpoint = tmp_path / "a1" / "checkpoints" / "step-00000002"
    other = with_task(task, spec={**task.spec.model_dump(), "seed": 5}, resume_from=str(checkpoint))
    record = run_training(other, tmp_path / "a2")
    assert (record.code, "another spec" in record.message) == ("BAD_CHECKPOINT", True)


def test_only_the_newest_checkpoints_are_kept_and_none_is_pickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(tmp_path, "sft", checkpoint={"every_steps": 1, "keep": 2})
    kill_after(monkeypatch, 5)
    run_training(task, tmp_path / "a1")
    folder = tmp_path / "a1" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000004", "step-00000005"]
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".safetensors", ".json"}
