"""A model folder is looked at before it is loaded; whatever is wrong is told by its code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from posttrain.engine.errors import EngineError
from posttrain.engine.models import default_device, load, resolve_dtype
from posttrain.engine.task import ModelInput
from posttrain.engine.weights import check_model_folder
from tests.engine.tiny import save_base


def code_of(source: ModelInput) -> tuple[str, str]:
    with pytest.raises(EngineError) as caught:
        load(source)
    assert caught.value.hint
    return caught.value.code, str(caught.value)


def test_a_sound_folder_loads(tmp_path: Path) -> None:
    loaded = load(save_base(tmp_path / "m", is_chat=True))
    assert loaded.template is not None
    assert loaded.model.context == 256
    assert loaded.tokenizer.convert_tokens_to_ids("<|im_end|>") in loaded.stop_ids
    assert loaded.model.module.dtype == torch.float32
    assert load(save_base(tmp_path / "base")).template is None


def test_a_missing_folder(tmp_path: Path) -> None:
    source = ModelInput(ref="m@1", path=str(tmp_path / "none"), digest="", weights_digest="")
    assert code_of(source)[0] == "MODEL_NOT_FOUND"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickle_only_is_refused_unopened(tmp_path: Path, name: str) -> None:
    source = save_base(tmp_path / "m")
    folder = Path(source.path)
    (folder / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'exploded')!r}, 'w')",)

    torch.save(Bomb(), folder / name)
    code, message = code_of(source)
    assert code == "UNSAFE_WEIGHTS"
    assert name in message
    assert not (tmp_path / "exploded").exists()


def test_damaged_and_missing_weights(tmp_path: Path) -> None:
    source = save_base(tmp_path / "m")
    path = Path(source.path) / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    code, message = code_of(source)
    assert code == "BAD_MODEL"
    assert "not a whole safetensors file" in message
    path.write_bytes(b"\x80\x04 a pickle under another name")
    assert code_of(source)[0] == "BAD_MODEL"
    path.write_bytes(data)
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, {"format": "pt"})
    code, message = code_of(source)
    assert code == "BAD_MODEL"
    assert "up_proj" in message  # and never filled with random numbers
    path.unlink()
    assert "holds no model.safetensors" in code_of(source)[1]
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (Path(source.path) / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00002.safetensors" in code_of(source)[1]


def test_shards_are_checked(tmp_path: Path) -> None:
    source = save_base(tmp_path / "m")
    folder = Path(source.path)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    shard = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shard))
    check_model_folder(folder)


@pytest.mark.parametrize(
    ("config", "code", "words"),
    [
        ("{", "BAD_MODEL", "not JSON"),
        ('{"model_type": "nonesuch"}', "UNSUPPORTED_MODEL", "nonesuch"),
        (
            '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}',
            "UNSUPPORTED_MODEL",
            "evil",
        ),
    ],
)
def test_configs_that_cannot_be_used(tmp_path: Path, config: str, code: str, words: str) -> None:
    source = save_base(tmp_path / "m")
    (Path(source.path) / "config.json").write_text(config)
    (Path(source.path) / "evil.py").write_text(f"open({str(tmp_path / 'exploded')!r}, 'w')")
    found, message = code_of(source)
    assert found == code
    assert words in message
    assert not (tmp_path / "exploded").exists()


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    source = save_base(tmp_path / "m")
    path = Path(source.path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "intermediate_size": 64}))
    assert code_of(source)[0] == "BAD_MODEL"


def test_a_missing_tokenizer(tmp_path: Path) -> None:
    source = save_base(tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (Path(source.path) / name).unlink()
    assert "no tokenizer files" in code_of(source)[1]


def test_an_adapter_that_does_not_fit(tmp_path: Path) -> None:
    source = save_base(tmp_path / "m")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    with_adapter = ModelInput.model_validate({**source.model_dump(), "adapters": [str(adapter)]})
    assert "no adapter_config.json" in code_of(with_adapter)[1]
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "target_modules": ["nothing"]}')
    save_file({"x": torch.zeros(1)}, adapter / "adapter_model.safetensors")
    code, message = code_of(with_adapter)
    assert code == "BAD_MODEL"
    assert "does not fit" in message


def test_dtypes() -> None:
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert default_device().type in ("cpu", "cuda")
