"""Rows seen in another way without a copy, since a source may be on disk: some of its places, or several in a row; and
what is known of their lengths. Imports no torch.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TypeVar, overload

from posttrain.engine.data.encoded import AnyRow
from posttrain.engine.data.token_cache import EncodedRows, Sizes

_R = TypeVar("_R")


class Places(Sequence[_R]):
    """The rows at some places of a source, in the order given. Eight bytes a row."""

    def __init__(self, rows: Sequence[_R], places: Iterable[int]) -> None:
        self.rows = rows
        self._places = array("q", places)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> _R: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[_R]: ...
    def __getitem__(self, index: int | slice) -> _R | Sequence[_R]:
        if isinstance(index, slice):
            return [self.rows[place] for place in self._places[index]]
        return self.rows[self._places[index]]


class Chain(Sequence[_R]):
    """The rows of several sources, one source after another."""

    def __init__(self, sources: Sequence[Sequence[_R]]) -> None:
        self._sources = [rows for rows in sources if rows]
        self._ends = list(accumulate(map(len, self._sources)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> _R: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[_R]: ...
    def __getitem__(self, index: int | slice) -> _R | Sequence[_R]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        source = bisect_right(self._ends, place)
        return self._sources[source][place - (self._ends[source] - len(self._sources[source]))]


def sizes_of(rows: Sequence[AnyRow]) -> Sizes:
    """Exact, but for some places of a source on disk, of which no row is read: their share of its tokens, and its
    longest and largest row, which may be another."""
    if isinstance(rows, EncodedRows):
        return rows.sizes
    if isinstance(rows, Places) and isinstance(rows.rows, EncodedRows):
        whole = rows.rows.sizes
        return whole._replace(num_tokens=whole.num_tokens * len(rows) // len(rows.rows))
    return Sizes(sum(map(len, rows)), max(row.longest for row in rows), max(map(len, rows)))
