"""Attempts of grpo and ppo whose model calls tools: numbers and samples, resumed to the last bit, and what PPO makes of
the tokens that tools wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from posttrain.engine.checkpoint import find_checkpoints
from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.examples import PromptExample
from posttrain.engine.methods import Models
from posttrain.engine.methods.on_policy import OnPolicyMethodBase
from posttrain.engine.methods.ppo import PpoMethod
from posttrain.engine.rewards import Answer, RewardProcess
from posttrain.engine.rollout import GenerationSettings, sampling
from posttrain.engine.rollout.rows import Row
from posttrain.engine.run import run_training
from posttrain.engine.spec import CheckerReward, parse_spec
from posttrain.engine.task import TrainTask
from tests.engine import tiny
from tests.engine.pairs import spec_of
from tests.engine.test_grpo_runs import numbers_of, output_of, samples_of
from tests.engine.test_ppo_losses import make_models, padded_hidden
from tests.engine.test_run import failed, kill_after, succeeded, with_task
from tests.engine.tiny import CONFIGS, make_task, tiny_tokenizer

TOKENIZER = tiny_tokenizer(is_chat=True)
END = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
TOOLS = {"type": "tools", "max_turns": 3}
BATCH = {"num_rows": 2, "micro_tokens": 512, "max_tokens": 1024}
ROLLOUT = {"num_completions": 3, "max_new_tokens": 90, "batch_rows": 4}


def call(expression: str) -> list[int]:
    text = "<tool_call>" + json.dumps({"name": "calculator", "arguments": {"expression": expression}}) + "</tool_call>"
    return [*TOKENIZER(text, add_special_tokens=False)["input_ids"], END]


@pytest.fixture(autouse=True)
def calling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model with room for tools' descriptions, whose completions of odd number begin with a call: so many
    tokens are written for it, the others it samples. Its log-probabilities are its own."""
    plain = CONFIGS["llama"]()
    monkeypatch.setitem(
        tiny.CONFIGS, "llama", lambda: type(plain)(**{**plain.to_dict(), "max_position_embeddings": 1024})
    )
    scripts = [call("2+3"), call("1/0")]
    original = sampling.choose

    def choose(rows: Sequence[Row], logits_AV: Tensor, settings: GenerationSettings) -> None:
        original(rows, logits_AV, settings)
        for row, logits_V in zip(rows, logits_AV, strict=True):
            place = len(row.logps) - 1
            script = scripts[row.index // 2 % 2] if row.index % 2 else []
            told = script[place] if place < len(script) else row.token_ids[-1]
            if place == len(script) + 4:
                told = END  # or a random model hardly ever ends a turn
            row.token_ids[-1] = told
            row.logps[-1] = float(torch.log_softmax(logits_V, -1)[told])
            row.tempered_logps[-1] = float(torch.log_softmax(logits_V / (settings.temperature or 1), -1)[told])

    monkeypatch.setattr(sampling, "choose", choose)


def rows_of(count: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt": "what is two plus three?" + " fox" * (i % 3),
            "checker": "regex",
            "target": {"pattern": "[aeiou]", "table": {"ann": 7}},
        }
        for i in range(count)
    ]


def task_of(folder: Path, kind: str, **options: Any) -> TrainTask:
    given = {"rows": rows_of(6), "batch": BATCH, "rollout": ROLLOUT, "environment": TOOLS, **options}
    return make_task(folder, kind, **given)


