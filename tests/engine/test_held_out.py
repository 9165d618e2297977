"""Held-out loss and what follows from it: best checkpoints, early stopping, averaged weights; each resumed exactly."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
from array import array
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.engine import feed as feed_module
from posttrain.engine.averaging import Average
from posttrain.engine.checkpoint import find_checkpoints
from posttrain.engine.data import reading
from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import Row
from posttrain.engine.data.token_cache import EncodedRows, TokenCache
from posttrain.engine.data.validate import iter_examples
from posttrain.engine.data.views import Chain, Places, sizes_of
from posttrain.engine.errors import EmptyDatasetError
from posttrain.engine.events import CheckpointSaved, HeldOutMetrics, Note, StepMetrics
from posttrain.engine.held_out import History, split_share
from posttrain.engine.loop import Trainer
from posttrain.engine.methods import SftMethod
from posttrain.engine.models import own_template
from posttrain.engine.optim import Optimizer
from posttrain.engine.run import run_training
from posttrain.engine.spec import HeldOutShare, OptimizerOptions
from posttrain.engine.task import TrainTask
from tests.engine.test_preference_runs import TECHNIQUES
from tests.engine.test_run import LORA, events_of, kill_after, losses_of, succeeded, with_task
from tests.engine.tiny import labelled_of, make_task, pairs_of, rows_of, save_dataset

SHARE = {"type": "share", "ratio": 0.25, "every_steps": 2}


def with_data(task: TrainTask, folder: Path, **options: Any) -> TrainTask:
    """The task with six rows of a dataset of their own held out."""
    folder.mkdir(exist_ok=True)
    row_format = task.datasets[0].format
    made = {"messages": rows_of, "preference": pairs_of, "unpaired": labelled_of}[row_format](40)[31:37]
    held = save_dataset(folder / "held.jsonl", made, row_format).model_copy(update={"ref": "held@1"})
    held_out = {"type": "data", "datasets": ["held@1"], "every_steps": 2, **options}
    return with_task(task, held_out=[held], spec={**task.spec.model_dump(), "held_out": held_out})


def evaluations(folder: Path) -> dict[int, dict[str, float]]:
    return {event.step: event.values for event in events_of(folder, HeldOutMetrics)}


def loss_of(output: Path, path: Path) -> float:
    """Mean -log p of the trained tokens of a file's rows by transformers' own forward, one row at a time."""
    tokenizer, model = AutoTokenizer.from_pretrained(output), AutoModelForCausalLM.from_pretrained(output).eval()
    template = own_template(tokenizer)
    assert template is not None
    encoder, total, count = Encoder(tokenizer, template, (tokenizer.eos_token_id,)), 0.0, 0
    for number, example in iter_examples(path, "messages"):
        row = encoder.row(example, "all_turns", "held", number)
        with torch.no_grad():
            logp_LV = torch.log_softmax(model(torch.tensor([row.ids])).logits[0].double(), dim=-1)
        for place in range(1, len(row.ids)):
            if row.is_target[place]:
                total, count = total - float(logp_LV[place - 1, row.ids[place]]), count + 1
    return total / count


# -- which rows, and their loss ---------------------------------------------------------------------------------------


def test_a_share_is_drawn_of_each_source_by_the_seed() -> None:
    sources = [list(range(20)), list(range(100, 110)), [200]]
    names = ["a@1", "b@1", "c@1"]
    views, apart_views = split_share(names, sources, 0.3, seed=1)
    held = [list(view) for view in apart_views]
    kept = [list(view) for view in views]
    assert [view[1:3] for view in views] == [rows[1:3] for rows in kept]
    assert [len(rows) for rows in kept] == [14, 7, 1]
    for rows, trained, apart in zip(sources, kept, held, strict=True):
        assert sorted([*trained, *apart]) == rows
        assert trained == sorted(trained)
    assert [len(rows) for rows in held] == [6, 3, 0]
    again, same = split_share(names, sources, 0.3, seed=1)
    assert ([list(view) for view in again], [list(view) for view in same]) == (kept, held)
    assert [list(view) for view in split_share(names, sources, 0.3, seed=2)[1]] != held


def test_a_share_of_no_row_and_of_all_rows_is_refused() -> None:
    with pytest.raises(EmptyDatasetError, match=r"held_out\.ratio: 0\.01 of 7 rows is no row") as caught:
        split_share(["a@1", "b@1"], [list(range(4)), list(range(3))], 0.01, seed=0)
    assert "a ratio of 0.14 or more" in caught.value.hint
    with pytest.raises(EmptyDatasetError, match=r"b@1: held_out\.ratio 0\.9 leaves none of its 3 rows"):
        split_share(["a@1", "b@1"], [list(range(100)), list(range(3))], 0.9, seed=0)


@pytest.mark.parametrize(
    ("rows", "ratio", "side", "hint"),
    [
        (labelled_of(24), 0.05, "(in the 1 row held out by held_out.ratio 0.05)", "raise held_out.ratio"),
        (labelled_of(10), 0.9, "(in the 1 row left to train on by held_out.ratio 0.9)", "lower held_out.ratio"),
        (labelled_of(24), 0.0, "(in the 1 row held out)", "name a dataset with rows of more prompts"),
    ],
    ids=["held out", "left", "a dataset"],
)
def test_kto_says_on_which_side_there_is_only_one_prompt(
    tmp_path: Path, rows: list[Any], ratio: float, side: str, hint: str
) -> None:
    """Its loss compares each row with an answer to another prompt, of held-out rows too."""
    task = make_task(tmp_path, "dpo", loss={"type": "kto"}, rows=rows, held_out={**SHARE, "ratio": ratio or 0.5})
    if not ratio:
        held = save_dataset(tmp_path / "one.jsonl", labelled_of(1), "unpaired").model_copy(update={"ref": "one@1"})
        options = {"type": "data", "datasets": ["one@1"]}
        task = with_task(task, held_out=[held], spec={**task.spec.model_dump(), "held_out": options})
    record = run_training(task, tmp_path / "a1")
    assert record.code == "EMPTY_DATASET"
    name = "data@1" if ratio else "one@1"
    assert record.message == (
        f"{name}: kto compares each row with an answer to another prompt; there is only one prompt {side}"
    )
    assert record.hint.startswith(hint)


def test_the_loss_is_what_transformers_computes_of_the_saved_model(tmp_path: Path) -> None:
    task = with_data(make_task(tmp_path, "sft", optimizer={"learning_rate": 3e-2}), tmp_path / "held")
    record = succeeded(task, tmp_path / "a1")
    found = evaluations(tmp_path / "a1")
    assert list(found) == [2, 4, 6]
    assert record.summary["held_out_loss"] == found[6]["held_out_loss"]
    assert (record.summary["saved_step"], record.summary["stopped_early"]) == (6, False)
    expected = loss_of(tmp_path / "a1" / "output", Path(task.held_out[0].path))
    assert record.summary["held_out_loss"] == pytest.approx(expected, rel=1e-5)
    event = events_of(tmp_path / "a1", HeldOutMetrics)[0]
    assert (event.num_rows, event.total_steps) == (6, 6)


def test_the_loss_does_not_depend_on_micro_batches(tmp_path: Path) -> None:
    task = with_data(make_task(tmp_path, "sft"), tmp_path / "held")
    for name, micro_tokens in (("a1", 4096), ("a2", 1)):
        batch = {"num_rows": 4, "micro_tokens": micro_tokens}
        succeeded(with_task(task, spec={**task.spec.model_dump(), "batch": batch}), tmp_path / name)
    for step, values in evaluations(tmp_path / "a1").items():
        assert evaluations(tmp_path / "a2")[step] == pytest.approx(values, rel=1e-5)


def test_a_share_is_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, trained, held = SftMethod.loss, set[str](), set[str]()

    def watched(self: SftMethod, batch: Any, models: Any, window: Any) -> Any:
        share, metrics = plain(self, batch, models, window)
        (trained if share.requires_grad else held).update(row.name for row in batch.rows)
        return share, {**metrics, "rows": len(batch.rows) / window.num_rows}

    monkeypatch.setattr(SftMethod, "loss", watched)
    task = make_task(tmp_path, "sft", held_out=SHARE, duration={"type": "epochs", "num_epochs": 1})
    record = succeeded(task, tmp_path / "a1")
    assert record.summary["rows"] == len(trained) == 18
    assert len(held) == 6
    assert not trained & held
    assert evaluations(tmp_path / "a1")[2]["held_out_rows"] == pytest.approx(1.0)  # the method's sums, of one window
    assert events_of(tmp_path / "a1", Note)[-1].message == "held out: 6 of 24 rows"


def test_evaluating_leaves_no_trace_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LoRA with dropout; the method draws numbers and remembers something in its loss."""
    plain = SftMethod.loss

    def greedy(self: SftMethod, batch: Any, models: Any, window: Any) -> Any:
        torch.rand(7)
        self.seen = getattr(self, "seen", 0) + 1
        share, metrics = plain(self, batch, models, window)
        return share, {**metrics, "seen": self.seen}

    monkeypatch.setattr(SftMethod, "loss", greedy)
    monkeypatch.setattr(SftMethod, "state_dict", lambda self: {"seen": getattr(self, "seen", 0)})
    monkeypatch.setattr(SftMethod, "load_state_dict", lambda self, state: setattr(self, "seen", state["seen"]))
    without = make_task(tmp_path, "sft", adapter=LORA)
    succeeded(without, tmp_path / "a1")
    succeeded(with_data(without, tmp_path / "held", every_steps=1), tmp_path / "a2")
    assert len(evaluations(tmp_path / "a2")) == 6
    assert losses_of(tmp_path / "a1") == losses_of(tmp_path / "a2")
    for path in (tmp_path / "a1" / "output").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "a2" / "output" / path.name).read_bytes()


