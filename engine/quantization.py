"""QLoRA's base (arXiv:2305.14314): the matrices that LoRA adapts in 4 bits, the rest of the model as it is.

NF4 (section 3): blocks of 64 weights, each weight the nearest of 16 levels times the block's largest magnitude; double
quantisation keeps those magnitudes in 8 bits, in blocks of 256. bitsandbytes does it, and computes a layer with the
weights brought back to the type they had. It is deterministic, so a resumed attempt has the same base.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from posttrain.engine.errors import SpecError, UnsupportedModelError
from posttrain.engine.options import Adapter, LoraAdapter
from posttrain.engine.targets import is_named

BLOCK = 64  # weights that share a magnitude


def quantized_lora(adapter: Adapter) -> LoraAdapter | None:
    """The adapter's options if it lies on a quantised base."""
    return adapter if isinstance(adapter, LoraAdapter) and adapter.quantization != "none" else None


def check_bitsandbytes(option: str) -> None:
    """Asked before anything is loaded; `option` is what needs the package, as the spec writes it.

    Raises:
        SpecError: it is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise SpecError(
            f"{option} needs the package bitsandbytes, which is not installed",
            hint="on the server: pip install 'posttrain[bitsandbytes]'",
        )


def check_quantization(adapter: Adapter) -> None:
    """Asked before anything is loaded.

    Raises:
        SpecError: the package is missing.
    """
    if quantized_lora(adapter) is not None:
        check_bitsandbytes("adapter.quantization: nf4")


def quantize(module: Any, lora: LoraAdapter, device: torch.device) -> None:
    """Puts `lora`'s linear layers in 4 bits onto the device, one by one, and then the rest of the model, in place.

    Those are all linear layers but the head, or those of them that `targets` names.

    Raises:
        SpecError: `targets` names none.
        UnsupportedModelError: GPT-2's `Conv1D`, which keeps its weights the other way round; on a CPU a layer whose
            rows are not whole blocks.
    """
    if any(isinstance(layer, Conv1D) for layer in module.modules()):
        raise UnsupportedModelError(
            f"adapter.quantization: nf4 is for linear layers, and {type(module).__name__} has Conv1D",
            hint="leave adapter.quantization out",
        )
    head = module.get_output_embeddings()
    found = [
        (name, layer)
        for name, layer in module.named_modules()
        if type(layer) is nn.Linear and layer is not head and (not lora.targets or is_named(name, lora.targets))
    ]
    if not found:
        raise SpecError(
            f"adapter.targets: none of {', '.join(lora.targets) or 'the modules'} is a linear layer that can be "
            "quantised",
        )
    odd = sorted({layer.in_features for _, layer in found if layer.in_features % BLOCK})
    if odd and device.type == "cpu":
        # bitsandbytes 0.50 counts blocks anew in each row there: values of one block get another's magnitude.
        raise UnsupportedModelError(
            f"adapter.quantization: on a CPU the inputs of a layer must be a multiple of {BLOCK}, and "
            f"{type(module).__name__} has layers of {', '.join(map(str, odd))}",
            hint="leave adapter.quantization out, or run on CUDA",
        )
    for name, layer in found:
        module.set_submodule(name, _quantized(layer, device))
    module.is_loaded_in_4bit = True  # peft asks the model, not the layer
    module.to(device)


def dequantize(module: Any) -> None:
    """Makes plain linear layers of the quantised ones, of the weights that they computed with, in place.

    The model is on the CPU then: a GPU that held it in 4 bits may have no room for it.
    """
    from bitsandbytes.nn import Linear4bit

    for name, layer in list(module.named_modules()):
        if type(layer) is Linear4bit:
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
            plain.weight = nn.Parameter(weight_of(layer).cpu(), requires_grad=False)
            plain.bias = layer.bias
            module.set_submodule(name, plain)
    module.is_loaded_in_4bit = False
    module.to("cpu")


def weight_of(layer: Any) -> torch.Tensor:
    """The weights [outputs, inputs] that a quantised layer computes with."""
    from bitsandbytes.functional import dequantize_4bit

    weight: torch.Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight


def _quantized(layer: nn.Linear, device: torch.device) -> Any:
    from bitsandbytes.nn import Linear4bit, Params4bit  # an extra; importing it takes seconds

    made = Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=layer.weight.dtype,
        quant_type="nf4",
        device="meta",
    )
    made.weight = Params4bit(
        layer.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=made
    ).to(device)
    made.bias = layer.bias
    # Else a pass in eval mode on a CPU with AVX512-BF16 would round the layer's statistics to bfloat16, for good.
    made.support_avx512bf16_for_cpu = False
    return made
