"""Names in `adapter.targets`: what the files of a model say of them is what the loaded model says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from torch import nn
from transformers.pytorch_utils import Conv1D

from posttrain.engine import targets
from posttrain.engine.adapters import add_lora
from posttrain.engine.errors import SpecError
from posttrain.engine.options import LoraAdapter
from posttrain.engine.targets import PLAIN_FAMILIES, is_named, layers_of, wrong_targets

from .tiny import CONFIGS, save_base, tiny_module

FAMILIES = {CONFIGS[name]().model_type: name for name in CONFIGS}
LAYERS = ["model.embed_tokens", "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_files_name_the_layers_that_the_model_has(family: str, tmp_path: Path) -> None:
    """Of each family that is answered for, by transformers itself; experts are not answered for."""
    save_base(tmp_path, FAMILIES[family])
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    found = layers_of(json.loads((tmp_path / "config.json").read_text()), shapes)
    if family not in PLAIN_FAMILIES:
        assert found is None
        return
    module = tiny_module(FAMILIES[family])
    head = module.get_output_embeddings()
    linear = {name for name, layer in module.named_modules() if isinstance(layer, nn.Linear | Conv1D)}
    names = {name for name, layer in module.named_modules() if layer is head}
    assert found is not None
    assert (
        linear - names
        <= set(found)
        <= linear
        | {"model.embed_tokens", "embed_out"}
        | {name for name, layer in module.named_modules() if isinstance(layer, nn.Embedding)}
    )


def test_each_family_that_is_answered_for_is_compared() -> None:
    assert set(FAMILIES) >= PLAIN_FAMILIES


@pytest.mark.parametrize(
    ("target", "is_known"),
    [
        ("q_proj", True),
        ("self_attn.q_proj", True),
        ("model.layers.0.self_attn.q_proj", True),
        ("base.model.layers.0.self_attn.q_proj", True),  # the file may be of the model without its head
        ("lm_head", True),
        ("proj", False),
        ("attn.q_proj", False),
        ("q_proj.weight", False),
        ("self_attn", False),
        ("all-linear", False),
        ("", False),
        (".", False),
        (".".join(["x"] * 5000), False),
    ],
)
def test_a_target_is_a_name_or_the_end_of_one(target: str, is_known: bool) -> None:
    assert wrong_targets([target], LAYERS) == (
        {} if is_known else {0: f"{target[:100]!r} is no layer of this model; its linear layers are q_proj, up_proj"}
    )
    if target != "base." + LAYERS[1]:
        assert is_known == any(is_named(layer, [target]) for layer in [*LAYERS, "lm_head"])


def test_wrong_targets_are_told_by_place_and_not_without_end() -> None:
    assert list(wrong_targets(["q_proj", "w1", "up_proj", "w2"], LAYERS)) == [1, 3]
    assert list(wrong_targets([f"w{i}" for i in range(100_000)], LAYERS)) == list(range(10))
    assert len(list(targets._ends(".".join(["x"] * 5000)))) == targets.MAX_PARTS, "a long one takes no long time"
    assert "\u202e" not in wrong_targets(["\u202ew"], LAYERS)[0], "nothing hostile is shown as it is"


def test_a_wrong_target_beside_a_right_one_is_not_passed_over() -> None:
    with pytest.raises(SpecError) as said:
        add_lora(tiny_module("llama"), LoraAdapter(rank=2, targets=["q_proj", "w1"]), "b@1")
    assert str(said.value) == (
        "adapter.targets[1]: 'w1' is no layer of this model; its linear layers are "
        "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    )