def test_a_held_out_loss_that_is_not_finite_names_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SftMethod.loss

    def broken(self: SftMethod, batch: Any, models: Any, window: Any) -> Any:
        share, metrics = plain(self, batch, models, window)
        return (share if share.requires_grad else share * math.nan), metrics

    monkeypatch.setattr(SftMethod, "loss", broken)
    record = run_training(with_data(make_task(tmp_path, "sft"), tmp_path / "held"), tmp_path / "a1")
    assert record.code == "NON_FINITE"
    assert "the held-out loss is nan; rows of the batch: held@1 row " in record.message


# -- what follows from it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "options", "best", "is_over"),
    [
        ([3.0, 2.0, 2.5, 1.0], {}, [4], False),
        ([3.0, 2.0, 2.5, 2.5], {"patience": 2}, [2], True),
        ([3.0, 2.0, 2.5, 1.9], {"patience": 2}, [4], False),
        # Each is a little better, but not by 0.5 than the one that counted: 3.0, then 2.4.
        ([3.0, 2.8, 2.4, 2.2, 2.0], {"patience": 2, "min_delta": 0.5}, [5], True),
        ([3.0, 2.8, 2.4, 2.2, 1.8], {"patience": 2, "min_delta": 0.5}, [5], False),
        ([2.0, 2.0, 1.0, 2.0], {"keep_best": 3}, [3, 1, 2], False),  # of equal ones the earlier
    ],
)
def test_best_steps_and_patience(losses: list[float], options: dict[str, Any], best: list[int], is_over: bool) -> None:
    history = History(list(enumerate(losses, start=1)))
    chosen = HeldOutShare.model_validate({"save": "best", **options})
    assert history.kept_steps(chosen) == best
    assert history.is_over(chosen) is is_over
    assert History().kept_steps(chosen) == []
    assert not History().is_over(chosen)


