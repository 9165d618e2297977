"""Attempts of ppo from task to exit record: they learn what is rewarded, resume to the last bit wherever they were
killed, do not depend on how a step is split, and leave a policy and nothing else."""

from __future__ import annotations

import json
import math
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from posttrain.engine import loop
from posttrain.engine.checkpoint import find_checkpoints
from posttrain.engine.events import HeldOutMetrics, Note
from posttrain.engine.experience import from_checkpoint, to_plain, to_tensors
from posttrain.engine.methods import on_policy, ppo
from posttrain.engine.methods.ppo import PpoMethod
from posttrain.engine.rewards import RewardProcess, Scored
from posttrain.engine.rollout import passes
from posttrain.engine.run import run_training
from posttrain.engine.task import TrainTask
from tests.engine.on_policy_runs import (
    LORA,
    assert_killed_is_uninterrupted,
    assert_resumed_is_uninterrupted,
    numbers_of,
    output_of,
    samples_of,
)
from tests.engine.pairs import make_experience, spec_of
from tests.engine.test_grpo_runs import stops_at
from tests.engine.test_run import events_of, kill_after, losses_of, succeeded, with_task
from tests.engine.tiny import make_task, prompts_of, save_base

ROLLOUT = {"num_completions": 1, "max_new_tokens": 6, "batch_rows": 8}
TECHNIQUES: dict[str, dict[str, Any]] = {
    "full, minibatches, fixed k3": {
        "update": {"num_minibatches": 2, "num_epochs": 2},
        "kl": {"type": "fixed", "estimator": "k3", "coefficient": 0.3},
        "loss": {"entropy_weight": 0.01},
    },
    "lora, adaptive, dual clip": {
        "adapter": LORA,
        "update": {"num_minibatches": 2, "num_epochs": 2},
        "kl": {"type": "adaptive", "target": 0.01},
        "loss": {"dual_clip": 3.0},
        "score": {"whiten": True, "clip": 1.5, "missing_stop_penalty": 0.5},
        "rollout": {**ROLLOUT, "num_completions": 2},
    },
}
ONCE = {"num_epochs": 1}  # each step has a rollout of its own
KL_OFF = {"type": "fixed", "coefficient": 0.0}


def techniques() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("options", TECHNIQUES.values(), ids=list(TECHNIQUES))


def task_of(folder: Path, **options: Any) -> TrainTask:
    batch = {"num_rows": 3, "micro_tokens": 64, "max_tokens": 128}
    given = {"rollout": ROLLOUT, "batch": batch, "value": {"learning_rate": 1e-3}, **options}
    return make_task(folder, "ppo", **given)


def steps(num: int, every: int = 100) -> dict[str, Any]:
    return {"duration": {"type": "steps", "max_steps": num}, "checkpoint": {"every_steps": every, "keep": 9}}


# -- resume ------------------------------------------------------------------------------------------------------------


@techniques()
def test_resumed_equals_uninterrupted_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Of rollouts of four steps: from checkpoints between two of them and in the middle of one. Values, their weights,
    the penalty's coefficient and the buffer all show in the numbers of the steps that follow."""
    task = task_of(tmp_path, **steps(10, every=1), **options)
    expected = assert_resumed_is_uninterrupted(task, tmp_path, monkeypatch, after=(4, 5), last=10)
    told = [values for values in expected.values() if "reward" in values]
    coefficients = {values["kl_coefficient"] for values in told}
    assert len(told) == 3
    assert len(coefficients) == (3 if options["kl"]["type"] == "adaptive" else 1)
    assert all(values["value_loss"] > 0 for values in expected.values())


