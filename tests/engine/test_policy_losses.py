"""Advantages, ratios, clipping and divergence against numbers worked by hand and slow scalar loops from the papers."""

from __future__ import annotations

import math
import random
import statistics

import pytest
import torch

from posttrain.engine import policy_losses as pl

NAN = math.nan
SEQUENCES = torch.tensor([0, 0, 0, 1, 2, 2])


@pytest.mark.parametrize(
    ("baseline", "rewards", "expected"),
    [
        # mean 0.5; deviations +-0.5; Bessel: sqrt(4 * 0.25 / 3) = 0.57735
        ("standardised", [1, 0, 0, 1], [0.5 / 0.57745027, -0.5 / 0.57745027, -0.5 / 0.57745027, 0.5 / 0.57745027]),
        ("mean", [1, 0, 0, 0], [0.75, -0.25, -0.25, -0.25]),
        ("leave_one_out", [1, 0, 0, 0], [1.0, -1 / 3, -1 / 3, -1 / 3]),
        ("leave_one_out", [3, 1], [2.0, -2.0]),
        # One without a reward: the others are a group of three.
        ("mean", [1, NAN, 0, 0.5], [0.5, NAN, -0.5, 0.0]),
        ("leave_one_out", [1, NAN, 0, 0.5], [0.75, NAN, -0.75, 0.0]),
        ("standardised", [1, NAN, 0, 0.5], [0.5 / 0.5001, NAN, -0.5 / 0.5001, 0.0]),
        ("standardised", [0.1] * 3, [0.0] * 3),
        ("leave_one_out", [0.1, 0.1, NAN], [0.0, 0.0, NAN]),
        ("standardised", [5.0, NAN, NAN], [NAN] * 3),
        ("mean", [NAN, NAN], [NAN] * 2),
    ],
)
def test_advantages_by_hand(baseline: pl.Baseline, rewards: list[float], expected: list[float]) -> None:
    assert pl.group_advantages(rewards, baseline) == pytest.approx(expected, rel=1e-6, abs=1e-15, nan_ok=True)


def test_equal_rewards_give_exactly_nothing() -> None:
    """Where a sum of them would not be their multiple."""
    assert sum([0.1] * 3) / 3 != 0.1
    for baseline in ("standardised", "mean", "leave_one_out"):
        assert pl.group_advantages([0.1] * 3, baseline) == [0.0] * 3  # type: ignore[arg-type]


