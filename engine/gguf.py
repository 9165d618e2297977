"""Turns a GGUF file into an ordinary Hugging Face folder: `python -m posttrain.engine.gguf FILE FOLDER`.

The file's quantised tensors are dequantised to float32 by transformers' own loader. A model loaded that way refuses
`save_pretrained`, because its config says that it is quantised; so its tensors are copied into a fresh model of the
same config without the quantisation note. A process of its own does this: the server that asks for it imports no
torch.

The first 8 bytes of the format, by ggml's specification (docs/gguf.md of github.com/ggml-org/ggml): "GGUF", then the
version as a little-endian uint32.
"""

from __future__ import annotations

import importlib.util
import struct
import sys
from pathlib import Path

from posttrain.engine.errors import EngineError, ModelError, ModelNotFoundError

MAGIC = b"GGUF"
VERSIONS = (2, 3)


class GgufExtraMissingError(ModelError):
    code = "GGUF_EXTRA_MISSING"
    hint = "install the extra: pip install 'posttrain[gguf]'"


def check_gguf(source: Path) -> None:
    """Reads the header only.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: it is not a GGUF file of a version that is known.
        GgufExtraMissingError: the package that reads it is not installed.
    """
    if not source.is_file():
        raise ModelNotFoundError(f"{source}: no such file")
    with open(source, "rb") as file:
        header = file.read(8)
    if len(header) < 8 or header[:4] != MAGIC:
        raise ModelError(f"{source.name} is not a GGUF file: it does not begin with 'GGUF'")
    version = struct.unpack("<I", header[4:])[0]
    if version not in VERSIONS:
        raise ModelError(f"{source.name} is GGUF version {version}; versions {VERSIONS} can be read")
    if importlib.util.find_spec("gguf") is None:
        raise GgufExtraMissingError("reading a GGUF file needs the package gguf")


def convert(source: Path, target: Path) -> None:
    """Writes `target`, a new folder: model.safetensors in float32, config, tokenizer with its chat template if any.

    Raises:
        FileExistsError: `target` exists.
        ModelError: the file cannot be read, or its architecture is unknown to transformers.
    """
    check_gguf(source)
    target.mkdir(parents=True)

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(source.parent), source.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        quantised = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    except (
        Exception
    ) as error:  # the reader meets hostile bytes with whatever its arithmetic raises: struct, index, key errors
        raise ModelError(f"{name} cannot be read as a GGUF model: {error}") from error

    config = type(quantised.config).from_dict(
        {key: value for key, value in quantised.config.to_dict().items() if key != "quantization_config"}
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict(), strict=True)
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def main(arguments: list[str]) -> int:
    """Exit status 0, or 1 with `CODE: message` as the last line of standard error."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m posttrain.engine.gguf FILE FOLDER\n")
        return 2
    try:
        convert(Path(arguments[0]), Path(arguments[1]))
    except EngineError as error:
        sys.stderr.write(f"{error.code}: {error}. {error.hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
