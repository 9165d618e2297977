"""Supervised fine-tuning: next-token cross-entropy on the assistant's tokens, averaged over all of an optimiser step.

    loss = 1/n * sum_i -log p(target_i | tokens before it),   n = trained tokens of the whole step

The same as TRL's SFTTrainer with `num_items_in_batch` and `assistant_only_loss`; see tests/engine/test_trl_parity.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.examples import Example
from posttrain.engine.data.packing import Batch, collate
from posttrain.engine.data.rows import Row
from posttrain.engine.data.template import ChatTemplate, builtin_template
from posttrain.engine.errors import TemplateError
from posttrain.engine.losses import summed_nll
from posttrain.engine.methods.base import Metrics, Models, Window
from posttrain.engine.models import own_template
from posttrain.engine.spec import BuiltinTemplate, TrainSpec


class SftMethod:
    """Trains any causal LM on conversations; see the module's docstring."""

    def __init__(self, spec: TrainSpec) -> None:
        self._spec = spec

    def prepare_tokenizer(self, tokenizer: Any) -> tuple[ChatTemplate, list[int]]:
        """The template named by the spec. SFT adds no tokens: a built-in template whose tokens are missing is spelt
        out by IFT only.

        Raises:
            TemplateError: the base has none of its own, or lacks the built-in one's tokens.
        """
        if isinstance(self._spec.template, BuiltinTemplate):
            return builtin_template(self._spec.template.name), []
        template = own_template(tokenizer)
        if template is None:
            raise TemplateError(
                "the base has no chat template of its own",
                hint="train it with kind: ift first, or set template: {type: builtin, name: chatml}",
            )
        return template, []

    def encode(self, example: Example, encoder: Encoder, source: str, number: int) -> Row:
        return encoder.row(example, self._spec.loss_on, source, number)

    def collate(self, rows: Sequence[Row], device: torch.device) -> Batch:
        return collate(rows, device)

    def window(self, rows: Sequence[Row]) -> Window:
        return Window(num_targets=sum(row.num_targets for row in rows), num_rows=len(rows))

    def loss(self, batch: Batch, models: Models, window: Window) -> tuple[Tensor, Metrics]:
        policy = models.policy
        hidden_TD = policy.hidden(batch.input_ids_T, batch.position_ids_T, batch.segments)
        hidden_ND = hidden_TD[batch.loss_positions_N]
        total = summed_nll(hidden_ND, batch.targets_N, policy.logits, policy.head_parameters(), policy.vocabulary)
        return total / window.num_targets, {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"supervised fine-tuning remembers nothing, but was given {sorted(state)}")
