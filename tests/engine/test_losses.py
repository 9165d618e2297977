"""The chunked loss against numbers by hand and against torch; 8 x 1 equals 1 x 8."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from posttrain.engine import losses
from posttrain.engine.data.packing import split
from posttrain.engine.losses import summed_nll
from posttrain.engine.methods import METHODS, Models
from posttrain.engine.models import LanguageModel
from posttrain.engine.optim import Optimizer, learning_rate
from posttrain.engine.spec import OptimizerOptions, parse_spec
from tests.engine.test_packed_models import make_rows
from tests.engine.tiny import tiny_model


def test_by_hand() -> None:
    """Two positions, three words: -log(e^1 / (e^1 + e^2 + e^0)) and -log(1/3)."""
    logits = torch.tensor([[1.0, 2.0, 0.0], [5.0, 5.0, 5.0]])
    loss = summed_nll(logits, torch.tensor([0, 2]), lambda hidden: hidden, [], 3)
    assert loss.item() == pytest.approx(-1 + math.log(math.e + math.e**2 + 1) + math.log(3), rel=1e-6)


@pytest.mark.parametrize("chunk_elements", [16 * 50, 2**24])
def test_chunks_give_torchs_loss_and_gradients(monkeypatch: pytest.MonkeyPatch, chunk_elements: int) -> None:
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", chunk_elements)
    torch.manual_seed(0)
    head, hidden, targets = nn.Linear(8, 50), torch.randn(70, 8, requires_grad=True), torch.randint(50, (70,))
    expected = nn.functional.cross_entropy(head(hidden), targets, reduction="sum")
    reference = torch.autograd.grad(expected * 0.3, [hidden, head.weight, head.bias])
    found = summed_nll(hidden, targets, head, list(head.parameters()), 50)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    ours = torch.autograd.grad(found * 0.3, [hidden, head.weight, head.bias])
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_frozen_head_or_backbone_gets_no_gradient() -> None:
    head, hidden, targets = nn.Linear(4, 9), torch.randn(3, 4, requires_grad=True), torch.tensor([1, 2, 3])
    head.requires_grad_(False)
    summed_nll(hidden, targets, head, [], 9).backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    head.requires_grad_(True)
    summed_nll(hidden.detach(), targets, head, list(head.parameters()), 9).backward()  # type: ignore[no-untyped-call]
    assert head.weight.grad is not None


def step_gradients(model: LanguageModel, micro_tokens: int) -> tuple[float, dict[str, Tensor], int]:
    method: Any = METHODS["sft"](
        parse_spec({"kind": "sft", "base": "b@1", "output": "o", "data": [{"dataset": "d@1"}]})  # type: ignore[arg-type]
    )
    rows = make_rows() + make_rows(1)[:3]
    window = method.window(rows, Models(model))
    model.module.zero_grad()
    total, micros = 0.0, split(rows, micro_tokens)
    for micro in micros:
        loss, _ = method.loss(method.collate(micro, torch.device("cpu")), Models(model), window)
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.trainable() if p.grad is not None}, len(micros)


def test_the_gradient_is_given_once() -> None:
    """It is scaled in place, so a second time would be wrong: an error, not another number."""
    hidden = torch.randn(3, 4, requires_grad=True)
    loss = summed_nll(hidden, torch.tensor([0, 2, 1]), lambda rows: rows, [], 4)
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="can be taken once"):
        loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_eight_by_one_equals_one_by_eight(name: str) -> None:
    model = tiny_model(name)
    whole, expected, num_whole = step_gradients(model, 10_000)
    parts, found, num_parts = step_gradients(model, 1)
    assert (num_whole, num_parts) == (1, 8)
    assert parts == pytest.approx(whole, rel=1e-6)
    for key, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-5 * scale, msg=key)


def test_denominators_of_each_micro_batch_would_be_noticed() -> None:
    """The usual mistake: a mean over each micro-batch, averaged over micro-batches."""
    model = tiny_model("llama")
    rows = make_rows()
    method = METHODS["sft"](parse_spec({"kind": "sft", "base": "b@1", "output": "o", "data": [{"dataset": "d@1"}]}))  # type: ignore[arg-type]
    means = []
    for row in rows:
        batch = method.collate([row], torch.device("cpu"))
        means.append(method.loss(batch, Models(model), method.window([row], Models(model)))[0].item())
    right = method.loss(method.collate(rows, torch.device("cpu")), Models(model), method.window(rows, Models(model)))[
        0
    ].item()
    assert abs(sum(means) / len(means) - right) > 1e-3


def test_the_logits_of_all_tokens_are_never_there(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny_model("llama"), []
    monkeypatch.setattr(losses, "CHUNK_ELEMENTS", 16 * 320)
    plain = LanguageModel.logits

    def logits(self: LanguageModel, hidden: Tensor) -> Tensor:
        seen.append(hidden.shape[0])
        return plain(self, hidden)

    monkeypatch.setattr(LanguageModel, "logits", logits)
    step_gradients(model, 10_000)
    assert max(seen) == 16


def test_learning_rates() -> None:
    options = OptimizerOptions(learning_rate=1.0, warmup_ratio=0.2, schedule="linear", final_ratio=0.5)
    rates = [learning_rate(options, step, 10) for step in range(10)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates == pytest.approx([1 / 3, 2 / 3] + [1 - 0.5 * i / 8 for i in range(8)])
    cosine = OptimizerOptions(learning_rate=1.0, warmup_ratio=0.0)
    assert learning_rate(cosine, 5, 10) == pytest.approx(0.5)
    assert learning_rate(cosine, 0, 1) == 1.0
    constant = OptimizerOptions(learning_rate=1.0, warmup_ratio=0.0, schedule="constant")
    assert learning_rate(constant, 9, 10) == 1.0


@pytest.mark.parametrize(
    ("ratio", "total", "warmup"),
    [(0.07, 100, 7), (0.29, 100, 29), (0.03, 100, 3), (0.25, 10, 3), (0.01, 10, 1), (0.0, 10, 0), (1.0, 3, 3)],
)
def test_warm_up_is_the_share_of_the_steps_rounded_up(ratio: float, total: int, warmup: int) -> None:
    """0.07 * 100 is 7.000000000000001 in binary, and still 7 steps."""
    options = OptimizerOptions(learning_rate=1.0, warmup_ratio=ratio, schedule="constant")
    rates = [learning_rate(options, step, total) for step in range(total)]
    assert rates == pytest.approx([(i + 1) / (warmup + 1) for i in range(warmup)] + [1.0] * (total - warmup))


OPTIONS = OptimizerOptions(weight_decay=0.3, beta1=0.8, beta2=0.7, epsilon=1e-3, max_grad_norm=0.1)
RATES = (0.02, 0.05, 0.01, 0.03)


def half_parameters(seed: int) -> dict[str, nn.Parameter]:
    """A matrix and a vector."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"matrix": (3, 5), "vector": (5,)}
    return {n: nn.Parameter(torch.randn(s, generator=generator).bfloat16()) for n, s in shapes.items()}


