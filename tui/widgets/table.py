"""A DataTable kept in step with records: only cells that changed are redrawn, cursor and scroll stay on their row."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich.text import Text
from textual.widgets import DataTable


@dataclass(frozen=True)
class Column:
    """A column; `width` in cells."""

    key: str
    title: str
    width: int


class Ranked(Text):
    """A row's first cell: it also says where the row belongs."""

    rank: float = 0.0

    @classmethod
    def of(cls, cell: Text, rank: float) -> Ranked:
        ranked = cls(cell.plain, cell.style, no_wrap=True, overflow="ellipsis", spans=list(cell.spans))
        ranked.rank = rank
        return ranked


class LiveTable(DataTable[Text], inherit_bindings=False):
    """Rows by key, highest rank first. Keys are bound by the screen (actions.py), so that help and footer know them."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, cursor_type="row", cell_padding=1)
        self._columns: tuple[Column, ...] = ()
        self._kept: str | None = None  # the cursor's row, while the columns change and the table is empty
        self._height: int | None = None  # of the cursor in the view, while a change of rows is being laid out

    @property
    def current(self) -> str | None:
        """The key of the row under the cursor."""
        if not self.row_count:
            return None
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value

    @property
    def column_keys(self) -> list[str]:
        return [column.key for column in self._columns]

    def set_columns(self, columns: Sequence[Column]) -> bool:
        """Changes the columns, which empties the table; False if they are the same already."""
        if tuple(columns) == self._columns:
            return False
        self._columns = tuple(columns)
        self._kept = self.current or self._kept
        self.clear(columns=True)
        for column in columns:
            self.add_column(Text(column.title), width=column.width, key=column.key)
        return True

    def put(self, rows: dict[str, tuple[float, dict[str, Text]]]) -> None:
        """Adds and updates rows, given as key -> (rank, cell by column key)."""
        before, offset = self.current or self._kept, self.cursor_row
        self._kept = None
        is_new = False
        for key, (rank, by_column) in rows.items():
            cells = [by_column[column.key] for column in self._columns]
            cells[0] = Ranked.of(cells[0], rank)
            if key not in self.rows:
                self.add_row(*cells, key=key)
                is_new = True
                continue
            for column, cell in zip(self._columns, cells, strict=True):
                known = self.get_cell(key, column.key)
                if known != cell or known.style != cell.style:
                    self.update_cell(key, column.key, cell)
        if is_new:
            self.sort(self._columns[0].key, key=lambda cell: cell.rank, reverse=True)
            self._return_to(before, offset)

    def drop(self, keys: Collection[str]) -> None:
        """Removes rows; a cursor on one of them stays at its height."""
        before, offset = self.current, self.cursor_row
        for key in keys:
            self.remove_row(key)
        self._return_to(before if before not in keys else None, offset)

    def _return_to(self, key: str | None, offset: int) -> None:
        if key is None or key not in self.rows:
            self.move_cursor(row=min(offset, max(self.row_count - 1, 0)))
            return
        row = self.get_row_index(key)
        if row == offset:
            return
        is_scrolled = self.scroll_y > 0
        if self._height is None and is_scrolled:
            self._height = offset - int(self.scroll_y)
            self.call_after_refresh(self._restore_height)
        self.move_cursor(row=row, scroll=False)

    def _restore_height(self) -> None:
        """What was on the screen stays where it was, however many rows came in above it."""
        height, self._height = self._height, None
        if height is not None:
            self.scroll_to(y=self.cursor_row - height, animate=False, force=True)
