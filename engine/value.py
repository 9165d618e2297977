"""The value of a state: what reward is still to come once the tokens so far are there, for techniques that fit it.

With LoRA it is a second adapter over the policy's base, without one a second copy of the weights, and in both cases a
linear head of one output. It shares no trained weight with the policy, and is part of checkpoints, not of what is
saved.

Shape suffixes: N trained tokens of a batch, in its order, D model width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.engine.data.packing import Batch
from posttrain.engine.models import LanguageModel

ADAPTER = "value"
POLICY_ADAPTER = "default"  # peft's name


@dataclass
class ValueModel:
    """`model` is the backbone, `layers` the layers whose adapter has to be chosen for it; of a backbone with weights of
    its own there are none."""

    model: LanguageModel
    head: nn.Linear
    layers: Sequence[Any]
    parameters: list[tuple[str, nn.Parameter]]

    @classmethod
    def beside(cls, policy: LanguageModel, peft: Any) -> ValueModel:
        """A value model that starts from the policy; of LoRA, an adapter drawn anew with the same options.

        The head starts at 0 and so do all values: the first advantages are the rewards' own (Huang et al. 2024, "The N
        implementation details of RLHF with PPO", 2.2).
        """
        width = policy.module.get_input_embeddings().weight.shape[1]
        head = nn.Linear(width, 1, device=policy.device, dtype=policy.module.dtype)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        made = cls(policy, head, (), [])
        if peft is None:
            made.model = replace(policy, module=copy.deepcopy(policy.module))
            own = made.model.head
            if own.weight is not made.model.module.get_input_embeddings().weight:
                own.requires_grad_(False)  # no value depends on it
        else:
            from posttrain.engine.adapters import add_second_adapter  # importing peft takes seconds

            made.layers = add_second_adapter(peft, ADAPTER)
        with made.in_use():
            made.parameters = [*made.model.trainable(), *((f"value_{n}", p) for n, p in head.named_parameters())]
        return made

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The model computes values in the block, and is the policy after it."""
        for layer in self.layers:
            layer.set_adapter(ADAPTER)
        try:
            yield
        finally:
            for layer in self.layers:
                layer.set_adapter(POLICY_ADAPTER)

    def values(self, batch: Batch) -> Tensor:
        """The value of the state in which each trained token was chosen, [N] in float32; in a block of `in_use`, and so
        is what follows of its gradient."""
        hidden_TD = self.model.hidden(batch.input_ids_T, batch.position_ids_T, batch.segments)
        values_N1: Tensor = self.head(hidden_TD[batch.loss_positions_N])
        return values_N1.squeeze(-1).float()

    def remove(self, peft: Any) -> None:
        """Leaves the policy as if there had been no value model."""
        if self.layers:
            peft.delete_adapter(ADAPTER)


@torch.no_grad()
def state_values(batch: Batch, model: ValueModel) -> Tensor:
    """As `ValueModel.values`, without a gradient."""
    with model.in_use():
        return model.values(batch)
