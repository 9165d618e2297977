"""What tests of on-policy attempts share: what an attempt left, and that a resumed one goes the same way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.engine import feed
from posttrain.engine.checkpoint import find_checkpoints
from posttrain.engine.run import run_training
from posttrain.engine.task import TrainTask
from tests.engine.test_run import failed, kill_after, losses_of, succeeded, with_task

LORA = {"type": "lora", "rank": 4}
CLOCK = ("rollout_s", "rollout_tokens_per_s")


def numbers_of(folder: Path) -> dict[int, dict[str, float]]:
    """Metrics by step, without what depends on the clock."""
    return {
        step: {name: value for name, value in values.items() if name not in CLOCK}
        for step, values in losses_of(folder).items()
    }


def samples_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / feed.SAMPLES_FILE).read_text("ascii").splitlines()]


def output_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "output").glob("*.safetensors"))}


def assert_resumed_is_uninterrupted(
    task: TrainTask, folder: Path, patch: pytest.MonkeyPatch, after: tuple[int, ...], last: int, killed: int = 6
) -> dict[int, dict[str, float]]:
    """From checkpoints after each of these steps of `last`, of an attempt that was killed after step `killed`, in
    numbers and weights to the last bit. Gives the metrics of the uninterrupted attempt, by step."""
    whole = succeeded(task, folder / "whole")
    with patch.context() as killing:
        kill_after(killing, killed)
        assert run_training(task, folder / "a1").code == "INTERNAL"
    expected, weights = numbers_of(folder / "whole"), output_of(folder / "whole")
    assert weights
    for number, step in enumerate(after, start=2):
        attempt = folder / f"a{number}"
        checkpoint = folder / "a1" / "checkpoints" / f"step-{step:08d}"
        record = succeeded(with_task(task, attempt=number, resume_from=str(checkpoint)), attempt)
        for key in ("loss", "steps", "tokens", "trained_tokens", "rows"):
            assert record.summary[key] == whole.summary[key], key
        found = numbers_of(attempt)
        assert sorted(found) == list(range(step + 1, last + 1))
        assert all(found[step] == expected[step] for step in found)
        assert output_of(attempt) == weights
    return expected


def assert_killed_is_uninterrupted(
    task: TrainTask, folder: Path, patch: pytest.MonkeyPatch, place: tuple[Any, str], calls: int = 0
) -> None:
    """Killed in this method of this owner, after so many calls of it since the first checkpoint."""
    succeeded(task, folder / "whole")
    owner, name = place
    original, made = getattr(owner, name), [0]

    def dies(*arguments: Any, **named: Any) -> Any:
        made[0] += bool(find_checkpoints(folder / "a1" / "checkpoints"))
        if made[0] > calls:
            raise KeyError("killed")
        return original(*arguments, **named)

    with patch.context() as killing:
        killing.setattr(owner, name, dies)
        assert failed(task, folder / "a1").code == "INTERNAL"
    (checkpoint,) = find_checkpoints(folder / "a1" / "checkpoints")
    succeeded(with_task(task, attempt=2, resume_from=str(checkpoint)), folder / "a2")
    expected, found = numbers_of(folder / "whole"), numbers_of(folder / "a2")
    assert found
    assert all(found[step] == expected[step] for step in found)
    assert output_of(folder / "a2") == output_of(folder / "whole")
