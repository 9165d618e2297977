"""Reward models as rewards: the score is the one that they were trained to give, whatever it is packed with; what
they cannot judge is refused or counted; and a job with one runs, resumes and reports as any other."""

from __future__ import annotations

import json
import math
from array import array
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import Branch, Group
from posttrain.engine.data.preferences import read_pair
from posttrain.engine.errors import CancelledError
from posttrain.engine.events import HeldOutMetrics, Note, Phase
from posttrain.engine.models import load_tokenizer, own_template, stop_ids_of
from posttrain.engine.plan import memory_plan, read_shapes
from posttrain.engine.rewards.base import Scored, joined
from posttrain.engine.rewards.model import Judge, RewardModels, check_judges
from posttrain.engine.score import load_reward_model
from posttrain.engine.spec import ModelReward
from posttrain.engine.task import ModelInput, TrainTask
from tests.engine.on_policy_runs import LORA, assert_resumed_is_uninterrupted, numbers_of, samples_of
from tests.engine.pairs import make_groups, spec_of
from tests.engine.test_grpo_runs import task_of
from tests.engine.test_run import events_of, failed, succeeded, with_task
from tests.engine.tiny import make_task, pairs_of, save_base, save_dataset

PART = {"type": "model", "model": "judge@1"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainTask, Path]:
    """A reward model after a few steps, its held-out pairs being those that it was not trained on."""
    folder = tmp_path_factory.mktemp("judge")
    held_out = save_dataset(folder / "held_out.jsonl", pairs_of(30)[24:], "preference")
    task = make_task(
        folder,
        "reward",
        optimizer={"learning_rate": 1e-2},
        held_out={"type": "data", "datasets": ["held@1"], "every_steps": 100},
    )
    task = with_task(task, held_out=[held_out.model_copy(update={"ref": "held@1"}).model_dump()])
    succeeded(task, folder / "a1")
    return task, folder / "a1"


@pytest.fixture(scope="module")
def judge(trained: tuple[TrainTask, Path]) -> ModelInput:
    return ModelInput(ref="judge@1", path=str(trained[1] / "output"), digest="1" * 64, weights_digest="1" * 64)


def loaded(judge: ModelInput, base: ModelInput) -> list[Judge]:
    """As an attempt does it."""
    tokenizer = load_tokenizer(base)
    template = own_template(tokenizer)
    assert template is not None
    options = [ModelReward(model="judge@1")]
    candidates = check_judges(options, [judge], tokenizer, template, stop_ids_of(tokenizer, None, None))
    return [candidate.load("float32", torch.device("cpu")) for candidate in candidates]


def with_judge(folder: Path, judge: ModelInput, base: ModelInput | None = None, **options: Any) -> TrainTask:
    rewards = options.pop("rewards", [PART])
    return with_task(task_of(folder, base=base, rewards=rewards, **options), reward_models=[judge.model_dump()])


def test_the_score_of_a_held_out_pair_is_that_of_reward_training(
    trained: tuple[TrainTask, Path], judge: ModelInput
) -> None:
    task, folder = trained
    tokenizer = load_tokenizer(task.base)
    template = own_template(tokenizer)
    assert template is not None
    encoder = Encoder(tokenizer, template, [tokenizer.eos_token_id])
    pairs = [read_pair(row) for row in pairs_of(30)[24:]]
    prompts = [encoder.prompt(pair.prompt, pair.tools) for pair in pairs]
    answers = [[tokenizer(turn[0]["content"])["input_ids"] for turn in (pair.chosen, pair.rejected)] for pair in pairs]
    scored = RewardModels(loaded(judge, task.base), 64).score(prompts, answers)
    found = torch.tensor([[one.parts["model"] for one in pair] for pair in scored])
    (event,) = events_of(folder, HeldOutMetrics)
    assert float(found[:, 0].mean()) == pytest.approx(event.values["held_out_reward_chosen"], abs=1e-5)
    assert float(found[:, 1].mean()) == pytest.approx(event.values["held_out_reward_rejected"], abs=1e-5)
    right = (found[:, 0] > found[:, 1]).float().mean()
    assert float(right) == pytest.approx(event.values["held_out_reward_accuracy"])
    assert float(found.std()) > 0.1, "a constant would pass"


