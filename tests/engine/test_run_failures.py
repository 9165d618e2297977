"""Every way in which an attempt can fail: what the record says, and when it is told."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from posttrain.engine import run as run_module
from posttrain.engine.errors import NonFiniteError
from posttrain.engine.events import (
    Note,
)
from posttrain.engine.methods import SftMethod
from posttrain.engine.optim import Optimizer
from posttrain.engine.run import run_training
from tests.engine.test_run import events_of, failed, losses_of, succeeded, with_task
from tests.engine.tiny import make_task, rows_of, save_base, save_dataset


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_loss_names_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    plain = SftMethod.loss

    def broken(self: SftMethod, batch: Any, models: Any, window: Any) -> Any:
        loss, metrics = plain(self, batch, models, window)
        return (loss * value if any(row.number == 7 for row in batch.rows) else loss), metrics

    monkeypatch.setattr(SftMethod, "loss", broken)
    record = failed(make_task(tmp_path, "sft"), tmp_path / "a1")
    assert record.code == NonFiniteError.code
    assert "data@1 row 7" in record.message
    assert "at step" in record.message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_gradient_is_an_error_before_the_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    plain, plain_step, num_updates = SftMethod.loss, Optimizer.step, 0

    def broken(self: SftMethod, batch: Any, models: Any, window: Any) -> Any:
        """The loss is what it was; on the third step its gradient is not."""
        loss, metrics = plain(self, batch, models, window)
        if num_updates == 2:
            loss.register_hook(lambda gradient: gradient * value)
        return loss, metrics

    def counting(self: Optimizer, rate: float) -> None:
        nonlocal num_updates
        num_updates += 1
        plain_step(self, rate)

    monkeypatch.setattr(SftMethod, "loss", broken)
    monkeypatch.setattr(Optimizer, "step", counting)
    record = failed(make_task(tmp_path, "sft"), tmp_path / "a1")
    assert record.code == NonFiniteError.code
    assert record.message.startswith("the gradient's norm is ")
    assert "at step 3; rows of the batch: data@1 row " in record.message
    assert max(losses_of(tmp_path / "a1")) == 2
    assert num_updates == 2


def test_a_message_says_how_many_rows_were_tried_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SftMethod.loss

    def broken(self: SftMethod, batch: Any, models: Any, window: Any) -> Any:
        loss, metrics = plain(self, batch, models, window)
        return loss * float("nan"), metrics

    monkeypatch.setattr(SftMethod, "loss", broken)
    monkeypatch.setattr("posttrain.engine.non_finite.MAX_TRIED", 3)
    batch = {"num_rows": 4, "micro_tokens": 8192, "max_tokens": 128}
    record = failed(make_task(tmp_path, "sft", batch=batch), tmp_path / "a1")
    assert record.message.endswith("(of 4 rows the first 3 were tried alone)")


def guilty_of(message: str) -> str:
    return message.partition("; not finite alone: ")[2]


@pytest.mark.parametrize("place", ["loss", "gradient"])
def test_of_a_batch_the_row_is_named_whose_own_loss_or_gradient_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    plain = SftMethod.loss

    def broken(self: SftMethod, batch: Any, models: Any, window: Any) -> Any:
        share, metrics = plain(self, batch, models, window)
        if not {row.number for row in batch.rows} & {7, 9}:
            return share, metrics
        if place == "gradient":
            share.register_hook(lambda gradient: gradient * float("inf"))
            return share, metrics
        return share * float("nan"), metrics

    monkeypatch.setattr(SftMethod, "loss", broken)
    batch = {"num_rows": 24, "micro_tokens": 4096, "max_tokens": 128}
    record = failed(make_task(tmp_path, "sft", batch=batch), tmp_path / "a1")
    assert record.code == NonFiniteError.code
    assert "and 16 more" in record.message
    assert sorted(guilty_of(record.message).split(", ")) == ["data@1 row 7", "data@1 row 9"]


@pytest.mark.parametrize("alone", ["fine", "impossible"])
def test_if_no_row_alone_is_guilty_the_batch_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: str
) -> None:
    plain = SftMethod.loss

    def broken(self: SftMethod, batch: Any, models: Any, window: Any) -> Any:
        if len(batch.rows) == 1 and alone == "impossible":
            raise ValueError("pairs are needed")
        share, metrics = plain(self, batch, models, window)
        return share * (1.0 if len(batch.rows) == 1 else float("nan")), metrics

    monkeypatch.setattr(SftMethod, "loss", broken)
    record = failed(make_task(tmp_path, "sft", batch={"num_rows": 4, "micro_tokens": 4096}), tmp_path / "a1")
    assert record.code == NonFiniteError.code
    assert record.message.count("data@1 row ") == 4
    assert guilty_of(record.message) == ""
    assert ("a row alone cannot be tried: pairs are needed" in record.message) == (alone == "impossible")


def test_overlong_rows(tmp_path: Path) -> None:
    long = {"messages": [{"role": "user", "content": "dog " * 60}, {"role": "assistant", "content": "fox " * 60}]}
    task = make_task(tmp_path, "sft", rows=[*rows_of(5), long], batch={"num_rows": 2, "max_tokens": 200})
    record = failed(task, tmp_path / "a1")
    assert record.code == "ROW_TOO_LONG"
    assert "data@1: 1 rows are longer than 200 tokens" in record.message
    assert "row 6 (" in record.message
    batch = {"num_rows": 2, "max_tokens": 200, "overlong": "truncate"}
    cut_task = with_task(task, spec={**task.spec.model_dump(), "batch": batch})
    succeeded(cut_task, tmp_path / "a2")
    assert "1 rows were cut to 200 tokens" in events_of(tmp_path / "a2", Note)[0].message
    # Above the model's context the context counts.
    wide = with_task(task, spec={**task.spec.model_dump(), "batch": {"num_rows": 2, "max_tokens": 5000}})
    record = failed(wide, tmp_path / "a3")
    assert "longer than 256 tokens" in record.message
    hopeless = with_task(task, spec={**task.spec.model_dump(), "batch": {**batch, "max_tokens": 20}})
    record = failed(hopeless, tmp_path / "a4")
    assert record.code == "ALL_LABELS_MASKED"
    assert "no trained token is left" in record.message


@pytest.mark.parametrize(
    ("rows", "code", "words"),
    [
        ([b""], "EMPTY_DATASET", "no rows"),
        (
            [{"messages": [{"role": "user", "content": "q"}]}],
            "BAD_DATA",
            "row 1, field messages: has no assistant turn",
        ),
        ([rows_of(1)[0], b"\xff\n"], "BAD_DATA", "row 2: not UTF-8"),
    ],
)
def test_bad_data_is_told_before_weights_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[Any], code: str, words: str
) -> None:
    monkeypatch.delattr(run_module, "load_model")
    record = failed(make_task(tmp_path, "sft", rows=rows), tmp_path / "a1")
    assert record.code == code
    assert words in record.message


def test_a_changed_or_missing_dataset_is_refused(tmp_path: Path) -> None:
    task = make_task(tmp_path, "sft")
    path = Path(task.datasets[0].path)
    path.write_bytes(path.read_bytes() + b"\n")
    assert "does not match the digest" in failed(task, tmp_path / "a1").message
    path.unlink()
    assert "there is no file data.jsonl" in failed(task, tmp_path / "a2").message


def test_sft_needs_a_template(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    record = failed(make_task(tmp_path, "sft", base=base), tmp_path / "a1")
    assert record.code == "BAD_TEMPLATE"
    assert "kind: ift" in record.hint


def test_a_full_disk_at_a_checkpoint_at_saving_and_at_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system says so at the first file of a name; a real one is filled in the test below."""
    import posttrain.engine.attempt as attempt_module
    import posttrain.engine.checkpoint as checkpoint_module

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    task = make_task(tmp_path, "sft")
    for name, place, attribute in (
        ("checkpoint", checkpoint_module, "commit_folder"),
        ("saving", run_module, "commit_folder"),
        ("event", attempt_module.EventWriter, "write"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, attribute, full)
            record = failed(task, tmp_path / name)
        assert (record.code, record.retryable) == ("DISK_FULL", True)
        assert name in record.message
        left = [path.name for path in (tmp_path / name).rglob("*.tmp")]
        assert not left, "a temporary folder stayed and keeps the disk full"


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a writable tmpfs")
def test_a_really_full_disk(tmp_path: Path) -> None:
    """A tmpfs of its own where mounting is allowed; else skipped with the reason."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(mount)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
    try:
        task = make_task(tmp_path, "sft", checkpoint={"every_steps": 1, "keep": 9})
        record = failed(task, mount / "a1")
        assert record.code == "DISK_FULL"
        assert record.retryable
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_unexpected_errors_end_in_the_record_with_a_traceback_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(SftMethod, "loss", broken)
    record = failed(make_task(tmp_path, "sft"), tmp_path / "a1")
    assert (record.code, record.message) == ("INTERNAL", "ZeroDivisionError: oh")
    assert "Traceback" in capfd.readouterr().err


def test_ctrl_c_is_a_cancellation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(SftMethod, "loss", interrupted)
    record = run_training(make_task(tmp_path, "sft"), tmp_path / "a1")
    assert (record.status, record.code) == ("cancelled", "CANCELLED")


def test_a_source_that_draws_no_row_is_told_before_weights_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(run_module, "load_model")
    task = make_task(tmp_path, "sft")
    small = save_dataset(tmp_path / "small.jsonl", rows_of(3))
    data = [{"dataset": "data@1"}, {"dataset": "small@1", "weight": 0.1}]
    mixed = with_task(task, datasets=[*task.datasets, small], spec={**task.spec.model_dump(), "data": data})
    record = failed(mixed, tmp_path / "a1")
    assert record.code == "EMPTY_DATASET"
    assert record.message == "small@1: 3 rows at weight 0.1 are 0.3 rows an epoch, which is none"
