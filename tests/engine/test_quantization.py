"""QLoRA: the quantised base against the paper and bitsandbytes, the adapter's gradients, and whole attempts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn import Linear4bit
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import Gemma2Config, LlamaConfig, Qwen2Config

from posttrain.engine import run as run_module
from posttrain.engine.activations import checkpoint_layers
from posttrain.engine.adapters import add_lora, merge_trained
from posttrain.engine.attention import Segments
from posttrain.engine.errors import SpecError, UnsupportedModelError
from posttrain.engine.events import Phase
from posttrain.engine.exactness import check_exactness
from posttrain.engine.models import LanguageModel, load
from posttrain.engine.plan import Shapes, check_fits, memory_plan, read_shapes, saved_bytes
from posttrain.engine.quantization import quantize, weight_of
from posttrain.engine.run import run_training
from posttrain.engine.spec import LoraAdapter, parse_spec
from posttrain.engine.task import ModelInput

from . import tiny
from .test_run import events_of, failed, kill_after, losses_of, succeeded, with_task
from .tiny import make_task, save_base, tiny_module

CPU = torch.device("cpu")
QLORA = {"type": "lora", "rank": 4, "quantization": "nf4"}
# arXiv:2305.14314, appendix E.
LEVELS = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip


# Rows of whole blocks.
WIDE = {**tiny.LLAMA, "hidden_size": 64, "intermediate_size": 128}


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    wide: dict[str, Any] = {
        "llama": lambda: LlamaConfig(**WIDE, tie_word_embeddings=True),
        "qwen2": lambda: Qwen2Config(**WIDE),
        "gemma2": lambda: Gemma2Config(**WIDE, head_dim=16, final_logit_softcapping=3.0, query_pre_attn_scalar=16),
    }
    for name, config in wide.items():
        monkeypatch.setitem(tiny.CONFIGS, name, config)


def options(**changes: Any) -> LoraAdapter:
    return LoraAdapter.model_validate({"rank": 3, "alpha": 7.0, "quantization": "nf4", **changes})


def quantized(name: str = "llama", **changes: Any) -> LanguageModel:
    model = LanguageModel.of(tiny_module(name))
    quantize(model.module, options(**changes), CPU)
    return model


def layers_of(module: nn.Module) -> dict[str, Any]:
    return {name: layer for name, layer in module.named_modules() if type(layer) is Linear4bit}


def randomise(module: nn.Module) -> None:
    """B, which is zero at first, and the trained rows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if "lora_B" in key or "trainable_tokens_delta" in key:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


def logits_of(model: LanguageModel, lengths: tuple[int, ...] = (5, 9)) -> Tensor:
    """Of random rows, packed."""
    ids_T = torch.randint(320, (sum(lengths),), generator=torch.Generator().manual_seed(5))
    positions_T = torch.cat([torch.arange(length) for length in lengths])
    hidden_TD = model.hidden(ids_T.to(model.device), positions_T.to(model.device), Segments.of(lengths))
    return model.logits(hidden_TD)


def gradients_of(model: LanguageModel) -> dict[str, Tensor]:
    model.module.zero_grad()
    logits_of(model).square().mean().backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.trainable() if p.grad is not None}


# -- the base ---------------------------------------------------------------------------------------------------------


def test_blocks_are_the_papers_levels_times_their_largest_magnitude() -> None:
    plain, layers = tiny_module("llama"), layers_of(quantized().module)
    assert len(layers) == 2 * 7
    for name, layer in layers.items():
        weight_OI = plain.get_submodule(name).weight.detach()
        found_OI = weight_of(layer)
        made = quantize_4bit(weight_OI, quant_type="nf4", compress_statistics=True)
        assert torch.equal(found_OI, dequantize_4bit(*made))
        blocks, found = weight_OI.reshape(-1, 64), found_OI.reshape(-1, 64)
        largest = blocks.abs().amax(dim=1, keepdim=True)
        nearest = (blocks / largest).unsqueeze(-1).sub(LEVELS).abs().argmin(dim=-1)
        scale = found.abs().amax(dim=1, keepdim=True)
        torch.testing.assert_close(found, LEVELS[nearest] * scale, rtol=1e-6, atol=1e-6)
        # Double quantisation: the magnitudes themselves are in 8 bits.
        assert layer.weight.quant_state.nested
        assert layer.weight.quant_state.absmax.dtype == torch.uint8
        assert 0 < float((scale - largest).abs().max()) < 0.02 * float(largest.max())


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2"])  # tied head; biases; a soft cap
def test_only_the_adapted_layers_are_quantised_and_the_packed_path_is_exact(name: str) -> None:
    model, plain = quantized(name), tiny_module(name)
    layers, head = layers_of(model.module), model.head
    assert type(head) is nn.Linear
    rest = [key for key, _ in plain.named_parameters() if key.removesuffix(".weight") not in layers]
    assert any("embed" in key for key in rest)
    for key in rest:
        assert torch.equal(model.module.get_parameter(key), plain.get_parameter(key)), key
    assert check_exactness(model) < 1e-4
    some = layers_of(quantized(name, targets=["q_proj", "mlp.up_proj"]).module)
    assert {key.rsplit(".", 1)[1] for key in some} == {"q_proj", "up_proj"}
    assert len(some) == 4