def test_advantages_equal_another_implementation() -> None:
    rng = random.Random(0)
    for size in (2, 3, 8):
        rewards = [rng.uniform(-2, 2) for _ in range(size)]
        deviation, mean = statistics.stdev(rewards), statistics.mean(rewards)
        assert pl.group_advantages(rewards, "standardised") == pytest.approx(
            [(reward - mean) / (deviation + 1e-4) for reward in rewards], rel=1e-9
        )
        others = [statistics.mean(rewards[:i] + rewards[i + 1 :]) for i in range(size)]
        assert pl.group_advantages(rewards, "leave_one_out") == pytest.approx(
            [reward - other for reward, other in zip(rewards, others, strict=True)], rel=1e-9
        )


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.1, 2.0, -2.2, -2.0, False),
        (1.5, 2.0, -2.6, 0.0, True),  # held at 1.3
        (0.5, 2.0, -1.0, -2.0, False),  # a good answer that became less likely is pulled back
        (0.5, -2.0, 1.6, 0.0, True),  # held at 0.8
        (1.5, -2.0, 3.0, 2.0, False),
        (1.0, 0.0, 0.0, 0.0, False),
    ],
)
def test_clipping_by_hand(ratio: float, advantage: float, loss: float, gradient: float, clipped: bool) -> None:
    """Clipped to [0.8, 1.3]: arXiv:1707.06347, figure 1."""
    ratio_N = torch.tensor([ratio], requires_grad=True)
    advantages_N = torch.tensor([advantage])
    found = pl.clipped_policy_loss(ratio_N, advantages_N, 0.2, 0.3)
    found.sum().backward()
    assert found.item() == pytest.approx(loss)
    assert ratio_N.grad is not None
    assert ratio_N.grad.item() == pytest.approx(gradient)
    assert bool(pl.is_clipped(ratio_N.detach(), advantages_N, 0.2, 0.3)) == clipped


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (2.0, -1.0, 2.0, 1.0),  # below the bound of 3
        (5.0, -1.0, 3.0, 0.0),  # held at 3 times the advantage
        (5.0, -2.0, 6.0, 0.0),
        (5.0, 1.0, -1.3, 0.0),  # a good token is clipped as before
        (0.5, 1.0, -0.5, -1.0),
    ],
)
def test_dual_clip_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    """arXiv:1912.09729 figure 2, with c = 3 and clipping to [0.8, 1.3]."""
    ratio_N = torch.tensor([ratio], requires_grad=True)
    advantages_N = torch.tensor([advantage])
    found = pl.dual_clipped(pl.clipped_policy_loss(ratio_N, advantages_N, 0.2, 0.3), advantages_N, 3.0)
    found.sum().backward()
    assert found.item() == pytest.approx(loss)
    assert ratio_N.grad is not None
    assert ratio_N.grad.item() == pytest.approx(gradient)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "dual_clip", "loss", "gradient"),
    [
        (100.0, 2.0, 0.0, -2.6, 0.0),  # e^100 is infinite, and held at 1.3
        (100.0, 0.0, 0.0, 0.0, 0.0),
        (100.0, -2.0, 3.0, 6.0, 0.0),  # held at 3 times the advantage
        (100.0, -2.0, 0.0, math.inf, -math.inf),  # no bound: told, not hidden
        (-200.0, -2.0, 0.0, 1.6, 0.0),
        (-200.0, 2.0, 0.0, 0.0, 0.0),
        (0.1, 2.0, 0.0, -2 * math.exp(0.1), -2 * math.exp(0.1)),
        (1.0, -2.0, 0.0, 2 * math.e, 2 * math.e),
    ],
)
def test_a_ratio_beyond_float32_by_hand(
    log_ratio: float, advantage: float, dual_clip: float, loss: float, gradient: float
) -> None:
    log_ratio_N, advantages_N = torch.tensor([log_ratio], requires_grad=True), torch.tensor([advantage])
    ratio_N = pl.ratio_of(log_ratio_N, advantages_N, dual_clip > 0)
    found = pl.clipped_policy_loss(ratio_N, advantages_N, 0.2, 0.3)
    if dual_clip:
        found = pl.dual_clipped(found, advantages_N, dual_clip)
    found.sum().backward()
    assert found.item() == pytest.approx(loss)
    assert log_ratio_N.grad is not None
    assert abs(log_ratio_N.grad.item()) == pytest.approx(abs(gradient))


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "gradient", "clipped"),
    [
        (1.1, 1.0, 2.0, 0.405, -0.9, False),  # .9^2 / 2
        (1.5, 1.0, 2.0, 0.32, 0.0, True),  # towards the return, but further than .2 from the old value: (1.2 - 2)^2 / 2
        (0.5, 1.0, 2.0, 1.125, -1.5, False),  # away from it: pulled back
        (2.5, 1.0, 2.0, 0.32, 0.0, True),  # past it
        (1.0, 1.0, 1.0, 0.0, 0.0, False),
    ],
)
def test_value_loss_by_hand(
    value: float, old: float, target: float, loss: float, gradient: float, clipped: bool
) -> None:
    value_N = torch.tensor([value], requires_grad=True)
    old_N, returns_N = torch.tensor([old]), torch.tensor([target])
    found = pl.value_loss(value_N, old_N, returns_N, 0.2)
    found.sum().backward()
    assert found.item() == pytest.approx(loss)
    assert value_N.grad is not None
    assert value_N.grad.item() == pytest.approx(gradient)
    assert bool(pl.is_value_clipped(value_N.detach(), old_N, returns_N, 0.2)) == clipped
    assert pl.value_loss(value_N, old_N, returns_N, 0.0).item() == pytest.approx((value - target) ** 2 / 2)


def test_one_ratio_for_a_completion_by_hand() -> None:
    log_ratio_N = torch.tensor([0.3, -0.1, 0.4, 0.5, 1.0, -2.0])
    mean = pl.sequence_log_ratio(log_ratio_N, SEQUENCES, 3, is_mean=True)
    torch.testing.assert_close(mean, torch.tensor([0.2, 0.2, 0.2, 0.5, -0.5, -0.5]))
    total = pl.sequence_log_ratio(log_ratio_N, SEQUENCES, 3, is_mean=False)
    torch.testing.assert_close(total, torch.tensor([0.6, 0.6, 0.6, 0.5, -1.0, -1.0]))
    assert pl.lengths_of(SEQUENCES, 3).tolist() == [3, 3, 3, 1, 2, 2]


def test_k3_is_never_negative_and_estimates_the_divergence() -> None:
    """Its mean under p is KL(p, q) exactly; over all of a small distribution, worked out in full."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    k3 = pl.k3(p.log(), q.log())
    assert bool((k3 >= 0).all())
    assert float((p * k3).sum()) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-6)
    # log(q/p) = log 0.4: 0.4 + 0.9163 - 1
    assert float(k3[0]) == pytest.approx(0.4 - math.log(0.4) - 1, rel=1e-6)
    tiny = pl.k3(torch.tensor([-5.0]), torch.tensor([-5.0 + 1e-4]))
    assert float(tiny) == pytest.approx(0.5e-8, rel=1e-2)  # float32 would round exp(x) - 1 - x away


def test_truncated_importance_by_hand() -> None:
    old_N = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    weight_N = pl.truncated_importance(old_N, torch.tensor([-1.0, -3.0, -0.5]), 2.0)
    assert weight_N.tolist() == pytest.approx([1.0, 2.0, math.exp(-0.5)])
    assert not weight_N.requires_grad
