"""LoRA by peft, new token rows, and a model's way back to disk as an ordinary Hugging Face folder.

Shape suffixes: V vocabulary rows, D model width.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from posttrain.engine.errors import ModelError, SpecError
from posttrain.engine.spec import LoraAdapter
from posttrain.engine.weights import ADAPTER_CONFIG_FILE

NEW_ROW_NOISE = 0.02  # of the rows' own spread: tells new tokens apart, and leaves them near the mean


def resize_rows(module: Any, num_tokens: int, seed: int) -> None:
    """Gives embedding and head at least `num_tokens` rows; new ones start near the mean of the old (`init_rows`)."""
    old = module.get_input_embeddings().weight.shape[0]
    if num_tokens > old:
        module.resize_token_embeddings(num_tokens, mean_resizing=False)
        init_rows(module, list(range(old, num_tokens)), seed)


@torch.no_grad()
def init_rows(module: Any, token_ids: Sequence[int], seed: int) -> None:
    """Sets the rows of tokens that were never trained to the mean of all others, plus a little seeded noise.

    At the mean a new token is as likely as an average one at first (Hewitt 2021, "Initializing new word embeddings"); a random row can
    dominate the softmax.
    """
    if not token_ids:
        return
    generator = torch.Generator().manual_seed(seed)
    seen: list[Tensor] = []
    for layer in (module.get_input_embeddings(), module.get_output_embeddings()):
        weight_VD = layer.weight
        if any(weight_VD is other for other in seen):  # tied
            continue
        seen.append(weight_VD)
        others = torch.ones(weight_VD.shape[0], dtype=torch.bool)
        others[list(token_ids)] = False
        old_VD = weight_VD[others.to(weight_VD.device)].float()
        noise = torch.randn(len(token_ids), weight_VD.shape[1], generator=generator).to(weight_VD.device)
        rows = old_VD.mean(dim=0) + NEW_ROW_NOISE * old_VD.std(dim=0) * noise
        weight_VD[list(token_ids)] = rows.to(weight_VD.dtype)


def add_lora(module: Any, options: LoraAdapter, base_ref: str, token_ids: Sequence[int] = ()) -> PeftModel:
    """Puts LoRA layers into the model (in place) and freezes the rest; the rows of `token_ids` are trained with them.

    At initialisation the model computes exactly what it did before (B = 0; arXiv:2106.09685).

    Raises:
        SpecError: a target that is no module of the model.
    """
    rows: dict[str, list[int]] = {}
    if token_ids:
        rows[_name_of(module, module.get_input_embeddings())] = sorted(token_ids)
        if module.get_output_embeddings().weight is not module.get_input_embeddings().weight:
            rows[_name_of(module, module.get_output_embeddings())] = sorted(token_ids)
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
            model = get_peft_model(module, config)
    except ValueError as error:
        raise SpecError(f"adapter.targets: {str(error).splitlines()[0]}") from None
    model.peft_config["default"].base_model_name_or_path = base_ref
    return model


def merge_adapter(module: Any, folder: Path) -> Any:
    """The model with an adapter's weights added into its own.

    Raises:
        ModelError: the adapter does not fit the model.
    """
    try:
        with _quiet():
            merged = PeftModel.from_pretrained(module, str(folder), local_files_only=True).merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, KeyError, OSError, TypeError) as error:
        raise ModelError(f"adapter {folder.name} does not fit the model: {str(error).splitlines()[0]}") from None
    return merged


def save_model(module: nn.Module, peft: PeftModel | None, tokenizer: Any, folder: Path) -> None:
    """Writes weights (or the adapter's), config, generation config, tokenizer and chat template.

    Equal weights give equal bytes: no dates, no paths, lists in a fixed order.
    """
    if peft is None:
        module.save_pretrained(folder)  # type: ignore[operator]
    else:
        peft.save_pretrained(str(folder), save_embedding_layers=False)  # new rows are in the adapter already
        (folder / "README.md").unlink(missing_ok=True)  # the registry writes the model card
        path = folder / ADAPTER_CONFIG_FILE
        config = json.loads(path.read_text("utf-8"))
        config = {key: sorted(value) if key == "target_modules" and isinstance(value, list) else value for key, value in config.items()}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
        module.generation_config.save_pretrained(folder)  # type: ignore[union-attr, operator]
    tokenizer.save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without peft 0.21's use of a name that transformers 5.23 has renamed: nothing a caller can act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def _name_of(module: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, layer in module.named_modules() if layer is wanted)
