"""Operations of a job: against numbers worked by hand, and against what torch counts in real passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.engine import attention
from posttrain.engine.adapters import add_lora
from posttrain.engine.attention import Segments
from posttrain.engine.cost import Rows, epoch_flops, epochs_of, forward_flops, job_flops, seconds_of
from posttrain.engine.models import LanguageModel
from posttrain.engine.plan import Shapes, lora_parameters, read_shapes
from posttrain.engine.products import products_per_s
from posttrain.engine.spec import LoraAdapter

from .test_plan import spec_of

NUM_TOKENS, NUM_SCORED = 96, 40
BY_HAND = Shapes(
    num_layers=1, width=4, query_width=4, key_width=4, hidden_width=8, vocabulary=10, num_parameters=0,
    matrices={"q_proj": (4, 4), "up_proj": (8, 4)},
)  # fmt: skip


def test_by_hand() -> None:
    rows = Rows(2, 20, 6, 12)
    layers, attended, head = 2 * (16 + 32) * 20, 2 * 10 * 4 * 20, 2 * 10 * 4 * 6
    full = spec_of(duration={"type": "epochs", "num_epochs": 3})
    assert forward_flops(full, BY_HAND, rows) == layers + attended + head
    assert epoch_flops(full, BY_HAND, rows) == 3 * layers + 3.5 * attended + 3 * head
    assert job_flops(full, BY_HAND, [(rows, 1.0)]) == 3 * epoch_flops(full, BY_HAND, rows)
    adapters = 2 * 2 * (4 + 4 + 8 + 4) * 20
    lora = {"type": "lora", "rank": 2}
    assert epoch_flops(spec_of(lora), BY_HAND, rows) == 2 * (layers + head) + 3 * adapters + 3.5 * attended
    less = spec_of(lora, memory={"gradient_checkpointing": True})
    again = layers + adapters + attended
    assert epoch_flops(less, BY_HAND, rows) == epoch_flops(spec_of(lora), BY_HAND, rows) + again
    dpo = {"kind": "dpo", "duration": {"type": "epochs", "num_epochs": 2}}
    cached, switched = spec_of(lora, **dpo), spec_of(lora, **dpo, reference="adapter_off")
    once = layers + attended + head
    assert job_flops(cached, BY_HAND, [(rows, 1.0)]) == 2 * epoch_flops(spec_of(lora), BY_HAND, rows) + once
    assert job_flops(switched, BY_HAND, [(rows, 1.0)]) == 2 * (epoch_flops(spec_of(lora), BY_HAND, rows) + once)
    orpo = spec_of(lora, **dpo, loss={"type": "orpo"})
    assert job_flops(orpo, BY_HAND, [(rows, 1.0)]) == job_flops(cached, BY_HAND, [(rows, 1.0)]) - once
    reward = spec_of(kind="reward")
    assert epoch_flops(reward, BY_HAND, rows) == 3 * layers + 3.5 * attended
    assert seconds_of(1.2e9, 1e9) == pytest.approx(2.0)


def test_epochs_and_mixes_by_hand() -> None:
    steps = spec_of(duration={"type": "steps", "max_steps": 30}, batch={"num_rows": 4})
    assert epochs_of(steps, 60) == 2
    assert epochs_of(spec_of(duration={"type": "epochs", "num_epochs": 1.5}), 60) == 1.5
    short, long = Rows(10, 100, 50, 20), Rows(4, 80, 8, 30)
    mix = [(short, 2.0), (long, 0.5)]
    once = spec_of(duration={"type": "epochs", "num_epochs": 1})
    matrices, head = 6 * (16 + 32) * (200 + 40), 6 * 10 * 4 * (100 + 4)
    attended = 3.5 * 2 * 4 * (10 * 200 + 20 * 40)  # each source's own mean length
    assert job_flops(once, BY_HAND, mix) == matrices + head + attended
    assert job_flops(steps, BY_HAND, mix) == pytest.approx(120 / 22 * (matrices + head + attended))
    cached = spec_of(kind="dpo", duration={"type": "epochs", "num_epochs": 1})
    reference = 2 * (16 + 32) * 180 + 2 * 4 * (10 * 100 + 20 * 80) + 2 * 10 * 4 * 58  # each row once
    assert job_flops(cached, BY_HAND, mix) == matrices + head + attended + reference


def test_ktos_other_answers_by_hand() -> None:
    """Two rows of 10 tokens, 3 of them trained: in each step a pass with another answer, cached one with both."""
    rows = Rows(2, 20, 6, 12)
    layers, attended, head = 2 * (16 + 32) * 20, 2 * 10 * 4 * 20, 2 * 10 * 4 * 6
    adapters, forward = 2 * 2 * (4 + 4 + 8 + 4) * 20, layers + attended + head
    lora = {"type": "lora", "rank": 2}
    kto = {"kind": "dpo", "loss": {"type": "kto"}, "duration": {"type": "epochs", "num_epochs": 2}}
    cached, switched = spec_of(lora, **kto), spec_of(lora, **kto, reference="adapter_off")
    trained = epoch_flops(spec_of(lora), BY_HAND, rows)
    assert epoch_flops(cached, BY_HAND, rows) == trained + forward + adapters
    assert job_flops(switched, BY_HAND, [(rows, 1.0)]) == 2 * (trained + forward + adapters + 2 * forward)
    both = 2 * (16 + 32) * 26 + 2 * 13 * 4 * 26 + 2 * 10 * 4 * 12
    assert job_flops(cached, BY_HAND, [(rows, 1.0)]) == 2 * (trained + forward + adapters) + both
    assert job_flops(cached, BY_HAND, [(rows, 0.5)]) == trained + forward + adapters + both


@pytest.mark.parametrize("adapter", [None, LoraAdapter(rank=8)])
def test_torch_counts_the_same(adapter: LoraAdapter | None, tmp_path: Path) -> None:
    """But for attention, which its counter knows of on CUDA only, and products into a tensor that is there
    (engine/lora.py has one forward and one backward), which it does not know of."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    module = LlamaForCausalLM(config)
    module.save_pretrained(tmp_path)
    shapes = read_shapes(tmp_path)
    module.set_attn_implementation(attention.NAME)
    module.train()
    if adapter is not None:
        add_lora(module, adapter, "x", [])
    model = LanguageModel.of(module)
    spec = spec_of(adapter.model_dump() if adapter else None)
    rows = Rows(3, NUM_TOKENS, NUM_SCORED, 32)
    attended = 3.5 * 2 * rows.mean * shapes.query_width * shapes.num_layers * NUM_TOKENS
    with FlopCounterMode(display=False) as counter:
        hidden_TD = model.hidden(
            torch.zeros(NUM_TOKENS, dtype=torch.long), torch.arange(32).repeat(3), Segments.of([32] * 3)
        )
        targets = torch.zeros(NUM_SCORED, dtype=torch.long)
        torch.nn.functional.cross_entropy(model.head(hidden_TD[:NUM_SCORED]), targets).backward()
    in_place = 2 * NUM_TOKENS * (lora_parameters(adapter, shapes) if adapter else 0)
    counted = counter.get_total_flops() + in_place
    assert epoch_flops(spec, shapes, rows) - attended == pytest.approx(counted, rel=0.03)


def test_each_shape_is_measured_twice_however_long_that_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[int, ...]] = []
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, weight: measured.append(tuple(weight.shape)))
    products_per_s([(64, 32), (64, 32), (32, 64)], 8, seconds=0.0)
    assert measured == [(32, 64), (32, 64), (64, 32), (64, 32)]


def test_the_rate_of_products_is_one_that_a_machine_can_have() -> None:
    rate = products_per_s([(64, 32), (64, 32), (32, 64)], 128, seconds=0.02)
    assert 1e7 < rate < 1e15
