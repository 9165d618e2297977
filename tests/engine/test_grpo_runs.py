"""Attempts of grpo from task to exit record: they learn, resume to the last bit wherever they were killed, do not
depend on how a step is split, and say what came of each rollout."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from posttrain.engine import feed, loop
from posttrain.engine.checkpoint import find_checkpoints
from posttrain.engine.events import HeldOutMetrics, Note
from posttrain.engine.experience import Experience, from_checkpoint, to_plain, to_tensors
from posttrain.engine.methods import on_policy
from posttrain.engine.methods.grpo import GrpoMethod
from posttrain.engine.rewards import RewardProcess, Scored
from posttrain.engine.rollout import passes, sampling
from posttrain.engine.run import run_training
from posttrain.engine.spec import parse_spec
from posttrain.engine.task import TrainTask
from tests.engine import tiny
from tests.engine.on_policy_runs import (
    LORA,
    assert_killed_is_uninterrupted,
    assert_resumed_is_uninterrupted,
    numbers_of,
    output_of,
    samples_of,
)
from tests.engine.pairs import make_experience, spec_of
from tests.engine.test_run import events_of, failed, kill_after, losses_of, succeeded, with_task
from tests.engine.tiny import make_task, prompts_of, save_base

ROLLOUT = {"num_completions": 4, "max_new_tokens": 6, "batch_rows": 8}
TECHNIQUES: dict[str, dict[str, Any]] = {
    "grpo": {},
    "dapo, minibatches, epochs": {"loss": {"type": "dapo"}, "update": {"num_minibatches": 2, "num_epochs": 2}},
    "gspo lora kl": {"loss": {"type": "gspo"}, "beta": 0.1, "adapter": LORA, "update": {"num_epochs": 2}},
    "dr_grpo kl": {"loss": {"type": "dr_grpo"}, "beta": 0.1},
    "rloo": {"loss": {"type": "rloo"}, "update": {"truncated_importance": 2.0}},
}


def techniques(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("options", [TECHNIQUES[name] for name in names], ids=names)


def task_of(folder: Path, **options: Any) -> TrainTask:
    batch = {"num_rows": 3, "micro_tokens": 64, "max_tokens": 128}
    return make_task(folder, "grpo", **{"rollout": ROLLOUT, "batch": batch, **options})


@techniques("grpo", "dapo, minibatches, epochs", "gspo lora kl")
def test_resumed_equals_uninterrupted_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """From checkpoints after steps 3 and 5 of 7: with rollouts of four steps both are in the middle of one."""
    steps = {"duration": {"type": "steps", "max_steps": 7}, "checkpoint": {"every_steps": 1, "keep": 9}}
    task = task_of(tmp_path, **steps, **options)
    assert_resumed_is_uninterrupted(task, tmp_path, monkeypatch, after=(3, 5), last=7)


@pytest.mark.parametrize("stage", ["rollout", "scoring", "logps", "samples", "update", "checkpoint"])
def test_killed_at_any_stage_it_goes_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    steps = {"duration": {"type": "steps", "max_steps": 5}, "checkpoint": {"every_steps": 2}}
    task = task_of(tmp_path, update={"num_epochs": 2}, **steps)
    places: dict[str, tuple[Any, str]] = {
        "rollout": (passes, "decode"),
        "scoring": (RewardProcess, "score"),
        "logps": (on_policy, "policy_logps"),
        "samples": (feed.RolloutFeed, "_write"),
        "update": (GrpoMethod, "loss"),
        "checkpoint": (loop, "save_checkpoint"),
    }
    calls = 3 if stage in ("rollout", "scoring") else 0
    assert_killed_is_uninterrupted(task, tmp_path, monkeypatch, places[stage], calls)


@techniques("dapo, minibatches, epochs", "gspo lora kl", "dr_grpo kl", "rloo")
def test_micro_batches_change_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    """Of one token each completion has a pass of its own. Only the first rollout is compared: weights that differ by
    rounding may sample another token later."""
    steps = options.get("update", {}).get("num_epochs", 1) * options.get("update", {}).get("num_minibatches", 1)
    whole = task_of(tmp_path, **options, duration={"type": "steps", "max_steps": steps})
    batch = {**whole.spec.batch.model_dump(), "micro_tokens": 8192}
    whole = with_task(whole, spec={**whole.spec.model_dump(), "batch": batch})
    parts = with_task(whole, spec={**whole.spec.model_dump(), "batch": {**batch, "micro_tokens": 1}})
    succeeded(whole, tmp_path / "a1")
    succeeded(parts, tmp_path / "a2")
    others = numbers_of(tmp_path / "a2")
    for step, values in numbers_of(tmp_path / "a1").items():
        for key, value in values.items():
            assert others[step][key] == pytest.approx(value, rel=2e-5, abs=2e-5), (step, key)


def test_it_learns_what_is_rewarded(tmp_path: Path) -> None:
    """Each answer has to hold an e, a bandit-like reward that a random model gets now and then."""
    rows = [{**row, "target": {"pattern": "e"}} for row in prompts_of(12)]
    task = task_of(
        tmp_path,
        rows=rows,
        optimizer={"learning_rate": 3e-2},
        duration={"type": "steps", "max_steps": 12},
        batch={"num_rows": 6, "micro_tokens": 512, "max_tokens": 128},
        rollout={"num_completions": 8, "max_new_tokens": 4},
    )
    succeeded(task, tmp_path / "a1")
    rewards = [values["reward"] for _, values in sorted(losses_of(tmp_path / "a1").items())]
    assert rewards[0] < 0.5
    assert sum(rewards[-3:]) / 3 > 0.9


def test_a_group_without_variance_costs_nothing_and_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rewards are equal: no gradient, no pass of the model in the update, and weights as they were."""
    rows = [{**row, "target": {"pattern": "^"}} for row in prompts_of(6)]
    passes = []
    original = GrpoMethod.loss
    monkeypatch.setattr(GrpoMethod, "loss", lambda self, *given: passes.append(1) or original(self, *given))
    task = task_of(tmp_path, rows=rows, duration={"type": "steps", "max_steps": 2})
    succeeded(task, tmp_path / "a1")
    assert not passes
    for values in losses_of(tmp_path / "a1").values():
        assert (values["zero_variance_share"], values["reward"], values["reward_std"]) == (1.0, 1.0, 0.0)
        assert (values["loss"], values["grad_norm"]) == (0.0, 0.0)
    from safetensors.torch import load_file

    before = load_file(Path(task.base.path) / "model.safetensors")
    after = load_file(tmp_path / "a1" / "output" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any("zero" in note.message or "equal" in note.message for note in events_of(tmp_path / "a1", Note))


def test_leaving_zero_advantages_out_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**row, "target": {"pattern": "^" if i % 2 else "e"}} for i, row in enumerate(prompts_of(6))]
    task = task_of(tmp_path, rows=rows, duration={"type": "steps", "max_steps": 3}, update={"num_epochs": 3})
    succeeded(task, tmp_path / "a1")
    shares = [values["zero_variance_share"] for values in losses_of(tmp_path / "a1").values() if "reward" in values]
    assert any(shares), "no group was left out, so nothing is compared"
    original = GrpoMethod._experience

    def keep_all(self: GrpoMethod, *given: Any) -> Experience:
        self._spec = self._spec.model_copy(update={"beta": 1e-30})  # a divergence term: all are computed
        try:
            return original(self, *given)
        finally:
            self._spec = task.spec  # type: ignore[assignment]

    monkeypatch.setattr(GrpoMethod, "_experience", keep_all)
    succeeded(task, tmp_path / "a2")
    others = numbers_of(tmp_path / "a2")
    for step, values in numbers_of(tmp_path / "a1").items():
        for key in ("loss", "grad_norm", "clip_fraction"):
            assert others[step][key] == pytest.approx(values[key], rel=1e-4, abs=1e-6), (step, key)