@pytest.mark.parametrize("micro_tokens", [1, 40, 8192])
def test_scores_are_those_of_transformers_whatever_they_are_packed_with(
    trained: tuple[TrainTask, Path], judge: ModelInput, micro_tokens: int
) -> None:
    """Answers of random tokens, an empty one among them, each ended by the stop token."""
    (part,) = loaded(judge, trained[0].base)
    stop = load_tokenizer(trained[0].base).eos_token_id
    assert part.stop_id == stop
    groups = [
        *make_groups(seed=1, num_branches=4, vocabulary=300),
        Group(array("i", [5, 6]), (Branch(array("i"), b""),)),
    ]
    prompts, answers = [group.prefix for group in groups], [[one.ids for one in group.branches] for group in groups]
    scored = RewardModels([part], micro_tokens).score(prompts, answers)
    plain = AutoModelForSequenceClassification.from_pretrained(judge.path).eval()
    for prompt, group, found in zip(prompts, answers, scored, strict=True):
        for answer, one in zip(group, found, strict=True):
            with torch.no_grad():
                expected = plain(input_ids=torch.tensor([[*prompt, *answer, stop]])).logits.item()
            assert one == Scored({"model": pytest.approx(expected, abs=1e-5)})


def test_what_has_no_score_is_a_failure_and_no_number(
    trained: tuple[TrainTask, Path], judge: ModelInput, tmp_path: Path
) -> None:
    (part,) = loaded(judge, trained[0].base)
    models = RewardModels([part], 64)
    context = part.model.context
    short, exact, long = models.score([[5] * 10], [[[6], [6] * (context - 11), [6] * (context - 10)]])[0]
    assert not short.failure
    assert not exact.failure
    assert long == Scored(
        failure=f"model: {context + 1} tokens with the prompt, above the reward model's context of {context}"
    )
    with torch.no_grad():
        part.model.module.score.weight.fill_(math.nan)
    assert models.score([[5]], [[[6], []]])[0] == [Scored(failure="model: is nan")] * 2
    with pytest.raises(CancelledError):
        models.score([[5]], [[[6]]], lambda: True)


def test_parts_stand_in_the_order_of_the_spec_and_the_first_failure_is_told() -> None:
    options = spec_of("grpo", rewards=[PART, {"type": "checker"}]).rewards
    found = joined(Scored({"checker": 1.0}), Scored({"model": 2.0}), options)
    assert list(found.parts.items()) == [("model", 2.0), ("checker", 1.0)]
    assert joined(Scored(failure="a"), Scored(failure="b"), options).failure == "a"
    assert joined(Scored({"checker": 1.0}), Scored(failure="b"), options) == Scored({"checker": 1.0}, "b")


def test_a_job_maximises_a_reward_model_and_names_it_everywhere(judge: ModelInput, tmp_path: Path) -> None:
    """The judge prefers answers with `fox`; beside it a checker with a weight of its own, in metrics and samples."""
    task = with_judge(
        tmp_path,
        judge,
        rewards=[PART, {"type": "checker", "weight": 0.25}],
        optimizer={"learning_rate": 1e-2},
        duration={"type": "steps", "max_steps": 8},
        batch={"num_rows": 6, "micro_tokens": 512, "max_tokens": 128},
        rollout={"num_completions": 8, "max_new_tokens": 6},
        held_out={"type": "share", "ratio": 0.25, "every_steps": 8},
    )
    succeeded(task, tmp_path / "a1")
    numbers = [values for _, values in sorted(numbers_of(tmp_path / "a1").items())]
    for values in numbers:
        total = values["reward_model"] + 0.25 * values["reward_checker"]
        assert values["reward"] == pytest.approx(total)
        assert values["reward_model_std"] > 0
        assert values["failed_reward_share"] == 0
    assert numbers[-1]["reward_model"] > numbers[0]["reward_model"] + 0.3
    for sample in samples_of(tmp_path / "a1"):
        assert list(sample["parts"]) == ["model", "checker"]
        assert sample["reward"] == pytest.approx(sample["parts"]["model"] + 0.25 * sample["parts"]["checker"])
    (event,) = events_of(tmp_path / "a1", HeldOutMetrics)
    assert {"held_out_reward_model", "held_out_reward_checker"} <= set(event.values)


