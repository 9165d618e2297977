"""LoRA by peft: put into a model, merged into it, written to disk. Importing peft takes seconds, so import this where
it is used.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from posttrain.engine.errors import ModelError, SpecError
from posttrain.engine.lora import LoraLinear, use_one_product
from posttrain.engine.quantization import dequantize
from posttrain.engine.spec import LoraAdapter
from posttrain.engine.targets import check_targets
from posttrain.engine.weights import ADAPTER_CONFIG_FILE


def add_lora(module: Any, options: LoraAdapter, base_ref: str, token_ids: Sequence[int] = ()) -> PeftModel:
    """Puts LoRA layers into the model (in place) and freezes the rest; the rows of `token_ids` are trained with them.

    At initialisation the model computes exactly what it did before (B = 0; arXiv:2106.09685).

    Raises:
        SpecError: a target that is no layer of the model.
    """
    # peft passes over a target that names nothing as long as another one names something.
    check_targets(options.targets, [name for name, layer in module.named_modules() if _has_matrix(layer)])
    rows: dict[str, list[int]] = {}
    embedding, head = module.get_input_embeddings(), module.get_output_embeddings()
    if token_ids:
        rows[_name_of(module, embedding)] = sorted(token_ids)
        if head.weight is not embedding.weight:
            rows[_name_of(module, head)] = sorted(token_ids)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        use_rslora=options.rank_stabilized,
        use_dora=options.weight_decomposed,
        target_modules=options.targets or "all-linear",
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in module.modules()),
        task_type="CAUSAL_LM",
        trainable_token_indices=rows or None,
    )
    try:
        with _quiet():
            # In the base's type: the optimiser keeps float32 masters, and mixed types would leave the one-product path.
            model = get_peft_model(module, config, autocast_adapter_dtype=False)
    except ValueError as error:
        raise SpecError(f"adapter.targets: {str(error).splitlines()[0]}") from None
    for parameter in module.parameters():
        if parameter.requires_grad:  # peft takes the type of the base's weights, which in 4 bits have none
            parameter.data = parameter.data.to(module.dtype)
    model.peft_config["default"].base_model_name_or_path = base_ref
    use_one_product(model)
    return model


def add_second_adapter(peft: PeftModel, name: str) -> list[LoraLayer]:
    """Puts another adapter with the options of the first into the same layers and leaves the first one in use; returns
    the layers. At initialisation it changes nothing either.

    peft trains the adapter in use only: a layer's `set_adapter(NAME)` chooses, and lets gradients flow to that one.
    """
    with _quiet():
        peft.add_adapter(name, copy.deepcopy(peft.peft_config["default"]), autocast_adapter_dtype=False)
    layers = [layer for layer in peft.modules() if isinstance(layer, LoraLayer)]
    dtype = peft.base_model.model.dtype
    for layer in layers:
        layer.set_adapter(name)
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
        layer.set_adapter("default")
    return layers


def merge_trained(peft: PeftModel) -> None:
    """Merges the adapter that was trained into the model under it, in place. A quantised model becomes a plain one, of
    the weights that it computed with, on the CPU."""
    module = peft.base_model.model
    if getattr(module, "is_loaded_in_4bit", False):
        dequantize(module)
        for layer in module.modules():
            # peft's layer of a quantised base would quantise the sum anew.
            if isinstance(layer, LoraLayer) and type(layer.get_base_layer()) is nn.Linear:
                layer.__class__ = LoraLinear
                layer.is_target_conv_1d_layer = False
    peft.merge_and_unload(safe_merge=True)


def merge_adapter(module: Any, folder: Path) -> Any:
    """The model with an adapter's weights added into its own.

    Raises:
        ModelError: the adapter does not fit the model.
    """
    try:
        with _quiet():
            merged = PeftModel.from_pretrained(module, str(folder), local_files_only=True).merge_and_unload(
                safe_merge=True
            )
    except (ValueError, RuntimeError, KeyError, OSError, TypeError) as error:
        raise ModelError(f"adapter {folder.name} does not fit the model: {str(error).splitlines()[0]}") from None
    return merged


def save_adapter(peft: PeftModel, folder: Path) -> None:
    """Writes the adapter in peft's layout. Equal weights give equal bytes: no paths, lists in a fixed order."""
    peft.save_pretrained(str(folder), save_embedding_layers=False)  # new rows are in the adapter already
    (folder / "README.md").unlink(missing_ok=True)  # the registry writes the model card
    path = folder / ADAPTER_CONFIG_FILE
    config = json.loads(path.read_text("utf-8"))
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # peft keeps them as a set
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without peft 0.21's use of a name that transformers 5.23 has renamed: nothing a caller can act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def _has_matrix(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | nn.Embedding | Conv1D)


def _name_of(module: nn.Module, wanted: nn.Module) -> str:
    names: list[str] = [name for name, layer in module.named_modules() if layer is wanted]
    return names[0]