def test_groups_with_equal_rewards_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the prompts are always right; resumed in the middle of a rollout, other prompts take the same places."""
    rows = [{**row, "target": {"pattern": "^" if i % 2 else "[aeiou]"}} for i, row in enumerate(prompts_of(12))]
    options: dict[str, Any] = {
        "rows": rows,
        "update": {"num_epochs": 2},
        "duration": {"type": "steps", "max_steps": 6},
        "checkpoint": {"every_steps": 3},
    }
    task = task_of(tmp_path, **options, rollout={**ROLLOUT, "num_samples": 9, "max_resamples": 4})
    succeeded(task, tmp_path / "whole")
    values = [values for values in numbers_of(tmp_path / "whole").values() if "reward" in values]
    assert sum(value["zero_variance_share"] for value in values) > 0.5
    assert [value["uniform_share"] for value in values] == [0.0] * 3
    drawn = [sample["row"] for sample in samples_of(tmp_path / "whole")][::4]
    assert len(drawn) > 3 * 3, "no prompt was drawn again"
    with monkeypatch.context() as patch:
        kill_after(patch, 4)
        assert run_training(task, tmp_path / "a1").code == "INTERNAL"
    (checkpoint,) = find_checkpoints(tmp_path / "a1" / "checkpoints")
    succeeded(with_task(task, attempt=2, resume_from=str(checkpoint)), tmp_path / "a2")
    assert output_of(tmp_path / "a2") == output_of(tmp_path / "whole")


def test_samples_are_kept_for_reading(tmp_path: Path) -> None:
    rewards = [
        {"type": "checker"},
        {"type": "regex", "pattern": "x", "weight": 0.5},
        {"type": "overlong", "weight": 2.0},
    ]
    task = task_of(tmp_path, rewards=rewards, duration={"type": "steps", "max_steps": 2})
    succeeded(task, tmp_path / "a1")
    samples = samples_of(tmp_path / "a1")
    assert [(sample["step"], sample["rollout"]) for sample in samples[::8]] == [(1, 0), (2, 1)]
    assert len(samples) == 2 * 2 * 4  # steps, prompts, completions
    for sample in samples:
        parts = sample["parts"]
        assert sample["reward"] == parts["checker"] + 0.5 * parts["regex"] + 2.0 * parts["overlong"]
        assert sample["prompt"].startswith("<|im_start|>user\n")
        assert sample["num_tokens"] <= 6
    for start in range(0, len(samples), 4):
        group = samples[start : start + 4]
        assert [sample["completion"] for sample in group] == [0, 1, 2, 3]
        assert sum(sample["advantage"] for sample in group) == pytest.approx(0, abs=1e-9)
    values = losses_of(tmp_path / "a1")[1]
    whole = values["reward_checker"] + 0.5 * values["reward_regex"] + 2.0 * values["reward_overlong"]
    assert values["reward"] == pytest.approx(whole)


def test_a_reward_that_fails_is_counted_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One completion in twelve has no reward: it is in no mean, in no group and in no loss, and the others go on."""
    original, calls = RewardProcess.score, [0]

    def score(self: RewardProcess, answer: Any) -> Scored:
        calls[0] += 1
        return Scored(failure="raised \x1b[31m") if calls[0] % 12 == 5 else original(self, answer)

    monkeypatch.setattr(RewardProcess, "score", score)
    task = task_of(tmp_path, duration={"type": "steps", "max_steps": 2})
    succeeded(task, tmp_path / "a1")
    values = losses_of(tmp_path / "a1")[1]
    assert values["failed_reward_share"] == pytest.approx(1 / 12)
    failures = [sample for sample in samples_of(tmp_path / "a1") if "failure" in sample]
    assert failures
    assert not any(key in sample for sample in failures for key in ("reward", "advantage"))
    (note,) = [note for note in events_of(tmp_path / "a1", Note) if "no reward" in note.message]
    assert "\\x1b" in note.message
    assert "\x1b" not in note.message
    strict = with_task(task, spec={**task.spec.model_dump(), "max_failed_rewards": 0.05})
    record = failed(strict, tmp_path / "a2")
    assert record.code == "REWARD_FAILED"
    assert "1 of the first 5 completions have no reward" in record.message
    assert "\x1b" not in record.message


