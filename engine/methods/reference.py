"""Log-probabilities of whole answers, under the policy and under the model as it was before training.

Shape suffixes: N positions with a loss, S sequences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from posttrain.engine.data.encoded import AnyRow, Group
from posttrain.engine.data.packing import Batch, collate, split
from posttrain.engine.losses import PairLogps
from posttrain.engine.methods.base import Models, Told
from posttrain.engine.models import LanguageModel
from posttrain.engine.ops import sum_by_sequence, token_logps

SORTED_ROWS = 1024


def sequence_logps(batch: Batch, model: LanguageModel) -> Tensor:
    """log p of each sequence's trained tokens given what is before them, [S] in float32."""
    hidden_TD = model.hidden(batch.input_ids_T, batch.position_ids_T, batch.segments)
    logp_N = token_logps(
        hidden_TD[batch.loss_positions_N], batch.targets_N, model.logits, model.head_parameters(), model.vocabulary
    )
    return sum_by_sequence(logp_N, batch.sequences_N, batch.num_sequences)


class ReferenceLogps:
    """The reference's log-probabilities of every branch of every row, computed once, before training.

    Nothing of it is in a checkpoint: it follows from the base, which a resumed attempt loads again.
    """

    def __init__(self, micro_tokens: int) -> None:
        self._micro_tokens = micro_tokens
        self._values: dict[str, np.ndarray[tuple[int, int], np.dtype[np.float32]]] = {}

    def prepare(self, sources: Sequence[Sequence[AnyRow]], models: Models, tell: Told) -> None:
        """Computes them; `tell(done, total)` counts rows. A row is known by its source and number; one that stands in
        several lists is computed once. Of the rows themselves only a part is held at a time.
        """
        self._values = {}
        done, total = 0, sum(map(len, sources))
        with models.reference() as model:
            for rows in sources:
                # A part of the rows at a time, so that rows of about the same length share a pass.
                for start in range(0, len(rows), SORTED_ROWS):
                    part = [rows[index] for index in range(start, min(start + SORTED_ROWS, len(rows)))]
                    for micro in split([row for row in part if not self._has(row)], self._micro_tokens):
                        self._keep(collate(micro, model.device), model)
                        tell(done, total)
                    done += len(part)
                    tell(done, total)

    def _has(self, row: AnyRow) -> bool:
        table = self._values.get(row.source)
        return table is not None and row.number < len(table) and not math.isnan(table[row.number, 0])

    def _keep(self, batch: Batch, model: LanguageModel) -> None:
        logps = iter(sequence_logps(batch, model).tolist())
        for row in batch.rows:
            assert isinstance(row, Group)
            table = self._values.get(row.source, np.empty((0, len(row.branches)), np.float32))
            if row.number >= len(table):  # grown to twice its size, so that growing costs as much as filling
                longer = np.full((2 * row.number + 64, len(row.branches)), math.nan, np.float32)
                longer[: len(table)] = table
                table = longer
            table[row.number] = [next(logps) for _ in row.branches]
            self._values[row.source] = table

    def of(self, batch: Batch) -> Tensor:
        """Those of a batch, [S], in its order."""
        values = [
            float(self._values[row.source][row.number, index])
            for row in batch.rows
            if isinstance(row, Group)
            for index in range(len(row.branches))
        ]
        return torch.tensor(values, device=batch.ends_S.device)

    def of_branch(self, rows: Sequence[AnyRow], index: int, device: torch.device) -> Tensor:
        """Those of one branch of each row."""
        return torch.tensor([float(self._values[row.source][row.number, index]) for row in rows], device=device)


def pair_logps(batch: Batch, policy_S: Tensor, reference_S: Tensor | None) -> PairLogps:
    """Pairs of a batch in which every row has two branches, chosen and rejected."""
    ones_N = torch.ones_like(batch.sequences_N, dtype=torch.float32)
    counts_S = sum_by_sequence(ones_N, batch.sequences_N, batch.num_sequences)
    reference_S = torch.zeros_like(policy_S) if reference_S is None else reference_S
    return PairLogps(
        policy_S[0::2], policy_S[1::2], reference_S[0::2], reference_S[1::2], counts_S[0::2], counts_S[1::2]
    )
