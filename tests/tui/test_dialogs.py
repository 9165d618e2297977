"""Dialogs that change something: hard to hit, honest about refusals, and silent in read-only mode."""

from __future__ import annotations

from typing import Any

import pytest
from textual.widgets import Button, Input

from posttrain.service.proto import jobs_pb2
from tests.tui import records
from tests.tui.fake_server import FakeServer


async def open_promote(ui: Any, moves: int = 3) -> Any:
    """The dialog for bot@3 (three lines down), bot@2 (two) or bot@1 (one)."""
    await ui.press("3")
    await ui.shows("4 versions")
    await ui.press(*["j"] * moves)
    return await ui.open("p", screen="PromoteDialog")


async def fill(ui: Any, reason: str, typed: str) -> None:
    ui.app.screen.query_one("#reason", Input).value = reason or ui.app.screen.query_one("#reason", Input).value
    ui.app.screen.query_one("#typed", Input).value = typed
    ui.app.screen.query_one("#typed", Input).focus()
    await ui.pilot.pause(0.05)


def button(ui: Any) -> Button:
    found: Button = ui.app.screen.query_one("#confirm", Button)
    return found


async def test_enter_on_a_fresh_promote_dialog_cancels(open_ui: Any, server: FakeServer) -> None:
    async with open_ui() as ui:
        await open_promote(ui)
        assert ui.app.focused.id == "cancel"
        await ui.open("enter", screen="RegistryScreen")
        await open_promote(ui, 0)
        await ui.open("escape", screen="RegistryScreen")
    assert server.calls == []


async def test_the_dialog_says_what_would_happen_and_promotes(open_ui: Any, server: FakeServer) -> None:
    async with open_ui() as ui:
        await open_promote(ui)
        await ui.shows("Promote bot@3", "[production]  bot@1 → bot@3", "✓ PASS", "instruction_following", "Type bot@3")
        assert button(ui).disabled
        ui.app.screen.query_one("#reason", Input).focus()
        await ui.press(*"better", "enter", *"bot@3")
        assert not button(ui).disabled
        await ui.press("enter")
        assert server.calls == [], "Enter in a field does not send"
        button(ui).focus()
        await ui.open("enter", screen="RegistryScreen")
        (request,) = server.written("CreatePromotion")
        assert (request.version, request.alias, request.reason) == ("bot@3", "production", "better")
        assert request.expected_alias_etag == "e1"
        assert request.gate_run == "projects/default/gateRuns/g3"
        assert request.request_id
        await ui.shows("production now names bot@3")
        await ui.until(lambda: ui.app.feed.aliases[0].version == "bot@3", "reloaded")


@pytest.mark.parametrize(("reason", "typed"), [("better", ""), ("better", "bot@2"), ("better", "BOT@3"), ("", "bot@3")])
async def test_a_wrong_or_blank_name_or_no_reason_never_calls(
    open_ui: Any, server: FakeServer, reason: str, typed: str
) -> None:
    async with open_ui() as ui:
        screen = await open_promote(ui)
        await fill(ui, reason, typed)
        assert button(ui).disabled
        button(ui).focus()
        await ui.press("enter")
        screen.confirm()  # even if the button were pressed somehow
        await ui.pilot.pause()
    assert server.calls == []


async def test_an_alias_that_moved_while_the_dialog_was_open_is_a_conflict(open_ui: Any, server: FakeServer) -> None:
    async with open_ui() as ui:
        await open_promote(ui)
        await fill(ui, "better", "bot@3")
        server.aliases[0].version, server.aliases[0].etag = "bot@2", "e2"
        button(ui).focus()
        await ui.press("enter")
        await ui.shows("bot@2 → bot@3", "The alias has moved while this was open")
        assert ui.app.screen.query_one("#typed", Input).value == "", "wants the name again"
        assert ui.app.screen.query_one("#reason", Input).value == "better", "but not the reason"
        assert button(ui).disabled
        await fill(ui, "", "bot@3")
        button(ui).focus()
        await ui.open("enter", screen="RegistryScreen")
        first, second = server.written("CreatePromotion")
        assert (first.expected_alias_etag, second.expected_alias_etag) == ("e1", "e2")
        assert first.request_id != second.request_id


