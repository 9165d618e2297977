"""Reads a folder of model files without trusting it: which files count, what weights and config say. No torch.

Only safetensors, configurations and tokenizer files count. A pickle can run code when it is loaded, so it is never
copied, whatever its name; `.py` files and everything unknown are left behind.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from posttrain.engine.errors import ModelError, UnsafeWeightsError
from posttrain.engine.spec import canonical_json, sha256_text
from posttrain.registry.artifacts import open_regular
from posttrain.registry.refs import check_path, shown

CONFIG_FILE = "config.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"
INDEX_FILE = "model.safetensors.index.json"
TEMPLATE_FILE = "chat_template.jinja"
REWARD_ARCHITECTURE = "ForSequenceClassification"  # transformers' name for a backbone with a score head
Role = Literal["base", "instruct", "reward"]
SINGLE_WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
MAX_JSON_BYTES = 64 * 2**20
MAX_HEADER_BYTES = 100_000_000  # the format's own limit

_KEPT = re.compile(
    r"config\.json|generation_config\.json|adapter_config\.json|tokenizer[a-z_]*\.json|special_tokens_map\.json"
    r"|added_tokens\.json|vocab\.(json|txt)|merges\.txt|tokenizer\.model|spiece\.model|sentencepiece\.bpe\.model"
    r"|chat_template\.(jinja|json)|additional_chat_templates/[A-Za-z0-9_-]+\.jinja|model\.safetensors\.index\.json"
    r"|(LICENSE|NOTICE)[A-Za-z0-9._-]{0,60}"
)
_PICKLE = re.compile(r".*\.(bin|pt|pth|pkl|pickle|ckpt|joblib|npy|npz)", re.IGNORECASE)
_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class ModelFolder:
    """What a folder holds. `files` and `weights` are relative paths, `ignored` what is left behind."""

    files: tuple[str, ...]
    weights: tuple[str, ...]
    ignored: tuple[str, ...]
    is_adapter: bool
    architecture: str
    num_parameters: int
    template_digest: str

    def role(self, parents: Role = "base") -> Role:
        """What the model is for; without a template of its own, what its parent is for."""
        if self.architecture.endswith(REWARD_ARCHITECTURE):
            return "reward"
        return "instruct" if self.template_digest else parents


def inspect_folder(files: Mapping[str, Path]) -> ModelFolder:
    """Checks a folder's files (relative path -> where) and picks those that make the model.

    Raises:
        UnsafeWeightsError: its weights are pickles, or a file named .safetensors is none.
        ModelError: no weights, no config, no tokenizer, or a file that cannot be read; the message names it.
    """
    weights = _weight_files(files)
    is_adapter = weights == ("adapter_model.safetensors",)
    needed = ADAPTER_CONFIG_FILE if is_adapter else CONFIG_FILE
    if needed not in files:
        raise ModelError(f"the folder has no {needed}")
    config = read_json(files[needed])
    if not is_adapter and not any(name in files for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError("the folder has no tokenizer (tokenizer.json, tokenizer.model or vocab.json)")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if name in files:
            read_json(files[name])
    kept = tuple(sorted([*weights, *(name for name in files if _KEPT.fullmatch(name))]))
    return ModelFolder(
        files=kept,
        weights=weights,
        ignored=tuple(sorted(set(files) - set(kept))),
        is_adapter=is_adapter,
        architecture=_architecture(config, is_adapter),
        num_parameters=sum(count_parameters(files[name]) for name in weights),
        template_digest=template_digest(files),
    )


def _weight_files(files: Mapping[str, Path]) -> tuple[str, ...]:
    if INDEX_FILE in files:
        shards = read_json(files[INDEX_FILE]).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
            raise ModelError(f"{INDEX_FILE} has no weight_map")
        names = sorted({check_path(name) for name in shards.values()})
        missing = [name for name in names if name not in files or not name.endswith(".safetensors")]
        if missing:
            raise ModelError(f"{INDEX_FILE} names {shown(missing[0])}, which is not a safetensors file here")
        return tuple(names)
    for name in SINGLE_WEIGHTS:
        if name in files:
            return (name,)
    pickles = [name for name in files if _PICKLE.fullmatch(name)]
    if pickles:
        raise UnsafeWeightsError(f"{shown(pickles[0])} is a pickle, and there is no model.safetensors")
    raise ModelError("the folder has no model.safetensors")


def _architecture(config: dict[str, Any], is_adapter: bool) -> str:
    if is_adapter:
        return str(config.get("peft_type", "adapter"))
    names = config.get("architectures")
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return str(names[0])
    if isinstance(config.get("model_type"), str):
        return str(config["model_type"])
    raise ModelError(f"{CONFIG_FILE} names neither architectures nor model_type")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of at most 64 MiB.

    Raises:
        ModelError: larger, not UTF-8, not JSON, not an object.
    """
    with open_regular(path) as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise ModelError(f"{path.name} has more than {MAX_JSON_BYTES} bytes")
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path.name} is not a JSON object")
    return value


