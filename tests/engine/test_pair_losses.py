"""Each preference loss against numbers worked by hand from its paper, in plain Python floats."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from posttrain.engine import losses
from posttrain.engine.losses import PairLogps
from posttrain.engine.methods.dpo import pair_loss
from posttrain.engine.spec import (
    DpoHingeLoss,
    DpoIpoLoss,
    DpoRobustLoss,
    DpoSigmoidLoss,
    DpoSigmoidNormLoss,
    OrpoLoss,
    PairLoss,
    SimpoLoss,
)

# One pair: chosen of 4 tokens, rejected of 10.
CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, NUM_CHOSEN, NUM_REJECTED = -6.0, -9.0, -7.0, -8.5, 4, 10


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def pairs() -> PairLogps:
    values = (CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, float(NUM_CHOSEN), float(NUM_REJECTED))
    return PairLogps(*(torch.tensor([value], dtype=torch.float64) for value in values))


def test_the_pair_is_what_the_comments_say() -> None:
    assert pairs().ratio_P.item() == pytest.approx(1.5)  # (-6 + 7) - (-9 + 8.5)
    assert pairs().mean_ratio_P.item() == pytest.approx(0.3)  # 1 / 4 - (-0.5) / 10
    assert pairs().mean_chosen_P.item() == -1.5
    assert pairs().mean_rejected_P.item() == -0.9


def odds(mean_logp: float) -> float:
    p = math.exp(mean_logp)
    return p / (1 - p)


BY_HAND: list[tuple[PairLoss, float]] = [
    (DpoSigmoidLoss(beta=0.1), -math.log(sigmoid(0.15))),
    (DpoSigmoidLoss(beta=2.0), -math.log(sigmoid(3.0))),
    (DpoHingeLoss(beta=0.1), 0.85),
    (DpoHingeLoss(beta=1.0), 0.0),
    (DpoIpoLoss(beta=0.5), (0.3 - 1.0) ** 2),
    (DpoRobustLoss(beta=0.1, label_smoothing=0.0), -math.log(sigmoid(0.15))),
    (
        DpoRobustLoss(beta=0.1, label_smoothing=0.2),
        (-0.8 * math.log(sigmoid(0.15)) + 0.2 * math.log(sigmoid(-0.15))) / 0.6,
    ),
    (DpoSigmoidNormLoss(beta=5.0), -math.log(sigmoid(1.5))),
    (SimpoLoss(beta=2.0, margin=1.0), -math.log(sigmoid(2.0 * (-1.5 + 0.9) - 1.0))),
    (OrpoLoss(beta=0.1), 1.5 - 0.1 * math.log(sigmoid(math.log(odds(-1.5) / odds(-0.9))))),
]


@pytest.mark.parametrize(("options", "expected"), BY_HAND, ids=lambda value: getattr(value, "type", None))
def test_a_loss_equals_the_number_worked_by_hand(options: PairLoss, expected: float) -> None:
    assert pair_loss(pairs(), options).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


MUTANTS: list[tuple[str, Callable[[], Tensor], PairLoss]] = [
    ("reference forgotten", lambda: -torch.log(torch.sigmoid(0.1 * torch.tensor(CHOSEN - REJECTED))), DpoSigmoidLoss()),
    ("ipo summed", lambda: (pairs().ratio_P - 1.0) ** 2, DpoIpoLoss(beta=0.5)),
    ("simpo summed", lambda: losses.simpo(_summed(), 2.0, 1.0), SimpoLoss()),
    ("orpo without odds", lambda: 1.5 - 0.1 * torch.log(torch.sigmoid(torch.tensor(-0.6))), OrpoLoss()),
]


def _summed() -> PairLogps:
    one = torch.ones(1, dtype=torch.float64)
    whole = pairs()
    return PairLogps(whole.chosen_P, whole.rejected_P, whole.reference_chosen_P, whole.reference_rejected_P, one, one)


@pytest.mark.parametrize(
    ("name", "mutant", "options"), MUTANTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_mistake_changes_the_number(name: str, mutant: Callable[[], Tensor], options: PairLoss) -> None:
    assert abs(float(mutant()) - pair_loss(pairs(), options).item()) > 1e-2, name


def test_orpo_of_an_answer_that_is_certain_has_a_gradient() -> None:
    """exp(0) / (1 - exp(0)) is no number; a short answer that is learnt well comes to that in float32."""
    zero = torch.zeros(1, requires_grad=True)
    other = torch.tensor([-9.0], requires_grad=True)
    one = torch.ones(1)
    for chosen, rejected in ((zero, other), (other, zero)):
        loss = losses.orpo(PairLogps(chosen, rejected, one, one, one, one), 0.1)
        gradients = torch.autograd.grad(loss.sum(), [chosen, rejected])
        assert torch.isfinite(loss).all()
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_kto_by_hand() -> None:
    """lambda_D * (1 - sigmoid(beta (r - z0))) and lambda_U * (1 - sigmoid(beta (z0 - r)))."""
    ratio, desirable = torch.tensor([1.0, 1.0], dtype=torch.float64), torch.tensor([True, False])
    found = losses.kto(ratio, desirable, 0.4, 0.5, 1.5, 2.0)
    assert found.tolist() == pytest.approx([1.5 * (1 - sigmoid(0.3)), 2.0 * (1 - sigmoid(-0.3))], rel=1e-6)


def test_bradley_terry_by_hand() -> None:
    score = [torch.tensor([value], dtype=torch.float64) for value in (0.7, -0.2, 0.25)]
    expected = -math.log(sigmoid(0.7 + 0.2 - 0.25)) + 0.01 * 0.5**2
    assert losses.bradley_terry(*score, centring=0.01).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("logp", [-1e-6, -1e-3, -0.69, -0.70, -3.0, -40.0])
def test_log1mexp_is_exact_at_both_ends(logp: float) -> None:
    value = torch.tensor(logp, dtype=torch.float64, requires_grad=True)
    found = losses.log1mexp(value)
    assert found.item() == pytest.approx(math.log(-math.expm1(logp)), rel=1e-12)
    found.backward()  # type: ignore[no-untyped-call]
    assert value.grad is not None
    assert value.grad.item() == pytest.approx(-math.exp(logp) / -math.expm1(logp), rel=1e-9)