def micro_gradients(step: int) -> list[dict[str, Tensor]]:
    """Two micro-batches; the second is less than bfloat16's spacing beside the first."""
    return [
        {name: (p.detach() * size).bfloat16() for name, p in half_parameters(10 + 2 * step + micro).items()}
        for micro, size in enumerate((1.0, 2e-3))
    ]


def train(optimizer: Optimizer, parameters: dict[str, nn.Parameter], step: int) -> float:
    for gradients in micro_gradients(step):
        for name, parameter in parameters.items():
            parameter.grad = gradients[name].clone()
        optimizer.accumulate()
    norm = optimizer.clip()
    optimizer.step(RATES[step])
    return norm


def test_every_option_of_adamw_is_torchs_over_float32_sums_of_half_precision_gradients() -> None:
    halves = half_parameters(0)
    optimizer = Optimizer(list(halves.items()), OPTIONS)
    copies = {name: nn.Parameter(half.detach().float()) for name, half in halves.items()}
    theirs = torch.optim.AdamW(
        [{"params": [copies["matrix"]], "weight_decay": 0.3}, {"params": [copies["vector"]], "weight_decay": 0.0}],
        lr=1.0,
        betas=(0.8, 0.7),
        eps=1e-3,
        fused=False,
        foreach=False,
    )
    for step, rate in enumerate(RATES):
        first, second = micro_gradients(step)
        sums = {name: first[name].float() + second[name].float() for name in copies}
        norm = math.sqrt(sum(float(total.double().square().sum()) for total in sums.values()))
        for name, copy in copies.items():
            copy.grad = sums[name] * (0.1 / norm)
        for group in theirs.param_groups:
            group["lr"] = rate
        theirs.step()
        assert train(optimizer, halves, step) == pytest.approx(norm, rel=1e-6)
        for name, copy in copies.items():
            # torch's clip adds 1e-6 to the norm of about 4.
            torch.testing.assert_close(optimizer.weights()[name], copy.detach(), rtol=1e-5, atol=1e-7, msg=name)
            assert torch.equal(halves[name], optimizer.weights()[name].bfloat16())
            assert halves[name].grad is None


def test_loading_fills_half_precision_weights_and_continues_in_the_same_bits() -> None:
    halves, others = half_parameters(0), half_parameters(1)
    optimizer, resumed = Optimizer(list(halves.items()), OPTIONS), Optimizer(list(others.items()), OPTIONS)
    for step in range(2):
        train(optimizer, halves, step)
    state = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    resumed.load({name: tensor.clone() for name, tensor in optimizer.weights().items()}, state)
    for step in (None, 2, 3):
        if step is not None:
            assert train(optimizer, halves, step) == train(resumed, others, step)
        for name, half in halves.items():
            assert torch.equal(others[name], half), name
            assert torch.equal(resumed.weights()[name], optimizer.weights()[name]), name


def test_adamw_is_torchs_and_bfloat16_keeps_small_steps() -> None:
    options = OptimizerOptions(learning_rate=1e-4, weight_decay=0.1, max_grad_norm=1e9)
    weight = nn.Parameter(torch.ones(4, 4))
    mine = Optimizer([("w", weight)], options)
    copy = nn.Parameter(torch.ones(4, 4))
    theirs = torch.optim.AdamW([copy], lr=1e-4, weight_decay=0.1)
    half = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    kept = Optimizer([("w", half)], options)
    for _ in range(50):
        for parameter in (weight, copy, half):
            parameter.grad = torch.full_like(parameter, 0.5)
        mine.accumulate()
        mine.clip()
        mine.step(1e-4)
        kept.accumulate()
        kept.step(1e-4)
        theirs.step()
    torch.testing.assert_close(weight, copy, rtol=1e-6, atol=0)
    # A step of 1e-4 is less than half of bfloat16's spacing at 1: without a float32 master nothing would ever move.
    torch.testing.assert_close(kept.weights()["w"], weight.detach(), rtol=1e-6, atol=0)
    assert half[0, 0].item() < 1
