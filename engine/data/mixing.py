"""Which row comes when: a pure function of (seed, position), so a resumed run continues exactly. Imports no torch.

An epoch draws each source's rows by its weight: the whole part is full copies, the rest a seeded share without
repetition, another one each epoch. Epochs follow one another as one endless stream; an optimiser step takes the next
`num_rows` positions of it.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from posttrain.engine.errors import EmptyDatasetError
from posttrain.engine.spec import Duration, EpochsDuration

_MAX_ROWS = 2**40  # of one source


def check_shares(names: Sequence[str], sizes: Sequence[int], weights: Sequence[float]) -> None:
    """Every source is drawn from: none drops out of the mix because its share is rounded to no row.

    Raises:
        EmptyDatasetError: names the first source that would.
    """
    for name, size, weight in zip(names, sizes, weights, strict=True):
        if _num_drawn(size, weight) == 0:
            raise EmptyDatasetError(
                f"{name}: {size} rows at weight {weight:g} are {size * weight:.2g} rows an epoch, which is none",
                hint=f"a weight of {1 / size:.2g} draws one row" if size else "add at least one row",
            )


@dataclass
class Mix:
    """`sizes[i]` rows of source i, drawn `weights[i]` times an epoch.

    Raises:
        EmptyDatasetError: a source whose weight draws no row; see `check_shares`, which can name it.
    """

    sizes: Sequence[int]
    weights: Sequence[float]
    seed: int
    _epoch: int = field(default=-1, init=False)
    _order: array[int] = field(default_factory=lambda: array("q"), init=False)

    def __post_init__(self) -> None:
        check_shares([f"source {i}" for i in range(len(self.sizes))], self.sizes, self.weights)

    @property
    def epoch_rows(self) -> int:
        """Rows drawn in one epoch."""
        return sum(_num_drawn(size, weight) for size, weight in zip(self.sizes, self.weights, strict=True))

    def at(self, position: int) -> tuple[int, int]:
        """(source, row index within it) at a position of the endless stream."""
        epoch, offset = divmod(position, self.epoch_rows)
        if epoch != self._epoch:
            self._order, self._epoch = self._draw(epoch), epoch
        return divmod(self._order[offset], _MAX_ROWS)

    def _draw(self, epoch: int) -> array[int]:
        """Places of an epoch, as source * _MAX_ROWS + row: 8 bytes each, since there may be millions."""
        # Seeded by text: Python hashes it with sha512, so the order does not depend on PYTHONHASHSEED.
        rng = random.Random(f"posttrain-mix/{self.seed}/{epoch}")
        order = array("q")
        for source, (size, weight) in enumerate(zip(self.sizes, self.weights, strict=True)):
            copies = math.floor(weight)
            first = source * _MAX_ROWS
            for _ in range(copies):
                order.extend(range(first, first + size))
            order.extend(
                first + row for row in sorted(rng.sample(range(size), _num_drawn(size, weight) - copies * size))
            )
        rng.shuffle(order)
        return order


def _num_drawn(size: int, weight: float) -> int:
    """Rows that an epoch draws of a source."""
    copies = math.floor(weight)
    return copies * size + round((weight - copies) * size)


@dataclass(frozen=True)
class Plan:
    """How many optimiser steps of how many rows. `total_rows` may leave the last step short, never empty."""

    num_rows: int
    total_rows: int

    @property
    def total_steps(self) -> int:
        return math.ceil(self.total_rows / self.num_rows)

    def positions(self, step: int) -> range:
        """Stream positions of a 0-based step."""
        return range(step * self.num_rows, min((step + 1) * self.num_rows, self.total_rows))


def plan(duration: Duration, num_rows: int, epoch_rows: int) -> Plan:
    """Steps for a duration: `max_steps` full steps, or every row of `num_epochs` epochs once."""
    if isinstance(duration, EpochsDuration):
        return Plan(num_rows, max(1, round(duration.num_epochs * epoch_rows)))
    return Plan(num_rows, duration.max_steps * num_rows)