def test_rollout_and_trainer_that_disagree_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(tmp_path, duration={"type": "steps", "max_steps": 2})
    succeeded(task, tmp_path / "a1")
    assert all(values["logp_difference"] < 1e-5 for values in losses_of(tmp_path / "a1").values())
    assert not [note for note in events_of(tmp_path / "a1", Note) if "differ" in note.message]
    original = on_policy.generate_groups

    def drifting(*given: Any, **named: Any) -> Any:
        return [
            [replace(one, tempered_logps=tuple(logp - 0.3 for logp in one.tempered_logps)) for one in group]
            for group in original(*given, **named)
        ]

    monkeypatch.setattr(on_policy, "generate_groups", drifting)
    succeeded(task, tmp_path / "a2")
    for values in losses_of(tmp_path / "a2").values():
        assert values["logp_difference"] == pytest.approx(0.3, abs=1e-4)
        assert values["logp_difference_share"] == pytest.approx(1.0)
    (note,) = [note for note in events_of(tmp_path / "a2", Note) if "differ" in note.message]
    assert note.level == "warning"


def test_answers_that_no_checker_reads_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_policy, "MAX_ANSWER_CHARS", 3)
    succeeded(task_of(tmp_path, duration={"type": "steps", "max_steps": 1}), tmp_path / "a1")
    (note,) = [note for note in events_of(tmp_path / "a1", Note) if "wrong unread" in note.message]
    long = sum(len(sample["answer"]) > 3 for sample in samples_of(tmp_path / "a1"))
    assert long <= int(note.message.split()[0]) <= 12


