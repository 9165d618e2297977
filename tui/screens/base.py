"""What all full screens share: status line, body, footer, a notice on tiny terminals, movement, the read-only rule."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import DataTable, Footer, Static, Tree

from posttrain.tui import actions
from posttrain.tui.feed import Feed
from posttrain.tui.marks import Palette
from posttrain.tui.messages import ConnectionChanged, FetchFailed
from posttrain.tui.text import one_line
from posttrain.tui.widgets.status import StatusBar

if TYPE_CHECKING:
    from posttrain.tui.app import PosttrainApp

STATUS_EVERY_S = 1.0
# What a direction is called by each kind of widget.
_TABLE_MOVES = {
    "down": "cursor_down",
    "up": "cursor_up",
    "page_down": "page_down",
    "page_up": "page_up",
    "home": "scroll_top",
    "end": "scroll_bottom",
    "left": "cursor_left",
    "right": "cursor_right",
}
_TREE_MOVES = _TABLE_MOVES | {
    "home": "scroll_home",
    "end": "scroll_end",
    "left": "scroll_left",
    "right": "scroll_right",
}
_SCROLL_MOVES = {name: f"scroll_{name}" for name in ("down", "up", "home", "end", "left", "right")} | {
    "page_down": "page_down",
    "page_up": "page_up",
}


class BaseScreen(Screen[None]):
    """A full screen; subclasses give `compose_body`, their scope's keys and message handlers."""

    SCOPE: ClassVar[str] = ""
    MODE: ClassVar[str] = ""

    def compose(self) -> ComposeResult:
        yield StatusBar()
        with Vertical(id="body"):
            yield from self.compose_body()
        yield Static(Text("posttrain needs a terminal of 40x12"), id="too-small")
        yield Footer(show_command_palette=False)

    def compose_body(self) -> Iterable[Widget]:
        raise NotImplementedError

    @property
    def ui(self) -> PosttrainApp:
        return cast("PosttrainApp", self.app)

    @property
    def feed(self) -> Feed:
        return self.ui.feed

    @property
    def palette(self) -> Palette:
        return self.ui.palette

    def on_mount(self) -> None:
        self.feed.subscribe(self)
        self.set_interval(STATUS_EVERY_S, self.show_status)
        self.show_status()
        self.app.theme_changed_signal.subscribe(self, lambda _: self.repaint())

    def on_unmount(self) -> None:
        self.feed.unsubscribe(self)

    def on_screen_resume(self) -> None:
        self.show_status()

    @on(ConnectionChanged)
    def show_status(self) -> None:
        if self.is_current:
            feed = self.feed
            self.query_one(StatusBar).show(
                self.MODE, feed.connection, feed.jobs, self.palette, feed.client.address, feed.read_only
            )
            self.set_class(feed.connection.error is not None, "-stale")

    @on(FetchFailed)
    def tell_fetch_failed(self, message: FetchFailed) -> None:
        if self.is_current and not message.error.is_retryable:  # the status line tells of those that are tried again
            self.warn(f"{message.what}: {one_line(message.error.message, 300)}")

    def repaint(self) -> None:
        """Draw everything again, in another theme's colours."""
        self.show_status()

    def warn(self, text: str) -> None:
        self.app.notify(one_line(text, 500), severity="warning", markup=False)

    def copy(self, name: str) -> None:
        self.app.copy_to_clipboard(one_line(name, 300))
        self.app.notify(f"copied {one_line(name, 300)}", markup=False, timeout=2)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if self.feed.read_only and action in actions.WRITES:
            return False
        return super().check_action(action, parameters)

    def go_back(self) -> None:
        """What escape does here."""
        if len(self.app.screen_stack) > 1:
            self.app.pop_screen()

    def mover(self) -> Widget | None:
        """The widget that the movement keys move."""
        return self.focused

    async def action_move(self, direction: str) -> None:
        target = self.mover()
        if target is None:
            return
        moves = (
            _TABLE_MOVES
            if isinstance(target, DataTable)
            else _TREE_MOVES
            if isinstance(target, Tree)
            else _SCROLL_MOVES
        )
        await self.app.run_action(moves[direction], default_namespace=target)

    @property
    def now(self) -> float:
        return time.time()