@pytest.mark.parametrize("stage", ["rollout", "scoring", "logps", "values", "update", "value update", "checkpoint"])
def test_killed_at_any_stage_it_goes_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    kl = {"type": "adaptive", "target": 0.01}
    task = task_of(tmp_path, update={"num_epochs": 2}, kl=kl, adapter=LORA, **steps(5, every=2))
    places: dict[str, tuple[Any, str]] = {
        "rollout": (passes, "decode"),
        "scoring": (RewardProcess, "score"),
        "logps": (on_policy, "policy_logps"),
        "values": (ppo, "state_values"),
        "update": (PpoMethod, "loss"),
        "value update": (PpoMethod, "_value_loss"),
        "checkpoint": (loop, "save_checkpoint"),
    }
    assert_killed_is_uninterrupted(task, tmp_path, monkeypatch, places[stage])


def test_a_stop_in_a_rollout_leaves_the_coefficient_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rollout that was left is made again, with the coefficient that it began with."""
    task = task_of(tmp_path, kl={"type": "adaptive", "target": 0.01}, update=ONCE, **steps(4))
    succeeded(task, tmp_path / "whole")
    original, asked = on_policy.generate_groups, [0]

    def stopping(*given: Any, **named: Any) -> Any:
        asked[0] += 1
        if asked[0] == 2:
            named["should_stop"] = lambda: True
        return original(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(on_policy, "generate_groups", stopping)
        assert run_training(task, tmp_path / "a1").status == "cancelled"
    (checkpoint,) = find_checkpoints(tmp_path / "a1" / "checkpoints")
    succeeded(with_task(task, attempt=2, resume_from=str(checkpoint)), tmp_path / "a2")
    assert output_of(tmp_path / "a2") == output_of(tmp_path / "whole")


def test_a_checkpoint_holds_values_and_returns_and_an_older_one_has_none() -> None:
    groups = make_experience(seed=2)
    full = groups
    for shift, name in enumerate(("old", "reference", "values", "returns"), start=1):
        full = [
            replace(
                group,
                trained=tuple(
                    replace(one, **{name: array("d", [number + shift for number in one.advantages])})
                    for one in group.trained
                ),
            )
            for group in full
        ]
    plain = json.loads(json.dumps(to_plain(full)))
    assert from_checkpoint(plain, to_tensors(full)) == full
    old_plain = [{**entry, "branches": [counts[:5] for counts in entry["branches"]]} for entry in to_plain(groups)]
    tensors = {name: tensor for name, tensor in to_tensors(groups).items() if name not in ("values", "returns")}
    assert from_checkpoint(old_plain, tensors) == groups


def test_weights_of_the_value_are_in_checkpoints_and_not_in_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, adapter in (("lora", LORA), ("full", {"type": "full"})):
        (tmp_path / name).mkdir()
        task = task_of(tmp_path / name, adapter=adapter, **steps(3, every=2))
        record = succeeded(task, tmp_path / name / "a1")
        with monkeypatch.context() as patch:
            kill_after(patch, 2)
            run_training(task, tmp_path / name / "a2")
        (checkpoint,) = find_checkpoints(tmp_path / name / "a2" / "checkpoints")
        value, policy = (load_file(checkpoint / f"{part}.safetensors") for part in ("value_model", "model"))
        assert {"value_weight", "value_bias"} <= set(value)
        assert bool(value["value_weight"].any())
        assert not any("value" in key for key in policy)
        assert (checkpoint / "value_optimizer.safetensors").is_file()
        assert record.summary["num_trained_parameters"] == sum(tensor.numel() for tensor in policy.values())
        (saved,) = (tmp_path / name / "a1" / "output").glob("*.safetensors")
        assert not any("value" in key.replace("v_proj", "") for key in load_file(saved))
        assert not list((tmp_path / name / "a1" / "output").glob("value*"))


# -- the same, however it is computed ----------------------------------------------------------------------------------


@techniques()
def test_micro_batches_and_recomputed_layers_change_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    """Of the first rollout: weights that differ by rounding may sample another token later. Layers that are computed
    again in the backward pass are computed with the adapter that made them."""
    whole = task_of(tmp_path, **options, **steps(4))
    batch = {**whole.spec.batch.model_dump(), "micro_tokens": 8192}
    whole = with_task(whole, spec={**whole.spec.model_dump(), "batch": batch})
    succeeded(whole, tmp_path / "a1")
    parts: list[dict[str, Any]] = [
        {"batch": {**batch, "micro_tokens": 1}},
        {"memory": {"gradient_checkpointing": True}},
    ]
    for number, change in enumerate(parts, start=2):
        succeeded(with_task(whole, spec={**whole.spec.model_dump(), **change}), tmp_path / f"a{number}")
        others = numbers_of(tmp_path / f"a{number}")
        for step, values in numbers_of(tmp_path / "a1").items():
            for key, value in values.items():
                assert others[step][key] == pytest.approx(value, rel=3e-5, abs=3e-5), (step, key)


# -- learning ----------------------------------------------------------------------------------------------------------


def bandit(folder: Path, **options: Any) -> TrainTask:
    """One token is written, and pays 1 if it has an e in it: the best that can be had is 1."""
    rows = [{**row, "target": {"pattern": "e"}} for row in prompts_of(12)]
    given: dict[str, Any] = {
        "rows": rows,
        "batch": {"num_rows": 12, "micro_tokens": 2048, "max_tokens": 128},
        "rollout": {"num_completions": 4, "max_new_tokens": 1},
        "update": {"num_epochs": 2},
        "optimizer": {"learning_rate": 2e-2},
        "value": {"learning_rate": 2e-2},
        **options,
    }
    return task_of(folder, **given)


@pytest.mark.parametrize("adapter", [{"type": "full"}, LORA], ids=["full", "lora"])
def test_a_bandit_is_solved(tmp_path: Path, adapter: dict[str, Any]) -> None:
    base = save_base(tmp_path / "base", "mistral", is_chat=True)
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["lm_head.weight"] *= 30  # LoRA leaves it, and without it no hidden state makes a token certain
    save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    task = bandit(tmp_path, base=base, adapter=adapter, kl=KL_OFF, **steps(30))
    succeeded(task, tmp_path / "a1")
    told = [values for _, values in sorted(losses_of(tmp_path / "a1").items()) if "reward" in values]
    assert told[0]["reward"] < 0.35
    assert min(values["reward"] for values in told[-3:]) > 0.95
    assert abs(told[-1]["value"] - 1) < 0.2, "the value has learnt what is to be expected"


def test_a_bandits_penalty_holds_it_to_the_optimum_under_it(tmp_path: Path) -> None:
    """The best policy under r - b KL is proportional to reference * exp(r / b) (arXiv:1909.08593 section 2.1): with a
    share q of tokens that pay, they then have q e^(1/b) / (q e^(1/b) + 1 - q)."""
    b = 0.5
    kl = {"type": "fixed", "coefficient": b}
    task = bandit(
        tmp_path, kl=kl, rollout={"num_completions": 40, "max_new_tokens": 1}, update={"num_epochs": 1},
        optimizer={"learning_rate": 5e-3}, **steps(40),
    )  # fmt: skip
    succeeded(task, tmp_path / "a1")
    told = [values["reward"] for _, values in sorted(losses_of(tmp_path / "a1").items())]
    share = told[0]
    best = share * math.exp(1 / b) / (share * math.exp(1 / b) + 1 - share)
    assert best > 2 * share
    assert sum(told[-10:]) / 10 == pytest.approx(best, abs=0.08)


# -- what may happen ---------------------------------------------------------------------------------------------------


def test_an_update_that_goes_too_far_ends_the_rollouts_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step's divergence is 0, the second's is above any limit: it and those after it are not taken, and
    nothing moves until the next rollout."""
    task = task_of(tmp_path, update={"num_epochs": 4, "max_kl": 1e-9}, **steps(8, every=1))
    record = succeeded(task, tmp_path / "whole")
    numbers = numbers_of(tmp_path / "whole")
    assert [step for step, values in numbers.items() if "skipped" in values] == [2, 3, 4, 6, 7, 8]
    assert numbers[2]["approx_kl"] > 1e-9
    assert all("loss" not in numbers[step] and "approx_kl" not in numbers[step] for step in (3, 4, 7, 8))
    assert record.summary["loss"] == numbers[5]["loss"]
    assert record.summary["trained_tokens"] < 2 * 3 * 6 + 1, "tokens of steps that were not taken are not counted"
    with monkeypatch.context() as patch:
        kill_after(patch, 7)
        run_training(task, tmp_path / "a1")
    found = {path.name: path for path in find_checkpoints(tmp_path / "a1" / "checkpoints")}
    for part in ("model", "optimizer", "value_model", "value_optimizer"):
        files = [(found[f"step-{step:08d}"] / f"{part}.safetensors").read_bytes() for step in (1, 2, 4, 5)]
        assert files[0] == files[1] == files[2] != files[3]
    for number, step in enumerate((1, 3), start=2):
        folder = tmp_path / f"a{number}"
        succeeded(with_task(task, attempt=number, resume_from=str(found[f"step-{step:08d}"])), folder)
        assert output_of(folder) == output_of(tmp_path / "whole")


