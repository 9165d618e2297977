"""What an encoded row is: one sequence, a prefix with branches, or a prompt to be answered. Imports no torch."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from posttrain.engine.errors import DataError


@dataclass(frozen=True)
class Row:
    """One training row. `is_target[i]` is 1 where token i is trained, that is predicted from the tokens before it."""

    ids: array[int]
    is_target: bytes
    source: str = ""
    number: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def longest(self) -> int:
        return len(self.ids)

    @property
    def num_targets(self) -> int:
        # The first token has nothing before it to be predicted from.
        return sum(self.is_target[1:])

    @property
    def name(self) -> str:
        return f"{self.source} row {self.number}"


@dataclass(frozen=True)
class Branch:
    """One way to go on after a prefix. `is_target[i]` is 1 where token i is trained."""

    ids: array[int]
    is_target: bytes

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_targets(self) -> int:
        return sum(self.is_target)


@dataclass(frozen=True)
class Group:
    """A prefix that is computed once, and the branches that follow it; nothing in the prefix is trained.

    A preference pair has two branches, chosen and rejected. `margin` is the pair's, `is_desirable` a single branch's.
    """

    prefix: array[int]
    branches: tuple[Branch, ...]
    source: str = ""
    number: int = 0
    margin: float = 0.0
    is_desirable: bool = True

    def __len__(self) -> int:
        """Tokens that are computed."""
        return len(self.prefix) + sum(map(len, self.branches))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence: the prefix with one branch."""
        return len(self.prefix) + max(map(len, self.branches))

    @property
    def num_targets(self) -> int:
        return sum(branch.num_targets for branch in self.branches)

    @property
    def name(self) -> str:
        return f"{self.source} row {self.number}"


@dataclass(frozen=True)
class PromptRow:
    """A prompt that the trained model answers; nothing of it is trained. `target` is JSON, what the checker compares
    with. `talk` is JSON, too: messages and tools, where answers have several turns, else empty."""

    ids: array[int]
    checker: str
    target: str
    source: str = ""
    number: int = 0
    talk: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def longest(self) -> int:
        """With the one token of an answer that there has to be room for."""
        return len(self.ids) + 1

    @property
    def num_targets(self) -> int:
        return 0

    @property
    def name(self) -> str:
        return f"{self.source} row {self.number}"


AnyRow = Row | Group | PromptRow


def grow(rows: Sequence[Row], source: str, number: int, margin: float = 0.0, is_desirable: bool = True) -> Group:
    """Rows as branches of what they have in common before the first trained token of any of them.

    Raises:
        DataError: that is nothing.
    """
    length = min(row.is_target.index(1) for row in rows)
    first = rows[0].ids
    for row in rows[1:]:
        length = next((i for i in range(length) if row.ids[i] != first[i]), length)
    if length == 0:
        raise DataError(
            f"{source} row {number}: no token stands before the answer, from which its first could be predicted",
            hint="add a prompt, or use a chat template that begins with a token",
        )
    branches = tuple(Branch(row.ids[length:], row.is_target[length:]) for row in rows)
    return Group(first[:length], branches, source, number, margin, is_desirable)


def fit(row: AnyRow, max_tokens: int, overlong: Literal["refuse", "truncate", "skip"]) -> AnyRow | None:
    """The row, cut to `max_tokens` if that is wanted and a trained token stays (in each branch); None if it does not
    fit."""
    if row.longest <= max_tokens:
        return row
    if overlong != "truncate" or isinstance(row, PromptRow):  # half a question has another answer
        return None
    if isinstance(row, Row):
        cut = Row(row.ids[:max_tokens], row.is_target[:max_tokens], row.source, row.number)
        return cut if cut.num_targets else None
    room = max(max_tokens - len(row.prefix), 0)
    branches = tuple(Branch(branch.ids[:room], branch.is_target[:room]) for branch in row.branches)
    is_usable = all(branch.num_targets for branch in branches) and all(a != b for a, b in combinations(branches, 2))
    return replace(row, branches=branches) if is_usable else None