def rigged(monkeypatch: pytest.MonkeyPatch, losses: dict[int, float]) -> None:
    """Held-out losses by step, so that a test knows which is best; what is not named stays what it is."""
    plain, trainer = feed_module.measure, list[Trainer]()
    run = Trainer.run

    def remembered(self: Trainer) -> Any:
        trainer[:] = [self]
        return run(self)

    def measure(*arguments: Any) -> Any:
        values = plain(*arguments)
        step = trainer[0]._counters.step
        return values if values is None else {**values, "held_out_loss": losses.get(step, values["held_out_loss"])}

    monkeypatch.setattr(Trainer, "run", remembered)
    monkeypatch.setattr(feed_module, "measure", measure)


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in find_checkpoints(folder / "checkpoints"))


def test_best_checkpoints_are_kept_beside_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rigged(monkeypatch, {1: 5.0, 2: 2.0, 3: 1.0, 4: 3.0, 5: 4.0, 6: 2.5, 7: 6.0})
    task = make_task(
        tmp_path,
        "sft",
        held_out={**SHARE, "every_steps": 1, "keep_best": 2},
        checkpoint={"every_steps": 2, "keep": 1},
        duration={"type": "steps", "max_steps": 9},
    )
    kill_after(monkeypatch, 7)
    run_training(task, tmp_path / "a1")
    # Steps 1, 2 and 3 were among the best two when they came, 4 and 6 are planned.
    assert [event.step for event in events_of(tmp_path / "a1", CheckpointSaved)] == [1, 2, 3, 4, 6]
    assert steps_in(tmp_path / "a1") == [2, 3, 6]


