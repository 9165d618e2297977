"""A job's log: only the lines on the screen are rendered, so that five thousand of them cost nothing."""

from __future__ import annotations

import re
from collections import deque

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from posttrain.tui.marks import Palette
from posttrain.tui.text import log_line

MAX_LINES = 5_000
_BAD = re.compile(r"\b(error|critical|fatal|traceback|\w+Error)\b", re.IGNORECASE)
_ODD = re.compile(r"\bwarn(ing)?\b", re.IGNORECASE)


class LogView(ScrollView, can_focus=True, inherit_bindings=False):
    """Follows the end until someone scrolls up."""

    is_following: reactive[bool] = reactive(True)

    class FollowChanged(Message):
        """Following began or ended."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.lines: deque[str] = deque(maxlen=MAX_LINES)
        self.palette: Palette | None = None
        self._width = 0

    def add(self, lines: list[str], palette: Palette) -> None:
        """Appends foreign lines, cleaned."""
        self.palette = palette
        top = self.scroll_y
        dropped = max(len(self.lines) + len(lines) - MAX_LINES, 0)
        for raw in lines:
            line = log_line(raw)
            self.lines.append(line)
            self._width = max(self._width, cell_len(line))
        self.virtual_size = Size(self._width, len(self.lines))
        if self.is_following:
            self._to_end()
            self.call_after_refresh(self._keep_end)
        elif dropped:  # what one reads does not move when old lines fall out
            self.scroll_to(y=max(top - dropped, 0), animate=False, immediate=True)
        self.refresh()

    def clear(self) -> None:
        self.lines.clear()
        self._width = 0
        self.virtual_size = Size(0, 0)
        self.refresh()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if new_value < old_value and new_value < self.max_scroll_y:
            self.is_following = False
        elif new_value >= self.max_scroll_y:
            self.is_following = True

    def watch_is_following(self) -> None:
        self.post_message(self.FollowChanged())

    def toggle_following(self) -> None:
        self.is_following = not self.is_following
        self._keep_end()

    def on_resize(self) -> None:
        self.call_after_refresh(self._keep_end)  # by then a scrollbar that comes or goes has taken its line

    def _keep_end(self) -> None:
        if self.is_following:
            self._to_end()

    def _to_end(self) -> None:
        """Forced, since before the first layout there is no scrollbar and Textual would not scroll."""
        self.scroll_end(animate=False, immediate=True, force=True, x_axis=False)

    def render_line(self, y: int) -> Strip:
        scroll_x, scroll_y = self.scroll_offset
        index, width, base = scroll_y + y, self.size.width, self.rich_style
        if not 0 <= index < len(self.lines):
            return Strip.blank(width, base)
        line = self.lines[index]
        style = base
        if self.palette is not None and _BAD.search(line):
            style = base + Style(color=self.palette.error)
        elif self.palette is not None and _ODD.search(line):
            style = base + Style(color=self.palette.warning)
        return Strip([Segment(line, style)], cell_len(line)).crop_extend(scroll_x, scroll_x + width, base)
