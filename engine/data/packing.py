"""Packed batches: rows laid end to end without padding, each a segment of its own. The one batch type of all
techniques.

Shape suffixes: T tokens of the packed micro-batch, N positions with a loss, S sequences.
"""

# ruff: noqa: N815 - fields carry shape suffixes
from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from posttrain.engine.attention import Segments
from posttrain.engine.data.encoded import AnyRow, Branch, Group, PromptRow, Row
from posttrain.engine.errors import MaskedLabelsError

Integers = np.ndarray[tuple[int], np.dtype[np.int32 | np.int64]]
PART_ROWS = 1024
_EMPTY: Integers = np.empty(0, np.int64)


@dataclass(frozen=True)
class Batch:
    """Rows packed into one forward pass.

    A row is one sequence; a group is as many as it has branches, which share its prefix. `position_ids_T` restarts at
    0 with each row, and at the prefix's length with each branch. The hidden state at `loss_positions_N[i]` predicts
    `targets_N[i]` in sequence `sequences_N[i]`; there is no loss anywhere else, and none across sequences. `ends_S`
    are the places of the sequences' last tokens. `rows` are the packed rows in order, for messages about them.
    """

    input_ids_T: Tensor
    position_ids_T: Tensor
    segments: Segments
    loss_positions_N: Tensor
    targets_N: Tensor
    sequences_N: Tensor
    ends_S: Tensor
    rows: tuple[AnyRow, ...]

    @property
    def num_tokens(self) -> int:
        return int(self.input_ids_T.shape[0])

    @property
    def num_targets(self) -> int:
        return int(self.targets_N.shape[0])

    @property
    def num_sequences(self) -> int:
        return int(self.ends_S.shape[0])

    @property
    def row_names(self) -> list[str]:
        return [row.name for row in self.rows]


def collate(rows: Sequence[AnyRow], device: torch.device | str = "cpu") -> Batch:
    """Packs rows or groups in the given order.

    Raises:
        MaskedLabelsError: a row, or a branch of a group, has nothing to train; names it.
    """
    ids, positions, sources, targets, sequences = (list[Integers]([_EMPTY]) for _ in range(5))
    ends: list[int] = []
    trees: list[tuple[int, list[int]]] = []
    end = 0
    for row in rows:
        assert not isinstance(row, PromptRow), "a prompt is answered before there is anything to train"
        prefix = row.prefix if isinstance(row, Group) else array("i")
        branches: Sequence[Branch | Row] = row.branches if isinstance(row, Group) else (row,)
        if any(branch.num_targets == 0 for branch in branches):
            raise MaskedLabelsError(f"{row.name}: all labels are masked, so it would add nothing but a loss of 0.0")
        shared = len(prefix)
        last_of_prefix, end = end + shared - 1, end + shared
        ids.append(np.frombuffer(prefix, np.int32))
        positions.append(np.arange(shared))
        for branch in branches:
            places = np.flatnonzero(np.frombuffer(branch.is_target, np.uint8))
            # A whole row's first token has nothing before it to be predicted from; a branch's has the prefix.
            places = places if shared else places[places > 0]
            branch_ids = np.frombuffer(branch.ids, np.int32)
            ids.append(branch_ids)
            positions.append(np.arange(shared, shared + len(branch)))
            sources.append(np.where(places > 0, end + places - 1, last_of_prefix))
            targets.append(branch_ids[places])
            sequences.append(np.full(len(places), len(ends)))
            end += len(branch)
            ends.append(end - 1)
        trees.append((shared, list(map(len, branches))))

    def tensor(parts: Sequence[Integers]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device)

    return Batch(
        input_ids_T=tensor(ids),
        position_ids_T=tensor(positions),
        segments=Segments.trees(trees),
        loss_positions_N=tensor(sources),
        targets_N=tensor(targets),
        sequences_N=tensor(sequences),
        ends_S=torch.tensor(ends, device=device),
        rows=tuple(rows),
    )


def split(rows: Sequence[AnyRow], micro_tokens: int) -> list[list[AnyRow]]:
    """Splits an optimiser step's rows into micro-batches of at most `micro_tokens` tokens: first fit, longest first.

    No row or group is split; one longer than `micro_tokens` is alone in its micro-batch. Deterministic.
    """
    bins: list[list[AnyRow]] = []
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


def split_in_parts(rows: Sequence[AnyRow], micro_tokens: int) -> Iterator[list[AnyRow]]:
    """`split` of any number of rows, PART_ROWS at a time: its time grows with the square of their number."""
    for start in range(0, len(rows), PART_ROWS):
        yield from split(rows[start : start + PART_ROWS], micro_tokens)