@pytest.mark.parametrize("averaging", ["none", "ema"])
def test_the_best_weights_become_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, averaging: str) -> None:
    """Rigged so that step 2 is best; the saved model has the loss that it had then."""
    task = make_task(tmp_path, "sft", optimizer={"learning_rate": 3e-2}, averaging={"type": averaging})
    task = with_data(task, tmp_path / "held", save="best")
    plain = feed_module.measure
    true: list[float] = []

    def measure(*arguments: Any) -> Any:
        values = plain(*arguments)
        true.append(values["held_out_loss"])
        return {**values, "held_out_loss": {1: 1.0}.get(len(true), 2.0)}

    monkeypatch.setattr(feed_module, "measure", measure)
    record = succeeded(task, tmp_path / "a1")
    assert (record.summary["saved_step"], record.summary["held_out_loss"]) == (2, 1.0)
    assert record.summary["steps"] == 6
    found = loss_of(tmp_path / "a1" / "output", Path(task.held_out[0].path))
    assert found == pytest.approx(true[0], rel=1e-5)
    assert found != pytest.approx(true[2], rel=1e-3)


def test_patience_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rigged(monkeypatch, {2: 1.0, 4: 1.0, 6: 1.5, 8: 0.5})
    held_out = {**SHARE, "patience": 2}
    task = make_task(tmp_path, "sft", held_out=held_out, duration={"type": "steps", "max_steps": 20})
    record = succeeded(task, tmp_path / "a1")
    assert (record.summary["steps"], record.summary["stopped_early"]) == (6, True)
    assert record.summary["saved_step"] == 6
    assert (
        "ends after step 6 of 20: the held-out loss did not fall 2 times"
        in events_of(tmp_path / "a1", Note)[-1].message
    )


# -- averaged weights -------------------------------------------------------------------------------------------------


