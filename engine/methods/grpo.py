"""Reinforcement learning on verifiable rewards from groups of completions: GRPO, Dr. GRPO, DAPO, GSPO and RLOO.

    loss = sum over tokens of w * (-min(r A, clip(r) A) + beta * k3),   r = new / old probability

A is a completion's advantage within its group, w its token's weight: 1/(S * tokens of its completion) for grpo, gspo
and rloo, 1/(S * max_new_tokens) for dr_grpo, 1/(all tokens) for dapo; S completions and all tokens of the whole
optimiser step. The formulas are in engine/policy_losses.py; the same as TRL's, see tests/engine/test_grpo_parity.py.

A rollout answers, judges, and computes what the loss needs of the old policy and of the base. What follows of it is a
group for each prompt: the prompt is computed once for its completions. Completions whose advantage is exactly 0 are not
computed, unless there is a divergence term; the denominators know of them.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from statistics import fmean

import torch
from torch import Tensor

from posttrain.engine import policy_losses as pl
from posttrain.engine.data.encoded import Branch, PromptRow
from posttrain.engine.data.packing import Batch
from posttrain.engine.experience import Experience, Rollout, Trained, values_of
from posttrain.engine.methods.base import Metrics, Models, Window
from posttrain.engine.methods.on_policy import Judged, policy_logps
from posttrain.engine.methods.policy_update import PolicyUpdateBase, PolicyWindow
from posttrain.engine.policy_options import DapoLoss, DrGrpoLoss, GspoLoss, RlooLoss
from posttrain.engine.spec import GrpoSpec


class GrpoMethod(PolicyUpdateBase[GrpoSpec]):
    """Trains on its own answers; see the module's docstring."""

    def __init__(self, spec: GrpoSpec) -> None:
        super().__init__(spec)
        self._baseline: pl.Baseline = "standardised"
        if isinstance(spec.loss, DrGrpoLoss):
            self._baseline = "mean"
        elif isinstance(spec.loss, RlooLoss):
            self._baseline = "leave_one_out"
        # Of a single update on each completion the old policy is the one that computes the loss: the ratio is 1.
        self._has_old = spec.update.num_minibatches * spec.update.num_epochs > 1

    @property
    def keeps_reference(self) -> bool:
        return self._spec.beta > 0

    # -- rollout -------------------------------------------------------------------------------------------------------

    def rollout(
        self, prompts: Sequence[PromptRow], models: Models, number: tuple[int, int], should_stop: Callable[[], bool]
    ) -> Rollout:
        judged, metrics = self._rolled_out(prompts, models, number, should_stop)
        metrics["zero_variance_share"] = fmean(_is_uniform([one.reward for one in group]) for group in judged)
        if metrics["zero_variance_share"] == 1:
            self._tell(
                "uniform",
                "in a whole rollout the completions of each prompt have equal rewards, so that nothing can be learnt "
                "from them: the prompts are too easy or too hard, or the reward is always the same",
            )
        advantages = [pl.group_advantages([one.reward for one in group], self._baseline) for group in judged]
        groups = [self._experience(*each) for each in zip(prompts, judged, advantages, strict=True)]
        samples = self._samples(prompts, judged, number)
        for sample, advantage in zip(samples, chain.from_iterable(advantages), strict=False):
            if not math.isnan(advantage):
                sample["advantage"] = advantage
        if self._has_old:
            with torch.no_grad():
                groups = self._with_logps(groups, models.policy, "old")
        if self._spec.beta:
            with models.reference() as reference:
                groups = self._with_logps(groups, reference, "reference")
        return Rollout(groups, metrics, samples, self.notes())

    def _experience(self, row: PromptRow, judged: Sequence[Judged], advantages: Sequence[float]) -> Experience:
        """Those completions of a prompt that have to be computed."""
        branches, trained = [], []
        num_completions = num_tokens = 0
        for completion, advantage in zip((one.completion for one in judged), advantages, strict=True):
            if math.isnan(advantage):
                continue
            num_completions += 1
            if self._spec.update.mask_truncated and completion.stop_reason != "stop":
                continue
            length = completion.num_sampled
            num_tokens += length
            if advantage or self._spec.beta:
                branches.append(Branch(array("i", completion.token_ids), completion.sampled_mask))
                trained.append(Trained(array("d", completion.tempered_logps), array("d", [advantage] * length)))
        return Experience(
            row.ids, tuple(branches), row.source, row.number, trained=tuple(trained),
            num_completions=num_completions, num_tokens=num_tokens,
        )  # fmt: skip

    # -- update --------------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch, models: Models, window: Window) -> tuple[Tensor, Metrics]:
        assert isinstance(window, PolicyWindow)
        spec, options = self._spec, self._spec.loss
        logp_N = policy_logps(batch, models.policy, spec.rollout.temperature)
        sampled_N, advantages_N = values_of(batch, "sampled"), values_of(batch, "advantages")
        old_N = values_of(batch, "old") if self._has_old else logp_N.detach()
        log_ratio_N = logp_N - old_N
        is_whole = isinstance(options, GspoLoss | RlooLoss)  # one ratio for each completion
        if is_whole:
            log_ratio_N = pl.sequence_log_ratio(
                log_ratio_N, batch.sequences_N, batch.num_sequences, is_mean=isinstance(options, GspoLoss)
            )
        ratio_N = pl.ratio_of(log_ratio_N, advantages_N)
        loss_N = pl.clipped_policy_loss(ratio_N, advantages_N, options.clip_low, options.clip_high)
        loss_N = self._corrected(loss_N, old_N, sampled_N)
        lengths_N = pl.lengths_of(batch.sequences_N, batch.num_sequences)
        weight_N = self._weights(lengths_N, window)
        metrics: Metrics = {}
        if spec.beta:
            kl_N = pl.k3(logp_N, values_of(batch, "reference"))
            if spec.kl_correction:
                kl_N = kl_N * log_ratio_N.exp()
            loss_N = loss_N + spec.beta * kl_N
            metrics["kl"] = float(kl_N.detach().sum()) / window.num_targets
        clipped_N = pl.is_clipped(ratio_N.detach(), advantages_N, options.clip_low, options.clip_high).float()
        share_N = (
            1 / (lengths_N * window.num_completions) if is_whole else torch.full_like(loss_N, 1 / window.num_targets)
        )
        metrics["clip_fraction"] = float((clipped_N * share_N).sum())
        metrics |= self._disagreement(old_N, sampled_N, window)
        return (loss_N * weight_N).sum(), metrics

    def _weights(self, lengths_N: Tensor, window: PolicyWindow) -> Tensor:
        options = self._spec.loss
        if isinstance(options, DapoLoss):
            return torch.full_like(lengths_N, 1 / window.num_targets)
        if isinstance(options, DrGrpoLoss):
            return torch.full_like(lengths_N, 1 / (window.num_completions * self._spec.rollout.max_new_tokens))
        return 1 / (lengths_N * window.num_completions)


def _is_uniform(totals: Sequence[float]) -> bool:
    known = [total for total in totals if not math.isnan(total)]
    return not known or min(known) == max(known)