KINDS: dict[str, dict[str, Any]] = {
    "grpo": {"update": {"num_epochs": 2}, "beta": 0.1, "loss": {"type": "dapo"}},
    "ppo": {"update": {"num_epochs": 2}, "adapter": {"type": "lora", "rank": 4}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_in_a_rollout_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    steps = {"duration": {"type": "steps", "max_steps": 4}, "checkpoint": {"every_steps": 1, "keep": 9}}
    task = task_of(tmp_path, kind, **steps, **KINDS[kind])
    succeeded(task, tmp_path / "whole")
    expected = numbers_of(tmp_path / "whole")
    told = expected[1]
    assert told["turns"] > 1
    assert told["tool_calls"] > 0
    assert 0 < told["tool_error_share"] < 1
    assert told["malformed_call_share"] == 0
    assert told["tool_tokens"] > 10
    assert all(values["logp_difference"] < 1e-5 for values in expected.values())
    with monkeypatch.context() as patch:
        kill_after(patch, 3)
        assert run_training(task, tmp_path / "a1").code == "INTERNAL"
    checkpoint = find_checkpoints(tmp_path / "a1" / "checkpoints")[-1]
    assert (checkpoint / "rollout.safetensors").is_file(), "the rollout is in the checkpoint, not made again"
    succeeded(with_task(task, attempt=2, resume_from=str(checkpoint)), tmp_path / "a2")
    found = numbers_of(tmp_path / "a2")
    assert found
    assert all(found[step] == expected[step] for step in found)
    assert output_of(tmp_path / "a2") == output_of(tmp_path / "whole")


def test_samples_have_every_turn(tmp_path: Path) -> None:
    succeeded(task_of(tmp_path, "grpo", duration={"type": "steps", "max_steps": 1}), tmp_path / "a1")
    samples = samples_of(tmp_path / "a1")
    called = [sample for sample in samples if any(turn["results"] for turn in sample["turns"])]
    assert called
    for sample in called:
        first, last = sample["turns"][0], sample["turns"][-1]
        assert first["text"].startswith("<tool_call>")
        assert first["text"].endswith("</tool_call><|im_end|>")
        (result,) = first["results"]
        assert result["text"] == ("error: division by zero" if "1/0" in result["arguments"] else "5")
        assert result["is_error"] == ("1/0" in result["arguments"])
        assert sample["answer"] in last["text"]
        assert "<tool_call>" not in sample["answer"]
    assert {len(sample["turns"]) for sample in samples} >= {1, 2}


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    options: dict[str, Any] = {**KINDS["grpo"], "duration": {"type": "steps", "max_steps": 2}}
    succeeded(task_of(tmp_path, "grpo", **options), tmp_path / "a1")
    parts = task_of(tmp_path, "grpo", **options, batch={**BATCH, "micro_tokens": 1})
    succeeded(parts, tmp_path / "a2")
    others = numbers_of(tmp_path / "a2")
    for step, values in numbers_of(tmp_path / "a1").items():
        for key, value in values.items():
            assert others[step][key] == pytest.approx(value, rel=2e-5, abs=2e-5), (step, key)


def encoded(method: OnPolicyMethodBase[Any], count: int) -> list[Any]:
    tokenizer = tiny_tokenizer(is_chat=True)
    template, _ = method.prepare_tokenizer(tokenizer)
    encoder = Encoder(tokenizer, template, [END])
    return [
        method.encode(
            PromptExample([{"role": "user", "content": row["prompt"]}], row["checker"], row["target"]),
            encoder,
            "d@1",
            i,
        )
        for i, row in enumerate(rows_of(count), start=1)
    ]


@torch.no_grad()
def test_ppo_steps_over_what_tools_wrote() -> None:
    """The state after a call's last token is the one in which the next turn's first token is chosen: advantages by the
    paper's sum over the model's own tokens (arXiv:1506.02438 eq. 16), values and log-probabilities by the model's own
    padded forward."""
    models: Models = make_models("lora")
    spec = spec_of(
        "ppo", environment=TOOLS, rollout=ROLLOUT, batch=BATCH, kl={"type": "fixed", "coefficient": 0.3},
        advantage={"gamma": 0.97, "lam": 0.9, "whiten": False}, adapter={"type": "lora"},
    )  # fmt: skip
    method = PpoMethod(spec)
    try:
        made = method.rollout(encoded(method, 2), models, (0, 0), lambda: False)
    finally:
        method.close()
    value = models.value
    assert value is not None
    groups = made.groups
    policy = padded_hidden(models.policy, groups)
    with models.reference() as reference:
        base = padded_hidden(reference, groups)
    with value.in_use():
        states = padded_hidden(value.model, groups)
    branches = [branch for group in groups for branch in group.branches]
    trained = [one for group in groups for one in group.trained]
    scores = [sample["reward"] for sample in made.samples]
    has_gap = 0
    for i, (branch, one) in enumerate(zip(branches, trained, strict=True)):
        own = [token for token, is_own in zip(branch.ids, branch.is_target, strict=True) if is_own]
        has_gap += len(own) < len(branch)
        values = [float(value.head(state)) for state in states[i]]
        logps, references = (
            [
                float(torch.log_softmax(models.policy.logits(state[None])[0], -1)[token])
                for state, token in zip(*each, strict=True)
            ]
            for each in ((policy[i], own), (base[i], own))
        )
        assert list(one.values) == pytest.approx(values, abs=1e-4)
        assert list(one.old) == pytest.approx(logps, abs=1e-4)
        assert list(one.reference) == pytest.approx(references, abs=1e-4)
        rewards = [-0.3 * (a - b) for a, b in zip(logps, references, strict=True)]
        rewards[-1] += scores[i]
        after = [*values[1:], 0.0]
        deltas = [r + 0.97 * v - w for r, v, w in zip(rewards, after, values, strict=True)]
        expected = [sum((0.97 * 0.9) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]
        assert list(one.advantages) == pytest.approx(expected, abs=2e-3)
        assert list(one.returns) == pytest.approx([a + v for a, v in zip(expected, values, strict=True)], abs=2e-3)
    assert has_gap >= 2, "no tool wrote anything"


def test_checkers_of_calls_judge_the_calls() -> None:
    """A call that ran is judged as the call of a single turn is; everything else judges the last turn."""
    said = '<tool_call>{"name": "calculator", "arguments": {"expression": "2+3"}}</tool_call>'
    target = {"name": "calculator", "arguments": {"expression": "2+3"}}
    with RewardProcess([CheckerReward()]) as rewards:

        def judged(text: str, checker: str, target: dict[str, Any], calls: str = "") -> float:
            return rewards.score(Answer(text, 1, 9, False, checker, target, calls=calls)).parts["checker"]

        assert judged("it is 5.", "tool_call", target, said) == 1
        assert judged("it is 5.", "tool_call", target, said + "\n" + said) == 0
        assert judged("it is 5.", "tool_call", target) == 0
        assert judged(said, "tool_call", target) == 1
        plain = {"mode": "answer", "all": ["5"]}
        assert judged("it is 5.", "no_tool_call", plain) == 1
        assert judged("it is 5.", "no_tool_call", plain, said) == 0
        assert judged("it is 5.", "regex", {"pattern": "^it is 5"}, said) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tools": []}, "at least 1 item"),
        ({"tools": ["calculator", "calculator"]}, "names a tool twice"),
        ({"tools": ["shell"]}, "calculator"),
        ({"max_turns": 1}, "greater than or equal to 2"),
        ({"max_result_tokens": 0}, "greater than or equal to 8"),
        ({"on_bad_call": "ignore"}, "tell"),
        ({"timeout_s": 0}, "greater than 0"),
        ({"network": True}, "network"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    for kind in KINDS:
        with pytest.raises(ValidationError, match=said):
            spec_of(kind, environment={"type": "tools", **options})
    with pytest.raises(ValidationError, match="environment"):
        parse_spec({"kind": "sft", "base": "b@1", "output": "o", "data": [{"dataset": "d@1"}], "environment": TOOLS})


def test_python_needs_the_servers_word(tmp_path: Path) -> None:
    environment = {**TOOLS, "tools": ["python"]}
    record = failed(task_of(tmp_path, "grpo", environment=environment), tmp_path / "a1")
    assert record.code == "BAD_SPEC"
    assert "does not let models run Python" in record.message
    assert "--python-tool" in record.hint


def test_a_row_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    rows = [*rows_of(2), {**rows_of(1)[0], "tools": [{"name": "weather", "parameters": {"properties": {}}}]}]
    record = failed(task_of(tmp_path, "grpo", rows=rows), tmp_path / "a1")
    assert "row 3" in record.message
    assert "'weather' does not run" in record.message
