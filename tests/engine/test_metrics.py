"""What a step reports beside its loss, against numbers worked by hand."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from posttrain.engine.data.encoded import AnyRow, Branch, Group
from posttrain.engine.data.packing import collate
from posttrain.engine.events import StepMetrics
from posttrain.engine.methods import Models, dpo, method_of, reward
from posttrain.engine.methods.base import Window
from posttrain.engine.methods.dpo import PairWindow

from .pairs import spec_of
from .test_run import events_of, succeeded
from .tiny import make_task, rows_of, tiny_model


def answer(num_tokens: int) -> Branch:
    return Branch(array("i", range(num_tokens)), b"\1" * num_tokens)


# Chosen and rejected answers of 4 and 10 tokens, and of 2 and 3; the step has two pairs more, in other micro-batches.
PAIRS: list[AnyRow] = [
    Group(array("i", [1, 2]), (answer(chosen), answer(rejected)), "pairs@1", number)
    for number, (chosen, rejected) in enumerate([(4, 10), (2, 3)], start=1)
]
NUM_ROWS = 4
POLICY, REFERENCE = [-6.0, -9.0, -2.5, -2.0], [-7.0, -8.5, -3.0, -5.0]  # ratios 1 and -0.5, 0.5 and 3
BY_HAND = {
    "sigmoid": {
        "reward_chosen": 0.5 * (1 + 0.5) / 4,
        "reward_rejected": 0.5 * (-0.5 + 3) / 4,
        "reward_margin": 0.5 * (1.5 - 2.5) / 4,
        "reward_accuracy": 1 / 4,
        "logp_chosen": (-6 - 2.5) / 4,
        "logp_rejected": (-9 - 2) / 4,
    },
    "ipo": {  # per token: 1 / 4 and -0.5 / 10, 0.5 / 2 and 3 / 3
        "reward_chosen": 0.5 * (0.25 + 0.25) / 4,
        "reward_rejected": 0.5 * (-0.05 + 1) / 4,
        "reward_margin": 0.5 * (0.3 - 0.75) / 4,
        "reward_accuracy": 1 / 4,
        "logp_chosen": (-6 - 2.5) / 4,
        "logp_rejected": (-9 - 2) / 4,
    },
}


@pytest.mark.parametrize("loss", BY_HAND)
def test_what_dpo_reports(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = method_of(spec_of("dpo", loss={"type": loss, "beta": 0.5}))
    monkeypatch.setattr(dpo, "sequence_logps", lambda batch, model: torch.tensor(POLICY, requires_grad=True))
    monkeypatch.setattr(method, "_reference_logps", lambda batch, models: torch.tensor(REFERENCE))
    window = PairWindow(num_targets=40, num_rows=NUM_ROWS, num_chosen=12)
    _, metrics = method.loss(collate(PAIRS), Models(tiny_model("llama")), window)
    assert metrics == pytest.approx(BY_HAND[loss], rel=1e-6)


def test_what_a_reward_model_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    def scores(batch: Any, model: Any) -> Tensor:
        return torch.tensor([2.0, -1.0, 0.5, 1.5], requires_grad=True)

    monkeypatch.setattr(reward, "sequence_scores", scores)
    method = method_of(spec_of("reward"))
    _, metrics = method.loss(collate(PAIRS), Models(tiny_model("llama")), Window(num_targets=40, num_rows=NUM_ROWS))
    assert metrics == pytest.approx(
        {
            "reward_chosen": (2 + 0.5) / 4,
            "reward_rejected": (-1 + 1.5) / 4,
            "reward_margin": (3 - 1) / 4,
            "reward_accuracy": 1 / 4,
        },
        rel=1e-6,
    )


def test_epochs_are_counted_in_rows_drawn(tmp_path: Path) -> None:
    """Ten rows at weight 0.5 are five an epoch; of two epochs' ten a step takes four, and the last one two."""
    data = [{"dataset": "data@1", "weight": 0.5}]
    task = make_task(
        tmp_path, "sft", rows=rows_of(10), data=data, duration={"type": "epochs", "num_epochs": 2},
    )  # fmt: skip
    succeeded(task, tmp_path / "a1")
    values = [event.values for event in events_of(tmp_path / "a1", StepMetrics)]
    assert [value["epoch"] for value in values] == pytest.approx([4 / 5, 8 / 5, 10 / 5])
