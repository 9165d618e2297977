"""All keys, from the one table."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, Static

from posttrain.tui import actions
from posttrain.tui.marks import Palette


def help_text(scope: str, read_only: bool, palette: Palette) -> Text:
    """The keys of the screen one comes from first, then those that hold everywhere, then the rest."""
    first = [scope, "app", "move"]
    text = Text()
    for name in [*first, *(name for name in actions.SCOPES if name not in first)]:
        if text:
            text.append("\n\n")
        text.append(actions.SCOPES[name], f"bold {palette.primary}")
        for action in actions.in_scopes(name):
            if action.is_write and read_only:
                continue
            text.append(f"\n  {action.key_names(palette.is_ascii):<10} ", f"bold {palette.foreground}")
            text.append(action.help, palette.foreground)
    return text


class HelpScreen(ModalScreen[None]):
    """Closes with escape; scrolls with the arrows."""

    BINDINGS = actions.bindings("dialog")
    AUTO_FOCUS = "#help-scroll"

    def __init__(self, text: Text) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(Text("Keys", "bold"), id="dialog-title")
            with VerticalScroll(id="help-scroll"):
                yield Static(self._text, id="help-text")
        yield Static(Text("posttrain needs a terminal of 40x12"), id="too-small")
        yield Footer(show_command_palette=False)

    def action_dismiss_dialog(self) -> None:
        self.dismiss(None)