def test_a_pass_in_eval_mode_leaves_the_weights() -> None:
    """bitsandbytes would repack them for CPUs with AVX512-BF16, and round their statistics."""
    model = quantized()
    before = {name: weight_of(layer) for name, layer in layers_of(model.module).items()}
    model.module.eval()
    with torch.no_grad():
        first = logits_of(model)
        assert torch.equal(logits_of(model), first)
    assert torch.equal(logits_of(model), first)
    model.module.train()
    assert torch.equal(logits_of(model), first)
    assert all(torch.equal(weight_of(layer), before[name]) for name, layer in layers_of(model.module).items())


def test_what_cannot_be_quantised_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="GPT2LMHeadModel has Conv1D"):
        quantized("gpt2")
    with pytest.raises(SpecError, match="none of embed_tokens, lm_head is a linear layer"):
        quantized(targets=["embed_tokens", "lm_head"])
    with pytest.raises(UnsupportedModelError, match="multiple of 64, and Qwen3ForCausalLM has layers of 32, 48"):
        quantized("qwen3")


# -- the adapter ------------------------------------------------------------------------------------------------------


def adapted(model: LanguageModel, lora: LoraAdapter, token_ids: tuple[int, ...] = ()) -> Any:
    torch.manual_seed(3)
    peft = add_lora(model.module, lora, "b@1", token_ids)
    randomise(model.module)
    model.module.train()
    return peft


def on_dequantised(name: str, lora: LoraAdapter, token_ids: tuple[int, ...] = ()) -> LanguageModel:
    """Plain LoRA on a plain model that has the quantised one's weights."""
    model = LanguageModel.of(tiny_module(name))
    with torch.no_grad():
        for key, layer in layers_of(quantized(name).module).items():
            model.module.get_submodule(key).weight.copy_(weight_of(layer))
    adapted(model, lora.model_copy(update={"quantization": "none"}), token_ids)
    return model


@pytest.mark.parametrize(
    ("name", "changes", "token_ids"),
    [
        ("llama", {}, (3, 7)),
        ("qwen2", {"rank_stabilized": True}, ()),
        ("llama", {"weight_decomposed": True}, ()),
    ],
)
def test_gradients_are_loras_on_the_dequantised_weights(
    name: str, changes: dict[str, Any], token_ids: tuple[int, ...]
) -> None:
    lora = options(**changes)
    model, plain = quantized(name), on_dequantised(name, lora, token_ids)
    adapted(model, lora, token_ids)
    assert sum("lora_A" in key for key, _ in model.trainable()) == len(layers_of(model.module)) == 14
    found, expected = gradients_of(model), gradients_of(plain)
    assert found.keys() == expected.keys()
    for key, wanted in expected.items():
        scale = float(wanted.abs().max())
        assert scale > 0, key
        torch.testing.assert_close(found[key], wanted, rtol=1e-5, atol=1e-5 * scale, msg=key)
    checkpoint_layers(model.module)
    again = gradients_of(model)
    assert all(torch.equal(again[key], found[key]) for key in found), "computed again, and no different"


