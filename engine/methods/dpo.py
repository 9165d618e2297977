"""Direct preference optimisation on pairs: sigmoid, hinge, ipo, robust, sigmoid_norm; and without a reference simpo
and orpo. The formulas are in engine/losses.py.

A pair is a group of two branches: the prompt is computed once for both answers. The reference is the model before
training: its log-probabilities are cached before the first step, or, with an adapter, computed in each step with the
adapter switched off.

    loss = 1/p * sum of the pairs' losses + nll_weight * 1/n * sum_i -log p(chosen_i),
    p = pairs and n = trained tokens of the chosen answers of the whole step
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.engine import losses
from posttrain.engine.attempt import ShouldStop
from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import AnyRow, Group
from posttrain.engine.data.examples import AnyExample, PairExample
from posttrain.engine.data.packing import Batch
from posttrain.engine.losses import PairLogps
from posttrain.engine.methods.base import Metrics, Models, Told, Window, never
from posttrain.engine.methods.chat import ChatMethod
from posttrain.engine.methods.reference import ReferenceLogps, pair_logps, sequence_logps
from posttrain.engine.spec import (
    DpoHingeLoss,
    DpoIpoLoss,
    DpoRobustLoss,
    DpoSigmoidLoss,
    DpoSigmoidNormLoss,
    DpoSpec,
    KtoLoss,
    OrpoLoss,
    PairLoss,
    SimpoLoss,
)


def pair_loss(pairs: PairLogps, options: PairLoss) -> Tensor:
    """The loss of each pair, [P]."""
    match options:
        case DpoSigmoidLoss():
            return losses.dpo_sigmoid(pairs, options.beta)
        case DpoHingeLoss():
            return losses.dpo_hinge(pairs, options.beta)
        case DpoIpoLoss():
            return losses.dpo_ipo(pairs, options.beta)
        case DpoRobustLoss():
            return losses.dpo_robust(pairs, options.beta, options.label_smoothing)
        case DpoSigmoidNormLoss():
            return losses.dpo_sigmoid_norm(pairs, options.beta)
        case SimpoLoss():
            return losses.simpo(pairs, options.beta, options.margin)
        case OrpoLoss():
            return losses.orpo(pairs, options.beta)


@dataclass(frozen=True)
class PairWindow(Window):
    """`num_chosen` counts the trained tokens of the chosen answers."""

    num_chosen: int


class DpoMethod(ChatMethod[DpoSpec]):
    """Trains on preference pairs; see the module's docstring."""

    def __init__(self, spec: DpoSpec) -> None:
        super().__init__(spec)
        assert not isinstance(spec.loss, KtoLoss)
        self._options = spec.loss
        self._reference = ReferenceLogps(spec.batch.micro_tokens)

    def encode(self, example: AnyExample, encoder: Encoder, source: str, number: int) -> Group:
        assert isinstance(example, PairExample)
        self._check_speaks(example, encoder, source, number)
        return encoder.pair(example, source, number)

    @property
    def caches_reference(self) -> bool:
        return self._options.needs_reference and self._spec.reference == "cached"

    def prepare(self, sources: Sequence[Sequence[AnyRow]], models: Models, tell: Told) -> None:
        if self.caches_reference:
            self._reference.prepare(sources, models, tell)

    def window(self, rows: Sequence[AnyRow], models: Models, should_stop: ShouldStop = never) -> PairWindow:
        num_chosen = sum(row.branches[0].num_targets for row in rows if isinstance(row, Group))
        return PairWindow(sum(row.num_targets for row in rows), len(rows), num_chosen)

    def loss(self, batch: Batch, models: Models, window: Window) -> tuple[Tensor, Metrics]:
        assert isinstance(window, PairWindow)
        policy_S = sequence_logps(batch, models.policy)
        pairs = pair_logps(batch, policy_S, self._reference_logps(batch, models))
        loss_P = pair_loss(pairs, self._options)
        loss = loss_P.sum() / window.num_rows
        if self._spec.nll_weight:
            loss = loss - self._spec.nll_weight * pairs.chosen_P.sum() / window.num_chosen
        return loss, self._metrics(pairs, window)

    def _reference_logps(self, batch: Batch, models: Models) -> Tensor | None:
        if not self._options.needs_reference:
            return None
        if self.caches_reference:
            return self._reference.of(batch)
        with models.reference() as model:
            return sequence_logps(batch, model)

    @torch.no_grad()
    def _metrics(self, pairs: PairLogps, window: Window) -> Metrics:
        """Implicit rewards, beta * log pi / pi_ref (arXiv:2305.18290), per token where the loss is; averages over the
        step's pairs."""
        options = self._options
        if options.is_per_token:
            chosen_P = pairs.chosen_ratio_P / pairs.num_chosen_P
            rejected_P = pairs.rejected_ratio_P / pairs.num_rejected_P
        else:
            chosen_P, rejected_P = pairs.chosen_ratio_P, pairs.rejected_ratio_P
        margin_P = chosen_P - rejected_P
        sums = {
            "reward_chosen": options.beta * chosen_P.sum(),
            "reward_rejected": options.beta * rejected_P.sum(),
            "reward_margin": options.beta * margin_P.sum(),
            "reward_accuracy": (margin_P > 0).sum(),
            "logp_chosen": pairs.chosen_P.sum(),
            "logp_rejected": pairs.rejected_P.sum(),
        }
        return {name: float(value) / window.num_rows for name, value in sums.items()}
