"""A full screen around one live table with a filter."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text
from textual import on
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import DataTable, Input, Static

from posttrain.tui.filtering import matches
from posttrain.tui.screens.base import BaseScreen
from posttrain.tui.text import one_line, styled
from posttrain.tui.widgets.table import Column, LiveTable

AGES_EVERY_S = 5.0
FILTER_PAUSE_S = 0.15


class ListScreen(BaseScreen):
    """Subclasses say what the records are; rows appear, change and vanish here."""

    AUTO_FOCUS = "LiveTable"
    TITLE_WORD = ""
    EMPTY = ""

    def __init__(self) -> None:
        super().__init__()
        self._filter = ""
        self._filter_timer: Timer | None = None
        self._preview_timer: Timer | None = None

    # -- what a subclass answers --------------------------------------------------------------------------------------

    def columns(self, width: int) -> list[Column]:
        raise NotImplementedError

    def names(self) -> Iterable[str]:
        """All records."""
        raise NotImplementedError

    def row(self, name: str) -> tuple[float, dict[str, Text]]:
        """A record's rank and cells."""
        raise NotImplementedError

    def filter_fields(self, name: str) -> dict[str, str]:
        raise NotImplementedError

    def is_loaded(self) -> bool:
        raise NotImplementedError

    def preview(self, name: str | None) -> None:
        """Shows the record under the cursor in the panel."""
        raise NotImplementedError

    def open(self, name: str) -> None:
        raise NotImplementedError

    # -- the table ----------------------------------------------------------------------------------------------------

    def compose_body(self) -> Iterable[Widget]:
        yield Static("", id="list-title")
        yield LiveTable(id="table")
        yield Static("", id="empty")
        yield Input(placeholder="words, !word, field:word; esc clears", id="filter", classes="-hidden")

    @property
    def table(self) -> LiveTable:
        return self.query_one(LiveTable)

    def mover(self) -> Widget | None:
        return self.table

    def on_mount(self) -> None:
        self.table.set_columns(self.columns(self.app.size.width))
        self.set_interval(AGES_EVERY_S, lambda: self.refresh_rows(self.table_keys()))
        self.rebuild()

    def on_resize(self) -> None:
        if self.is_attached and self.table.set_columns(self.columns(self.app.size.width)):
            self.rebuild()

    def on_screen_resume(self) -> None:
        self.preview(self.table.current)

    def table_keys(self) -> frozenset[str]:
        return frozenset(key.value for key in self.table.rows if key.value is not None)

    def rebuild(self) -> None:
        """Compares the whole table with the records."""
        self.refresh_rows(frozenset(self.names()) | self.table_keys())

    def refresh_rows(self, changed: frozenset[str]) -> None:
        """Puts, updates or drops the named records."""
        known, shown = set(self.names()), self.table_keys()
        if not shown:  # the cursor goes to the first row of all, not of those that happened to come first
            changed |= known
        wanted = {
            name for name in changed & known if not self._filter or matches(self._filter, self.filter_fields(name))
        }
        gone = (changed - wanted) & shown
        if gone:
            self.table.drop(gone)
        if wanted:
            self.table.put({name: self.row(name) for name in wanted})
        self._show_title(len(known))
        current = self.table.current
        if current is None or current in changed:
            self.preview(current)
        self.refresh_bindings()

    def _show_title(self, total: int) -> None:
        shown = self.table.row_count
        title = styled(self.TITLE_WORD, "bold").append(
            f"  {shown:,}" if shown == total else f"  {shown:,} of {total:,}"
        )
        if self._filter:
            title.append(f"  /{one_line(self._filter, 60)}", self.palette.accent)
        self.query_one("#list-title", Static).update(title)
        note = "no row matches the filter; esc clears it" if total else self.EMPTY if self.is_loaded() else "loading..."
        empty = self.query_one("#empty", Static)
        empty.update(Text(note, self.palette.muted))
        empty.display = not shown
        self.table.display = bool(shown)

    def repaint(self) -> None:
        super().repaint()
        self.rebuild()

    @on(DataTable.RowHighlighted)
    def preview_soon(self) -> None:
        """Holding an arrow key down does not render a preview of every row that is passed."""
        if self._preview_timer is not None:
            self._preview_timer.stop()
        self._preview_timer = self.set_timer(FILTER_PAUSE_S, lambda: self.preview(self.table.current))
        self.refresh_bindings()

    @on(DataTable.RowSelected)
    def open_selected(self, event: DataTable.RowSelected) -> None:
        if event.row_key.value is not None:
            self.open(event.row_key.value)

    def action_open_row(self) -> None:
        if self.table.current is not None:
            self.open(self.table.current)

    # -- the filter ---------------------------------------------------------------------------------------------------

    def action_filter(self) -> None:
        self.query_one("#filter").remove_class("-hidden")
        self.query_one("#filter").focus()

    @on(Input.Changed, "#filter")
    def filter_soon(self, event: Input.Changed) -> None:
        if self._filter_timer is not None:
            self._filter_timer.stop()
        self._filter_timer = self.set_timer(FILTER_PAUSE_S, lambda: self._apply(event.value))

    @on(Input.Submitted, "#filter")
    def filter_now(self, event: Input.Submitted) -> None:
        self._apply(event.value)
        self.query_one("#filter").add_class("-hidden")
        self._focus_table()

    def _apply(self, query: str) -> None:
        self._filter = query.strip()
        self.rebuild()

    def _focus_table(self) -> None:
        self.set_focus(self.table if self.table.display else None)

    def go_back(self) -> None:
        box = self.query_one("#filter", Input)
        if self._filter or box.value or not box.has_class("-hidden"):
            box.value = ""
            box.add_class("-hidden")
            self._apply("")
            self._focus_table()
        else:
            super().go_back()