def test_a_rollout_that_overflows_names_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = passes.decode

    def broken(*given: Any) -> torch.Tensor:
        logits_AV = original(*given)
        logits_AV[0] = math.nan
        return logits_AV

    monkeypatch.setattr(passes, "decode", broken)
    record = failed(task_of(tmp_path, duration={"type": "steps", "max_steps": 1}), tmp_path / "a1")
    assert record.code == "NON_FINITE"
    assert "data@1 row " in record.message


def test_dropout_of_the_config_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tiny.CONFIGS["gpt2"]()
    dropping = {**plain.to_dict(), "attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5}
    monkeypatch.setitem(tiny.CONFIGS, "gpt2", lambda: type(plain)(**dropping))
    base = save_base(tmp_path / "gpt2", "gpt2", is_chat=True)
    task = task_of(tmp_path, base=base, duration={"type": "steps", "max_steps": 1})
    succeeded(task, tmp_path / "a1")
    assert losses_of(tmp_path / "a1")[1]["logp_difference"] < 1e-5


def test_held_out_prompts_are_answered_greedily(tmp_path: Path) -> None:
    held_out = {"type": "share", "ratio": 0.25, "every_steps": 1, "save": "best"}
    task = task_of(tmp_path, held_out=held_out, duration={"type": "steps", "max_steps": 3})
    record = succeeded(task, tmp_path / "a1")
    events = events_of(tmp_path / "a1", HeldOutMetrics)
    assert [event.num_rows for event in events] == [6, 6, 6]
    for event in events:
        assert event.values["held_out_loss"] == -event.values["held_out_reward"]
    assert record.summary["held_out_loss"] == min(event.values["held_out_loss"] for event in events)


def test_a_stop_in_a_rollout_leaves_a_checkpoint_of_the_last_step(tmp_path: Path) -> None:
    task = task_of(tmp_path, duration={"type": "steps", "max_steps": 4}, checkpoint={"every_steps": 100})
    succeeded(task, tmp_path / "whole")
    original, asked = on_policy.generate_groups, [0]

    def stopping(*given: Any, **named: Any) -> Any:
        asked[0] += 1
        if asked[0] == 3:
            named["should_stop"] = lambda: True
        return original(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_policy, "generate_groups", stopping)
        record = run_training(task, tmp_path / "a1")
    assert (record.status, record.message) == ("cancelled", "stopped after step 2 of 4, in a rollout")
    (checkpoint,) = find_checkpoints(tmp_path / "a1" / "checkpoints")
    succeeded(with_task(task, attempt=2, resume_from=str(checkpoint)), tmp_path / "a2")
    assert output_of(tmp_path / "a2") == output_of(tmp_path / "whole")


def test_prompts_that_leave_no_room_are_refused_or_left_out_and_a_full_context_ends_an_answer(tmp_path: Path) -> None:
    rows = [*prompts_of(5), {"prompt": "fox " * 300, "checker": "regex", "target": {"pattern": "e"}}]
    task = task_of(tmp_path, rows=rows, duration={"type": "steps", "max_steps": 1})
    record = failed(task, tmp_path / "a1")
    assert (record.code, "row 6" in record.message) == ("ROW_TOO_LONG", True)
    batch = {"num_rows": 2, "micro_tokens": 64, "max_tokens": 30, "overlong": "skip"}
    task = with_task(
        task, spec={**task.spec.model_dump(), "batch": batch, "rollout": {**ROLLOUT, "max_new_tokens": 64}}
    )
    succeeded(task, tmp_path / "a2")
    assert {sample["stop_reason"] for sample in samples_of(tmp_path / "a2")} <= {"stop", "context"}
    (note,) = [note for note in events_of(tmp_path / "a2", Note) if "without a stop token" in note.message]
    assert "is not judged" in note.message


def stops_at(monkeypatch: pytest.MonkeyPatch, token: int) -> None:
    """Lets every completion choose this token and no other."""
    original = sampling.choose

    def choose(rows: Any, logits_AV: torch.Tensor, settings: Any) -> None:
        forced_AV = logits_AV.clone()
        forced_AV[:, token] += 1e4
        original(rows, forced_AV, settings)

    monkeypatch.setattr(sampling, "choose", choose)


def test_a_model_that_stops_at_once_gives_empty_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**row, "target": {"pattern": "^$"}} for row in prompts_of(6)]
    task = task_of(tmp_path, rows=rows, beta=0.1, duration={"type": "steps", "max_steps": 1})
    stop = json.loads((Path(task.base.path) / "generation_config.json").read_text())["eos_token_id"]
    stops_at(monkeypatch, stop)
    succeeded(task, tmp_path / "a1")
    values = losses_of(tmp_path / "a1")[1]
    assert (values["completion_tokens"], values["truncated_share"], values["reward"]) == (1.0, 0.0, 1.0)
    assert {(sample["answer"], sample["stop_reason"]) for sample in samples_of(tmp_path / "a1")} == {("", "stop")}