def count_parameters(path: Path) -> int:
    """Numbers stored in a safetensors file. Raises as `tensor_shapes`."""
    return sum(math.prod(shape) for shape in tensor_shapes(path).values())


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The tensors of a safetensors file by its header, which is checked against the file's length.

    Format: 8 bytes little-endian header length, JSON header, tensor bytes without gaps.

    Raises:
        UnsafeWeightsError: not a safetensors file.
    """
    num_bytes = path.stat().st_size
    with open_regular(path) as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, num_bytes - 8):
            raise UnsafeWeightsError(f"{path.name} is not a safetensors file: its header length is impossible")
        raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
        if not raw.startswith(b"{"):
            raise ValueError("the header is not an object")
        header.pop("__metadata__", None)
        spans = sorted(_span(name, tensor) for name, tensor in header.items())
        end = 0
        for begin, stop in spans:
            if begin != end:
                raise ValueError("tensors overlap or leave a gap")
            end = stop
        if end != num_bytes - 8 - length:
            raise ValueError(f"it should have {8 + length + end} bytes and has {num_bytes}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnsafeWeightsError(f"{path.name} is not a safetensors file: {error}") from error
    return {name: tuple(tensor["shape"]) for name, tensor in header.items()}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is given twice")
    return made


def _span(name: str, tensor: dict[str, Any]) -> tuple[int, int]:
    begin, stop = tensor["data_offsets"]
    shape = tensor["shape"]
    if not all(type(number) is int and 0 <= number < 2**60 for number in (begin, stop, *shape)):
        raise ValueError(f"tensor {shown(name)} has an impossible shape or place")
    count = math.prod(shape)
    if (stop - begin) * 8 != count * _BITS[tensor["dtype"]]:
        raise ValueError(f"tensor {shown(name)} has {stop - begin} bytes, not what its shape needs")
    return begin, stop


def template_digest(files: Mapping[str, Path]) -> str:
    """Hex sha256 of the chat template's text; empty: there is none."""
    if TEMPLATE_FILE in files:
        with open_regular(files[TEMPLATE_FILE]) as file:
            data = file.read(MAX_JSON_BYTES)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ModelError(f"{TEMPLATE_FILE} is not UTF-8") from error
        # Line ends as a reader in text mode sees them, so that this is the digest of what is rendered.
        return sha256_text(text.replace("\r\n", "\n").replace("\r", "\n"))
    for name in ("chat_template.json", "tokenizer_config.json"):
        if name in files:
            found = read_json(files[name]).get("chat_template")
            if isinstance(found, list):
                named = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}
                found = named.get("default")
            if isinstance(found, str) and found:
                return sha256_text(found)
    return ""


def weights_digest(digests: Mapping[str, str], folder: ModelFolder, base: str = "") -> str:
    """What the weights are, whatever job made them: weight files; of an adapter also its scale and its base's."""
    names = [*folder.weights, ADAPTER_CONFIG_FILE] if folder.is_adapter else folder.weights
    return sha256_text(canonical_json({"files": {name: digests[name] for name in names}, "base": base}))