def test_without_a_limit_all_updates_are_taken(tmp_path: Path) -> None:
    succeeded(task_of(tmp_path, update={"num_epochs": 3}, **steps(6)), tmp_path / "a1")
    numbers = numbers_of(tmp_path / "a1")
    assert not any("skipped" in values for values in numbers.values())
    assert [values["approx_kl"] > 0 for values in numbers.values()] == [False, True, True, False, True, True]


@pytest.mark.parametrize("is_lora", [False, True])
def test_a_model_that_stops_at_once_gives_empty_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_lora: bool
) -> None:
    """One completion of a prompt, of a stop token alone, and equal rewards: the value learns, and the policy's whitened
    advantages are 0."""
    rows = [{**row, "target": {"pattern": "^$"}} for row in prompts_of(6)]
    options = {"adapter": LORA} if is_lora else {}
    task = task_of(tmp_path, rows=rows, score={"missing_stop_penalty": 5.0}, **options, **steps(1))
    stop = json.loads((Path(task.base.path) / "generation_config.json").read_text())["eos_token_id"]
    stops_at(monkeypatch, stop)
    succeeded(task, tmp_path / "a1")
    values = losses_of(tmp_path / "a1")[1]
    assert (values["completion_tokens"], values["truncated_share"]) == (1.0, 0.0)
    assert (values["reward"], values["reward_std"], values["score"], values["return"]) == (1.0, 0.0, 1.0, 1.0)
    assert (values["policy_loss"], values["grad_norm"]) == (0.0, 0.0)
    assert values["value_loss"] == pytest.approx(0.5)
    assert values["value_grad_norm"] > 0
    assert "explained_variance" not in values, "of returns that do not vary it is not defined"
    assert {(sample["answer"], sample["stop_reason"]) for sample in samples_of(tmp_path / "a1")} == {("", "stop")}


