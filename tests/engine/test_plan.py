"""The memory estimate: against numbers worked by hand, against what autograd keeps, and against real attempts."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.engine import attention, losses, plan
from posttrain.engine import run as run_module
from posttrain.engine.adapters import add_lora
from posttrain.engine.attention import Segments
from posttrain.engine.base import BASE_DIR
from posttrain.engine.errors import ModelError, SpecError
from posttrain.engine.models import LanguageModel
from posttrain.engine.plan import Shapes, check_fits, kept_elements, lora_parameters, memory_plan, read_shapes
from posttrain.engine.spec import LoraAdapter, TrainSpec, parse_spec

from .test_run import failed, succeeded
from .tiny import make_task

ROWS_FILE = Path(__file__).resolve().parent.parent.parent / "evals" / "suites" / "data" / "ift.jsonl"


def spec_of(adapter: dict[str, Any] | None = None, **changes: Any) -> TrainSpec:
    options = {"kind": "ift", "base": "a@1", "output": "b", "data": [{"dataset": "d@1"}], "dtype": "float32"}
    spec = parse_spec({**options, "adapter": adapter or {"type": "full"}, **changes})
    assert not isinstance(spec, LoraAdapter)
    return spec  # type: ignore[return-value]


def test_the_base_inside_the_package_by_hand() -> None:
    shapes = read_shapes(BASE_DIR)
    assert (shapes.num_layers, shapes.width, shapes.query_width, shapes.key_width, shapes.hidden_width) == (
        6, 192, 192, 192, 512,
    )  # fmt: skip
    assert shapes.num_parameters == 2048 * 192 + 6 * (4 * 192 * 192 + 3 * 192 * 512 + 2 * 192) + 192
    assert len(shapes.matrices) == 6 * 7
    assert lora_parameters(LoraAdapter(rank=16), shapes) == 6 * 16 * (4 * 384 + 3 * 704)
    assert lora_parameters(LoraAdapter(rank=2, targets=["q_proj"]), shapes) == 6 * 2 * 384
    made = memory_plan(spec_of(batch={"micro_tokens": 1000, "num_rows": 8, "max_tokens": 500}), shapes)
    num = shapes.num_parameters
    assert made.parts == {
        "process": plan.PROCESS_BYTES,
        "weights": 4 * num,
        "masters": 0,
        "gradients": 4 * num,
        "moments": 8 * num,
        "average": 0,
        "activations": 4 * 1000 * 6 * (6 * 192 + 3 * 192 + 2 * 192 + 4 * 512),
        "head": 8 * 1000 * 2048,
    }
    less = memory_plan(
        spec_of(
            memory={"gradient_checkpointing": True}, averaging={"type": "ema"}, optimizer={"name": "adamw_8bit"},
            batch={"micro_tokens": 1000, "num_rows": 8, "max_tokens": 500},
        ),
        shapes,
    ).parts  # fmt: skip
    assert less["activations"] == 4 * 1000 * (6 * 192 + 4160)
    assert (less["moments"], less["average"]) == (2 * num, 4 * num)
    half = memory_plan(spec_of(dtype="bfloat16", batch={"micro_tokens": 1000}), shapes).parts
    assert (half["weights"], half["masters"], half["gradients"]) == (2 * num, 4 * num, 4 * num)
    assert memory_plan(spec_of(), shapes, longest=10, step_tokens=70).parts["head"] == 8 * 70 * 2048
    assert memory_plan(spec_of(), shapes, longest=9000, step_tokens=99999).parts["head"] == 8 * 2**24
    assert plan.LOGITS_AT_A_TIME == losses.CHUNK_ELEMENTS


def test_a_row_that_is_longer_than_a_step_of_mean_rows_is_a_pass() -> None:
    shapes, one = read_shapes(BASE_DIR), spec_of(batch={"num_rows": 1, "micro_tokens": 4096, "max_tokens": 4096})
    of_a_token = 4 * 6 * (6 * 192 + 3 * 192 + 2 * 192 + 4 * 512)
    assert memory_plan(one, shapes, longest=2000, step_tokens=100).parts["activations"] == 2000 * of_a_token
    assert memory_plan(one, shapes, longest=2000, step_tokens=3000).parts["activations"] == 3000 * of_a_token
    assert memory_plan(one, shapes, longest=2000, step_tokens=9000).parts["activations"] == 4096 * of_a_token


def test_a_pair_is_computed_with_both_its_answers() -> None:
    shapes = read_shapes(BASE_DIR)
    batch = {"num_rows": 1, "micro_tokens": 512, "max_tokens": 1024}
    dpo, kto = spec_of(kind="dpo", batch=batch), spec_of(kind="dpo", loss={"type": "kto"}, batch=batch)
    of_a_token = 4 * 6 * (6 * 192 + 3 * 192 + 2 * 192 + 4 * 512)
    known = memory_plan(dpo, shapes, longest=700, largest=1100, step_tokens=300)
    assert known.parts["activations"] == 1100 * of_a_token
    assert known.parts["head"] == 3 * 4 * 1100 * 2048, "and autograd keeps one more of each logit"
    assert memory_plan(dpo, shapes, longest=700, step_tokens=300).parts["activations"] == 1400 * of_a_token
    assert memory_plan(dpo, shapes).parts["activations"] == 2048 * of_a_token
    assert memory_plan(kto, shapes).parts["activations"] == 1024 * of_a_token
    assert known.replan(dpo).parts == known.parts
    shorter = spec_of(kind="dpo", batch={**batch, "max_tokens": 400})
    assert known.replan(shorter).parts["activations"] == 800 * of_a_token


def test_a_reward_models_head_by_hand() -> None:
    """No logits; and a head that is no embedding is neither used nor trained."""
    tied = read_shapes(BASE_DIR)
    assert tied.head_parameters == 0
    untied = replace(tied, num_parameters=tied.num_parameters + 2048 * 192, head_parameters=2048 * 192)
    for shapes in (tied, untied):
        found = memory_plan(spec_of(kind="reward", dtype="bfloat16"), shapes).parts
        assert found["head"] == 0
        assert found["weights"] == 2 * shapes.num_parameters
        assert (found["masters"], found["gradients"], found["moments"]) == tuple(
            size * tied.num_parameters for size in (4, 4, 8)
        )
    lora = memory_plan(spec_of({"type": "lora", "rank": 2}, kind="reward"), untied).parts
    assert lora["gradients"] == 4 * lora_parameters(LoraAdapter(rank=2), tied)


def test_a_head_of_its_own_is_read(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    module = LlamaForCausalLM(config)
    module.save_pretrained(tmp_path)
    shapes = read_shapes(tmp_path)
    assert shapes.head_parameters == 300 * 16
    assert shapes.num_parameters == sum(parameter.numel() for parameter in module.parameters())


def test_an_attempt_is_planned_with_its_largest_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoded before and read from the cache, or encoded now: the same sizes."""
    asked: list[tuple[int, int]] = []

    def noted(*arguments: Any, **sizes: Any) -> Any:
        asked.append((sizes["longest"], sizes["largest"]))
        return memory_plan(*arguments, **sizes)

    monkeypatch.setattr(run_module, "memory_plan", noted)
    task = make_task(tmp_path, kind="dpo", duration={"type": "steps", "max_steps": 1})
    for name, cache in (("a1", ""), ("a2", str(tmp_path / "cache"))):
        succeeded(task.model_copy(update={"cache": cache}), tmp_path / name)
    assert asked[0] == asked[1]
    longest, largest = asked[0]
    assert longest < largest < 2 * longest, "the prompt is computed once"