def test_a_model_that_never_stops_is_told_and_can_be_left_out_of_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops_at(monkeypatch, 40)
    task = task_of(tmp_path, beta=0.1, duration={"type": "steps", "max_steps": 1}, update={"mask_truncated": True})
    succeeded(task, tmp_path / "a1")
    values = losses_of(tmp_path / "a1")[1]
    assert (values["completion_tokens"], values["truncated_share"]) == (6.0, 1.0)
    assert (values["loss"], values["grad_norm"]) == (0.0, 0.0)
    assert [note.level for note in events_of(tmp_path / "a1", Note) if "without a stop token" in note.message] == [
        "warning"
    ]


def test_a_checkpoint_holds_a_rollout_exactly() -> None:
    groups = make_experience(seed=2)
    groups[1] = replace(groups[1], branches=(), trained=())  # nothing of it has to be computed
    plain = json.loads(json.dumps(to_plain(groups)))
    assert from_checkpoint(plain, to_tensors(groups)) == groups
    assert from_checkpoint([], to_tensors([])) == []


def test_a_group_above_a_pass_is_cut_into_several_with_the_same_prompt() -> None:
    (group, *_) = make_experience(seed=4)
    for limit in (1, len(group.prefix) + 12, 10_000):
        pieces = list(group.pieces(limit))
        assert [branch for piece in pieces for branch in piece.branches] == list(group.branches)
        assert [one for piece in pieces for one in piece.trained] == list(group.trained)
        assert all(len(piece) <= limit or len(piece.branches) == 1 for piece in pieces)
    assert len(list(group.pieces(1))) == len(group.branches)
    assert list(group.pieces(10_000)) == [group]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rollout": {"num_completions": 1}}, "greater than or equal to 2"),
        ({"rollout": {"temperature": 0.0}}, "greater than or equal to 0.001"),
        ({"adapter": {"type": "lora", "dropout": 0.1}}, "dropout must be 0"),
        ({"batch": {"overlong": "truncate"}}, "a prompt cannot be cut"),
        ({"loss": {"type": "rloo"}, "beta": 0.1}, "no divergence term"),
        ({"rewards": []}, "at least 1 item"),
        ({"rewards": [{"type": "checker", "weight": math.inf}]}, "less than or equal to 1000000000"),
        ({"rewards": [{"type": "checker", "weight": math.nan}]}, "less than or equal to 1000000000"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        spec_of("grpo", **options)
    assert parse_spec(spec_of("grpo").model_dump()) == spec_of("grpo")


def test_a_pattern_that_is_none_ends_the_job_before_weights_are_loaded(tmp_path: Path) -> None:
    task = task_of(tmp_path, rewards=[{"type": "regex", "pattern": "(a"}])
    record = failed(task, tmp_path / "a1")
    assert (record.code, "rewards[0].pattern" in record.message) == ("BAD_SPEC", True)