def test_the_average_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decays of 2/11, 3/12 and then 0.3, which is below 4/13, written out on Python floats."""
    plain, seen = Optimizer.step, list[float]()

    def step(self: Optimizer, rate: float) -> None:
        name = sorted(self.weights())[0]
        if not seen:
            seen.append(float(self.weights()[name].detach().flatten()[3]))
        plain(self, rate)
        seen.append(float(self.weights()[name].detach().flatten()[3]))

    monkeypatch.setattr(Optimizer, "step", step)
    task = make_task(tmp_path, "sft", optimizer={"learning_rate": 3e-2}, averaging={"type": "ema", "decay": 0.3})
    succeeded(task, tmp_path / "a1")
    expected = seen[0]
    for decay, weight in zip([2 / 11, 3 / 12, 0.3, 0.3, 0.3, 0.3], seen[1:], strict=True):
        expected = decay * expected + (1 - decay) * weight
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a1" / "output")
    name = sorted(name for name, _ in model.named_parameters())[0]
    found = float(dict(model.named_parameters())[name].detach().flatten()[3])
    assert found == pytest.approx(expected, rel=1e-6)
    assert found != pytest.approx(seen[-1], rel=1e-4)


def test_the_average_is_evaluated_and_training_goes_on_with_its_own_weights(tmp_path: Path) -> None:
    plain = make_task(tmp_path, "sft", optimizer={"learning_rate": 3e-2})
    succeeded(plain, tmp_path / "a1")
    averaged = with_task(plain, spec={**plain.spec.model_dump(), "averaging": {"type": "ema"}})
    task = with_data(averaged, tmp_path / "held")
    record = succeeded(task, tmp_path / "a2")
    assert losses_of(tmp_path / "a2") == losses_of(tmp_path / "a1")
    expected = loss_of(tmp_path / "a2" / "output", Path(task.held_out[0].path))
    assert record.summary["held_out_loss"] == pytest.approx(expected, rel=1e-5)


def test_in_bfloat16_the_weights_come_back_to_the_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    parameters = [
        ("a", torch.nn.Parameter(torch.randn(5, 3, dtype=torch.bfloat16))),
        ("b", torch.nn.Parameter(torch.randn(3))),
    ]
    optimizer = Optimizer(parameters, OptimizerOptions())
    average = Average(optimizer, 0.9)
    for _, parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.accumulate()
    optimizer.step(1e-3)
    average.update(1)
    before = [p.detach().clone() for _, p in parameters]
    masters = {name: weight.detach().clone() for name, weight in optimizer.weights().items()}
    kept = {name: weight.clone() for name, weight in average.state().items()}
    with average.in_use():
        assert not torch.equal(parameters[1][1], before[1])
        assert torch.equal(parameters[0][1], kept["a"].bfloat16())
    assert all(torch.equal(p, old) for (_, p), old in zip(parameters, before, strict=True))
    assert all(torch.equal(optimizer.weights()[name], old) for name, old in masters.items())
    assert all(torch.equal(average.state()[name], old) for name, old in kept.items())


# -- bit by bit -------------------------------------------------------------------------------------------------------

EVERYTHING: dict[str, Any] = {
    "adapter": LORA,
    "averaging": {"type": "ema", "decay": 0.9},
    "held_out": {**SHARE, "every_steps": 1, "keep_best": 1, "save": "best", "patience": 5},
    "checkpoint": {"every_steps": 2, "keep": 1},
    "duration": {"type": "steps", "max_steps": 9},
}


def without_time(folder: Path, after: int) -> list[tuple[int, dict[str, float], bool]]:
    return [
        (event.step, event.values, event.is_best) for event in events_of(folder, HeldOutMetrics) if event.step > after
    ]


def test_twice_the_same_with_lora_dropout_average_and_held_out_rows(tmp_path: Path) -> None:
    task = make_task(tmp_path, "ift", **EVERYTHING)
    for name in ("a1", "a2"):
        succeeded(task, tmp_path / name)
    assert without_time(tmp_path / "a1", 0) == without_time(tmp_path / "a2", 0)
    for path in sorted((tmp_path / "a1" / "output").iterdir()):
        assert path.read_bytes() == (tmp_path / "a2" / "output" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("best", [2, 5, 8])
def test_resumed_equals_uninterrupted_with_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: int
) -> None:
    """Killed in the seventh step, resumed from step 6; the best weights are of before, in between or after."""
    rigged(monkeypatch, {step: 1.0 + abs(step - best) for step in range(1, 10)})
    task = make_task(tmp_path, "ift", **EVERYTHING)
    whole = succeeded(task, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, 6)
        assert run_training(task, tmp_path / "a1").code == "INTERNAL"
    assert steps_in(tmp_path / "a1") == sorted({min(best, 6), 6})
    record = succeeded(
        with_task(task, attempt=2, resume_from=str(tmp_path / "a1" / "checkpoints" / "step-00000006")), tmp_path / "a2"
    )
    assert {**record.summary, "training_s": 0} == {**whole.summary, "training_s": 0}
    # Of step 2 on, five more without a gain end the run after step 7.
    assert (record.summary["saved_step"], record.summary["steps"]) == (best, 7 if best == 2 else 9)
    assert without_time(tmp_path / "a2", 0) == without_time(tmp_path / "whole", 6)
    for path in (tmp_path / "whole" / "output").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "a2" / "output" / path.name).read_bytes()


@pytest.mark.parametrize("stop_at", [4, 6])
def test_an_evaluation_that_a_stop_cut_short_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Also the one after the last step; and step 4's weights are kept as the best then, in the resuming attempt."""
    rigged(monkeypatch, {2: 9.0, 4: 1.0, 6: 2.0})
    task = make_task(tmp_path, "sft", held_out={**SHARE, "save": "best"})
    assert succeeded(task, tmp_path / "whole").summary["saved_step"] == 4
    plain = feed_module.measure

    def measure(*arguments: Any) -> Any:
        if len(losses_of(tmp_path / "a1")) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(feed_module, "measure", measure)
        record = run_training(task, tmp_path / "a1")
    assert (record.status, record.message) == ("cancelled", f"stopped after step {stop_at} of 6")
    assert max(evaluations(tmp_path / "a1")) == stop_at - 2
    checkpoint = tmp_path / "a1" / "checkpoints" / f"step-{stop_at:08d}"
    succeeded(with_task(task, attempt=2, resume_from=str(checkpoint)), tmp_path / "a2")
    expected = {step: values for step, values in evaluations(tmp_path / "whole").items() if step >= stop_at}
    assert evaluations(tmp_path / "a2") == expected
    for path in (tmp_path / "whole" / "output").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "a2" / "output" / path.name).read_bytes()


