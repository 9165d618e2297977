"""Training attempts from task to exit record: what comes out, exact resume, and every way to fail."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.engine import run as run_module
from posttrain.engine.checkpoint import find_checkpoints
from posttrain.engine.errors import NonFiniteError
from posttrain.engine.events import (
    EVENTS_FILE,
    CheckpointSaved,
    ExitRecord,
    Note,
    Phase,
    Resumed,
    StepMetrics,
    read_events,
    read_exit,
)
from posttrain.engine.loop import Trainer
from posttrain.engine.methods import SftMethod
from posttrain.engine.models import load
from posttrain.engine.optim import Optimizer
from posttrain.engine.run import run_training
from posttrain.engine.task import ModelInput, TrainTask
from tests.engine.tiny import make_task, rows_of, save_base, save_dataset

LORA = {"type": "lora", "rank": 4, "dropout": 0.1}


def events_of(folder: Path, kind: type[Any]) -> list[Any]:
    return [event for event, _ in read_events(folder / EVENTS_FILE) if isinstance(event, kind)]


def losses_of(folder: Path) -> dict[int, dict[str, float]]:
    """Metrics by step, without what depends on the clock."""
    return {
        event.step: {key: value for key, value in event.values.items() if key != "tokens_per_s"}
        for event in events_of(folder, StepMetrics)
    }


def succeeded(task: TrainTask, folder: Path) -> ExitRecord:
    record = run_training(task, folder)
    assert record.status == "succeeded", f"{record.code}: {record.message}"
    assert read_exit(folder) == record
    return record


def with_task(task: TrainTask, **changes: Any) -> TrainTask:
    return TrainTask.model_validate({**task.model_dump(), **changes})


# -- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [{"type": "full"}, LORA])
def test_ift_makes_an_instruct_model(tmp_path: Path, adapter: dict[str, Any]) -> None:
    task = make_task(
        tmp_path,
        "ift",
        adapter=adapter,
        optimizer={"learning_rate": 3e-2},
        duration={"type": "epochs", "num_epochs": 3},
    )
    record = succeeded(task, tmp_path / "a1")
    assert record.summary["steps"] == 18
    metrics = losses_of(tmp_path / "a1")
    is_full = adapter["type"] == "full"
    assert metrics[18]["loss"] < (0.7 if is_full else 0.95) * metrics[1]["loss"]
    assert record.summary["loss"] == metrics[18]["loss"]
    assert [event.phase for event in events_of(tmp_path / "a1", Phase)] == [
        "loading",
        "data",
        "loading",
        "training",
        "saving",
    ]

    output = tmp_path / "a1" / "output"
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer.eos_token == "<|im_end|>"
    assert "<|im_start|>" in tokenizer.chat_template
    stop = tokenizer.eos_token_id
    assert json.loads((output / "generation_config.json").read_text())["eos_token_id"] == stop
    source = ModelInput(
        ref="out@1",
        path=str(output) if is_full else task.base.path,
        adapters=[] if is_full else [str(output)],
        digest="",
        weights_digest="",
    )
    loaded = load(source)
    assert stop in loaded.stop_ids
    assert loaded.template is not None
    assert loaded.template.digest == record.summary["template_digest"]
    # The new rows were trained, and what was loaded computes what was trained.
    base = AutoModelForCausalLM.from_pretrained(task.base.path)
    assert not torch.equal(
        loaded.model.module.get_input_embeddings().weight[stop], base.get_input_embeddings().weight[stop]
    )
    names = {path.name for path in output.iterdir()}
    assert "model.safetensors" in names if is_full else "adapter_model.safetensors" in names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert "tiny" not in (output / "tokenizer_config.json").read_text()  # no machine's paths
    assert not (tmp_path / "a1" / "checkpoints").exists()


def test_a_saved_adapter_computes_what_was_trained(tmp_path: Path) -> None:
    """A step's loss is before its update, so one more step at rate ~0 from the output shows the trained loss."""
    task = make_task(
        tmp_path, "ift", adapter=LORA, optimizer={"learning_rate": 3e-2}, batch={"num_rows": 24, "micro_tokens": 512}
    )
    succeeded(task, tmp_path / "a1")
    on_top = ModelInput.model_validate({**task.base.model_dump(), "adapters": [str(tmp_path / "a1" / "output")]})
    still = {"learning_rate": 1e-12, "warmup_ratio": 0.0}
    spec = {
        **task.spec.model_dump(),
        "kind": "sft",
        "template": {"type": "own"},
        "optimizer": still,
        "adapter": {"type": "full"},
    }
    again = with_task(task, base=on_top, spec=spec)
    succeeded(again, tmp_path / "a2")
    first, second = losses_of(tmp_path / "a1"), losses_of(tmp_path / "a2")
    assert second[1]["loss"] < first[6]["loss"] < first[1]["loss"]
    # An adapter over an adapter: trained from where the first one ended.
    over = with_task(task, base=on_top, spec={**spec, "adapter": {"type": "lora", "rank": 2}})
    succeeded(over, tmp_path / "a3")
    assert losses_of(tmp_path / "a3")[1]["loss"] == pytest.approx(second[1]["loss"], rel=1e-6)