async def test_an_alias_that_is_seen_to_move_is_shown_before_anything_is_sent(open_ui: Any, server: FakeServer) -> None:
    async with open_ui() as ui:
        await open_promote(ui)
        await fill(ui, "better", "bot@3")
        server.aliases[0].version, server.aliases[0].etag = "bot@2", "e2"
        ui.app.feed.reload()
        await ui.shows("bot@2 → bot@3", "The alias has moved")
        assert button(ui).disabled
    assert server.calls == []


async def test_an_alias_that_does_not_exist_yet_must_not_exist(open_ui: Any, server: FakeServer) -> None:
    server.aliases.clear()
    async with open_ui() as ui:
        await open_promote(ui)
        await ui.shows("nothing → bot@3")
        await fill(ui, "first", "bot@3")
        button(ui).focus()
        await ui.open("enter", screen="RegistryScreen")
    assert server.written("CreatePromotion")[0].expected_alias_etag == "none"


async def test_a_blocked_candidate_has_no_button(open_ui: Any, server: FakeServer) -> None:
    async with open_ui() as ui:
        screen = await open_promote(ui, 2)
        await ui.shows("Promote bot@2", "blocked by the gate", "✗ BLOCKED", "fell by 18.0 pt")
        assert not button(ui).display
        assert "Promote bot@2" in ui.text()
        assert "Type bot@2" not in ui.text()
        screen.query_one("#reason", Input).value, screen.query_one("#typed", Input).value = "why", "bot@2"
        screen.confirm()
        await ui.pilot.pause()
    assert server.calls == []


async def test_without_a_gate_run_there_is_nothing_to_promote_on(open_ui: Any, server: FakeServer) -> None:
    server.gate_runs.clear()
    async with open_ui() as ui:
        await open_promote(ui)
        await ui.shows("no gate run")
        assert not button(ui).display


async def test_the_servers_refusal_is_shown_with_what_was_missing(open_ui: Any, server: FakeServer) -> None:
    async with open_ui() as ui:
        await open_promote(ui)
        await fill(ui, "better", "bot@3")
        server.refuse("GATE_UNMET", "the promotion was refused and recorded", "suite refusal@2 is stale", "no approval")
        button(ui).focus()
        await ui.press("enter")
        await ui.shows("GATE_UNMET: the promotion was refused", "suite refusal@2 is stale", "no approval")
        assert type(ui.app.screen).__name__ == "PromoteDialog"


async def test_a_server_that_goes_away_keeps_the_dialog_and_the_request_id(open_ui: Any, server: FakeServer) -> None:
    async with open_ui() as ui:
        screen = await open_promote(ui)
        await fill(ui, "better", "bot@3")
        before = screen.request_id
        await server.stop()
        button(ui).focus()
        await ui.press("enter")
        await ui.shows("UNREACHABLE")
        assert screen.request_id == before, "the same request may be sent again"
        await server.start()
        await ui.press("enter")
        await ui.until(lambda: type(ui.app.screen).__name__ == "RegistryScreen", "sent at last")


async def test_warnings(open_ui: Any, server: FakeServer) -> None:
    server.aliases[0].version = "bot@2"
    server.tell_versions()
    async with open_ui() as ui:
        await open_promote(ui, 1)
        await ui.shows("! bot@3 is newer", "! the gate did not compare it with bot@2")


async def test_another_alias_can_be_chosen(open_ui: Any, server: FakeServer) -> None:
    server.aliases.append(records.alias("bot", "staging", "bot@1", "s1"))
    server.gate_runs.insert(0, records.gate_run("g4", "bot@3", age_s=10, alias="staging"))
    async with open_ui() as ui:
        screen = await open_promote(ui)
        await ui.shows("[staging]  bot@1 → bot@3")
        screen.query_one("#alias").value = "production"
        await ui.shows("[production]  bot@1 → bot@3")
        await fill(ui, "better", "bot@3")
        button(ui).focus()
        await ui.open("enter", screen="RegistryScreen")
    (request,) = server.written("CreatePromotion")
    assert (request.alias, request.expected_alias_etag) == ("production", "e1")


