"""Looks at a model folder before anything is loaded from it: safetensors only, whole, and no pickle. Imports no
torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from posttrain.engine.errors import ModelError, ModelNotFoundError, UnsafeWeightsError

CONFIG_FILE = "config.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"
_INDEX_FILE = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")


def check_model_folder(folder: Path) -> None:
    """Checks a folder of full weights.

    Raises:
        ModelNotFoundError: no such folder.
        UnsafeWeightsError: the weights are there, but only in a format that can run code.
        ModelError: no config, no weights, a missing shard, or a file that is not safetensors.
    """
    _check_folder(folder, CONFIG_FILE, "model")
    index = folder / _INDEX_FILE
    if index.is_file():
        shards = sorted(set(_read_json(index).get("weight_map", {}).values()))
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing or not shards:
            raise ModelError(
                f"{index.name} names weight files that are not there: {', '.join(missing) or 'none at all'}"
            )
        for name in shards:
            check_safetensors(folder / name)
        return
    _check_weight_files(folder, "model.safetensors")


def check_adapter_folder(folder: Path) -> None:
    """Checks a folder of adapter weights in peft's layout; raises as `check_model_folder`."""
    _check_folder(folder, ADAPTER_CONFIG_FILE, "adapter")
    _check_weight_files(folder, "adapter_model.safetensors")


def check_safetensors(path: Path) -> None:
    """Reads the header, which names every tensor's place, so a truncated file is found without reading it.

    Raises:
        ModelError: not safetensors, or damaged.
    """
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path.name} is not a whole safetensors file: {error}") from None


def _check_folder(folder: Path, config: str, what: str) -> None:
    if not folder.is_dir():
        raise ModelNotFoundError(f"there is no {what} folder {folder}")
    if not (folder / config).is_file():
        raise ModelError(f"{folder.name} holds no {config}, so it is no {what} folder")
    _read_json(folder / config)


def _check_weight_files(folder: Path, wanted: str) -> None:
    if (folder / wanted).is_file():
        check_safetensors(folder / wanted)
        return
    pickles = sorted(
        path.name for path in folder.iterdir() if path.suffix in _PICKLES and path.name != "training_args.bin"
    )
    if pickles:
        raise UnsafeWeightsError(f"{folder.name} holds its weights only as {', '.join(pickles)}")
    raise ModelError(f"{folder.name} holds no {wanted}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path.name} is not a JSON object")
    return value
