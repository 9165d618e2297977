"""A gate report: the verdict, each suite and metric with its interval against zero, the reasons, the evidence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.text import Text
from textual import on
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import DataTable, Static

from posttrain.service.client import ClientError, short
from posttrain.service.proto import gates_pb2
from posttrain.tui import actions
from posttrain.tui.describe import client_error, digest, facts, has_difference, reasons, verdict_line
from posttrain.tui.marks import verdict_mark
from posttrain.tui.messages import Answered, CatalogueChanged, JobsChanged
from posttrain.tui.screens.base import BaseScreen
from posttrain.tui.text import cell, clean, clock, one_line, percent, points, styled
from posttrain.tui.widgets.interval import Axis, axis_of, axis_title, draw_interval
from posttrain.tui.widgets.table import Column, LiveTable

SECTIONS = (("suites", "Suites"), ("metrics", "Metrics"), ("unseen", "Unseen wordings"))


class GateScreen(BaseScreen):
    SCOPE = "gate"
    MODE = "gates"
    AUTO_FOCUS = "LiveTable"
    BINDINGS = actions.bindings("gate", "move")

    def __init__(self, gate_run: str) -> None:
        super().__init__()
        self.gate_run = gate_run
        self.run: Any | None = None
        self.results: dict[str, Any] = {}
        self.is_placed = False

    def compose_body(self) -> Iterable[Widget]:
        yield Static(Text("loading..."), id="verdict")
        yield LiveTable(id="table")
        yield Static("", id="result")
        with VerticalScroll(id="reasons-box", can_focus=False):
            yield Static("", id="reasons")

    def mover(self) -> Widget | None:
        return self.query_one(LiveTable)

    def on_mount(self) -> None:
        self.load()

    def on_resize(self) -> None:
        self.show_run()

    @on(CatalogueChanged)
    def load(self) -> None:
        if self.run is not None:  # a gate run does not change
            return
        self.run = next((run for run in self.feed.gate_runs if run.name == self.gate_run), None)
        if self.run is None:
            self.run_worker(self._fetch(), group="gate", exclusive=True)
        self.show_run()

    async def _fetch(self) -> None:
        try:
            self.post_message(Answered(result=await self.feed.client.get_gate_run(self.gate_run)))
        except ClientError as error:
            self.post_message(Answered(error=error))

    @on(Answered)
    def fetched(self, message: Answered) -> None:
        if message.error is not None:
            self.query_one("#verdict", Static).update(client_error(message.error, self.palette))
        else:
            self.run = message.result
            self.show_run()

    @on(JobsChanged)
    def jobs_changed(self) -> None:
        self.show_status()

    def repaint(self) -> None:
        super().repaint()
        self.show_run()

    def columns(self, width: int, axis: Axis) -> tuple[list[Column], int]:
        """The columns that fit, and the cells of the interval."""
        name = Column("metric", "Check", 24 if width >= 100 else 18)
        verdict, delta = (
            Column("verdict", "Verdict", 14),
            Column("delta", "diff" if self.palette.is_ascii else "Δ pt", 6),
        )
        if width < 80:
            return [verdict, Column("metric", "Check", max(width - 30, 8)), delta], 0
        if width < 120:
            rule = Column("rule", "Rule", max(width - 52 - name.width, 8))
            return [verdict, name, delta, Column("interval", axis_title(axis, 19), 19), rule], 19
        fixed = [Column("n", "n", 5), Column("baseline", "Base %", 6), Column("candidate", "Cand %", 6), delta]
        room = width - 90  # for the drawing and the rule
        drawing = min(max((room - 20) // 2 * 2 + 1, 15), 41)
        interval = Column("interval", axis_title(axis, drawing), drawing)
        rule = Column("rule", "Rule", max(room - drawing, 8))
        return [verdict, name, Column("against", "Against", 8), *fixed, interval, rule], drawing

    def show_run(self) -> None:
        run, palette = self.run, self.palette
        if run is None or not self.is_attached:
            return
        head = verdict_line(run, palette)
        arrow = " vs " if run.baselines else ""
        head.append(
            f"\n{one_line(run.candidate, 60)}{arrow}{one_line(', '.join(run.baselines), 120)}",
            f"bold {palette.foreground}",
        )
        head.append(f"  for alias {one_line(run.alias, 40)}" if run.alias else "", palette.muted)
        if run.explanation:
            head.append(f"\n{clean(run.explanation, 600)}", palette.muted)
        self.query_one("#verdict", Static).update(head)
        self.results = {
            f"{section}/{index}": result
            for section, _ in SECTIONS
            for index, result in enumerate(getattr(run, section))
        }
        results = self.results.values()
        compared = [result for result in results if has_difference(result)]
        axis = axis_of(value for result in compared for value in (result.low, result.high, result.difference))
        columns, drawing = self.columns(self.app.size.width, axis)
        table = self.query_one(LiveTable)
        table.set_columns(columns)
        rows: dict[str, tuple[float, dict[str, Text]]] = {}
        for section, title in SECTIONS:
            keys = [key for key in self.results if key.startswith(f"{section}/")]
            if keys:
                heading = {column: Text("") for column in table.column_keys} | {"metric": Text(title, palette.muted)}
                rows[section] = (-len(rows), heading)
            for key in keys:
                rows[key] = (-len(rows), self._cells(self.results[key], axis, drawing))
        table.put(rows)
        if not self.is_placed and self.results:  # what went wrong is what one came for
            fine = {gates_pb2.PASS, gates_pb2.VERDICT_UNSPECIFIED}
            bad = next((key for key, result in self.results.items() if result.verdict not in fine), None)
            table.move_cursor(row=table.get_row_index(bad or next(iter(self.results))))
            self.is_placed = True
        table.display = bool(self.results)
        self._show_result()
        text = reasons(run.reasons, palette)
        if text:
            text.append("\n\n")
        text.append_text(
            facts(
                [
                    ("gate run", one_line(short(run.name), 80)),
                    ("policy", f"{one_line(run.policy, 60)}  {digest(run.policy_digest)}"),
                    ("candidate", f"{one_line(run.candidate, 60)}  {digest(run.candidate_digest)}"),
                    ("evidence", ", ".join(one_line(short(name), 40) for name in run.eval_runs)),
                    ("report", digest(run.report_digest)),
                    ("judged", clock(run.create_time)),
                ],
                palette,
            )
        )
        self.query_one("#reasons", Static).update(text)

    def _cells(self, result: Any, axis: Axis, drawing: int) -> dict[str, Text]:
        palette, mark = self.palette, verdict_mark(result.verdict)
        colour = palette.colour(mark.colour)
        ends, is_compared = (result.low, result.difference, result.high), has_difference(result)
        return {
            "verdict": palette.mark(mark),
            "metric": cell(result.metric, palette.foreground),
            "against": cell(result.baseline_name or "floor", palette.muted),
            "n": cell(f"{result.n:,}", palette.muted),
            "baseline": cell(percent(result.baseline) if is_compared else ""),
            "candidate": cell(percent(result.candidate)),
            "delta": cell(points(result.difference) if is_compared else "", f"bold {colour}"),
            "interval": draw_interval(ends, axis, drawing, colour, palette) if is_compared else Text(""),
            "rule": cell(result.rule, palette.muted, 120),
        }

    @on(DataTable.RowHighlighted)
    def _show_result(self) -> None:
        """The check under the cursor in full, since columns are narrow."""
        result = self.results.get(self.query_one(LiveTable).current or "")
        palette = self.palette
        if result is None:
            self.query_one("#result", Static).update(Text(""))
            return
        mark = verdict_mark(result.verdict)
        text = styled(f"{palette.glyph(mark)} {one_line(result.metric, 80)}", f"bold {palette.colour(mark.colour)}")
        if has_difference(result):
            arrow, delta = ("->", "diff") if palette.is_ascii else ("→", "Δ")
            text.append(f"  {percent(result.baseline)} % {arrow} {percent(result.candidate)} %")
            text.append(f"  {delta} {points(result.difference)} pt", f"bold {palette.foreground}")
            interval = f"{points(result.low)}, {points(result.high)}"
        else:
            text.append(f"  {percent(result.candidate)} %", f"bold {palette.foreground}")
            interval = f"{percent(result.low)}, {percent(result.high)}"
        text.append(f" [{interval}] at {result.level * 100:g} %", palette.foreground)
        text.append(f"  n {result.n:,} in {result.clusters:,} clusters", palette.muted)
        text.append(f"\n{clean(result.rule, 300)}", palette.muted)
        self.query_one("#result", Static).update(text)

    def action_promote(self) -> None:
        if self.run is not None:
            self.ui.open_promote(self.run.candidate)

    def action_copy_name(self) -> None:
        self.copy(self.gate_run)
