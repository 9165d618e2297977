"""Supervised fine-tuning: next-token cross-entropy on the assistant's tokens, averaged over all of an optimiser step.

    loss = 1/n * sum_i -log p(target_i | tokens before it),   n = trained tokens of the whole step

The same as TRL's SFTTrainer with `num_items_in_batch` and `assistant_only_loss`; see tests/engine/test_trl_parity.py.
"""

from __future__ import annotations

from torch import Tensor

from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import Row
from posttrain.engine.data.examples import AnyExample, Example
from posttrain.engine.data.packing import Batch
from posttrain.engine.losses import summed_nll
from posttrain.engine.methods.base import Metrics, Models, Window
from posttrain.engine.methods.chat import ChatMethod
from posttrain.engine.spec import IftSpec, SftSpec, ToolUseSpec


class SftMethod(ChatMethod[IftSpec | SftSpec | ToolUseSpec]):
    """Trains any causal LM on conversations; see the module's docstring."""

    def encode(self, example: AnyExample, encoder: Encoder, source: str, number: int) -> Row | None:
        assert isinstance(example, Example)
        self._check_speaks(example, encoder, source, number)
        return encoder.row(example, self._spec.loss_on, source, number)

    def loss(self, batch: Batch, models: Models, window: Window) -> tuple[Tensor, Metrics]:
        policy = models.policy
        hidden_TD = policy.hidden(batch.input_ids_T, batch.position_ids_T, batch.segments)
        hidden_ND = hidden_TD[batch.loss_positions_N]
        total = summed_nll(hidden_ND, batch.targets_N, policy.logits, policy.head_parameters(), policy.vocabulary)
        return total / window.num_targets, {}
