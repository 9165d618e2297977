"""On-policy losses as pure functions of tensors: advantages, ratios of new to old probability, clipping, divergence.

Shape suffixes: N trained tokens of a micro-batch, S completions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from posttrain.engine.ops import sum_by_sequence

STD_EPSILON = 1e-4  # TRL's
MAX_LOG_RATIO = 80.0  # e^88 is infinite in float32

Baseline = Literal["standardised", "mean", "leave_one_out"]


def group_advantages(rewards: Sequence[float], baseline: Baseline) -> list[float]:
    """Advantages of one prompt's completions; NaN where a reward is NaN, and for a reward that has none beside it.

    standardised: (r - mean) / (std + 1e-4) with Bessel's correction, arXiv:2402.03300 section 4.1.2; mean: r - mean,
    arXiv:2503.20783 section 3; leave_one_out: r - mean of the others, arXiv:2402.14740 eq. 9. Equal rewards give
    exactly 0, whatever a sum of them is rounded to.
    """
    known = [reward for reward in rewards if not math.isnan(reward)]
    num = len(known)
    if num < 2:
        return [math.nan] * len(rewards)
    if min(known) == max(known):
        return [math.nan if math.isnan(reward) else 0.0 for reward in rewards]
    mean = math.fsum(known) / num
    if baseline == "leave_one_out":
        return [(reward - mean) * num / (num - 1) for reward in rewards]
    scale = 1.0
    if baseline == "standardised":
        scale = math.sqrt(math.fsum((reward - mean) ** 2 for reward in known) / (num - 1)) + STD_EPSILON
    return [(reward - mean) / scale for reward in rewards]


def sequence_log_ratio(log_ratio_N: Tensor, sequences_N: Tensor, num_sequences: int, *, is_mean: bool) -> Tensor:
    """One log-ratio of each completion, [N], repeated over its tokens: the mean of its tokens' (GSPO,
    arXiv:2507.18071 eq. 7) or their sum (REINFORCE on whole completions, arXiv:2402.14740 eq. 6)."""
    sums_S = sum_by_sequence(log_ratio_N, sequences_N, num_sequences)
    if is_mean:
        sums_S = sums_S / sum_by_sequence(torch.ones_like(log_ratio_N), sequences_N, num_sequences).clamp(min=1)
    return sums_S[sequences_N]


def ratio_of(log_ratio_N: Tensor, advantages_N: Tensor, has_dual_clip: bool = False) -> Tensor:
    """exp(log_ratio), held at e^80 where the clipped term is the smaller one in any case, so that neither loss nor
    gradient depends on it: an infinite ratio there (a product over a long completion) would have a gradient of 0 * inf.
    Where a bad token's loss has no bound it stays infinite, which ends the job by name; [N]."""
    has_bound_N = advantages_N >= 0
    if has_dual_clip:
        has_bound_N = torch.ones_like(has_bound_N)
    return torch.where(has_bound_N, log_ratio_N.clamp(max=MAX_LOG_RATIO), log_ratio_N).exp()


def clipped_policy_loss(ratio_N: Tensor, advantages_N: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """-min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A), arXiv:1707.06347 eq. 7, with the two bounds of
    arXiv:2503.14476 eq. 10; [N]."""
    clipped_N = ratio_N.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)


def is_clipped(ratio_N: Tensor, advantages_N: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """Where the clipped term is the smaller one, so that no gradient flows; [N]."""
    is_low_N = (ratio_N < 1 - clip_low) & (advantages_N < 0)
    return is_low_N | ((ratio_N > 1 + clip_high) & (advantages_N > 0))


def dual_clipped(loss_N: Tensor, advantages_N: Tensor, bound: float) -> Tensor:
    """A clipped policy loss that of a negative advantage A is at most -bound * A, however likely the token has become:
    arXiv:1912.09729 eq. 5; [N]."""
    return torch.where(advantages_N < 0, torch.minimum(loss_N, -bound * advantages_N), loss_N)


def value_loss(values_N: Tensor, old_N: Tensor, returns_N: Tensor, clip: float) -> Tensor:
    """max((V - R)^2, (clip(V, old - clip, old + clip) - R)^2) / 2, as in the code of arXiv:1707.06347 (Huang et al.
    2022, "The 37 implementation details of PPO", 9); 0: without the clip; [N]."""
    loss_N = (values_N - returns_N) ** 2
    if clip:
        clipped_N = old_N + (values_N - old_N).clamp(-clip, clip)
        loss_N = torch.maximum(loss_N, (clipped_N - returns_N) ** 2)
    return loss_N / 2


def is_value_clipped(values_N: Tensor, old_N: Tensor, returns_N: Tensor, clip: float) -> Tensor:
    """Where the clipped term is the larger one, so that no gradient flows; [N]."""
    away_N = (values_N - old_N).abs() > clip
    clipped_N = old_N + (values_N - old_N).clamp(-clip, clip)
    return away_N & ((clipped_N - returns_N) ** 2 > (values_N - returns_N) ** 2)


def k3(logp_N: Tensor, reference_N: Tensor) -> Tensor:
    """Schulman's third estimate of KL(policy, reference) at sampled tokens, q/p - log(q/p) - 1 ("Approximating KL
    divergence", 2020; arXiv:2402.03300 eq. 4); never negative; [N]."""
    log_ratio_N = reference_N - logp_N
    return torch.expm1(log_ratio_N) - log_ratio_N


def truncated_importance(old_N: Tensor, sampled_N: Tensor, cap: float) -> Tensor:
    """min(trainer's / rollout's probability, cap) of each token, without a gradient (Ionides 2008, "Truncated
    importance sampling"); [N]."""
    return (old_N - sampled_N).exp().clamp(max=cap).detach()


def lengths_of(sequences_N: Tensor, num_sequences: int) -> Tensor:
    """Trained tokens of the completion that each token belongs to, [N] in float32."""
    ones_N = torch.ones_like(sequences_N, dtype=torch.float32)
    return sum_by_sequence(ones_N, sequences_N, num_sequences)[sequences_N]
