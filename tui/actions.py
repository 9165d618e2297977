"""One table of everything a key does. Bindings, footer, help, palette and docs/tui.md are read from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from textual.binding import Binding, BindingType


@dataclass(frozen=True)
class Action:
    """What a key does.

    Attributes:
        scope: where it holds, a key of SCOPES.
        keys: Textual key names, comma separated; the first is the one shown.
        action: the handler, without its `action_` prefix.
        label: short, for the footer.
        help: one line for help, palette and docs.
        is_write: changes something on the server, so --read-only hides and refuses it.
        in_footer: whether the footer has room for it.
    """

    scope: str
    keys: str
    action: str
    label: str
    help: str
    is_write: bool = False
    in_footer: bool = True

    @property
    def id(self) -> str:
        return f"{self.scope}.{self.action}"

    @property
    def shown_keys(self) -> str:
        return self.key_names(is_ascii=False)

    def key_names(self, is_ascii: bool) -> str:
        """The keys as help shows them; without Unicode an arrow is named by its direction."""
        shown = {key: _SHOWN.get(key, key) for key in self.keys.split(",")}
        return " ".join(name if name.isascii() or not is_ascii else key for key, name in shown.items())


SCOPES: Final = {
    "app": "Everywhere",
    "move": "Lists, trees and logs",
    "jobs": "Jobs",
    "job": "One job",
    "gates": "Gates",
    "gate": "Gate report",
    "registry": "Registry",
    "dialog": "Dialogs",
}

_SHOWN: Final = {
    "question_mark": "?",
    "slash": "/",
    "colon": ":",
    "escape": "esc",
    "ctrl+p": "^p",
    "ctrl+r": "^r",
    "ctrl+d": "^d",
    "ctrl+u": "^u",
    "down": "↓",
    "up": "↑",
    "left": "←",
    "right": "→",
    "pagedown": "PgDn",
    "pageup": "PgUp",
    "home": "Home",
    "end": "End",
}

ACTIONS: Final = (
    Action("app", "1", "show_mode('jobs')", "Jobs", "All jobs, newest first", in_footer=False),
    Action("app", "2", "show_mode('gates')", "Gates", "All gate runs", in_footer=False),
    Action("app", "3", "show_mode('registry')", "Registry", "Models, their lineage and aliases", in_footer=False),
    Action("app", "escape", "back", "Back", "Close this screen, or clear the filter", in_footer=False),
    Action("app", "ctrl+r", "reload", "Reload", "Fetch everything again; if offline, reconnect now", in_footer=False),
    Action(
        "app",
        "ctrl+p,colon",
        "command_palette",
        "Palette",
        "Find an action, a job or a version",
        in_footer=False,
    ),
    Action("app", "question_mark", "help", "Help", "All keys"),
    Action("app", "q", "quit", "Quit", "Leave; nothing on the server stops", in_footer=False),
    Action("move", "down,j", "move('down')", "Down", "Down one line", in_footer=False),
    Action("move", "up,k", "move('up')", "Up", "Up one line", in_footer=False),
    Action("move", "pagedown,ctrl+d", "move('page_down')", "Page down", "Down one page", in_footer=False),
    Action("move", "pageup,ctrl+u", "move('page_up')", "Page up", "Up one page", in_footer=False),
    Action("move", "home,g", "move('home')", "First", "To the first line", in_footer=False),
    Action("move", "end,G", "move('end')", "Last", "To the last line", in_footer=False),
    Action("move", "left,h", "move('left')", "Left", "Scroll left", in_footer=False),
    Action("move", "right,l", "move('right')", "Right", "Scroll right", in_footer=False),
    Action("jobs", "enter", "open_row", "Open", "Open the job: charts, log, events"),
    Action(
        "jobs", "slash", "filter", "Filter", "Filter rows: words, !word, state:running kind:sft name:bot chain:gate"
    ),
    Action("jobs", "o", "open_gate", "Gate", "Open the gate report of the job's chain"),
    Action("jobs", "x", "cancel_job", "Cancel", "Cancel the job, after a question", is_write=True),
    Action("jobs", "y", "copy_name", "Copy", "Copy the job's name", in_footer=False),
    Action("job", "v", "next_panel", "Panels", "Show all panels, or one: charts, log, events"),
    Action("job", "m", "next_metric", "Metric", "Next metric in the chart"),
    Action("job", "L", "log_scale", "Log y", "Logarithmic y axis on and off"),
    Action("job", "f", "follow_log", "Follow", "Follow the log's end (scrolling up stops it)"),
    Action("job", "o", "open_gate", "Gate", "Open the gate report of the job's chain"),
    Action("job", "x", "cancel_job", "Cancel", "Cancel the job, after a question", is_write=True),
    Action("job", "y", "copy_name", "Copy", "Copy the job's name", in_footer=False),
    Action("gates", "enter", "open_row", "Open", "Open the report: intervals, rules, reasons"),
    Action("gates", "slash", "filter", "Filter", "Filter rows: words, !word, verdict:fail alias:production"),
    Action("gates", "p", "promote", "Promote", "Promote the candidate, in a dialog", is_write=True),
    Action("gate", "p", "promote", "Promote", "Promote the candidate, in a dialog", is_write=True),
    Action("gate", "y", "copy_name", "Copy", "Copy the gate run's name", in_footer=False),
    Action("registry", "enter", "open_row", "Gate", "Open the version's newest gate report"),
    Action("registry", "space", "toggle_node", "Fold", "Fold and unfold a branch"),
    Action("registry", "p", "promote", "Promote", "Promote the version, in a dialog", is_write=True),
    Action("registry", "b", "rollback", "Roll back", "Move an alias back to the version before", is_write=True),
    Action("registry", "y", "copy_name", "Copy", "Copy the version's reference", in_footer=False),
    Action("dialog", "escape", "dismiss_dialog", "Close", "Close the dialog; nothing happens"),
)

WRITES: Final = frozenset(action.action for action in ACTIONS if action.is_write)


def bindings(*scopes: str) -> list[BindingType]:
    """The Textual bindings of some scopes, in the table's order."""
    return [
        Binding(
            action.keys,
            action.action,
            action.label,
            show=action.in_footer,
            key_display=action.shown_keys.split(" ")[0],
            id=action.id,
        )
        for scope in scopes
        for action in ACTIONS
        if action.scope == scope
    ]


def in_scopes(*scopes: str) -> list[Action]:
    return [action for scope in scopes for action in ACTIONS if action.scope == scope]


def markdown() -> str:
    """The key tables of docs/tui.md."""
    lines: list[str] = []
    for scope, title in SCOPES.items():
        lines += [f"### {title}", "", "| key | does |", "|---|---|"]
        for action in in_scopes(scope):
            keys = " ".join(f"`{key}`" for key in action.shown_keys.split(" "))
            note = " (not with `--read-only`)" if action.is_write else ""
            lines.append(f"| {keys} | {action.help}{note} |")
        lines.append("")
    return "\n".join(lines)
