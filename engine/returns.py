"""From a completion's reward to the advantage of each of its tokens, as PPO has it: pure functions of numbers.

    score -> reward of each token -> advantage and return of each token

A completion is an episode: a state is the prompt with the tokens so far, an action is the next token, and nothing is to
be expected after the last one, whatever ended it. Tokens that the model did not write are no actions and have no place
in these lists. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from posttrain.engine.policy_options import AdaptiveKl, AdvantageOptions, KlOptions, ScoreOptions

EPSILON = 1e-8  # under the root of a variance
MAX_ERROR = 0.2  # of the controller, arXiv:1909.08593 section 2.2


def whitened(values: Sequence[float]) -> list[float]:
    """Mean 0 and deviation 1, (x - mean) / sqrt(variance + 1e-8) with Bessel's correction; fewer than two values, which
    have no variance, stay as they are. Equal values give exactly 0, whatever a sum of them is rounded to."""
    if len(values) < 2:
        return list(values)
    if min(values) == max(values):
        return [0.0] * len(values)
    mean = fmean(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    scale = 1 / math.sqrt(variance + EPSILON)
    return [(value - mean) * scale for value in values]


def shaped_scores(rewards: Sequence[float], has_stop: Sequence[bool], options: ScoreOptions) -> list[float]:
    """Rewards of a rollout's completions, whitened, clipped and less the penalty for a missing stop token, each as
    `options` asks. The penalty comes last: no clip hides it."""
    scores = whitened(rewards) if options.whiten else list(rewards)
    if options.clip:
        scores = [max(-options.clip, min(options.clip, score)) for score in scores]
    return [
        score if is_ended else score - options.missing_stop_penalty
        for score, is_ended in zip(scores, has_stop, strict=True)
    ]


def divergence(logp: float, reference: float, estimator: str) -> float:
    """Estimate of KL(policy, reference) at a token that the policy sampled (Schulman, "Approximating KL divergence",
    2020), with x = log reference - log policy: k1 is -x, k2 is x^2 / 2, k3 is exp(x) - 1 - x."""
    x = reference - logp
    if estimator == "k1":
        return -x
    return x * x / 2 if estimator == "k2" else math.expm1(x) - x


def token_rewards(score: float, divergences: Sequence[float], coefficient: float) -> list[float]:
    """-coefficient * divergence at each token, and the score at the last one (arXiv:1909.08593 eq. 2, per token as in
    arXiv:2203.02155 section 3.5)."""
    rewards = [-coefficient * value for value in divergences]
    rewards[-1] += score
    return rewards


def gae(
    rewards: Sequence[float], values: Sequence[float], options: AdvantageOptions
) -> tuple[list[float], list[float]]:
    """Advantages and returns of one completion, arXiv:1506.02438 eqs. 12 and 16.

    delta_t = r_t + gamma V_(t+1) - V_t, with 0 after the last token; A_t = delta_t + gamma lambda A_(t+1). A return is
    A_t + V_t, what the value is fitted to.
    """
    advantages = [0.0] * len(rewards)
    following, next_value = 0.0, 0.0
    for t in range(len(rewards) - 1, -1, -1):
        delta = rewards[t] + options.gamma * next_value - values[t]
        following = delta + options.gamma * options.lam * following
        advantages[t], next_value = following, values[t]
    return advantages, [advantage + value for advantage, value in zip(advantages, values, strict=True)]


def explained_variance(values: Sequence[float], returns: Sequence[float]) -> float | None:
    """1 - Var(return - value) / Var(return): 1 if values say it all, 0 if no more than a constant would. None where
    returns do not vary."""
    variance = _variance(returns)
    if variance == 0:
        return None
    return 1 - _variance([target - value for target, value in zip(returns, values, strict=True)]) / variance


def next_coefficient(coefficient: float, measured: float, options: KlOptions) -> float:
    """The penalty's coefficient in the next rollout. Adaptive: b (1 + gain * clip(kl / target - 1, -0.2, 0.2)),
    arXiv:1909.08593 section 2.2; `measured` is the mean divergence of a completion in nats, NaN if there was none."""
    if not isinstance(options, AdaptiveKl) or math.isnan(measured):
        return coefficient
    error = max(-MAX_ERROR, min(MAX_ERROR, measured / options.target - 1))
    return coefficient * (1 + options.gain * error)


def _variance(values: Sequence[float]) -> float:
    if len(values) < 2 or min(values) == max(values):  # equal values, whatever a sum of them is rounded to
        return 0.0
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / len(values)