def test_a_rollout_and_a_frozen_reference_by_hand() -> None:
    """16 completions at a time of at most 100 + 50 tokens; the pass of an update holds 3 x (100 + 8 x 50) tokens."""
    shapes = read_shapes(BASE_DIR)
    plain: dict[str, Any] = {
        "kind": "grpo",
        "base": "b@1",
        "output": "o",
        "data": [{"dataset": "d@1"}],
        "dtype": "float32",
        "batch": {"num_rows": 3, "micro_tokens": 9000, "max_tokens": 400},
        "rollout": {"max_new_tokens": 50, "batch_rows": 16},
    }
    found = memory_plan(parse_spec(plain), shapes, longest=100).parts  # type: ignore[arg-type]
    assert found["rollout"] == 4 * 2 * 6 * 192 * 150 * 16 + 48 * 16 * 2048
    assert found["reference"] == 0
    assert found["activations"] == 4 * 3 * (100 + 8 * 50) * 6 * 4160
    assert found["head"] == 12 * 1500 * 2048
    with_kl = memory_plan(parse_spec({**plain, "beta": 0.1}), shapes).parts  # type: ignore[arg-type]
    assert with_kl["reference"] == 4 * shapes.num_parameters
    assert with_kl["rollout"] == 4 * 2 * 6 * 192 * 400 * 16 + 48 * 16 * 2048  # prompts as long as the spec allows
    lora = memory_plan(parse_spec({**plain, "beta": 0.1, "adapter": {"type": "lora"}}), shapes).parts  # type: ignore[arg-type]
    assert lora["reference"] == 0


