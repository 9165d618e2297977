"""The one-function LoRA pass against peft's own layers: outputs and gradients, and what is left to peft."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear
from torch import Tensor

from posttrain.engine import lora
from posttrain.engine.adapters import add_lora
from posttrain.engine.lora import LoraLinear
from posttrain.engine.spec import LoraAdapter
from tests.engine.tiny import tiny_module

IDS = torch.randint(320, (2, 9), generator=torch.Generator().manual_seed(5))


def adapted(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    module = tiny_module(name)
    module.set_attn_implementation("eager")
    model = add_lora(module, LoraAdapter(rank=3, alpha=7.0, **options), "b@1")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            if "lora_B" in key:
                parameter.normal_(0.0, 0.3, generator=generator)
    return model.train()


def outcome(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(2)
    logits = model(input_ids=IDS, use_cache=False).logits
    model.zero_grad()
    logits.square().mean().backward()
    return logits.detach(), {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


def by_peft(model: Any) -> Any:
    for layer in model.modules():
        if type(layer) is LoraLinear:
            layer.__class__ = Linear
    return model


def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    product = lora._LoraProduct.apply
    monkeypatch.setattr(lora._LoraProduct, "apply", lambda *given: (calls.append(1), product(*given))[1])
    return calls


@pytest.mark.parametrize("name", ["llama", "qwen2"])  # without and with biases
def test_one_product_is_pefts_arithmetic(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count(monkeypatch)
    logits, gradients = outcome(adapted(name))
    assert len(calls) == 2 * 7  # layers, each with seven linear ones
    expected, reference = outcome(by_peft(adapted(name)))
    assert len(calls) == 2 * 7
    assert gradients.keys() == reference.keys()
    for key, wanted in {"logits": expected, **reference}.items():
        scale = float(wanted.abs().max())
        assert scale > 0
        torch.testing.assert_close({"logits": logits, **gradients}[key], wanted, rtol=1e-5, atol=1e-5 * scale, msg=key)


@pytest.mark.parametrize("options", [{"dropout": 0.4}, {"weight_decomposed": True}])
def test_what_is_not_plain_is_left_to_peft(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count(monkeypatch)
    logits, gradients = outcome(adapted("llama", **options))
    expected, reference = outcome(by_peft(adapted("llama", **options)))
    assert not calls
    assert torch.equal(logits, expected)
    assert all(torch.equal(gradients[key], reference[key]) for key in reference)


def test_switched_off_merged_and_other_types(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_module("llama")
    base.set_attn_implementation("eager")
    model = adapted("llama")
    calls = count(monkeypatch)
    with torch.no_grad():
        with model.disable_adapter():
            assert torch.equal(model(input_ids=IDS).logits, base(input_ids=IDS).logits)
        assert not calls
        plain = model(input_ids=IDS).logits
        assert len(calls) == 14
        model.merge_adapter()
        merged = model(input_ids=IDS).logits
        assert len(calls) == 14
        torch.testing.assert_close(merged, plain, rtol=1e-4, atol=1e-5)
        model.unmerge_adapter()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(input_ids=IDS)
        assert len(calls) == 14
        for parameter in (layer.base_layer.weight for layer in model.modules() if type(layer) is LoraLinear):
            parameter.requires_grad_(True)
        model(input_ids=IDS)
        assert len(calls) == 14