def test_ordinary_transformers_and_peft_read_the_output(tmp_path: Path) -> None:
    from peft import PeftModel

    full = make_task(tmp_path, "sft")
    succeeded(full, tmp_path / "a1")
    AutoModelForCausalLM.from_pretrained(tmp_path / "a1" / "output")
    lora = with_task(full, spec={**full.spec.model_dump(), "adapter": LORA})
    succeeded(lora, tmp_path / "a2")
    model = AutoModelForCausalLM.from_pretrained(full.base.path)
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        PeftModel.from_pretrained(model, str(tmp_path / "a2" / "output"))


@pytest.mark.parametrize("adapter", [{"type": "full"}, LORA])
def test_the_same_task_gives_the_same_bytes(tmp_path: Path, adapter: dict[str, Any]) -> None:
    task = make_task(tmp_path, "ift", adapter=adapter)
    for name in ("a1", "a2"):
        succeeded(task, tmp_path / name)
    for path in sorted((tmp_path / "a1" / "output").iterdir()):
        assert path.read_bytes() == (tmp_path / "a2" / "output" / path.name).read_bytes(), path.name
    other = with_task(task, spec={**task.spec.model_dump(), "seed": 1})
    succeeded(other, tmp_path / "a3")
    weights = "model.safetensors" if adapter["type"] == "full" else "adapter_model.safetensors"
    assert (tmp_path / "a1" / "output" / weights).read_bytes() != (tmp_path / "a3" / "output" / weights).read_bytes()


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    whole = make_task(tmp_path, "sft", batch={"num_rows": 8, "micro_tokens": 4096})
    parts = with_task(whole, spec={**whole.spec.model_dump(), "batch": {"num_rows": 8, "micro_tokens": 1}})
    succeeded(whole, tmp_path / "a1")
    succeeded(parts, tmp_path / "a2")
    for step, values in losses_of(tmp_path / "a1").items():
        assert losses_of(tmp_path / "a2")[step]["loss"] == pytest.approx(values["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("cosine", [1.0, 0.890165, 0.625, 0.359835]),  # 1/4 + 3/4 * (1 + cos(pi * i/4)) / 2
        ("linear", [1.0, 0.8125, 0.625, 0.4375]),  # 1 - 3/4 * i/4
        ("constant", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_each_step_takes_and_logs_the_rate_of_its_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str, shares: list[float]
) -> None:
    """Of 6 steps the first ceil(0.3 * 6) = 2 are warm-up."""
    plain, taken = Optimizer.step, list[float]()

    def step(self: Optimizer, rate: float) -> None:
        taken.append(rate)
        plain(self, rate)

    monkeypatch.setattr(Optimizer, "step", step)
    options = {"learning_rate": 2e-3, "warmup_ratio": 0.3, "schedule": schedule, "final_ratio": 0.25}
    succeeded(make_task(tmp_path, "sft", optimizer=options), tmp_path / "a1")
    metrics = losses_of(tmp_path / "a1")
    logged = [metrics[step]["learning_rate"] for step in range(1, 7)]
    assert logged == pytest.approx([2e-3 * share for share in (1 / 3, 2 / 3, *shares)], rel=1e-5)
    assert taken == logged


def test_training_is_in_train_mode_so_that_dropout_is_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, modes, seen = SftMethod.loss, set[bool](), list[tuple[float, float]]()

    def watched(self: SftMethod, batch: Any, models: Any, window: Any) -> Any:
        modes.update(module.training for module in models.policy.module.modules())
        first, second = (plain(self, batch, models, window) for _ in range(2))
        seen.append((first[0].item(), second[0].item()))
        return second

    monkeypatch.setattr(SftMethod, "loss", watched)
    for name, dropout in (("a1", 0.5), ("a2", 0.0)):
        modes.clear()
        seen.clear()
        lora = {"type": "lora", "rank": 4, "dropout": dropout}
        succeeded(make_task(tmp_path / name, "sft", adapter=lora, optimizer={"learning_rate": 1e-1}), tmp_path / name)
        assert modes == {True}
        # B is 0 before the first step, so dropout shows from the second on.
        draws_differ = [first != second for first, second in seen[len(seen) // 2 :]]
        assert all(draws_differ) if dropout else not any(draws_differ)


# -- resume -----------------------------------------------------------------------------------------------------------


def kill_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ends the process's work as a kill would: nothing after the step is written, no exit record either."""
    plain = Trainer._step

    def dying(self: Trainer) -> dict[str, float]:
        if self._counters.step == step:
            raise SystemExit("killed")
        return plain(self)

    monkeypatch.setattr(Trainer, "_step", dying)


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


# -- failures ---------------------------------------------------------------------------------------------------------


def failed(task: TrainTask, folder: Path) -> ExitRecord:
    record = run_training(task, folder)
    assert record.status == "failed"
    assert read_exit(folder) == record
    assert not (folder / "output").exists()
    assert record.hint
    return record


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


def test_an_attempt_says_what_its_rows_are_like(tmp_path: Path) -> None:
    succeeded(make_task(tmp_path, "sft"), tmp_path / "a1")
    (told,) = [event.message for event in events_of(tmp_path / "a1", Note)]
    assert re.fullmatch(r"data@1: 24 rows, [\d,]+ tokens, \d+\.\d% of them trained; lengths: .*; none above 128", told)


def test_rows_that_are_too_long_are_left_out_and_counted_if_that_is_asked_for(tmp_path: Path) -> None:
    long = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "fox " * 300}]}
    rows = [long, *rows_of(5)]
    batch = {"num_rows": 5, "max_tokens": 100, "overlong": "skip"}
    epoch = {"type": "epochs", "num_epochs": 1}
    record = succeeded(make_task(tmp_path, "sft", rows=rows, batch=batch, duration=epoch), tmp_path / "a1")
    assert (record.summary["rows"], record.summary["steps"]) == (5, 1)
    told = [event.message for event in events_of(tmp_path / "a1", Note)]
    assert "data@1: 1 rows are longer than 100 tokens and left out" in told
    empty = make_task(tmp_path / "b", "sft", rows=rows[:1], batch=batch)
    record = run_training(empty, tmp_path / "a2")
    assert (record.code, record.message) == ("EMPTY_DATASET", "data@1: all 1 rows are longer than 100 tokens")


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


def test_data_is_mixed_from_several_sources(tmp_path: Path) -> None:
    task = make_task(tmp_path, "sft", duration={"type": "epochs", "num_epochs": 1.0}, batch={"num_rows": 100})
    extra = save_dataset(tmp_path / "b.jsonl", [{"prompt": "q", "completion": "a"}] * 8, "prompt_completion")
    data = [{"dataset": "data@1"}, {"dataset": "b@1", "weight": 0.5}]
    mixed = with_task(task, datasets=[*task.datasets, extra], spec={**task.spec.model_dump(), "data": data})
    assert succeeded(mixed, tmp_path / "a1").summary["rows"] == 24 + 4


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
