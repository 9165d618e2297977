"""All gate runs, newest first, and the reasons of the one under the cursor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.text import Text
from textual import on
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from posttrain.service.proto import gates_pb2
from posttrain.tui import actions
from posttrain.tui.describe import gate_summary, judged
from posttrain.tui.marks import verdict_mark
from posttrain.tui.messages import CatalogueChanged, JobsChanged
from posttrain.tui.screens.listing import ListScreen
from posttrain.tui.text import age, cell
from posttrain.tui.widgets.table import Column


class GatesScreen(ListScreen):
    SCOPE = "gates"
    MODE = "gates"
    BINDINGS = actions.bindings("gates", "move")
    TITLE_WORD = "Gates"
    EMPTY = "No gate runs yet. A job whose `then` names a policy makes one; so does: posttrain gate VERSION"

    def compose_body(self) -> Iterable[Widget]:
        yield from super().compose_body()
        with VerticalScroll(id="preview", can_focus=False):
            yield Static("", id="card")

    def columns(self, width: int) -> list[Column]:
        verdict, when = Column("verdict", "Verdict", 14), Column("age", "Age", 4)
        if width < 80:
            return [verdict, Column("candidate", "Candidate", max(width - 28, 10)), when]
        if width < 120:
            return [verdict, Column("candidate", "Candidate", width - 48), Column("alias", "For alias", 14), when]
        wide = [
            Column("alias", "For alias", 14),
            Column("against", "Against", 30),
            Column("policy", "Policy", 14),
            Column("checks", "Checks", 12),
        ]
        return [verdict, Column("candidate", "Candidate", min(width - 106, 40)), *wide, when]

    @property
    def runs(self) -> dict[str, Any]:
        return {run.name: run for run in self.feed.gate_runs}

    def names(self) -> Iterable[str]:
        return [run.name for run in self.feed.gate_runs]

    def is_loaded(self) -> bool:
        return self.feed.has_catalogue

    def row(self, name: str) -> tuple[float, dict[str, Text]]:
        run, palette = self.runs[name], self.palette
        results = judged(run)
        held = sum(result.verdict == gates_pb2.PASS for result in results)
        return run.create_time.seconds + run.create_time.nanos / 1e9, {
            "verdict": palette.mark(verdict_mark(run.verdict)),
            "candidate": cell(run.candidate, palette.foreground),
            "alias": cell(run.alias, palette.muted),
            "against": cell(", ".join(run.baselines), palette.muted),
            "policy": cell(run.policy, palette.muted),
            "checks": cell(f"{held} of {len(results)} ✓" if not palette.is_ascii else f"{held} of {len(results)}"),
            "age": cell(age(run.create_time, self.now), palette.muted),
        }

    def filter_fields(self, name: str) -> dict[str, str]:
        run = self.runs[name]
        return {
            "verdict": verdict_mark(run.verdict).word,
            "candidate": run.candidate,
            "alias": run.alias,
            "policy": run.policy,
            "against": ", ".join(run.baselines),
        }

    def preview(self, name: str | None) -> None:
        run = self.runs.get(name or "")
        self.query_one("#preview").display = run is not None
        if run is not None:
            self.query_one("#card", Static).update(gate_summary(run, self.palette))

    @on(CatalogueChanged)
    def runs_changed(self) -> None:
        self.rebuild()

    @on(JobsChanged)
    def jobs_changed(self) -> None:
        self.show_status()

    def open(self, name: str) -> None:
        self.ui.open_gate(name)

    def action_promote(self) -> None:
        run = self.runs.get(self.table.current or "")
        if run is not None:
            self.ui.open_promote(run.candidate)
