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
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPTJConfig,
    GPTNeoConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    Phi3Config,
    PhimoeConfig,
    Qwen2Config,
)

from posttrain.engine import attention
from posttrain.engine.adapters import add_lora
from posttrain.engine.attention import Segments
from posttrain.engine.data.encoded import Row
from posttrain.engine.data.packing import collate
from posttrain.engine.errors import CancelledError, DataError, SpecError, UnsupportedModelError
from posttrain.engine.exactness import MAX_CHECKED_WINDOW, check_exactness
from posttrain.engine.losses import summed_nll
from posttrain.engine.methods import METHODS, Models
from posttrain.engine.models import LanguageModel, context_of, load
from posttrain.engine.rollout import GenerationSettings, generate, score
from posttrain.engine.spec import LoraAdapter, parse_spec
from posttrain.engine.task import ModelInput
from tests.engine.tiny import CONFIGS, LLAMA, tiny_model, tiny_module, tiny_of, tiny_tokenizer

ARCHITECTURES = sorted(CONFIGS)


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
    return method.loss(method.collate(rows, torch.device("cpu")), Models(model), method.window(rows, Models(model)))[0]


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


@pytest.mark.parametrize("options", [{}, {"rank_stabilized": True}, {"weight_decomposed": True}])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_lora_options_reach_every_layer(options: dict[str, bool], dropout: float) -> None:
    """alpha / r (arXiv:2106.09685), alpha / sqrt(r) (rsLoRA, arXiv:2312.03732), magnitudes (DoRA, arXiv:2402.09353)."""
    from peft.tuners.lora import LoraLayer

    module = tiny_module("llama")
    add_lora(module, LoraAdapter(rank=4, alpha=5.0, dropout=dropout, **options), "b@1")
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}
    assert len(layers) == 2 * 7
    trained = {name for name, _ in LanguageModel.of(module).trainable()}
    for name, layer in layers.items():
        expected = 5.0 / 2 if options.get("rank_stabilized") else 5.0 / 4
        assert layer.scaling["default"] == pytest.approx(expected), name
        assert getattr(layer.lora_dropout["default"], "p", 0.0) == dropout, name
        magnitude = f"{name}.lora_magnitude_vector.default.weight"
        assert (magnitude in trained) == ("weight_decomposed" in options), name


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
    wrong = mutant(batch.segments.bounds, batch.segments.prefixes)
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


def load_saved(module: Any, folder: Path) -> LanguageModel:
    """Through the door that everybody uses."""
    module.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return load(ModelInput(ref="m@1", path=str(folder), digest="", weights_digest="")).model


