"""Loads a causal language model from a folder, and runs it packed: backbone, then head only where it is asked for.

What a `ForCausalLM` does between its backbone and its logits differs by architecture (Gemma's soft cap,
arXiv:2408.00118; Cohere's and Granite's scale). `LanguageModel.logits` reproduces those that are known, and
`exactness.py` compares the packed path with the model's own padded forward at loading, so that an architecture which
does something else is refused by name and never trained wrong.

Shape suffixes: T packed tokens, N positions, D model width, V vocabulary, B rows, L padded length.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from posttrain.engine import attention
from posttrain.engine.data.template import ChatTemplate
from posttrain.engine.embeddings import resize_rows
from posttrain.engine.errors import ModelError, UnsupportedModelError, first_line
from posttrain.engine.exactness import check_exactness
from posttrain.engine.task import ModelInput
from posttrain.engine.weights import check_adapter_folder, check_model_folder

Dtype = Literal["auto", "float32", "bfloat16"]


@dataclass
class LanguageModel:
    """A causal LM for packed passes. `module` is the transformers model, with adapter layers inside where there are
    any.

    logits = scale * head(hidden), then soft_cap * tanh(logits / soft_cap) if soft_cap > 0.
    """

    module: Any
    scale: float
    soft_cap: float

    @classmethod
    def of(cls, module: Any) -> LanguageModel:
        """Wraps a transformers model that was loaded with `attn_implementation=attention.NAME`.

        Raises:
            UnsupportedModelError: no backbone or no head to tell apart.
        """
        config = module.config
        name = type(module).__name__
        if module.base_model is module or module.get_output_embeddings() is None:
            raise UnsupportedModelError(f"{name} has no backbone and head that can be told apart")
        scale = getattr(config, "logit_scale", None) or 1.0  # Cohere multiplies
        scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite divides
        return cls(module, float(scale), float(getattr(config, "final_logit_softcapping", None) or 0.0))

    @property
    def name(self) -> str:
        return type(self.module).__name__

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.module.parameters()).device
        return device

    @property
    def context(self) -> int:
        """Most tokens of a row, prompt and answer together."""
        return context_of(self.module.config)

    @property
    def head(self) -> nn.Module:
        head: nn.Module = self.module.get_output_embeddings()
        return head

    @property
    def vocabulary(self) -> int:
        return int(self.module.get_input_embeddings().weight.shape[0])

    def hidden(self, input_ids_T: Tensor, position_ids_T: Tensor, layout: attention.Layout) -> Tensor:
        """Last hidden states [T, D] of one packed pass."""
        return self.hidden_rows(input_ids_T.unsqueeze(0), position_ids_T.unsqueeze(0), layout).squeeze(0)

    def hidden_rows(self, input_ids_BT: Tensor, position_ids_BT: Tensor, layout: attention.Layout) -> Tensor:
        """Last hidden states [B, T, D]. No mask and no cache: both are the layout's business."""
        with attention.layout(layout):
            output = self.module.base_model(input_ids=input_ids_BT, position_ids=position_ids_BT, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits [N, V] of hidden states."""
        logits_NV: Tensor = self.head(hidden_ND)
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        if self.soft_cap:
            logits_NV = self.soft_cap * torch.tanh(logits_NV / self.soft_cap)
        return logits_NV

    def head_parameters(self) -> list[nn.Parameter]:
        """Trained parameters that logits depend on beside the hidden states.

        Found in the graph of one row's logits and not by name: with tied embeddings and an adapter they are not
        parameters of the head module.
        """
        width = self.module.get_input_embeddings().weight.shape[1]
        with torch.enable_grad():
            logits_1V = self.logits(torch.ones(1, width, device=self.device, dtype=self.module.dtype))
        found: dict[int, nn.Parameter] = {}
        seen, waiting = set[Any](), [logits_1V.grad_fn]
        while waiting:
            node: Any = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):  # where a gradient is accumulated: a leaf
                found[id(node.variable)] = node.variable
            waiting += [before for before, _ in node.next_functions]
        return [parameter for _, parameter in self.trainable() if id(parameter) in found]

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Parameters that are trained, by name, each tied one once."""
        return [(name, parameter) for name, parameter in self.module.named_parameters() if parameter.requires_grad]


@dataclass
class Loaded:
    """A model ready to generate or to be trained further. `template` is its own chat template, if it has one."""

    model: LanguageModel
    tokenizer: Any
    template: ChatTemplate | None
    stop_ids: tuple[int, ...]


def resolve_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA and float32 on a CPU, where bfloat16 was measured 8 times slower."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def context_of(config: Any) -> int:
    """Most positions of a row: what the architecture was made for, with longrope (arXiv:2402.13753) what it was
    before it was stretched.

    transformers rotates a whole pass by longrope's `long_factor` as soon as one row of it exceeds the original
    context, and by `short_factor` otherwise: up to there a row does not depend on the rows packed beside it, beyond
    it does.

    Raises:
        UnsupportedModelError: the config does not say.
    """
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if not limit:
        raise UnsupportedModelError(f"{type(config).__name__} names no longest context (max_position_embeddings)")
    limits = [int(limit)]
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in (rope, *(nested for nested in rope.values() if isinstance(nested, dict))):
        if parameters.get("rope_type") == "longrope":
            original = parameters.get("original_max_position_embeddings")
            if not original:
                raise UnsupportedModelError(f"{type(config).__name__} has longrope without its original context")
            limits.append(int(original))
    return min(limits)


def check_input(source: ModelInput) -> None:
    """Checks the folders of a model and of its adapters; see `posttrain.engine.weights`.

    Raises:
        ModelError (and below): a file is missing, not the recorded one, or not safe to load.
    """
    check_model_folder(Path(source.path))
    for adapter in source.adapters:
        check_adapter_folder(Path(adapter))
    check_unchanged(source)


def check_unchanged(source: ModelInput) -> None:
    """Hashes the model's files.

    Raises:
        ModelError: one of them is not what was recorded.
    """
    for name, sha256 in source.files.items():
        try:
            with open(name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelError(f"{source.ref}: {Path(name).name}: {error.strerror}") from error
        if digest != sha256:
            raise ModelError(
                f"{source.ref}: {Path(name).name} was changed after it was registered",
                hint="run the job again: the files are laid out anew from the store",
            )


def read_config(source: ModelInput) -> Any:
    """The config of a model of any kind.

    Raises:
        UnsupportedModelError: an architecture that this version of transformers does not know.
        ModelError: not readable.
    """
    try:
        return AutoConfig.from_pretrained(source.path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        text = json.loads((Path(source.path) / "config.json").read_text("utf-8"))
        kind = text.get("model_type", "without model_type")
        raise UnsupportedModelError(f"{source.ref}: architecture {kind}: {first_line(error)}") from error


def is_reward_model(config: Any) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or [])


def load_config(source: ModelInput) -> Any:
    """The config of a language model.

    Raises:
        ModelError: a reward model; and as `read_config`.
    """
    config = read_config(source)
    if is_reward_model(config):
        raise ModelError(
            f"{source.ref} is a reward model: it scores answers and writes none",
            hint="name the language model that it was trained from",
        )
    return config


def load_tokenizer(source: ModelInput) -> Any:
    """The tokenizer: the newest adapter's if it brought one, else the model's.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    folders = [Path(source.path), *map(Path, source.adapters)]
    owner = [folder for folder in folders if (folder / "tokenizer_config.json").is_file()]
    if not owner:
        raise ModelError(f"{source.ref} has no tokenizer files")
    try:
        return AutoTokenizer.from_pretrained(owner[-1], local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{source.ref}: the tokenizer cannot be read: {first_line(error)}") from None


def own_template(tokenizer: Any) -> ChatTemplate | None:
    """The chat template that came with the tokenizer; of several named ones, `default`."""
    text = tokenizer.chat_template
    if isinstance(text, dict):
        text = text.get("default")
    named = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    return ChatTemplate(text, named) if text else None


def stop_ids_of(tokenizer: Any, generation_config: Any, config: Any) -> tuple[int, ...]:
    """Every token id that ends a generation: the tokenizer's end, and what the generation config and the config
    name."""
    found: set[int] = set()
    for given in (
        tokenizer.eos_token_id,
        getattr(generation_config, "eos_token_id", None),
        getattr(config, "eos_token_id", None),
    ):
        found.update([given] if isinstance(given, int) else given or [])
    return tuple(sorted(found))


def load_model(source: ModelInput, dtype: torch.dtype, device: torch.device, tokenizer: Any) -> LanguageModel:
    """The model with its adapters merged in, oldest first, in eval mode.

    Raises:
        ModelError (and below): see `check_input` and `load_config`; weights that do not fill the architecture.
        UnsupportedModelError: the architecture does not leave its attention to others.
    """
    check_input(source)
    module = load_weights(AutoModelForCausalLM, source, load_config(source), dtype).to(device)
    for adapter in source.adapters:
        from posttrain.engine.adapters import merge_adapter  # importing peft takes seconds

        resize_rows(module, len(tokenizer), seed=0)
        module = merge_adapter(module, Path(adapter))
    module.eval()
    return LanguageModel.of(module)


def load_weights(kind: Any, source: ModelInput, config: Any, dtype: torch.dtype) -> Any:
    """The transformers model at the source's path, of an auto class, with the attention of packed passes.

    Raises:
        ModelError, UnsupportedModelError: as `load_model`.
    """
    try:
        module, report = kind.from_pretrained(
            source.path,
            config=config,
            dtype=dtype,
            attn_implementation=attention.NAME,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError) as error:
        name = f"{source.ref}: {', '.join(config.architectures or [])} ({config.model_type})"
        if isinstance(error, KeyError) and error.args == (attention.NAME,):
            raise UnsupportedModelError(
                f"{name} computes attention in its own layers and not through transformers' attention interface, so "
                "packed rows cannot be kept apart in it"
            ) from error
        kind = UnsupportedModelError if isinstance(error, ValueError | KeyError | AttributeError) else ModelError
        raise kind(f"{name}: {first_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"{source.ref}: the weights lack {', '.join(missing[:3])} ({len(missing)} tensors in all)")
    return module


def load(source: ModelInput, dtype: Dtype = "auto", device: torch.device | None = None) -> Loaded:
    """Model, tokenizer, own template and stop ids; the packed path is checked against the model's own forward.

    Raises:
        ModelError (and below): as `load_model`; UnsupportedModelError also if the two disagree.
    """
    where = device or default_device()
    check_input(source)
    tokenizer = load_tokenizer(source)
    model = load_model(source, resolve_dtype(dtype, where), where, tokenizer)
    check_exactness(model)
    stop_ids = stop_ids_of(tokenizer, model.module.generation_config, model.module.config)
    return Loaded(model, tokenizer, own_template(tokenizer), stop_ids)
