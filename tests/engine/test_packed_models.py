"""The packed path equals the model's own padded forward, in loss and gradient; what it cannot do is refused by name.

The reference is `ForCausalLM.forward` of transformers with eager attention, padding on the right, an attention mask
and no position ids, and a cross-entropy written out here.
"""

from __future__ import annotations

import random
from array import array
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig

from posttrain.engine import attention
from posttrain.engine.adapters import add_lora
from posttrain.engine.attention import Segments
from posttrain.engine.data.encode import Row
from posttrain.engine.data.packing import collate
from posttrain.engine.errors import SpecError, UnsupportedModelError
from posttrain.engine.losses import summed_nll
from posttrain.engine.methods import METHODS, Models
from posttrain.engine.models import LanguageModel, check_exactness, load
from posttrain.engine.spec import LoraAdapter, parse_spec
from posttrain.engine.task import ModelInput
from tests.engine.tiny import CONFIGS, tiny_model, tiny_module, tiny_tokenizer

ARCHITECTURES = ["llama", "qwen3", "gemma3", "gpt2", "gemma2", "gptoss", "granite", "cohere"]


def make_rows(seed: int = 0) -> list[Row]:
    """Rows of 2 to 23 tokens (the tiny models' windows have 5), with a random mask."""
    rng = random.Random(seed)
    rows = []
    for number, length in enumerate([9, 2, 23, 14, 5]):
        mask = [0] + [rng.randint(0, 1) for _ in range(length - 2)] + [1]
        rows.append(Row(array("i", [rng.randrange(320) for _ in range(length)]), bytes(mask), "d", number))
    return rows


