"""Scores, rewards of tokens, advantages and the penalty's coefficient against numbers worked by hand and slow sums
written from the papers; each with changes of the formula that would be noticed."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from posttrain.engine import returns
from posttrain.engine.policy_options import AdaptiveKl, AdvantageOptions, FixedKl, ScoreOptions


def options(gamma: float = 1.0, lam: float = 0.95) -> AdvantageOptions:
    return AdvantageOptions(gamma=gamma, lam=lam)


def test_advantages_by_hand() -> None:
    """delta = (1 + .5*2 - 4, 0 + .5*3 - 2, 5 - 3) = (-2, -.5, 2); gamma lambda = .25: (-2, 0, 2) summed up."""
    advantages, targets = returns.gae([1, 0, 5], [4, 2, 3], options(0.5, 0.5))
    assert advantages == [-2.0, 0.0, 2.0]
    assert targets == [2.0, 2.0, 5.0]
    assert returns.gae([3.0], [1.0], options()) == ([2.0], [3.0])


def by_definition(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """arXiv:1506.02438 eq. 11 and 14 without a recursion: the average over k of advantages from k rewards, weighted by
    (1 - lambda) lambda^(k-1); from the last one on all k-step advantages are the same."""
    length, found = len(rewards), []
    for t in range(length):
        steps = []
        for k in range(1, length - t + 1):
            ahead = sum(gamma**i * rewards[t + i] for i in range(k))
            bootstrap = gamma**k * values[t + k] if t + k < length else 0.0
            steps.append(ahead + bootstrap - values[t])
        weights = [(1 - lam) * lam**k for k in range(len(steps) - 1)] + [lam ** (len(steps) - 1)]
        found.append(sum(weight * step for weight, step in zip(weights, steps, strict=True)))
    return found


def episode(seed: int) -> tuple[list[float], list[float]]:
    rng = random.Random(seed)
    length = rng.randint(1, 12)
    return [rng.uniform(-1, 1) for _ in range(length)], [rng.uniform(-2, 2) for _ in range(length)]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.7), (1.0, 1.0), (0.8, 0.0)])
def test_advantages_equal_the_papers_definition(gamma: float, lam: float) -> None:
    for seed in range(20):
        rewards, values = episode(seed)
        advantages, targets = returns.gae(rewards, values, options(gamma, lam))
        assert advantages == pytest.approx(by_definition(rewards, values, gamma, lam), rel=1e-9, abs=1e-12)
        assert targets == pytest.approx([a + v for a, v in zip(advantages, values, strict=True)])


def test_the_ends_of_lambda() -> None:
    """1: the rewards to come without the value; 0: the next value alone (arXiv:1506.02438 eqs. 17 and 18)."""
    rewards, values = episode(3)
    assert len(rewards) > 2
    advantages, _ = returns.gae(rewards, values, options(lam=1.0))
    assert advantages == pytest.approx([sum(rewards[t:]) - values[t] for t in range(len(rewards))])
    advantages, _ = returns.gae(rewards, values, options(lam=0.0))
    following = [*values[1:], 0.0]
    assert advantages == pytest.approx([r + n - v for r, n, v in zip(rewards, following, values, strict=True)])


def mutants(rewards: list[float], values: list[float]) -> dict[str, list[float]]:
    """What the advantages would be with mistakes that are easily made."""
    gamma, lam, length = 0.9, 0.7, len(rewards)

    def run(delta: list[float], decay: float) -> list[float]:
        return [sum(decay**i * delta[t + i] for i in range(length - t)) for t in range(length)]

    following = [*values[1:], 0.0]
    right = [r + gamma * n - v for r, n, v in zip(rewards, following, values, strict=True)]
    return {
        "sign of the value": run([r + gamma * n + v for r, n, v in zip(rewards, following, values, strict=True)], 0.63),
        "values shifted": run([r + gamma * v - n for r, n, v in zip(rewards, following, values, strict=True)], 0.63),
        "a value after the end": run([*right[:-1], right[-1] + gamma * values[-1]], gamma * lam),
        "without lambda": run(right, gamma),
        "without gamma": run(right, lam),
    }


@pytest.mark.parametrize("name", mutants([0.0], [0.0]))
def test_a_wrong_formula_would_be_noticed(name: str) -> None:
    rewards, values = episode(3)
    found, _ = returns.gae(rewards, values, options(0.9, 0.7))
    assert found == pytest.approx(by_definition(rewards, values, 0.9, 0.7))
    assert mutants(rewards, values)[name] != pytest.approx(found, abs=1e-3)


def test_whitening_by_hand() -> None:
    """Mean 2, squared deviations 1 + 0 + 1, Bessel: variance 1."""
    assert returns.whitened([1, 2, 3]) == pytest.approx([-1, 0, 1], rel=1e-7)
    rng = random.Random(0)
    numbers = [rng.uniform(-3, 5) for _ in range(50)]
    white = returns.whitened(numbers)
    assert statistics.mean(white) == pytest.approx(0, abs=1e-12)
    assert statistics.stdev(white) == pytest.approx(1)
    assert statistics.pstdev(white) != pytest.approx(1, rel=1e-3)  # another denominator would be noticed
    assert returns.whitened([0.1] * 3) == [0.0] * 3
    assert returns.whitened([7.0]) == [7.0]
    assert returns.whitened([]) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [3.0, 1.0, -4.0]),
        ({"clip": 2.0}, [2.0, 1.0, -2.0]),
        ({"missing_stop_penalty": 1.0}, [3.0, 1.0, -5.0]),
        ({"clip": 2.0, "missing_stop_penalty": 1.0}, [2.0, 1.0, -3.0]),  # the clip does not hide it
        ({"whiten": True}, [3 / 13**0.5, 1 / 13**0.5, -4 / 13**0.5]),
        ({"whiten": True, "clip": 1.0}, [3 / 13**0.5, 1 / 13**0.5, -1.0]),
    ],
)
def test_scores_by_hand(given: dict[str, float], expected: list[float]) -> None:
    """The third completion has no stop token. Mean 0, Bessel's variance (9 + 1 + 16) / 2."""
    found = returns.shaped_scores([3, 1, -4], [True, True, False], ScoreOptions.model_validate(given))
    assert found == pytest.approx(expected, rel=1e-7)


