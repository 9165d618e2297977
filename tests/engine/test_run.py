"""Training attempts from task to exit record: what comes out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.engine.events import (
    EVENTS_FILE,
    ExitRecord,
    Note,
    Phase,
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
from tests.engine.tiny import make_task, rows_of, save_dataset

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


def kill_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ends the process's work as a kill would: nothing after the step is written, no exit record either."""
    plain = Trainer._step

    def dying(self: Trainer) -> dict[str, float]:
        if self._counters.step == step:
            raise SystemExit("killed")
        return plain(self)

    monkeypatch.setattr(Trainer, "_step", dying)


def failed(task: TrainTask, folder: Path) -> ExitRecord:
    record = run_training(task, folder)
    assert record.status == "failed"
    assert read_exit(folder) == record
    assert not (folder / "output").exists()
    assert record.hint
    return record


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


def test_data_is_mixed_from_several_sources(tmp_path: Path) -> None:
    task = make_task(tmp_path, "sft", duration={"type": "epochs", "num_epochs": 1.0}, batch={"num_rows": 100})
    extra = save_dataset(tmp_path / "b.jsonl", [{"prompt": "q", "completion": "a"}] * 8, "prompt_completion")
    data = [{"dataset": "data@1"}, {"dataset": "b@1", "weight": 0.5}]
    mixed = with_task(task, datasets=[*task.datasets, extra], spec={**task.spec.model_dump(), "data": data})
    assert succeeded(mixed, tmp_path / "a1").summary["rows"] == 24 + 4