def test_a_model_that_never_stops_is_told_and_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stops_at(monkeypatch, 40)
    rows = [{**row, "target": {"pattern": "^"}} for row in prompts_of(6)]
    task = task_of(tmp_path, rows=rows, score={"missing_stop_penalty": 1.5, "clip": 0.25}, **steps(1))
    succeeded(task, tmp_path / "a1")
    values = losses_of(tmp_path / "a1")[1]
    assert (values["completion_tokens"], values["truncated_share"], values["reward"]) == (6.0, 1.0, 1.0)
    assert values["score"] == 0.25 - 1.5
    assert [note.level for note in events_of(tmp_path / "a1", Note) if "without a stop token" in note.message] == [
        "warning"
    ]
    assert not [note for note in events_of(tmp_path / "a1", Note) if "equal rewards" in note.message], "values differ"


def test_a_completion_without_a_reward_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = RewardProcess.score, [0]

    def sometimes(self: RewardProcess, answer: Any) -> Scored:
        calls[0] += 1
        return Scored(failure="checker: broken") if calls[0] % 3 == 1 else original(self, answer)

    monkeypatch.setattr(RewardProcess, "score", sometimes)
    task = task_of(tmp_path, max_failed_rewards=0.5, rollout={**ROLLOUT, "num_samples": 9}, update=ONCE, **steps(2))
    succeeded(task, tmp_path / "a1")
    for values in losses_of(tmp_path / "a1").values():
        assert values["failed_reward_share"] == pytest.approx(1 / 3)
        assert math.isfinite(values["reward"])
    samples = samples_of(tmp_path / "a1")
    assert ["score" in sample for sample in samples] == [False, True, True] * 2
    assert all(("failure" in sample) != ("score" in sample) for sample in samples)


