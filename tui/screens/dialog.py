"""What all dialogs share: Cancel has the focus, Enter on a fresh dialog changes nothing, one request at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Button, Footer, Static

from posttrain.service.client import ClientError
from posttrain.tui import actions
from posttrain.tui.describe import client_error
from posttrain.tui.feed import Feed
from posttrain.tui.marks import Palette
from posttrain.tui.messages import Answered

if TYPE_CHECKING:
    from posttrain.tui.app import PosttrainApp


class Dialog(ModalScreen[None]):
    """Subclasses give the text, the fields, the buttons, and what happens on an answer."""

    AUTO_FOCUS = "#cancel"
    BINDINGS = actions.bindings("dialog")
    CANCEL = "Cancel"

    def __init__(self) -> None:
        super().__init__()
        self.is_waiting = False

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static("", id="dialog-title")
            with VerticalScroll(id="dialog-body", can_focus=False):
                yield from self.compose_fields()
                yield Static("", id="dialog-error")
            with Horizontal(id="dialog-buttons"):
                yield Button(self.CANCEL, id="cancel")
                yield from self.compose_buttons()
        yield Static(Text("posttrain needs a terminal of 40x12"), id="too-small")
        yield Footer(show_command_palette=False)

    def compose_fields(self) -> Iterable[Widget]:
        raise NotImplementedError

    def compose_buttons(self) -> Iterable[Widget]:
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

    def set_title(self, text: Text) -> None:
        self.query_one("#dialog-title", Static).update(text)

    def show_error(self, text: Text) -> None:
        error = self.query_one("#dialog-error", Static)
        error.update(text)
        if text:
            self.call_after_refresh(error.scroll_visible, animate=False)

    def action_dismiss_dialog(self) -> None:
        self.dismiss(None)

    @on(Button.Pressed, "#cancel")
    def cancel(self) -> None:
        self.dismiss(None)

    def ask(self, request: Callable[[], Awaitable[Any]]) -> None:
        """Sends one request; its answer comes as a message. A second press while one is on its way does nothing."""
        if self.is_waiting:
            return
        self.is_waiting = True
        self.show_error(Text("asking the server...", self.palette.muted))

        async def send() -> None:
            try:
                self.post_message(Answered(result=await request()))
            except ClientError as error:
                self.post_message(Answered(error=error))

        self.run_worker(send(), group="ask")

    @on(Answered)
    def answered(self, message: Answered) -> None:
        self.is_waiting = False
        if message.error is None:
            self.show_error(Text(""))
            self.succeeded(message.result)
        else:
            self.show_error(client_error(message.error, self.palette))
            self.refused(message.error)

    def succeeded(self, result: Any) -> None:
        raise NotImplementedError

    def refused(self, error: ClientError) -> None:
        """The error is shown already."""
