"""KTO (arXiv:2402.01306): answers with a label, desirable or not, and no pairs.

    loss = 1/r * sum of lambda * sigmoid(-+ beta * (log pi / pi_ref - z0)),   r = rows of the whole step

z0 estimates how far the policy has moved from the reference: the mean of log pi / pi_ref over prompts with an answer
that belongs to another prompt, at least 0, and no gradient flows through it. A row's other answer is that of the next
row of its dataset with another prompt, so it does not depend on the batch; z0 is computed over the whole step before
its first micro-batch, so the loss does not depend on how the step is split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.engine import losses
from posttrain.engine.attempt import ShouldStop
from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import AnyRow, Branch, Group
from posttrain.engine.data.examples import AnyExample, LabelledExample
from posttrain.engine.data.packing import Batch, collate, split_in_parts
from posttrain.engine.errors import CancelledError, EmptyDatasetError, NonFiniteError
from posttrain.engine.methods.base import Metrics, Models, Told, Window, never
from posttrain.engine.methods.chat import ChatMethod
from posttrain.engine.methods.reference import ReferenceLogps, sequence_logps
from posttrain.engine.spec import DpoSpec, KtoLoss


@dataclass(frozen=True)
class KtoWindow(Window):
    """`divergence` is z0, in nats; `num_desirable` counts the rows labelled true."""

    divergence: float
    num_desirable: int


@dataclass(frozen=True, kw_only=True)
class KtoRow(Group):
    """A row with one branch, its own answer, which is trained. `other` is the next row's, which is only measured, in a
    pass of its own: a row is as long as the pass that trains it."""

    other: Branch

    def measured(self) -> Group:
        return Group(self.prefix, (self.other,), self.source, self.number)

    def both(self) -> Group:
        return Group(self.prefix, (*self.branches, self.other), self.source, self.number)


class KtoMethod(ChatMethod[DpoSpec]):
    """Trains on answers with labels; see the module's docstring."""

    def __init__(self, spec: DpoSpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.loss, KtoLoss)
        self._options = spec.loss
        self._reference = ReferenceLogps(spec.batch.micro_tokens)

    def encode(self, example: AnyExample, encoder: Encoder, source: str, number: int) -> Group:
        assert isinstance(example, LabelledExample)
        self._check_speaks(example, encoder, source, number)
        return encoder.labelled(example, source, number)

    def arrange(self, rows: Sequence[AnyRow], max_tokens: int) -> list[AnyRow]:
        """Gives each row the answer of the next one that has another prompt, cut where it would be longer than a row
        may be.

        Raises:
            EmptyDatasetError: all rows have the same prompt.
        """
        groups = [row for row in rows if isinstance(row, Group)]
        others: list[Group] = []
        other = next((group for group in groups if group.prefix != groups[-1].prefix), None)
        for group, following in zip(reversed(groups), [None, *reversed(groups[1:])], strict=True):
            if following is not None and following.prefix != group.prefix:
                other = following
            if other is None:
                raise EmptyDatasetError(
                    f"{group.source}: kto compares each row with an answer to another prompt; there is only one prompt"
                )
            others.append(other)
        pairs = zip(groups, reversed(others), strict=True)
        return [self._with_other(group, other, max_tokens) for group, other in pairs]

    def _with_other(self, row: Group, other: Group, max_tokens: int) -> KtoRow:
        room = max(max_tokens - len(row.prefix), 1)
        answer = other.branches[0]
        cut = Branch(answer.ids[:room], answer.is_target[:room])
        return KtoRow(**vars(row), other=cut)

    @property
    def caches_reference(self) -> bool:
        return self._spec.reference == "cached"

    def prepare(self, sources: Sequence[Sequence[AnyRow]], models: Models, tell: Told) -> None:
        if self.caches_reference:
            both = [[row.both() for row in rows if isinstance(row, KtoRow)] for rows in sources]
            self._reference.prepare(both, models, tell)

    def window(self, rows: Sequence[AnyRow], models: Models, should_stop: ShouldStop = never) -> KtoWindow:
        others = [row.measured() for row in rows if isinstance(row, KtoRow)]
        total = 0.0
        for micro in split_in_parts(others, self._spec.batch.micro_tokens):
            if should_stop():
                raise CancelledError("stopped while the divergence from the reference was measured")
            batch = collate(micro, models.policy.device)
            with torch.no_grad():
                policy_S = sequence_logps(batch, models.policy)
            share = float((policy_S - self._reference_logps(micro, batch, models, branch=1)).sum())
            if not math.isfinite(share):  # told here: z0 is in every row's loss, so it could not be told later
                shown = ", ".join(row.name for row in micro[:8]) + (" and more" if len(micro) > 8 else "")
                raise NonFiniteError(f"the divergence from the reference is {share}; rows of the batch: {shown}")
            total += share
        return KtoWindow(
            num_targets=sum(row.num_targets for row in rows),
            num_rows=len(rows),
            divergence=max(total / len(rows), 0.0),
            num_desirable=sum(row.is_desirable for row in rows if isinstance(row, Group)),
        )

    def loss(self, batch: Batch, models: Models, window: Window) -> tuple[Tensor, Metrics]:
        assert isinstance(window, KtoWindow)
        policy_S = sequence_logps(batch, models.policy)
        ratio_S = policy_S - self._reference_logps(batch.rows, batch, models, branch=0)
        labels = [row.is_desirable for row in batch.rows if isinstance(row, Group)]
        is_desirable_S = torch.tensor(labels, device=ratio_S.device)
        options = self._options
        loss_S = losses.kto(
            ratio_S,
            is_desirable_S,
            window.divergence,
            options.beta,
            options.desirable_weight,
            options.undesirable_weight,
        )
        return loss_S.sum() / window.num_rows, self._metrics(ratio_S.detach(), is_desirable_S, window)

    def _metrics(self, ratio_S: Tensor, is_desirable_S: Tensor, window: KtoWindow) -> Metrics:
        """Implicit rewards, beta * log pi / pi_ref, averaged over the step's rows of either label; without a row of
        a label there is no such number."""
        reward_S = self._options.beta * ratio_S
        num_undesirable = window.num_rows - window.num_desirable
        metrics = {"divergence": window.divergence * len(ratio_S) / window.num_rows}
        if window.num_desirable:
            metrics["reward_desirable"] = float(reward_S[is_desirable_S].sum()) / window.num_desirable
        if num_undesirable:
            metrics["reward_undesirable"] = float(reward_S[~is_desirable_S].sum()) / num_undesirable
        return metrics

    def _reference_logps(self, rows: Sequence[AnyRow], batch: Batch, models: Models, branch: int) -> Tensor:
        if self.caches_reference:
            return self._reference.of_branch(rows, branch, batch.ends_S.device)
        with models.reference() as model:
            return sequence_logps(batch, model)