def test_the_penalty_is_on_each_token_and_the_score_on_the_last() -> None:
    assert returns.token_rewards(2.0, [1.0, -3.0, 0.5], 0.1) == pytest.approx([-0.1, 0.3, 1.95])
    assert returns.token_rewards(2.0, [0.0], 0.0) == [2.0]


def test_estimators_of_the_divergence_by_hand() -> None:
    """log p = -1, log q = -1.5: x = -.5."""
    assert returns.divergence(-1.0, -1.5, "k1") == 0.5
    assert returns.divergence(-1.0, -1.5, "k2") == 0.125
    assert returns.divergence(-1.0, -1.5, "k3") == pytest.approx(math.exp(-0.5) + 0.5 - 1)


def test_k1_and_k3_are_right_on_average_and_k2_for_small_steps() -> None:
    """Expectations under p, worked out in full."""
    p, q = [0.5, 0.3, 0.2], [0.4, 0.35, 0.25]
    exact = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    for kind, tolerance in (("k1", 1e-12), ("k3", 1e-12), ("k2", 0.1)):
        mean = sum(a * returns.divergence(math.log(a), math.log(b), kind) for a, b in zip(p, q, strict=True))
        assert mean == pytest.approx(exact, rel=tolerance)
        turned = sum(a * returns.divergence(math.log(b), math.log(a), kind) for a, b in zip(p, q, strict=True))
        assert kind == "k2" or turned != pytest.approx(exact, rel=1e-3)  # with its sides exchanged


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (6.0, 0.05),  # on target
        (6.6, 0.05 * 1.01),  # a tenth above: 1 + .1 * .1
        (60.0, 0.05 * 1.02),  # the error counts as at most .2
        (0.0, 0.05 * 0.98),
        (-5.0, 0.05 * 0.98),  # an estimate can be below 0
        (math.nan, 0.05),
    ],
)
def test_the_adaptive_coefficient_by_hand(measured: float, expected: float) -> None:
    assert returns.next_coefficient(0.05, measured, AdaptiveKl(target=6.0, gain=0.1)) == pytest.approx(expected)
    assert returns.next_coefficient(0.05, measured, FixedKl()) == 0.05


def test_explained_variance_by_hand() -> None:
    assert returns.explained_variance([1, 2, 3], [1, 2, 3]) == 1.0
    assert returns.explained_variance([5, 5, 5], [1, 2, 3]) == 0.0  # a constant says nothing, whatever it is
    # R - V = (-2, 0, 2), of four times the variance of R.
    assert returns.explained_variance([3, 2, 1], [1, 2, 3]) == pytest.approx(-3.0)
    assert returns.explained_variance([0, 1, 2], [0.1] * 3) is None
    assert returns.explained_variance([1.0], [2.0]) is None