def test_a_value_model_by_hand() -> None:
    """As much again is trained as of the policy: weights, gradients and two moments, and in bfloat16 masters; of a pass
    the activations of one of the two are held."""
    shapes = read_shapes(BASE_DIR)
    num, small = shapes.num_parameters, lora_parameters(LoraAdapter(rank=2), shapes)
    batch = {"num_rows": 3, "micro_tokens": 9000, "max_tokens": 400}
    rollout = {"max_new_tokens": 50, "num_completions": 1}
    found = memory_plan(spec_of(kind="ppo", batch=batch, rollout=rollout), shapes, longest=100).parts
    assert found["value"] == (4 + 4 + 8) * num
    assert found["reference"] == 4 * num
    assert found["activations"] == 4 * 3 * 150 * 6 * 4160
    assert found["head"] == 12 * 3 * 150 * 2048
    off = spec_of(kind="ppo", kl={"type": "fixed", "coefficient": 0.0})
    assert memory_plan(off, shapes).parts["reference"] == 0
    lora = memory_plan(spec_of({"type": "lora", "rank": 2}, kind="ppo", dtype="bfloat16"), shapes).parts
    assert lora["value"] == (2 + 4 + 4 + 8) * small
    assert lora["reference"] == 0
    assert "value" not in memory_plan(spec_of(kind="grpo"), shapes).parts


@pytest.mark.parametrize("adapter", [None, LoraAdapter(rank=8), LoraAdapter(rank=4, dropout=0.1)])
def test_what_autograd_keeps(adapter: LoraAdapter | None, tmp_path: Path) -> None:
    """Bytes of all tensors that a pass saves, counted by hooks, each storage once."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=96, intermediate_size=256, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    module = LlamaForCausalLM(config)
    module.save_pretrained(tmp_path)
    module.set_attn_implementation(attention.NAME)
    module.train()
    if adapter is not None:
        add_lora(module, adapter, "x", [])
    model, num_tokens = LanguageModel.of(module), 720
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden_TD = model.hidden(
            torch.zeros(num_tokens, dtype=torch.long), torch.arange(90).repeat(8), Segments.of([90] * 8)
        )
    assert hidden_TD.requires_grad
    counted = sum(kept.values()) / 4 / num_tokens / config.num_hidden_layers
    assert kept_elements(read_shapes(tmp_path), adapter) == pytest.approx(counted, rel=0.06)


# One attempt in a process of its own; prints the step's tokens and the largest resident memory.
ATTEMPT = """
import json, sys
from pathlib import Path
from posttrain.engine.run import run_training
from posttrain.engine.task import TASK
task = TASK.validate_json(Path(sys.argv[1]).read_bytes())
record = run_training(task, Path(sys.argv[2]))
assert record.status == "succeeded", record
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"peak": peak * 1024, "tokens": record.summary["tokens"]}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs VmHWM")
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_the_peak_of_a_real_attempt_is_within_a_fifth(adapter: str, tmp_path: Path) -> None:
    data = b"".join(ROWS_FILE.read_bytes().splitlines(keepends=True)[:64])
    (tmp_path / "d.jsonl").write_bytes(data)
    spec = spec_of(
        {"type": adapter}, duration={"type": "steps", "max_steps": 1}, batch={"num_rows": 48, "max_tokens": 512}
    )
    task = {
        "type": "train", "job": "j", "attempt": 1, "spec": spec.model_dump(mode="json"),
        "base": {"ref": "a@1", "path": str(BASE_DIR), "digest": "", "weights_digest": ""},
        "datasets": [{
            "ref": "d@1", "path": str(tmp_path / "d.jsonl"), "sha256": hashlib.sha256(data).hexdigest(),
            "format": "messages", "weight": 1.0,
        }],
    }  # fmt: skip
    (tmp_path / "task.json").write_text(json.dumps(task))
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPT, str(tmp_path / "task.json"), str(tmp_path / "a1")],
        check=True,
        capture_output=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    made = memory_plan(spec, read_shapes(BASE_DIR), step_tokens=found["tokens"])
    assert made.parts["activations"] > 0.25 * made.total_bytes, "not the process alone is compared"
    assert made.total_bytes == pytest.approx(found["peak"], rel=0.2)