def test_resumed_equals_uninterrupted_to_the_last_bit(
    judge: ModelInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {"duration": {"type": "steps", "max_steps": 4}, "checkpoint": {"every_steps": 1, "keep": 9}}
    task = with_judge(tmp_path, judge, adapter=LORA, update={"num_epochs": 2}, **steps)
    assert_resumed_is_uninterrupted(task, tmp_path, monkeypatch, after=(1,), last=4, killed=2)


def copied(judge: ModelInput, folder: Path) -> ModelInput:
    folder.mkdir()
    for path in Path(judge.path).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return judge.model_copy(update={"path": str(folder)})


def test_a_reward_that_is_no_number_is_counted_and_ends_the_job(judge: ModelInput, tmp_path: Path) -> None:
    broken = copied(judge, tmp_path / "nan")
    weights = load_file(tmp_path / "nan" / "model.safetensors")
    # Only where an answer ends: the check at loading, on random tokens, would refuse the model otherwise.
    weights["model.embed_tokens.weight"][load_tokenizer(judge).eos_token_id] = math.nan
    save_file(weights, tmp_path / "nan" / "model.safetensors", {"format": "pt"})
    task = with_judge(tmp_path, broken)
    record = failed(task, tmp_path / "a1")
    assert (record.code, "model: is nan" in record.message) == ("REWARD_FAILED", True)
    one = with_task(task, spec={**task.spec.model_dump(), "max_failed_rewards": 1.0})
    succeeded(one, tmp_path / "a2")
    for values in numbers_of(tmp_path / "a2").values():
        assert values["failed_reward_share"] == 1.0
        assert "reward" not in values
    assert all("reward" not in sample for sample in samples_of(tmp_path / "a2"))
    assert any("12 of 12 completions have no reward" in note.message for note in events_of(tmp_path / "a2", Note))


def _other_tokenizer(folder: Path) -> str:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(folder)
    return "has another tokenizer than the base"


def _other_merges(folder: Path) -> str:
    plain = json.loads((folder / "tokenizer.json").read_text())
    plain["model"]["merges"] = plain["model"]["merges"][:-1]
    (folder / "tokenizer.json").write_text(json.dumps(plain))
    return "has another tokenizer than the base"


def _other_template(folder: Path) -> str:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + "{# other #}")
    return "has another chat template than the job"


def _no_template(folder: Path) -> str:
    (folder / "chat_template.jinja").unlink()
    return "has no chat template"


@pytest.mark.parametrize("change", [_other_tokenizer, _other_merges, _other_template, _no_template])
def test_a_reward_model_that_reads_other_tokens_is_refused_at_once(
    judge: ModelInput, tmp_path: Path, change: Any
) -> None:
    said = change(Path(copied(judge, tmp_path / "other").path))
    other = judge.model_copy(update={"path": str(tmp_path / "other")})
    record = failed(with_judge(tmp_path, other, rewards=[{"type": "checker"}, PART]), tmp_path / "a1")
    assert record.code == "BAD_SPEC"
    assert record.message.startswith(f"rewards[1].model: judge@1 {said}")
    assert "reward model" in record.hint
    assert [event.phase for event in events_of(tmp_path / "a1", Phase)] == ["loading"], "before any row is read"


def test_what_is_no_reward_model_or_was_changed_is_refused_by_name(judge: ModelInput, tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", is_chat=True)
    record = failed(with_judge(tmp_path, base.model_copy(update={"ref": "chat@1"})), tmp_path / "a1")
    assert (record.code, record.message) == ("BAD_MODEL", "chat@1 is no reward model")
    changed = copied(judge, tmp_path / "changed")
    files = {str(Path(changed.path) / "model.safetensors"): "0" * 64}
    record = failed(with_judge(tmp_path, changed.model_copy(update={"files": files})), tmp_path / "a2")
    assert record.message == "judge@1: model.safetensors was changed after it was registered"
    config = json.loads((tmp_path / "changed" / "config.json").read_text())
    config |= {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
    (tmp_path / "changed" / "config.json").write_text(json.dumps(config))
    record = failed(with_judge(tmp_path, changed), tmp_path / "a3")
    assert record.message == "judge@1 has 2 labels: a reward model has one score"
    record = failed(with_task(with_judge(tmp_path, judge), reward_models=[]), tmp_path / "a4")
    assert (record.code, "1 parts of type model, but 0" in record.message) == ("BAD_SPEC", True)


def test_its_packed_path_is_checked_when_it_is_loaded(judge: ModelInput) -> None:
    """In eval mode, without gradients, and a head that gives one score of each position."""
    model = load_reward_model(judge, torch.float32, torch.device("cpu"))
    assert not model.module.training
    assert not model.trainable()
    assert model.logits(torch.zeros(3, 32)).shape == (3, 1)


def test_its_memory_is_planned(trained: tuple[TrainTask, Path], judge: ModelInput) -> None:
    """Its weights; and a pass, which keeps one layer, only where that is more than an update keeps."""
    base, own = read_shapes(Path(trained[0].base.path)), read_shapes(Path(judge.path))
    assert own.num_parameters == base.num_parameters + 32
    plain = spec_of("grpo", dtype="float32")
    spec = spec_of("grpo", dtype="float32", rewards=[PART, {"type": "checker"}, {**PART, "model": "other@1"}])
    assert "reward_models" not in memory_plan(plain, base).parts
    found = memory_plan(spec, base, judges=[own, own])
    assert found.parts["reward_models"] == 4 * 2 * own.num_parameters
    assert found.total_bytes == memory_plan(plain, base).total_bytes + 8 * own.num_parameters
    assert found.replan(spec).parts == found.parts
    assert memory_plan(spec, base).parts["reward_models"] == 4 * 2 * base.num_parameters, "as large as the base"