def test_a_best_checkpoint_that_is_gone_is_told_and_missed_only_if_it_stays_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rigged(monkeypatch, {step: 1.0 + abs(step - 2) for step in range(1, 10)})
    task = make_task(tmp_path, "sft", **{**EVERYTHING, "adapter": {"type": "full"}})
    with monkeypatch.context() as patch:
        kill_after(patch, 6)
        run_training(task, tmp_path / "a1")
    folder = tmp_path / "a1" / "checkpoints"
    shutil.rmtree(folder / "step-00000002")
    record = run_training(with_task(task, attempt=2, resume_from=str(folder / "step-00000006")), tmp_path / "a2")
    assert (record.status, record.code) == ("failed", "BAD_CHECKPOINT")
    assert "step-00000002" in record.message
    assert any("among the best so far" in note.message for note in events_of(tmp_path / "a2", Note))


def test_without_the_options_a_checkpoint_holds_what_it_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_after(monkeypatch, 5)
    run_training(make_task(tmp_path, "sft"), tmp_path / "a1")
    newest = find_checkpoints(tmp_path / "a1" / "checkpoints")[0]
    names = {path.name for path in newest.iterdir()}
    assert names == {"manifest.json", "model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"}
    assert set(json.loads((newest / "state.json").read_text())) == {"counters", "method", "num_threads", "versions"}
    assert not [event for event in events_of(tmp_path / "a1", StepMetrics) if "held_out_loss" in event.values]


# -- other techniques -------------------------------------------------------------------------------------------------

OTHERS = ["dpo", "dpo adapter off", "kto", "kto adapter off", "reward lora"]


@pytest.mark.parametrize("name", OTHERS)
def test_other_techniques_are_evaluated_without_a_trace_whatever_the_micro_batches(tmp_path: Path, name: str) -> None:
    """Also with recomputed layers, which the reference's passes and the score's go through as well."""
    task = make_task(tmp_path, **TECHNIQUES[name])
    succeeded(task, tmp_path / "a1")
    measured = with_data(task, tmp_path / "held")
    recomputed = {**measured.spec.model_dump(), "memory": {"gradient_checkpointing": True}}
    succeeded(with_task(measured, spec=recomputed), tmp_path / "a2")
    assert losses_of(tmp_path / "a1") == losses_of(tmp_path / "a2")
    for path in (tmp_path / "a1" / "output").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "a2" / "output" / path.name).read_bytes()
    still = {"optimizer": {"learning_rate": 1e-12}, "duration": {"type": "steps", "max_steps": 2}}
    found = []
    for micro_tokens in (1, 8192):
        batch = {"num_rows": 4, "micro_tokens": micro_tokens}
        spec = {**measured.spec.model_dump(), **still, "batch": batch}
        succeeded(with_task(measured, spec=spec), tmp_path / f"b{micro_tokens}")
        found.append(evaluations(tmp_path / f"b{micro_tokens}")[2])
    assert found[0] == pytest.approx(found[1], rel=2e-5, abs=2e-5)
    assert {f"held_out_{key}" for key in losses_of(tmp_path / "a1")[1]} >= found[0].keys()
    assert "held_out_reward_margin" in found[0] or "held_out_reward_desirable" in found[0]


