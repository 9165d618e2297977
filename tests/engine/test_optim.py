"""Adafactor against the paper written out, each update rule's exact resume, and where 8-bit AdamW is refused."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from posttrain.engine import optim
from posttrain.engine.errors import SpecError
from posttrain.engine.events import Phase
from posttrain.engine.optim import UPDATE_RULES, Optimizer, check_update_rule
from posttrain.engine.run import run_training
from posttrain.engine.spec import OptimizerOptions
from tests.engine.test_run import LORA, events_of, failed, kill_after, losses_of, succeeded, with_task
from tests.engine.tiny import make_task

RATES = [1e-2, 3e-2, 2e-2, 5e-3]


def test_every_name_has_a_rule_and_no_other() -> None:
    assert set(UPDATE_RULES) == set(OptimizerOptions.model_json_schema()["properties"]["name"]["enum"])


def adafactor_by_hand(
    weights: list[list[float]], gradients: list[list[list[float]]], decay: float
) -> list[list[float]]:
    """arXiv:1804.04235, algorithm 4 on one matrix in Python floats, with rho_t given and without the scale of 3.2."""
    rows, columns = len(weights), len(weights[0])
    r, c = [0.0] * rows, [0.0] * columns
    w = [list(row) for row in weights]
    for t, (g, rate) in enumerate(zip(gradients, RATES, strict=True), start=1):
        beta = 1 - t**-0.8
        squares = [[value * value + 1e-30 for value in row] for row in g]
        r = [beta * r[i] + (1 - beta) * sum(squares[i]) / columns for i in range(rows)]
        c = [beta * c[j] + (1 - beta) * sum(row[j] for row in squares) / rows for j in range(columns)]
        mean = sum(r) / rows
        u = [[g[i][j] / math.sqrt(r[i] * c[j] / mean) for j in range(columns)] for i in range(rows)]
        rms = math.sqrt(sum(value * value for row in u for value in row) / (rows * columns))
        for i in range(rows):
            for j in range(columns):
                w[i][j] -= rate * decay * w[i][j] + rate * u[i][j] / max(1.0, rms)
    return w


def test_adafactor_is_the_papers_without_its_own_rates() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(3, 5))
    start = weight.detach().tolist()
    optimizer = Optimizer([("w", weight)], OptimizerOptions(name="adafactor", weight_decay=0.1))
    gradients = torch.randn(len(RATES), 3, 5) * torch.tensor([1.0, 5.0, 0.1, 1.0])[:, None, None]
    for gradient, rate in zip(gradients, RATES, strict=True):
        weight.grad = gradient.clone()
        optimizer.step(rate)
    expected = torch.tensor(adafactor_by_hand(start, gradients.tolist(), 0.1))
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-6)
    # A rule that remembers a row and a column instead of a matrix.
    numbers = {key: value.numel() for key, value in optimizer.state().items() if "exp_avg_sq" in key}
    assert numbers == {"w/exp_avg_sq_row": 3, "w/exp_avg_sq_col": 5}


def test_options_of_another_rule_are_refused_and_not_ignored() -> None:
    with pytest.raises(ValueError, match="beta2, epsilon: AdamW's, which adafactor does not use"):
        OptimizerOptions(name="adafactor", beta2=0.95, epsilon=1e-6)
    OptimizerOptions(name="adamw_8bit", beta2=0.95)


@pytest.mark.parametrize("adapter", [{"type": "full"}, LORA])
def test_adafactor_resumes_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: dict[str, Any]
) -> None:
    options = {"name": "adafactor", "learning_rate": 1e-2, "weight_decay": 0.01}
    task = make_task(tmp_path, "ift", adapter=adapter, optimizer=options, duration={"type": "steps", "max_steps": 7})
    whole = succeeded(task, tmp_path / "whole")
    first, last = losses_of(tmp_path / "whole")[1]["loss"], whole.summary["loss"]
    assert last < 0.98 * first
    with monkeypatch.context() as patch:
        kill_after(patch, 5)
        run_training(task, tmp_path / "a1")
    checkpoint = tmp_path / "a1" / "checkpoints" / "step-00000004"
    record = succeeded(with_task(task, attempt=2, resume_from=str(checkpoint)), tmp_path / "a2")
    assert record.summary["loss"] == last
    for path in (tmp_path / "whole" / "output").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "a2" / "output" / path.name).read_bytes()


def test_8_bit_adamw_is_refused_without_cuda_or_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = OptimizerOptions(name="adamw_8bit")
    with pytest.raises(SpecError, match=r"runs on CUDA only, and this job would run on cpu") as caught:
        check_update_rule(options, torch.device("cpu"))
    assert "adafactor" in caught.value.hint
    with pytest.raises(SpecError, match="runs on CUDA only"):
        Optimizer([("w", nn.Parameter(torch.zeros(2, 2)))], options)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match="needs the package bitsandbytes, which is not installed") as caught:
        check_update_rule(options, torch.device("cuda"))
    assert "posttrain[bitsandbytes]" in caught.value.hint
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    check_update_rule(options, torch.device("cuda"))
    monkeypatch.undo()
    monkeypatch.setattr(optim, "check_update_rule", lambda *_: pytest.fail("too late"))
    if not torch.cuda.is_available():
        record = failed(make_task(tmp_path, "sft", optimizer={"name": "adamw_8bit"}), tmp_path / "a1")
        assert record.code == "BAD_SPEC"
        assert [event.phase for event in events_of(tmp_path / "a1", Phase)] == ["loading"]


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None,
    reason="needs a CUDA device and bitsandbytes",
)
def test_8_bit_adamw_is_near_adamw_and_resumes_in_the_same_bits(tmp_path: Path) -> None:
    def trained(name: str, steps: range, resumed: Optimizer | None = None) -> Optimizer:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(128, 128, device="cuda"))
        optimizer = Optimizer([("w", weight)], OptimizerOptions.model_validate({"name": name}))
        if resumed is not None:
            optimizer.load(
                {"w": resumed.weights()["w"].detach().cpu()}, {k: v.cpu() for k, v in resumed.state().items()}
            )
        for step in steps:
            torch.manual_seed(step)
            weight.grad = torch.randn(128, 128, device="cuda")
            optimizer.step(1e-2)
        return optimizer

    whole = trained("adamw_8bit", range(6))
    assert whole.state()["w/state1"].dtype == torch.uint8
    again = trained("adamw_8bit", range(3, 6), trained("adamw_8bit", range(3)))
    assert torch.equal(again.weights()["w"], whole.weights()["w"])
    exact = trained("adamw", range(6)).weights()["w"]
    assert float((whole.weights()["w"] - exact).abs().mean()) < 2e-3
