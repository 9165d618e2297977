"""Every key of the one table does something, is in help, and is in the docs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.tui import actions
from posttrain.tui.actions import ACTIONS, SCOPES, WRITES
from tests.tui import records
from tests.tui.fake_server import FakeServer

DOCS = Path(__file__).parents[2] / "docs" / "tui.md"
# How to get to each scope's screen, and keys pressed before a key so that it has something to do.
WAYS = {
    "app": (),
    "jobs": (),
    "job": ("j", "j", "enter"),  # the job that has a gate report
    "gates": ("2",),
    "gate": ("2", "enter"),
    "registry": ("3", "j"),
    "dialog": ("j", "x"),
}
SCREENS = {
    "app": "JobsScreen",
    "jobs": "JobsScreen",
    "job": "JobScreen",
    "gates": "GatesScreen",
    "gate": "GateScreen",
    "registry": "RegistryScreen",
    "dialog": "CancelDialog",
}
BEFORE = {
    ("app", "show_mode('jobs')"): ("2",),
    ("app", "back"): ("slash", "q", "enter"),
    ("jobs", "open_gate"): ("j", "j"),
    ("job", "cancel_job"): ("escape", "k", "enter"),  # the job that still runs
}


def fingerprint(ui: Any, server: FakeServer) -> tuple[Any, ...]:
    """All that a key can change."""
    app = ui.app
    places = tuple(
        (widget.scroll_offset, getattr(widget, "cursor_row", None), getattr(widget, "cursor_line", None))
        for widget in app.screen.query("LiveTable, LineageTree, LogView, EventsBox")
    )
    return (app.screen, app.current_mode, app.focused, places, ui.text(), len(server.watches), app.clipboard, app._exit)


def cases(*scopes: str) -> list[Any]:
    return [
        pytest.param(action, key, id=f"{action.scope}-{key}")
        for action in ACTIONS
        if action.scope in scopes
        for key in action.keys.split(",")
    ]


@pytest.mark.parametrize(("action", "key"), cases(*WAYS))
async def test_every_key_does_something(open_ui: Any, server: FakeServer, action: actions.Action, key: str) -> None:
    async with open_ui(tick_s=60) as ui:  # so that nothing but the key changes the screen
        await ui.press(*WAYS[action.scope])
        await ui.until(lambda: type(ui.app.screen).__name__ == SCREENS[action.scope], "the screen")
        await ui.press(*BEFORE.get((action.scope, action.action), ()))
        await ui.pilot.pause(0.05)
        before = fingerprint(ui, server)
        await ui.press(key)
        await ui.until(lambda: fingerprint(ui, server) != before, f"{action.id} by {key} changed something")


@pytest.mark.parametrize(
    ("way", "screen", "scrolls_sideways"),
    [((), "JobsScreen", False), (("3",), "RegistryScreen", False), (("j", "enter"), "JobScreen", True)],
    ids=["table", "tree", "log"],
)
async def test_the_movement_keys_move_tables_trees_and_logs(
    open_ui: Any, server: FakeServer, way: tuple[str, ...], screen: str, scrolls_sideways: bool
) -> None:
    await server.put(*(records.job(f"j{number:02}", age_s=9000 + number) for number in range(60)))
    server.versions += [records.version(f"m{number:02}@1") for number in range(60)]
    async with open_ui(size=(100, 30), tick_s=60) as ui:
        await ui.press(*way)
        await ui.until(lambda: type(ui.app.screen).__name__ == screen, "the screen")
        if scrolls_sideways:
            await ui.until(lambda: len(ui.app.screen.query_one("LogView").lines) == 300, "the log")
        await ui.pilot.pause(0.2)

        def place() -> tuple[Any, ...]:
            return fingerprint(ui, server)[3]

        for action in actions.in_scopes("move"):
            direction = action.action.split("'")[1]
            if direction in {"left", "right"} and not scrolls_sideways:
                continue
            for key in action.keys.split(","):
                # From the middle, so that every direction has somewhere to go.
                if scrolls_sideways:
                    ui.app.screen.query_one("LogView").scroll_to(x=5, y=150, animate=False)
                elif screen == "JobsScreen":
                    ui.app.screen.query_one("LiveTable").move_cursor(row=30)
                else:
                    ui.app.screen.query_one("LineageTree").move_cursor_to_line(30)
                await ui.pilot.pause()
                before = place()
                await ui.press(key)
                await ui.until(lambda before=before: place() != before, f"{key} moved")


def test_every_action_is_in_the_help_of_every_screen_and_in_its_own_scopes_footer_or_nowhere() -> None:
    from posttrain.tui.marks import DARK, Palette
    from posttrain.tui.screens.help import help_text

    for scope in SCOPES:
        shown = help_text(scope, False, Palette.of(DARK, False)).plain
        for action in ACTIONS:
            assert action.help in shown
            assert all(key in shown for key in action.shown_keys.split())
        read_only = help_text(scope, True, Palette.of(DARK, False)).plain
        assert all(
            (action.help in read_only) == (not action.is_write) for action in ACTIONS if action.help not in _shared()
        )


def _shared() -> set[str]:
    """Help texts that both a write and a read have."""
    writes = {action.help for action in ACTIONS if action.is_write}
    return writes & {action.help for action in ACTIONS if not action.is_write}


def test_no_key_means_two_things_on_one_screen() -> None:
    for scope in SCOPES:
        together = [scope] if scope in {"app", "move", "dialog"} else [scope, "move", "app"]
        keys = [key for action in actions.in_scopes(*together) for key in action.keys.split(",")]
        assert len(keys) == len(set(keys)), scope


def test_actions_that_change_something_are_marked() -> None:
    assert {"cancel_job", "promote", "rollback"} == WRITES


async def test_help_opens_with_the_keys_of_the_screen_one_comes_from(open_ui: Any) -> None:
    async with open_ui() as ui:
        await ui.press("3")
        await ui.open("question_mark", screen="HelpScreen")
        await ui.shows("Keys", "Registry", "Promote the version, in a dialog")
        await ui.open("escape", screen="RegistryScreen")


def test_the_docs_hold_the_table() -> None:
    assert actions.markdown().strip() in DOCS.read_text(encoding="utf-8"), (
        "docs/tui.md is old; write what this prints into it: "
        "python -c 'from posttrain.tui.actions import markdown; print(markdown())'"
    )