@pytest.mark.parametrize("changes", [{}, {"weight_decomposed": True}])
def test_switched_off_it_is_the_quantised_base_and_merged_it_is_what_was_trained(changes: dict[str, Any]) -> None:
    base, model = quantized(), quantized()
    peft = adapted(model, options(**changes), (3, 7))
    model.module.eval()
    with torch.no_grad():
        trained = logits_of(model)
        with peft.disable_adapter():
            assert torch.equal(logits_of(model), logits_of(base))
        merge_trained(peft)
        assert not layers_of(model.module)
        merged = logits_of(model)
    spread = float(trained.std())
    torch.testing.assert_close(merged, trained, rtol=1e-5, atol=1e-5 * spread)
    # Into the base as it was it would be another model.
    plain = LanguageModel.of(tiny_module("llama"))
    adapted(plain, options(quantization="none", **changes), (3, 7))
    with torch.no_grad():
        assert float((logits_of(plain) - trained).abs().max()) > 1e-2 * spread


def test_in_bfloat16_the_adapter_is_too_and_the_sum_is_rounded_once_more() -> None:
    model = LanguageModel.of(tiny_module("llama").to(torch.bfloat16))
    quantize(model.module, options(), CPU)
    peft = adapted(model, options())
    assert {parameter.dtype for _, parameter in model.trainable()} == {torch.bfloat16}
    expected = {}
    for name, layer in model.module.named_modules():
        if hasattr(layer, "lora_A"):
            low, high = layer.lora_A["default"].weight.float(), layer.lora_B["default"].weight.float()
            assert weight_of(layer.base_layer).dtype == torch.bfloat16
            expected[name] = (weight_of(layer.base_layer).float() + 7.0 / 3 * high @ low).detach()
    assert len(expected) == 14
    merge_trained(peft)
    for name, wanted_OI in expected.items():
        found_OI = model.module.get_submodule(name).weight
        assert found_OI.dtype == torch.bfloat16
        ulp = 2**-7 * float(wanted_OI.abs().max())
        assert 0 < float((found_OI.float() - wanted_OI).abs().max()) <= ulp


