"""Each screen over a real stream: what it shows, and that it stays where the user is."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from posttrain.service.proto import gates_pb2, jobs_pb2
from posttrain.tui.widgets.table import LiveTable
from tests.tui import records
from tests.tui.fake_server import FakeServer


async def test_jobs_show_state_progress_chain_and_change_live(open_ui: Any, server: FakeServer) -> None:
    async with open_ui() as ui:
        await ui.shows(
            "○ queued", "● running", "✓ succeeded", "✗ failed", "120/400", "● train", "✓ PASS", "2.135", "1m33s"
        )
        await server.put(records.job("one", jobs_pb2.RECOVERING, 100, 133, loss=1.987))
        await ui.shows("↻ recovering", "133/400", "1.987")
        await server.put(records.job("six", jobs_pb2.STARTING, 1))
        await ui.shows("◔ starting", "six")


async def test_only_cells_that_changed_are_written(open_ui: Any, server: FakeServer, monkeypatch: Any) -> None:
    async with open_ui() as ui:
        table = ui.app.screen.query_one(LiveTable)
        written: list[tuple[str, str]] = []
        update = table.update_cell

        def spy(row: str, column: str, value: Any, **options: Any) -> None:
            written.append((row, column))
            update(row, column, value, **options)

        monkeypatch.setattr(table, "update_cell", spy)
        await server.put(records.job("one", jobs_pb2.RUNNING, 100, 121, chain=jobs_pb2.Chain(step=jobs_pb2.TRAIN)))
        await ui.shows("121/400")
        assert written == [("projects/default/jobs/one", "step")]


async def test_the_cursor_and_the_scroll_survive_a_refresh_of_a_thousand_rows(open_ui: Any, server: FakeServer) -> None:
    await server.put(*(records.job(f"job{number:04}", age_s=5000 + number) for number in range(996)))
    async with open_ui(tick_s=0.25) as ui:
        table = ui.app.screen.query_one(LiveTable)
        await ui.until(lambda: table.row_count == 1000, "all rows")
        table.move_cursor(row=500)
        await ui.until(lambda: table.scroll_y > 400, "scrolled to the cursor")
        chosen, height = table.current, table.cursor_row - table.scroll_y
        started = time.process_time()
        await server.put(*(records.job(f"job{number:04}", age_s=5000 + number, done=200) for number in range(996)))
        await server.put(*(records.job(f"new{number}", age_s=1) for number in range(10)))
        await ui.until(lambda: table.row_count == 1010, "new rows")
        await ui.until(lambda: table.cursor_row == 510, "the cursor moved with its row")
        await ui.until(lambda: table.cursor_row - table.scroll_y == height, "the view stayed")
        assert table.current == chosen
        assert time.process_time() - started < 8
        assert "200/400" in table.get_row(str(chosen))[4].plain


async def test_the_filter_narrows_and_escape_clears_it(open_ui: Any, server: FakeServer) -> None:
    async with open_ui() as ui:
        await ui.press("slash", *"state:fail", "enter")
        await ui.shows("1 of 4", "/state:fail", "three")
        assert "queued" not in ui.text()
        await server.put(records.job("one", jobs_pb2.FAILED, 100), records.job("seven", jobs_pb2.RUNNING, 1))
        await ui.shows("2 of 5")
        await ui.press("escape")
        await ui.until(lambda: ui.app.screen.query_one(LiveTable).row_count == 5, "all rows are back")
        await ui.press("slash", *"nothing-like-it", "enter")
        await ui.shows("no row matches the filter")
        await ui.press("escape")
        await ui.shows("seven")


async def test_an_empty_server_tells_what_to_do(open_ui: Any, server: FakeServer) -> None:
    server.jobs.clear()
    server.versions.clear()
    server.gate_runs.clear()
    async with open_ui() as ui:
        await ui.shows("No jobs yet", "posttrain submit")
        await ui.press("2")
        await ui.shows("No gate runs yet")
        await ui.press("3")
        await ui.shows("No models yet")


async def test_a_job_shows_chart_log_events_and_chain(open_ui: Any) -> None:
    async with open_ui() as ui:
        await ui.open("j", "enter", screen="JobScreen")
        await ui.shows("● train ── ○ register", "loss", "learning_rate", "grad_norm", "tokens_per_s", "300 lines")
        await ui.shows("line 299", "following", "◌ validating", "120 of 400")
        assert any(0x2800 < ord(character) <= 0x28FF for character in ui.text())


async def test_a_failed_job_says_why_and_what_to_do(open_ui: Any) -> None:
    async with open_ui(size=(100, 30)) as ui:
        await ui.open("G", "enter", screen="JobScreen")
        await ui.shows("✗ NON_FINITE_LOSS", "step 33 is NaN", "→ lower the learning rate")


async def test_the_log_follows_until_one_scrolls_up(open_ui: Any, server: FakeServer) -> None:
    name = "projects/default/jobs/one"
    async with open_ui() as ui:
        screen = await ui.open("j", "enter", screen="JobScreen")
        log = screen.query_one("#log")
        await ui.shows("line 299")
        server.logs[name].append("line 300")
        await ui.shows("line 300", "following")
        await ui.press("k", "k")
        await ui.shows("held; f follows")
        top = log.scroll_y
        server.logs[name] += [f"line {number}" for number in range(301, 320)]
        await ui.until(lambda: len(log.lines) == 320, "new lines")
        await ui.pilot.pause()
        assert log.scroll_y == top
        await ui.press("f")
        await ui.shows("line 319", "following")


async def test_a_log_keeps_five_thousand_lines(open_ui: Any, server: FakeServer) -> None:
    name = "projects/default/jobs/one"
    async with open_ui() as ui:
        screen = await ui.open("j", "enter", screen="JobScreen")
        await ui.shows("line 299")
        started = time.perf_counter()
        server.logs[name] += [f"more {number}" for number in range(6000)]
        log = screen.query_one("#log")
        await ui.until(lambda: log.lines and log.lines[-1] == "more 5999", "all lines")
        assert len(log.lines) == 5000
        assert time.perf_counter() - started < 5


async def test_a_new_attempt_starts_its_own_log(open_ui: Any, server: FakeServer) -> None:
    name = "projects/default/jobs/one"
    async with open_ui() as ui:
        screen = await ui.open("j", "enter", screen="JobScreen")
        await ui.shows("line 299")
        again = records.job("one")
        again.attempt = 2
        server.logs[name] = ["resumed from checkpoint 100"]
        await server.put(again)
        await ui.shows("── attempt 2 ──", "resumed from checkpoint 100")
        assert len(screen.query_one("#log").lines) == 302


@pytest.mark.parametrize("values", [[], [math.nan], [1.0], [1.0, math.inf, 2.0], [-math.inf] * 30, [5.0] * 40])
async def test_charts_of_odd_numbers(open_ui: Any, server: FakeServer, values: list[float]) -> None:
    name = "projects/default/jobs/one"
    server.points[name] = [jobs_pb2.MetricPoint(step=step, values={"loss": value}) for step, value in enumerate(values)]
    await server.put(records.job("one", loss=values[-1] if values else 0.0))
    async with open_ui() as ui:
        await ui.open("j", "enter", screen="JobScreen")
        await ui.until(lambda: len(ui.app.feed.followed.points) == len(values), "points")
        await ui.press("L")
        await ui.pilot.pause()
        bad = sum(not math.isfinite(value) for value in values)
        await ui.shows("loss", *([f"{bad} not finite"] if bad else []), *(["no points yet"] if not values else []))


async def test_a_gate_report_draws_intervals_and_gives_reasons(open_ui: Any) -> None:
    async with open_ui() as ui:
        await ui.press("2")
        await ui.shows("✗ FAIL", "✓ PASS", "bot@2")
        screen = await ui.open("j", "enter", screen="GateScreen")
        await ui.shows("✗ BLOCKED  1 failed of 4 checks", "bot@2 vs parent bot@1, champion bot@1", "refusal.harmful")
        await ui.shows("-18.0", "fell by 18.0 pt", "Unseen wordings", "floor", "default@1", "├", "┤", "┊")
        assert screen.results[screen.query_one(LiveTable).current].verdict == gates_pb2.FAIL, "starts at what failed"
        await ui.shows("[-23.0, -13.0] at 90 %", "n 520 in 44 clusters")


async def test_what_has_no_verdict_is_no_check(open_ui: Any) -> None:
    async with open_ui() as ui:
        await ui.press("2")
        await ui.shows("4 of 4 ✓", "3 of 4 ✓", "all 4 checks hold")
        screen = await ui.open("enter", screen="GateScreen")
        await ui.shows("✓ PASS  all 4 checks hold")
        assert screen.query_one(LiveTable).current == "suites/0", "nothing went wrong: from the top"


async def test_a_floor_has_no_difference(open_ui: Any) -> None:
    async with open_ui() as ui:
        await ui.press("2")
        screen = await ui.open("enter", screen="GateScreen")
        table = screen.query_one(LiveTable)
        table.move_cursor(row=table.get_row_index("metrics/3"))
        await ui.shows("tool_use.no_call  45.0 % [41.0, 49.0] at 90 %", "at least 40.0 %")
        (line,) = [line for line in ui.text().splitlines() if "floor" in line]
        assert "45.0" in line
        assert not set(line) & set("+├●┤"), "neither +0.0 nor an interval against zero"


async def test_a_gate_run_that_is_not_in_the_list_is_fetched_or_its_absence_told(
    open_ui: Any, server: FakeServer
) -> None:
    async with open_ui() as ui:
        server.gate_runs.append(records.gate_run("g9", "bot@9"))
        ui.app.open_gate("projects/default/gateRuns/g9")
        await ui.shows("bot@9 vs parent tiny-base@1")
        ui.app.open_gate("projects/default/gateRuns/none")
        await ui.shows("NOT_FOUND")


async def test_the_registry_is_a_tree_with_chips_and_details(open_ui: Any, server: FakeServer) -> None:
    async with open_ui() as ui:
        await ui.press("3")
        await ui.shows(
            "base@1", "bot@1", "✓ PASS", "[production]", "✗ FAIL", "4 versions of 2 models", "LlamaForCausalLM"
        )
        await ui.press("j")
        await ui.shows("Aliases moved", "launch", "9.0 MiB", "bot@1")
        screen = ui.app.screen
        assert screen.ref == "bot@1"
        await ui.press("space")
        await ui.until(lambda: "bot@2" not in ui.text(), "folded")
        server.versions.append(records.version("bot@4", "bot@3"))
        ui.app.feed.reload()
        await ui.shows("5 versions of 2 models")
        assert screen.ref == "bot@1", "the cursor stays"
        assert "bot@2" not in ui.text(), "what was folded stays folded"
        ui.app.call_later(ui.app.show_version, "bot@4")
        await ui.until(lambda: screen.ref == "bot@4", "found and unfolded")


async def test_a_lineage_without_parents_or_with_a_cycle_is_shown_all_the_same(
    open_ui: Any, server: FakeServer
) -> None:
    server.versions = [records.version("a@1", "b@1"), records.version("b@1", "a@1"), records.version("c@1", "lost@1")]
    async with open_ui() as ui:
        await ui.press("3")
        await ui.shows("a@1", "b@1", "c@1")


async def test_a_change_outside_jobs_is_noticed(open_ui: Any, server: FakeServer) -> None:
    async with open_ui(poll_s=0.1) as ui:
        await ui.press("3")
        await ui.shows("[production]")
        server.versions.append(records.version("import@1"))
        await ui.shows("import@1")


async def test_the_palette_finds_jobs_and_versions(open_ui: Any) -> None:
    async with open_ui() as ui:
        await ui.open("ctrl+p", screen="CommandPalette")
        await ui.press(*"three")
        await ui.shows("job three")
        await ui.press("enter")
        await ui.until(lambda: type(ui.app.screen).__name__ == "JobScreen", "the job")
        assert ui.app.screen.job_name.endswith("/three")
        await ui.open("ctrl+p", screen="CommandPalette")
        await ui.press(*"bot@2")
        await ui.shows("version bot@2")
        await ui.press("enter")
        await ui.until(lambda: getattr(ui.app.screen, "ref", "") == "bot@2", "the version")