@pytest.mark.parametrize("name", OTHERS)
def test_other_techniques_resume_to_the_last_bit_with_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rigged(monkeypatch, {step: 1.0 + abs(step - 3) for step in range(1, 10)})
    options = {key: value for key, value in EVERYTHING.items() if key != "adapter"}
    task = make_task(tmp_path, **{**options, **TECHNIQUES[name]})
    whole = succeeded(task, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, 6)
        assert run_training(task, tmp_path / "a1").code == "INTERNAL"
    checkpoint = tmp_path / "a1" / "checkpoints" / "step-00000006"
    record = succeeded(with_task(task, attempt=2, resume_from=str(checkpoint)), tmp_path / "a2")
    assert {**record.summary, "training_s": 0} == {**whole.summary, "training_s": 0}
    assert (record.summary["saved_step"], record.summary["steps"]) == (3, 8)
    for path in (tmp_path / "whole" / "output").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "a2" / "output" / path.name).read_bytes()


def test_a_start_from_the_cache_reads_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is held out, and in whichever way: how long a start takes does not depend on the number of rows."""
    monkeypatch.setattr(reading, "MIN_CACHED_BYTES", 0)
    plain_run, plain_row, read = Trainer.run, EncodedRows.__getitem__, list[int]()

    def run(self: Trainer) -> Any:
        read.append(0)
        return plain_run(self)

    def row(self: EncodedRows, index: Any) -> Any:
        read.append(1)
        return plain_row(self, index)

    monkeypatch.setattr(Trainer, "run", run)
    monkeypatch.setattr(EncodedRows, "__getitem__", row)
    plain = make_task(tmp_path, "sft", duration={"type": "steps", "max_steps": 2}, held_out=SHARE)
    files = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(plain.base.path).iterdir()}
    cached = {"cache": str(tmp_path / "tokens"), "base": {**plain.base.model_dump(), "files": files}}
    for number, task in enumerate([plain, with_data(plain, tmp_path / "held")]):
        without = succeeded(task, tmp_path / f"without{number}")
        read.clear()
        found = succeeded(with_task(task, **cached), tmp_path / f"with{number}")
        assert read[0] == 0, "no row was read before the training began"
        assert sum(read) > 6
        assert {**found.summary, "training_s": 0} == {**without.summary, "training_s": 0}


def test_sizes_of_some_places_are_the_share_and_the_bounds_of_the_whole(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    rows = [Row(array("i", [0] * length), bytes(length), "data@1", length) for length in (2, 10, 3, 5)]
    with cache.writer("a" * 64) as made:
        for row in rows:
            made.add(row)
    on_disk = cache.open("a" * 64, "data@1")
    assert on_disk is not None
    assert sizes_of(on_disk) == (20, 10, 10)
    assert sizes_of(Places(on_disk, [0, 2, 3])) == (15, 10, 10), "three quarters of the tokens; row 1 is not excepted"
    assert sizes_of(Places(rows, [0, 2, 3])) == (10, 5, 5), "counted where they are in memory"


def test_a_chain_is_its_sources_one_after_another() -> None:
    whole = [1, 2, 3, 4, 5, 6]
    chain = Chain([[1, 2], [], Places([0, 3, 0, 4], [1, 3]), [5], [6]])
    assert len(chain) == 6
    assert list(chain) == whole
    assert [chain[place] for place in range(-6, 6)] == whole + whole
    assert [chain[1:5:2], chain[-2:], chain[::-1]] == [whole[1:5:2], whole[-2:], whole[::-1]]
    for place in (6, -7):
        with pytest.raises(IndexError):
            chain[place]
    assert (len(Chain([])), len(Chain([[]]))) == (0, 0)


def test_a_dataset_that_is_listed_twice_is_held_out_once_and_wholly() -> None:
    rows = list(range(20))
    views, held = split_share(["a@1", "b@1", "a@1"], [rows, rows, rows], 0.25, seed=3)
    kept = [list(view) for view in views]
    assert kept[0] == kept[2]
    assert kept[0] != kept[1]
    assert [len(part) for part in held] == [5, 5, 0]
    assert not set(held[0]) & set(kept[2])