def padded_loss(model: LanguageModel, rows: list[Row]) -> Tensor:
    """Mean negative log-likelihood of the trained tokens by the model's own forward."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row.ids)
        mask[i, : len(row)] = 1
    model.module.set_attn_implementation("eager")
    logits = model.module(input_ids=ids, attention_mask=mask, use_cache=False).logits
    model.module.set_attn_implementation(attention.NAME)
    logp = torch.log_softmax(logits.float(), dim=-1)
    chosen = [-logp[i, t - 1, row.ids[t]] for i, row in enumerate(rows) for t in range(1, len(row)) if row.is_target[t]]
    return torch.stack(chosen).mean()


def packed_loss(model: LanguageModel, rows: list[Row]) -> Tensor:
    method = METHODS["sft"](parse_sft())
    return method.loss(method.collate(rows, torch.device("cpu")), Models(model), method.window(rows))[0]


def parse_sft() -> Any:
    return parse_spec({"kind": "sft", "base": "b@1", "output": "o", "data": [{"dataset": "d@1"}]})


def gradients(model: LanguageModel, loss: Tensor) -> dict[str, Tensor]:
    model.module.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.trainable() if p.grad is not None}


def assert_same(model: LanguageModel, rows: list[Row], rtol: float = 1e-5) -> None:
    expected, found = padded_loss(model, rows), packed_loss(model, rows)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=0)
    reference, ours = gradients(model, expected), gradients(model, found)
    assert reference.keys() == ours.keys()
    for name, gradient in reference.items():
        scale = float(gradient.abs().max())
        assert scale > 0 or name.endswith("k_proj.bias"), f"{name} gets no gradient: the comparison is empty"
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=max(1e-5 * scale, 1e-9), msg=name)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_equals_padded(name: str) -> None:
    assert_same(tiny_model(name), make_rows())


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("options", [{}, {"rank_stabilized": True}, {"weight_decomposed": True}])
def test_packed_equals_padded_with_lora(name: str, options: dict[str, bool]) -> None:
    module = tiny_module(name)
    add_lora(module, LoraAdapter(rank=3, alpha=4.0, **options), "b@1", token_ids=[7, 9])
    with torch.no_grad():  # at zero, B hides every mistake in A's gradient
        for parameter_name, parameter in module.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    assert_same(LanguageModel.of(module), make_rows())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_lora_starts_as_the_base(name: str) -> None:
    base = packed_loss(tiny_model(name), make_rows())
    module = tiny_module(name)
    add_lora(module, LoraAdapter(rank=4), "b@1", token_ids=[7])
    assert packed_loss(LanguageModel.of(module), make_rows()).item() == pytest.approx(base.item(), rel=1e-6)


def test_lora_leaves_the_head_alone_and_takes_named_targets() -> None:
    module = tiny_module("llama")
    add_lora(module, LoraAdapter(rank=2), "b@1")
    assert not [n for n, _ in LanguageModel.of(module).trainable() if "lm_head" in n or "embed" in n]
    module = tiny_module("llama")
    add_lora(module, LoraAdapter(rank=2, targets=["q_proj"]), "b@1")
    assert {n.split(".lora")[0].rsplit(".", 1)[1] for n, _ in LanguageModel.of(module).trainable()} == {"q_proj"}
    with pytest.raises(SpecError, match=r"adapter\.targets"):
        add_lora(tiny_module("llama"), LoraAdapter(rank=2, targets=["nonsense"]), "b@1")


# -- the comparison notices -------------------------------------------------------------------------------------------


class Leaking(Segments):
    """Rows see the rows before them."""

    def attend(self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, call: attention.Call) -> Tensor:
        whole = Segments.of([self.bounds[-1]])
        return whole.attend(query_BHTD, key_BKTD, value_BKTD, call)


def changed_call(**changes: Any) -> type[Segments]:
    class Changed(Segments):
        def attend(self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, call: attention.Call) -> Tensor:
            kept = {key: getattr(call, key) for key in call.__dataclass_fields__}
            return super().attend(query_BHTD, key_BKTD, value_BKTD, attention.Call(**{**kept, **changes}))

    return Changed


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("llama", Leaking),
        ("llama", changed_call(scale=1.0)),
        ("gemma3", changed_call(window=0)),
        ("gemma3", changed_call(window=6)),
        ("gemma2", changed_call(soft_cap=0.0)),
        ("gptoss", changed_call(sinks_H=None)),
    ],
)
def test_a_wrong_attention_is_noticed(name: str, mutant: type[Segments]) -> None:
    model, rows = tiny_model(name), make_rows()
    batch = collate(rows)
    wrong = mutant(batch.segments.bounds, batch.segments.cu_seqlens)
    hidden = model.hidden(batch.input_ids_T, batch.position_ids_T, wrong)[batch.loss_positions_N]
    loss = (
        summed_nll(hidden, batch.targets_N, model.logits, model.head_parameters(), model.vocabulary) / batch.num_targets
    )
    assert abs(loss.item() - padded_loss(model, rows).item()) > 1e-4


@pytest.mark.parametrize(("name", "field"), [("gemma2", "soft_cap"), ("granite", "scale"), ("cohere", "scale")])
def test_a_forgotten_logit_transform_is_refused_by_name(name: str, field: str) -> None:
    model = tiny_model(name)
    setattr(model, field, 0.0 if field == "soft_cap" else 1.0)
    with pytest.raises(UnsupportedModelError, match=f"{model.name}: packed logits differ"):
        check_exactness(model)


# -- refused by name --------------------------------------------------------------------------------------------------


def load_saved(module: Any, folder: Path) -> None:
    """Through the door that everybody uses."""
    module.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    load(ModelInput(ref="m@1", path=str(folder), digest="", weights_digest=""))


def test_recurrent_state_is_refused_by_name(tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(UnsupportedModelError, match=r"(?i)mamba"):
        load_saved(AutoModelForCausalLM.from_config(config), tmp_path)


def test_alibi_is_refused_by_name(tmp_path: Path) -> None:
    config = BloomConfig(vocab_size=320, hidden_size=32, n_layer=2, n_head=4)
    with pytest.raises(UnsupportedModelError, match=r"(?i)bloom"):
        load_saved(AutoModelForCausalLM.from_config(config), tmp_path)


def test_an_unknown_argument_of_attention_is_refused_by_name() -> None:
    query = torch.zeros(1, 2, 3, 4)
    with (
        attention.layout(Segments.of([3])),
        pytest.raises(UnsupportedModelError, match=r"Linear asks attention for position_bias"),
    ):
        attention.attend(torch.nn.Linear(1, 1), query, query, query, None, position_bias=query)
    with attention.layout(Segments.of([3])), pytest.raises(UnsupportedModelError, match="later tokens"):
        attention.attend(torch.nn.Linear(1, 1), query, query, query, None, is_causal=False)
    with pytest.raises(UnsupportedModelError, match="outside of a packed pass"):
        attention.attend(torch.nn.Linear(1, 1), query, query, query, None)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_check_at_loading_passes_and_is_quick(name: str) -> None:
    import time

    model = tiny_model(name)
    check_exactness(model)
    started = time.monotonic()
    assert check_exactness(model) < 1e-4
    assert time.monotonic() - started < 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["llama", "gemma3", "gemma2"])
def test_packed_equals_padded_on_cuda_in_bfloat16(name: str) -> None:
    model = tiny_model(name)
    model.module.to("cuda", torch.bfloat16)
    check_exactness(model)
