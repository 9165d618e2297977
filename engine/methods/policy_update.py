"""What updates from rollouts do alike: denominators of a step, and how far rollout and trainer may differ.

Shape suffixes: N trained tokens of a batch, in its order.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from posttrain.engine import policy_losses as pl
from posttrain.engine.attempt import ShouldStop
from posttrain.engine.data.encoded import AnyRow
from posttrain.engine.experience import Experience
from posttrain.engine.methods.base import Metrics, Models, Window, never
from posttrain.engine.methods.on_policy import OnPolicyMethodBase, OnPolicySpec


@dataclass(frozen=True)
class PolicyWindow(Window):
    """`num_targets` counts the tokens in the loss, `num_completions` the completions, `num_computed` the tokens that
    are computed: the others have an advantage of exactly 0."""

    num_completions: int
    num_computed: int


class PolicyUpdateBase(OnPolicyMethodBase[OnPolicySpec], ABC):
    """Base of techniques whose loss is made of ratios of new to old probability."""

    def window(self, rows: Sequence[AnyRow], models: Models, should_stop: ShouldStop = never) -> PolicyWindow:
        groups = [row for row in rows if isinstance(row, Experience)]
        return PolicyWindow(
            num_targets=sum(group.num_tokens for group in groups),
            num_rows=len(groups),
            num_completions=sum(group.num_completions for group in groups),
            num_computed=sum(group.num_targets for group in groups),
        )

    def _corrected(self, loss_N: Tensor, old_N: Tensor, sampled_N: Tensor) -> Tensor:
        """The loss with each token's weight for the difference of rollout and trainer, if that is asked for."""
        cap = self._spec.update.truncated_importance
        return loss_N * pl.truncated_importance(old_N, sampled_N, cap) if cap else loss_N

    def _disagreement(self, old_N: Tensor, sampled_N: Tensor, window: PolicyWindow) -> Metrics:
        """By how much trainer and rollout differ about the same tokens under the same weights (verl#2953)."""
        difference_N = (old_N - sampled_N).abs()
        limit = self._spec.update.max_logp_difference
        num_far = int((difference_N > limit).sum())
        if num_far:
            self._tell(
                "disagreement",
                f"rollout and trainer differ by up to {float(difference_N.max()):.3g} about a token's log-probability, "
                f"and by more than update.max_logp_difference, {limit:g}, about {num_far} of {len(difference_N)} "
                "tokens; dtype float32 brings them together, update.truncated_importance corrects for it",
            )
        return {
            "logp_difference": float(difference_N.sum()) / window.num_computed,
            "logp_difference_share": num_far / window.num_computed,
        }