# -- attempts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ift", "dpo", "reward"])
def test_an_attempt_learns_resumes_in_the_same_bits_and_saves_what_it_trained(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(
        tmp_path, kind, adapter=QLORA, optimizer={"learning_rate": 2e-2}, duration={"type": "steps", "max_steps": 7},
        dtype="float32",
    )  # fmt: skip
    trained: list[Tensor] = []
    plain_save = run_module._Attempt._save

    def watched(self: Any, model: LanguageModel, *given: Any) -> None:
        assert len(layers_of(model.module)) == 14
        with torch.no_grad():
            trained.append(logits_of(model))
        plain_save(self, model, *given)

    monkeypatch.setattr(run_module._Attempt, "_save", watched)
    whole = succeeded(task, tmp_path / "whole")
    losses = [values["loss"] for values in losses_of(tmp_path / "whole").values()]
    assert losses[-1] < 0.98 * losses[0]
    with monkeypatch.context() as patch:
        kill_after(patch, 5)
        run_training(task, tmp_path / "a1")
    checkpoint = tmp_path / "a1" / "checkpoints" / "step-00000004"
    record = succeeded(with_task(task, attempt=2, resume_from=str(checkpoint)), tmp_path / "a2")
    assert record.summary["loss"] == whole.summary["loss"]
    output = tmp_path / "whole" / "output"
    assert {path.name for path in output.glob("*.safetensors")} == {"model.safetensors"}
    assert (output / "model.safetensors").read_bytes() == (tmp_path / "a2/output/model.safetensors").read_bytes()
    if kind != "reward":  # which is no language model
        saved = load(ModelInput(ref="out@1", path=str(output), digest="", weights_digest=""), "float32")
        with torch.no_grad():
            spread = float(trained[0].std())
            torch.testing.assert_close(logits_of(saved.model), trained[0], rtol=1e-5, atol=1e-5 * spread)


def test_without_the_package_or_lora_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(tmp_path, "ift", adapter=QLORA)
    plain = task.spec.model_dump()
    with pytest.raises(ValidationError, match=r"adapter\.full\.quantization"):
        parse_spec({**plain, "adapter": {"type": "full", "quantization": "nf4"}})
    with pytest.raises(ValidationError, match="'none' or 'nf4'"):
        parse_spec({**plain, "adapter": {**QLORA, "quantization": "int8"}})
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    record = failed(task, tmp_path / "a1")
    assert (record.code, record.hint) == ("BAD_SPEC", "on the server: pip install 'posttrain[bitsandbytes]'")
    assert "adapter.quantization: nf4 needs the package bitsandbytes, which is not installed" in record.message
    assert [event.phase for event in events_of(tmp_path / "a1", Phase)] == ["loading"]


# -- memory -----------------------------------------------------------------------------------------------------------


def test_the_memory_of_a_quantised_base_by_hand(tmp_path: Path) -> None:
    save_base(tmp_path)
    shapes = read_shapes(tmp_path)
    # Weights, blocks of 64, and blocks of 256 of those: q and o of 64 x 64, k and v of 32 x 64, three of 128 x 64.
    weights = 2 * (2 * 4096 + 2 * 2048 + 3 * 8192)
    blocks = 2 * (2 * 64 + 2 * 32 + 3 * 128)
    held = weights // 2 + blocks + 4 * 14
    lora = options()
    assert saved_bytes(lora, shapes, 4) == 4 * (weights - 8192) - held
    assert saved_bytes(options(quantization="none"), shapes, 4) == 0
    counted = 0
    for layer in layers_of(quantized().module).values():
        state = layer.weight.quant_state
        counted += sum(tensor.nbytes for tensor in (layer.weight.data, state.absmax, state.state2.absmax))
    assert counted == held

    def parts(is_cuda: bool, **changes: Any) -> dict[str, int]:
        spec: Any = parse_spec({
            "kind": "ift", "base": "a@1", "output": "b", "data": [{"dataset": "d@1"}], "dtype": "float32",
            "adapter": {**QLORA, **changes}, "batch": {"num_rows": 1, "max_tokens": 1, "micro_tokens": 1},
        })  # fmt: skip
        return memory_plan(spec, shapes, is_cuda=is_cuda).parts

    on_cpu, plain = parts(False), parts(False, quantization="none")
    saved = saved_bytes(lora, shapes, 4)
    assert plain["weights"] - on_cpu["weights"] == saved
    given_back = on_cpu["gradients"] + on_cpu["activations"] + on_cpu["head"]
    assert on_cpu["unquantised"] == max(0, saved - given_back)
    assert "unquantised" not in plain
    assert parts(True)["unquantised"] == 0


def test_a_job_that_fits_on_a_quantised_base_is_told_so() -> None:
    matrices = {f"model.layers.{index}.mlp.up_proj.weight": (4096, 4096) for index in range(8)}
    shapes = Shapes(8, 4096, 4096, 4096, 4096, 1000, 8 * 4096**2, matrices)
    spec: Any = parse_spec({
        "kind": "ift", "base": "a@1", "output": "b", "data": [{"dataset": "d@1"}], "adapter": {"type": "lora"},
        "batch": {"num_rows": 1, "max_tokens": 1, "micro_tokens": 1},
    })  # fmt: skip
    plain = memory_plan(spec, shapes, is_cuda=True)
    for saved, is_named in ((100, True), (200, False)):  # 165 MB: 1.48 bytes a weight of seven, less 0.52 of one
        with pytest.raises(SpecError) as caught:
            check_fits(plain, plain.total_bytes - saved * 10**6, spec)
        assert ("set adapter.quantization to nf4" in caught.value.hint) == is_named


# -- CUDA -------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_model_is_never_whole_and_its_weights_are_the_cpus() -> None:
    config = LlamaConfig(**{**WIDE, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8})
    on_cpu, on_cuda = tiny.tiny_of(config), tiny.tiny_of(config)
    whole = sum(parameter.nbytes for parameter in on_cuda.module.parameters())
    quantize(on_cpu.module, options(), CPU)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    quantize(on_cuda.module, options(), torch.device("cuda"))
    assert torch.cuda.max_memory_allocated() - before < 0.5 * whole
    expected = layers_of(on_cpu.module)
    for name, layer in layers_of(on_cuda.module).items():
        wanted_OI = weight_of(expected[name])
        differ = (weight_of(layer).cpu() - wanted_OI).abs() > 1e-4 * wanted_OI.abs().max()
        assert float(differ.float().mean()) < 1e-3, "ties may be rounded either way"
    assert check_exactness(on_cuda) < 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_in_bfloat16_it_learns(tmp_path: Path) -> None:
    succeeded(make_task(tmp_path, "ift", adapter=QLORA, optimizer={"learning_rate": 2e-2}), tmp_path / "a1")
    losses = [values["loss"] for values in losses_of(tmp_path / "a1").values()]
    assert losses[-1] < 0.98 * losses[0]
