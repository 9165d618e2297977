"""Proximal policy optimisation with a value model: PPO (arXiv:1707.06347), as RLHF has it (arXiv:1909.08593).

    policy   1/N * sum over tokens of -min(r A, clip(r) A) - entropy_weight * H,   r = new / old probability
    value    1/N * sum over tokens of max((V - R)^2, (clip(V) - R)^2) / 2

over the N tokens of the whole optimiser step; A and R are a token's advantage and return, H the policy's entropy there.
The formulas are in engine/policy_losses.py and engine/returns.py.

A rollout answers, judges, and computes under the weights as they are: the old policy's log-probabilities, the base's,
and the values; of these the advantages. Policy and value model share no trained weight, so their losses have nothing
in common and are differentiated one after the other. A completion without a reward is in nothing.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from posttrain.engine import policy_losses as pl
from posttrain.engine import returns
from posttrain.engine.data.encoded import AnyRow, Branch, PromptRow
from posttrain.engine.data.packing import Batch
from posttrain.engine.experience import Experience, Rollout, Trained, values_of
from posttrain.engine.methods.base import Losses, Metrics, Models, Window
from posttrain.engine.methods.on_policy import Judged, policy_numbers
from posttrain.engine.methods.policy_update import PolicyUpdateBase, PolicyWindow
from posttrain.engine.ops import token_entropies, token_logps
from posttrain.engine.spec import PpoSpec
from posttrain.engine.value import ValueModel, state_values


class PpoMethod(PolicyUpdateBase[PpoSpec]):
    """Trains on its own answers, each token by its advantage; see the module's docstring."""

    keeps_value = True

    def __init__(self, spec: PpoSpec) -> None:
        super().__init__(spec)
        self._coefficient = spec.kl.coefficient
        self._is_stopped = False  # the rest of the rollout's updates are left out

    @property
    def keeps_reference(self) -> bool:
        return self._spec.kl.coefficient > 0

    def state_dict(self) -> dict[str, Any]:
        return {"kl_coefficient": self._coefficient, "is_stopped": self._is_stopped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._coefficient, self._is_stopped = state["kl_coefficient"], state["is_stopped"]

    # -- rollout -------------------------------------------------------------------------------------------------------

    def rollout(
        self, prompts: Sequence[PromptRow], models: Models, number: tuple[int, int], should_stop: Callable[[], bool]
    ) -> Rollout:
        judged, metrics = self._rolled_out(prompts, models, number, should_stop)
        known = [[one for one in group if not one.scored.failure] for group in judged]
        groups = [_experience(row, group) for row, group in zip(prompts, known, strict=True)]
        value = models.value
        assert value is not None
        with torch.no_grad():
            groups = self._with_logps(groups, models.policy, "old")
        groups = self._with(groups, "values", value.model, lambda batch: state_values(batch, value))
        if self._spec.kl.coefficient:
            with models.reference() as reference:
                groups = self._with_logps(groups, reference, "reference")
        flat = list(chain.from_iterable(known))
        scores = returns.shaped_scores(
            [one.reward for one in flat], [one.completion.stop_reason == "stop" for one in flat], self._spec.score
        )
        groups = self._with_advantages(groups, scores)
        samples = self._samples(prompts, judged, number)
        trained = chain.from_iterable(group.trained for group in groups)
        for sample, one, score in zip((s for s in samples if "reward" in s), trained, scores, strict=False):
            sample |= {"score": score, "value": one.values[0], "kl": _log_ratio(one)}
        numbers, divergence = self._told_of(groups, scores)
        # Last of all: a rollout that is interrupted is made again, and leaves no trace before.
        self._coefficient = returns.next_coefficient(self._coefficient, divergence, self._spec.kl)
        self._is_stopped = False
        return Rollout(groups, metrics | numbers, samples, self.notes())

    def _with_advantages(self, groups: Sequence[Experience], scores: Sequence[float]) -> list[Experience]:
        """The groups with advantages and returns; `scores` are of all completions, in their order."""
        found = [
            returns.gae(
                returns.token_rewards(score, self._divergences(one), self._coefficient),
                one.values,
                self._spec.advantage,
            )
            for one, score in zip(chain.from_iterable(group.trained for group in groups), scores, strict=True)
        ]
        advantages = list(chain.from_iterable(advantages for advantages, _ in found))
        if self._spec.advantage.whiten:
            advantages = returns.whitened(advantages)
        at, numbers = 0, iter(found)
        made = []
        for group in groups:
            trained = []
            for one in group.trained:
                _, targets = next(numbers)
                part, at = advantages[at : at + len(targets)], at + len(targets)
                trained.append(replace(one, advantages=array("d", part), returns=array("d", targets)))
            made.append(replace(group, trained=tuple(trained)))
        return made

    def _divergences(self, one: Trained) -> list[float]:
        """Of each token, from the base; 0 where there is no penalty."""
        if not one.reference:
            return [0.0] * len(one.old)
        kind = self._spec.kl.estimator
        return [returns.divergence(*pair, kind) for pair in zip(one.old, one.reference, strict=True)]

    def _told_of(self, groups: Sequence[Experience], scores: Sequence[float]) -> tuple[Metrics, float]:
        """Numbers of the rollout, and the mean divergence of its completions in nats."""
        flat = list(chain.from_iterable(group.trained for group in groups))
        metrics: Metrics = {"kl_coefficient": self._coefficient}
        if not flat:
            return metrics, math.nan
        values, targets = ([number for one in flat for number in getattr(one, name)] for name in ("values", "returns"))
        metrics |= {"score": fmean(scores), "value": fmean(values), "return": fmean(targets)}
        explained = returns.explained_variance(values, targets)
        if explained is not None:
            metrics["explained_variance"] = explained
        divergence = fmean(_log_ratio(one) for one in flat)
        if self.keeps_reference:
            metrics["kl"] = fmean(number for one in flat for number in self._divergences(one))
            metrics["kl_completion"] = divergence
        return metrics, divergence

    # -- update --------------------------------------------------------------------------------------------------------

    def computed(self, rows: Sequence[AnyRow]) -> Sequence[AnyRow]:
        return [] if self._is_stopped else super().computed(rows)

    def loss(self, batch: Batch, models: Models, window: Window) -> tuple[Tensor, Metrics]:
        assert isinstance(window, PolicyWindow)
        options = self._spec.loss
        numbers = [token_logps, token_entropies] if options.entropy_weight else [token_logps]
        logp_N, *entropy = policy_numbers(batch, models.policy, self._spec.rollout.temperature, numbers)
        old_N, advantages_N = values_of(batch, "old"), values_of(batch, "advantages")
        sampled_N = values_of(batch, "sampled")
        ratio_N = pl.ratio_of(logp_N - old_N, advantages_N, options.dual_clip > 0)
        loss_N = pl.clipped_policy_loss(ratio_N, advantages_N, options.clip_low, options.clip_high)
        clipped_N = pl.is_clipped(ratio_N.detach(), advantages_N, options.clip_low, options.clip_high)
        means = {"clip_fraction": clipped_N, "approx_kl": pl.k3(old_N, logp_N.detach())}
        if options.dual_clip:
            bounded_N = pl.dual_clipped(loss_N, advantages_N, options.dual_clip)
            means["dual_clip_fraction"] = bounded_N.detach() < loss_N.detach()
            loss_N = bounded_N
        loss_N = self._corrected(loss_N, old_N, sampled_N)
        means["policy_loss"] = loss_N.detach()
        for entropy_N in entropy:
            loss_N = loss_N - options.entropy_weight * entropy_N
            means["policy_entropy"] = entropy_N.detach()
        metrics = {name: float(each_N.float().sum()) / window.num_targets for name, each_N in means.items()}
        return loss_N.sum() / window.num_targets, metrics | self._disagreement(old_N, sampled_N, window)

    def losses(self, batch: Batch, models: Models, window: Window) -> Losses:
        yield self.loss(batch, models, window)
        assert models.value is not None
        with models.value.in_use():
            yield self._value_loss(batch, models.value, window)

    def _value_loss(self, batch: Batch, value: ValueModel, window: Window) -> tuple[Tensor, Metrics]:
        values_N, clip = value.values(batch), self._spec.value.clip
        old_N, returns_N = values_of(batch, "values"), values_of(batch, "returns")
        loss = pl.value_loss(values_N, old_N, returns_N, clip).sum() / window.num_targets
        metrics = {"value_loss": float(loss.detach())}
        if clip:
            clipped_N = pl.is_value_clipped(values_N.detach(), old_N, returns_N, clip)
            metrics["value_clip_fraction"] = float(clipped_N.float().sum()) / window.num_targets
        return loss, metrics

    def accepts(self, sums: Metrics) -> bool:
        limit = self._spec.update.max_kl
        if limit and sums.get("approx_kl", 0.0) > limit:
            self._is_stopped = True
        return not self._is_stopped


def _experience(row: PromptRow, judged: Sequence[Judged]) -> Experience:
    """The completions of a prompt; the tokens that the model sampled are trained."""
    completions = [one.completion for one in judged]
    return Experience(
        row.ids,
        tuple(Branch(array("i", one.token_ids), one.sampled_mask) for one in completions),
        row.source,
        row.number,
        trained=tuple(Trained(array("d", one.tempered_logps), array("d")) for one in completions),
        num_completions=len(completions),
        num_tokens=sum(one.num_sampled for one in completions),
    )


def _log_ratio(one: Trained) -> float:
    """log of policy's to base's probability of a completion; 0 where there is no penalty."""
    return math.fsum(one.old) - math.fsum(one.reference) if one.reference else 0.0
