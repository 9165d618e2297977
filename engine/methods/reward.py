"""Reward modelling on preference pairs (Bradley-Terry): a scalar head on the last token of each answer.

    loss = 1/p * sum of -log sigmoid(r_chosen - r_rejected - margin) + centring * (r_chosen + r_rejected)^2

over the p pairs of the whole step; `engine/losses.py` names the sources. A pair is a group of two branches: the prompt
is computed once for both answers. The same as TRL's RewardTrainer; see tests/engine/test_preference_parity.py.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import Group
from posttrain.engine.data.examples import AnyExample, PairExample
from posttrain.engine.data.packing import Batch
from posttrain.engine.losses import bradley_terry
from posttrain.engine.methods.base import Metrics, Models, Window
from posttrain.engine.methods.chat import ChatMethod
from posttrain.engine.score import sequence_scores
from posttrain.engine.spec import RewardSpec


class RewardMethod(ChatMethod[RewardSpec]):
    """Trains a model that scores answers; see the module's docstring."""

    makes: ClassVar[Literal["language_model", "reward_model"]] = "reward_model"

    def encode(self, example: AnyExample, encoder: Encoder, source: str, number: int) -> Group:
        assert isinstance(example, PairExample)
        self._check_speaks(example, encoder, source, number)
        return encoder.pair(example, source, number)

    def loss(self, batch: Batch, models: Models, window: Window) -> tuple[Tensor, Metrics]:
        score_S = sequence_scores(batch, models.policy)
        chosen_P, rejected_P = score_S[0::2], score_S[1::2]
        margin_P = score_S.new_tensor([row.margin for row in batch.rows if isinstance(row, Group)])
        loss_P = bradley_terry(chosen_P, rejected_P, margin_P, self._spec.centring)
        sums = {
            "reward_chosen": chosen_P.detach().sum(),
            "reward_rejected": rejected_P.detach().sum(),
            "reward_margin": (chosen_P - rejected_P).detach().sum(),
            "reward_accuracy": (chosen_P > rejected_P).sum(),
        }
        return loss_P.sum() / window.num_rows, {name: float(sum_) / window.num_rows for name, sum_ in sums.items()}