async def test_rollback_wants_the_alias_typed_and_sends_its_etag(open_ui: Any, server: FakeServer) -> None:
    server.aliases[0].version = "bot@3"
    server.moves = [records.move("production", "bot@1", "bot@3")]
    server.tell_versions()
    async with open_ui() as ui:
        await ui.press("3")
        await ui.shows("[production]")
        await ui.press("j", "j", "j")
        await ui.until(lambda: ui.app.screen.ref == "bot@3", "bot@3")
        await ui.open("b", screen="RollbackDialog")
        assert ui.app.focused.id == "cancel"
        await ui.shows("Type production to confirm")
        await fill(ui, "worse", "bot@3")
        assert button(ui).disabled
        ui.app.screen.query_one("#typed", Input).value = "production"
        await ui.pilot.pause()
        button(ui).focus()
        await ui.open("enter", screen="RegistryScreen")
        await ui.shows("production names bot@1 again")
    (request,) = server.written("RollbackAlias")
    assert (request.name, request.reason, request.etag) == (
        "projects/default/models/bot/aliases/production",
        "worse",
        "e1",
    )


async def test_rollback_of_a_version_without_alias_is_not_offered(open_ui: Any) -> None:
    async with open_ui() as ui:
        await ui.press("3")
        await ui.shows("4 versions")
        assert ui.app.screen.check_action("rollback", ()) is None
        await ui.press("b")
        await ui.pilot.pause()
        assert type(ui.app.screen).__name__ == "RegistryScreen"


async def test_cancel_asks_and_keeps_the_job_by_default(open_ui: Any, server: FakeServer) -> None:
    async with open_ui() as ui:
        await ui.press("j")
        await ui.open("x", screen="CancelDialog")
        await ui.shows("Cancel this job?", "120 of 400 steps are done")
        await ui.open("enter", screen="JobsScreen")
        assert server.calls == []
        await ui.open("x", screen="CancelDialog")
        await ui.press("tab", "enter")
        await ui.shows("◐ cancelling")
    assert [request.name for request in server.written("CancelJob")] == ["projects/default/jobs/one"]


async def test_a_job_that_is_over_cannot_be_cancelled(open_ui: Any, server: FakeServer) -> None:
    async with open_ui() as ui:
        await ui.press("G", "x")
        await ui.pilot.pause()
        assert type(ui.app.screen).__name__ == "JobsScreen"
        await ui.press("g", "j")
        await ui.open("x", screen="CancelDialog")
        server.refuse("ILLEGAL_TRANSITION", "the job has ended")
        await ui.press("tab", "enter")
        await ui.shows("ILLEGAL_TRANSITION: the job has ended")


async def test_a_second_press_sends_nothing_while_the_first_is_on_its_way(open_ui: Any, server: FakeServer) -> None:
    async with open_ui() as ui:
        await ui.press("j")
        screen = await ui.open("x", screen="CancelDialog")
        screen.confirm()
        screen.confirm()
        await ui.until(lambda: type(ui.app.screen).__name__ == "JobsScreen", "answered")
    assert len(server.written("CancelJob")) == 1


async def test_read_only_hides_and_refuses(open_ui: Any, server: FakeServer) -> None:
    async with open_ui(read_only=True) as ui:
        await ui.shows("read-only")
        await ui.press("j", "x")
        await ui.pilot.pause()
        assert type(ui.app.screen).__name__ == "JobsScreen"
        assert "Cancel" not in ui.text()
        await ui.open("question_mark", screen="HelpScreen")
        assert "Cancel the job" not in str(ui.app.screen.query_one("#help-text").render())
        await ui.press("escape", "3", "j", "j", "j", "p", "b")
        await ui.pilot.pause()
        assert type(ui.app.screen).__name__ == "RegistryScreen"
        assert "Promote" not in ui.text()
        await ui.open("ctrl+p", screen="CommandPalette")
        await ui.press(*"promote")
        await ui.shows("No matches")
        await ui.press("escape")
        ui.app.call_later(ui.app.open_promote, "bot@3")  # past every key
        await ui.open(screen="PromoteDialog")
        assert not button(ui).display
        ui.app.screen.send()
        await ui.shows("READ_ONLY")
    assert server.calls == []


async def test_the_dialog_fits_a_small_terminal(open_ui: Any, server: FakeServer) -> None:
    server.jobs.clear()
    await server.put(records.job("solo", jobs_pb2.RUNNING))
    async with open_ui(size=(80, 24)) as ui:
        await open_promote(ui)
        await ui.shows("Reason, for the record", "Type bot@3 to confirm", "Cancel", "Promote")