def test_recurrent_state_is_refused_by_name(tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(UnsupportedModelError, match=r"(?i)mamba"):
        load_saved(AutoModelForCausalLM.from_config(config), tmp_path)


def test_alibi_is_refused_by_name(tmp_path: Path) -> None:
    config = BloomConfig(vocab_size=320, hidden_size=32, n_layer=2, n_head=4)
    with pytest.raises(UnsupportedModelError, match=r"(?i)bloom"):
        load_saved(AutoModelForCausalLM.from_config(config), tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            GPTJConfig(vocab_size=320, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=256),
            r"m@1: GPTJForCausalLM \(gptj\) computes attention in its own layers",
        ),
        (
            GPTNeoConfig(
                vocab_size=320, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]]
            ),
            r"m@1: GPTNeoForCausalLM \(gpt_neo\) computes attention in its own layers",
        ),
        (
            MptConfig(vocab_size=320, d_model=32, n_heads=4, n_layers=2, max_seq_len=256),
            "MptForCausalLM cannot be run on packed rows: AttributeError",
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_an_architecture_with_attention_of_its_own_is_refused_by_name(
    tmp_path: Path, config: Any, message: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        load_saved(AutoModelForCausalLM.from_config(config), tmp_path)
    assert isinstance(caught.value.__cause__, KeyError | AttributeError)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000000 bytes"),
        CancelledError("stopped"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_running_out_of_memory_or_being_stopped_is_not_an_unsupported_architecture(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def broken(*_: Any) -> Any:
        raise error

    model = tiny_model("llama")
    model.module.train()
    monkeypatch.setattr(LanguageModel, "hidden", broken)
    with pytest.raises(type(error)) as caught:
        check_exactness(model)
    assert caught.value is error
    assert model.module.training


def phimoe(**options: Any) -> LanguageModel:
    """Its window is in the mask only, which a packed pass has none of."""
    return tiny_of(PhimoeConfig(**{**LLAMA, "num_local_experts": 4, **options}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [16, 200])
def test_a_window_that_is_only_in_the_mask_is_refused_by_name(window: int, dtype: torch.dtype) -> None:
    model = phimoe(sliding_window=window)
    model.module.to(dtype)
    with pytest.raises(UnsupportedModelError, match=f"PhimoeForCausalLM: .*sliding_window {window}"):
        check_exactness(model)


def test_a_window_too_long_to_compute_must_be_handed_over_by_a_layer() -> None:
    wide = {"max_position_embeddings": 4 * MAX_CHECKED_WINDOW, "sliding_window": 2 * MAX_CHECKED_WINDOW}
    with pytest.raises(UnsupportedModelError, match="PhimoeForCausalLM: its config has sliding_window 4096"):
        check_exactness(phimoe(**wide))
    assert check_exactness(tiny_of(MistralConfig(**{**LLAMA, **wide}))) < 1e-4
    # Named, but no layer has it; and one that the context never reaches.
    full = Qwen2Config(**{**LLAMA, **wide}, use_sliding_window=True, max_window_layers=2)
    assert check_exactness(tiny_of(full)) < 1e-4
    assert check_exactness(phimoe(sliding_window=256)) < 1e-4


def test_in_bfloat16_a_window_below_the_rounding_must_be_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that says nearly nothing: no comparison of logits can tell a window from none."""
    model = tiny_of(PhimoeConfig(**{**LLAMA, "num_local_experts": 4, "sliding_window": 200}))
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if "o_proj" in name:
                parameter.mul_(1e-4)
    model.module.to(torch.bfloat16)
    with pytest.raises(UnsupportedModelError, match="no attention layer hands over a window of that size"):
        check_exactness(model)


def phi3_longrope() -> Phi3Config:
    """Made for 16 positions, stretched to 256."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 4.0, 16.0, 64.0],
        "original_max_position_embeddings": 16,
        "factor": 16.0,
    }
    special = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    return Phi3Config(**LLAMA, **special, original_max_position_embeddings=16, rope_parameters=rope)


def test_longrope_ends_at_the_original_context_so_that_rows_do_not_depend_on_their_neighbours(tmp_path: Path) -> None:
    model = load_saved(tiny_of(phi3_longrope()).module, tmp_path)
    assert model.context == 16
    short, long = [5, 9, 11, 40], list(range(14))
    alone = score(model, [(short, [7, 8])])[0]
    assert score(model, [(short, [7, 8]), (long, [1, 2])])[0] == pytest.approx(alone, rel=1e-6)
    with pytest.raises(DataError, match="pair 1 has 31 tokens; the context is 16"):
        score(model, [(short, [7, 8]), (list(range(30)), [1])])
    (ended,) = generate(model, [long], GenerationSettings(max_new_tokens=9))
    assert (len(ended.token_ids), ended.stop_reason) == (2, "context")
    # What is avoided: beyond the original context a pass turns all of its rows by the other factors.
    model.module.config.rope_parameters["rope_type"] = "none"
    assert model.context == 256
    beside = score(model, [(short, [7, 8]), (list(range(30)), [1])])[0]
    assert abs(beside[0] - alone[0]) > 1e-3


def test_longrope_is_found_in_one_kind_of_layers_too() -> None:
    config = LlamaConfig(**LLAMA)
    longrope = {"rope_type": "longrope", "original_max_position_embeddings": 64}
    config.rope_parameters = {"full_attention": longrope, "sliding_attention": {"rope_type": "default"}}
    assert context_of(config) == 64
    del longrope["original_max_position_embeddings"]
    with pytest.raises(UnsupportedModelError, match="LlamaConfig has longrope without its original context"):
        context_of(config)


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


def tokens_of_check(model: LanguageModel) -> list[int]:
    """Tokens of each forward pass of the check."""
    passes: list[int] = []
    hook = model.module.get_input_embeddings().register_forward_hook(
        lambda _module, given, _result: passes.append(given[0].numel())
    )
    assert check_exactness(model) < 1e-4
    hook.remove()
    return passes


@pytest.mark.parametrize("name", CONFIGS)
def test_the_check_at_loading_passes_and_computes_few_tokens(name: str) -> None:
    """4 + 9 + 6 packed and 3 x 9 padded; behind a window of 5 a row of 13, packed with the others and alone."""
    is_windowed = name not in ("llama", "gpt2", "gptneox", "granite", "cohere")
    assert tokens_of_check(tiny_model(name)) == [19, 27, *([19 + 13, 13] if is_windowed else [])]


def test_the_check_at_loading_never_computes_a_row_above_the_cap() -> None:
    context = {"max_position_embeddings": 8 * MAX_CHECKED_WINDOW}
    at_cap = tiny_of(MistralConfig(**{**LLAMA, **context, "sliding_window": MAX_CHECKED_WINDOW}))
    assert tokens_of_check(at_cap) == [19, 27, 19 + 2560, 2560]
    above = tiny_of(MistralConfig(**{**LLAMA, **context, "sliding_window": MAX_CHECKED_WINDOW + 1}))
    assert tokens_of_check(above) == [19, 27, 19 + 9, 9]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["llama", "gemma3", "gemma2"])
def test_packed_equals_padded_on_cuda_in_bfloat16(name: str) -> None:
    model = tiny_model(name)
    model.module.to("cuda", torch.bfloat16)
    check_exactness(model)