def test_what_does_not_fit_is_refused_with_a_way_out() -> None:
    shapes = read_shapes(BASE_DIR)
    spec = spec_of(batch={"micro_tokens": 16384, "num_rows": 64, "max_tokens": 1024})
    needed = memory_plan(spec, shapes)
    check_fits(needed, needed.total_bytes, spec)
    check_fits(needed, 0, spec)  # nobody knows the limit
    with pytest.raises(
        SpecError, match=r"about 2\.\d GB of memory are needed and there are 1\.2 GB; activations take"
    ) as said:
        check_fits(needed, 1_200_000_000, spec)
    assert "set batch.micro_tokens to " in said.value.hint
    tokens = int(said.value.hint.split("micro_tokens to ")[1].split()[0])
    assert 64 <= tokens < 16384
    smaller = spec_of(batch={"micro_tokens": tokens, "num_rows": 64, "max_tokens": 64})
    check_fits(memory_plan(smaller, shapes), 1_200_000_000, smaller)
    for way, changes in (
        ("adapter.type to lora", {"adapter": {"type": "lora"}}),
        ("gradient_checkpointing", {"memory": {"gradient_checkpointing": True}}),
    ):
        other = spec_of(**changes, batch={"micro_tokens": 16384, "num_rows": 64, "max_tokens": 1024})
        is_enough = memory_plan(other, shapes).total_bytes <= 1_200_000_000
        assert (way in said.value.hint) == is_enough, "a way is named only if it is enough"
    assert lora_parameters(LoraAdapter(targets=["weight", "a"]), Shapes(1, 1, 1, 1, 1, 1, 1, {"a": (2, 3)})) == 0
    huge = Shapes(80, 8192, 8192, 1024, 28672, 128256, 70_000_000_000)
    with pytest.raises(SpecError) as said:
        check_fits(memory_plan(spec_of({"type": "lora"}), huge), 24 * 10**9, spec_of({"type": "lora"}))
    assert said.value.hint == "take a smaller model, or a machine with more memory"


def test_an_attempt_that_cannot_fit_fails_before_it_loads_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(tmp_path, duration={"type": "steps", "max_steps": 1})
    succeeded(task, tmp_path / "a0")
    monkeypatch.setattr(run_module, "memory_limit_bytes", lambda: 100 * 10**6)

    def never(*_: Any) -> Any:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(run_module, "load_model", never)
    record = failed(task, tmp_path / "a1")
    assert (record.code, "there are 0.1 GB" in record.message) == ("BAD_SPEC", True)
    assert record.hint


def test_files_that_say_nothing_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_shapes(tmp_path)
    (tmp_path / "config.json").write_text('{"vocab_size": 10}')
    with pytest.raises(ModelError, match="no tensors in them"):
        read_shapes(tmp_path)
    weights = (BASE_DIR / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights)
    for text in ("[" * 100_000, "[]", "7", '{"text_config": 3}', '{"hidden_size": 8, "num_attention_heads": [2]}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ModelError, match="cannot be read"):
            read_shapes(tmp_path)
    (tmp_path / "config.json").write_text('{"vocab_size": 10}')
    with pytest.raises(ModelError, match="names none of hidden_size"):
        read_shapes(tmp_path)
    (tmp_path / "config.json").write_text((BASE_DIR / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match="no safetensors header"):
        read_shapes(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="cannot be read"):
        read_shapes(tmp_path)
