"""Packed batches: rows laid end to end without padding, each a segment of its own. The one batch type of all
techniques.

Shape suffixes: T tokens of the packed micro-batch, N positions with a loss.
"""

# ruff: noqa: N815 - fields carry shape suffixes
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.engine.attention import Segments
from posttrain.engine.data.encode import Row
from posttrain.engine.errors import MaskedLabelsError


@dataclass(frozen=True)
class Batch:
    """Rows packed into one forward pass.

    `position_ids_T` restarts at 0 with each segment. The hidden state at `loss_positions_N[i]` predicts
    `targets_N[i]`; there is no loss anywhere else, and none across segments. `rows` are the packed rows in order, for
    messages about them.
    """

    input_ids_T: Tensor
    position_ids_T: Tensor
    segments: Segments
    loss_positions_N: Tensor
    targets_N: Tensor
    rows: tuple[Row, ...]

    @property
    def num_tokens(self) -> int:
        return int(self.input_ids_T.shape[0])

    @property
    def num_targets(self) -> int:
        return int(self.targets_N.shape[0])

    @property
    def row_names(self) -> list[str]:
        return [row.name for row in self.rows]


def collate(rows: Sequence[Row], device: torch.device | str = "cpu") -> Batch:
    """Packs rows in the given order.

    Raises:
        MaskedLabelsError: a row has nothing to train; names it.
    """
    for row in rows:
        if row.num_targets == 0:
            raise MaskedLabelsError(f"{row.name}: all labels are masked, so it would add nothing but a loss of 0.0")
    ids: list[int] = []
    positions: list[int] = []
    sources: list[int] = []
    for row in rows:
        start = len(ids)
        ids.extend(row.ids)
        positions.extend(range(len(row)))
        sources.extend(start + i - 1 for i in range(1, len(row)) if row.is_target[i])
    input_ids_T = torch.tensor(ids, dtype=torch.long)
    loss_positions_N = torch.tensor(sources, dtype=torch.long)
    return Batch(
        input_ids_T=input_ids_T.to(device),
        position_ids_T=torch.tensor(positions, dtype=torch.long, device=device),
        segments=Segments.of([len(row) for row in rows], device),
        loss_positions_N=loss_positions_N.to(device),
        targets_N=input_ids_T[loss_positions_N + 1].to(device),
        rows=tuple(rows),
    )


def split(rows: Sequence[Row], micro_tokens: int) -> list[list[Row]]:
    """Splits an optimiser step's rows into micro-batches of at most `micro_tokens` tokens: first fit, longest first.

    No row is split; one longer than `micro_tokens` is alone in its micro-batch. Deterministic.
    """
    bins: list[list[Row]] = []
    free: list[int] = []
    for row in sorted(rows, key=len, reverse=True):  # stable: equal lengths keep their order
        place = next((i for i, room in enumerate(free) if room >= len(row)), -1)
        if place < 0:
            bins.append([row])
            free.append(micro_tokens - len(row))
        else:
            bins[place].append(row)
            free[place] -= len(row)
    return bins