def test_a_rollout_without_any_reward_moves_by_momentum_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RewardProcess, "score", lambda self, answer: Scored(failure="checker: broken"))
    kl = {"type": "adaptive"}
    task = task_of(tmp_path, max_failed_rewards=1.0, kl=kl, update=ONCE, **steps(2))
    record = succeeded(task, tmp_path / "a1")
    assert record.summary["trained_tokens"] == 0
    for values in losses_of(tmp_path / "a1").values():
        assert (values["loss"], values["grad_norm"], values["value_grad_norm"]) == (0.0, 0.0, 0.0)
        assert values["kl_coefficient"] == 0.05, "nothing was measured"
        assert "score" not in values
    before = load_file(Path(task.base.path) / "model.safetensors")
    after = load_file(tmp_path / "a1" / "output" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_equal_rewards_with_a_penalty_still_pull_to_the_base(tmp_path: Path) -> None:
    """Without one the policy stays where it is once values say the reward; with one each token has a reward."""
    rows = [{**row, "target": {"pattern": "^"}} for row in prompts_of(6)]
    task = task_of(tmp_path, rows=rows, kl={"type": "fixed", "coefficient": 1.0}, update=ONCE, **steps(3))
    succeeded(task, tmp_path / "a1")
    numbers = losses_of(tmp_path / "a1")
    assert [values["reward_std"] for values in numbers.values()] == [0.0] * 3
    assert numbers[1]["kl"] == 0.0
    assert numbers[3]["kl"] != 0.0
    assert "zero_variance_share" not in numbers[1], "completions are not compared"


def test_held_out_prompts_are_answered_and_leave_no_trace(tmp_path: Path) -> None:
    held_out = {"type": "share", "ratio": 0.25, "every_steps": 2, "save": "best"}
    task = task_of(tmp_path, held_out=held_out, **steps(4))
    record = succeeded(task, tmp_path / "a1")
    (first, second) = events_of(tmp_path / "a1", HeldOutMetrics)
    for event in (first, second):
        assert event.values["held_out_loss"] == -event.values["held_out_reward"]
    assert record.summary["saved_step"] in (2, 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rollout": {"num_completions": 0}}, "greater than or equal to 1"),
        ({"rollout": {"max_resamples": 1}}, "Extra inputs"),
        ({"loss": {"dual_clip": 0.5}}, "must be above 1, or 0"),
        ({"kl": {"type": "adaptive", "coefficient": 0.0}}, "greater than 0"),
        ({"kl": {"type": "fixed", "target": 1.0}}, "Extra inputs"),
        ({"kl": {"estimator": "k1"}}, "Unable to extract tag"),
        ({"advantage": {"gamma": 0.0}}, "greater than 0"),
        ({"advantage": {"lam": 1.1}}, "less than or equal to 1"),
        ({"value": {"clip": -0.1}}, "greater than or equal to 0"),
        ({"adapter": {"type": "lora", "dropout": 0.1}}, "dropout must be 0"),
        ({"batch": {"overlong": "truncate"}}, "a prompt cannot be cut"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec_of("ppo", **options)
