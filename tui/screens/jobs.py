"""All jobs, live: a table, and a card and a chart of the job under the cursor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.text import Text
from textual import on
from textual.containers import Horizontal, VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from posttrain.service.client import is_over
from posttrain.service.proto import jobs_pb2
from posttrain.tui import actions
from posttrain.tui.describe import job_card, job_title
from posttrain.tui.marks import TERMINAL, state_mark
from posttrain.tui.messages import CatalogueChanged, JobsChanged, MetricsChanged
from posttrain.tui.screens.cancel import CancelDialog
from posttrain.tui.screens.listing import ListScreen
from posttrain.tui.text import age, cell, duration, number
from posttrain.tui.widgets.chain import chain_cell
from posttrain.tui.widgets.chart import Chart
from posttrain.tui.widgets.table import Column

BAR_CELLS = 8


class JobsScreen(ListScreen):
    SCOPE = "jobs"
    MODE = "jobs"
    BINDINGS = actions.bindings("jobs", "move")
    TITLE_WORD = "Jobs"
    EMPTY = "No jobs yet.  posttrain init ift job.yaml, then posttrain submit job.yaml"

    def compose_body(self) -> Iterable[Widget]:
        yield from super().compose_body()
        with Horizontal(id="preview"):
            with VerticalScroll(id="card-box", can_focus=False):
                yield Static("", id="card")
            yield Chart("loss", id="preview-chart")

    def columns(self, width: int) -> list[Column]:
        if width < 80:
            return [
                Column("state", "State", 12),
                Column("name", "Name", max(width - 34, 8)),
                Column("step", "Step", 14),
            ]
        if width < 120:
            fixed = [
                Column("step", "Step", 12),
                Column("loss", "Loss", 7),
                Column("eta", "ETA", 7),
                Column("chain", "Chain", 14),
            ]
            return [Column("state", "State", 12), Column("name", "Name", max(width - 66, 10)), *fixed]
        fixed = [
            Column("kind", "Kind", 8),
            Column("bar", "", BAR_CELLS),
            Column("step", "Step", 13),
            Column("loss", "Loss", 7),
            Column("speed", "Tok/s", 7),
            Column("eta", "ETA", 7),
            Column("chain", "Chain", 14),
            Column("age", "Age", 4),
        ]
        used = 12 + sum(column.width for column in fixed) + 2 * (len(fixed) + 2) + 2
        return [Column("state", "State", 12), Column("name", "Name", min(max(width - used, 12), 48)), *fixed]

    def names(self) -> Iterable[str]:
        return self.feed.jobs if self.feed.is_loaded else ()  # half a snapshot would put the cursor anywhere

    def is_loaded(self) -> bool:
        return self.feed.is_loaded

    def row(self, name: str) -> tuple[float, dict[str, Text]]:
        job, palette = self.feed.jobs[name], self.palette
        progress, is_live = job.progress, job.state not in TERMINAL
        step = f"{progress.done:,}/{progress.total:,}" if progress.total else "–"
        eta = duration(progress.eta_s) if job.state == jobs_pb2.RUNNING and progress.eta_s > 0 else "–"
        muted = palette.muted
        cells = {
            "state": palette.mark(state_mark(job.state)),
            "name": cell(job_title(job), palette.foreground if is_live else "", 80),
            "kind": cell(job.kind, muted, 8),
            "bar": palette.bar(progress.done, progress.total, BAR_CELLS) if is_live and progress.total else Text(""),
            "step": cell(step, "" if is_live else muted),
            "loss": cell(number(progress.values["loss"]) if "loss" in progress.values else "–"),
            "speed": cell(
                number(progress.values["tokens_per_s"], 3) if "tokens_per_s" in progress.values and is_live else "–",
                muted,
            ),
            "eta": cell(eta),
            "chain": chain_cell(job, self.feed.gate_run_of_job(job), palette),
            "age": cell(age(job.create_time, self.now), muted),
        }
        return job.create_time.seconds + job.create_time.nanos / 1e9, cells

    def filter_fields(self, name: str) -> dict[str, str]:
        job = self.feed.jobs[name]
        return {
            "name": f"{job.display_name} {job.name}",
            "state": state_mark(job.state).word,
            "kind": job.kind,
            "chain": chain_cell(job, self.feed.gate_run_of_job(job), self.palette).plain,
        }

    @property
    def job(self) -> Any | None:
        return self.feed.jobs.get(self.table.current or "")

    def preview(self, name: str | None) -> None:
        job = self.feed.jobs.get(name or "")
        self.query_one("#preview").display = job is not None
        if job is None:
            return
        card = job_card(job, self.feed.gate_run_of_job(job), self.palette, self.now)
        self.query_one("#card", Static).update(card)
        if self.is_current and self.query_one(Chart).display and self.feed.followed.job != job.name:
            self.ui.follow(job.name)
        self._show_chart()

    def _show_chart(self) -> None:
        followed = self.feed.followed
        is_ours = followed.job == self.table.current
        values = [(step, p.values["loss"]) for step, p in sorted(followed.points.items()) if "loss" in p.values]
        self.query_one(Chart).show(values if is_ours else [], self.palette)

    @on(JobsChanged)
    def jobs_changed(self, message: JobsChanged) -> None:
        self.refresh_rows(message.changed | message.removed)
        self.show_status()

    @on(CatalogueChanged)
    def verdicts_changed(self) -> None:
        self.refresh_rows(frozenset(name for name, job in self.feed.jobs.items() if job.chain.gate_run))

    @on(MetricsChanged)
    def metrics_changed(self) -> None:
        self._show_chart()

    def open(self, name: str) -> None:
        self.ui.open_job(name)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "cancel_job" and (self.job is None or is_over(self.job)):
            return False if self.feed.read_only else None
        if action == "open_gate" and (self.job is None or not self.job.chain.gate_run):
            return None
        return super().check_action(action, parameters)

    def action_open_gate(self) -> None:
        if self.job is not None:
            self.ui.open_gate(self.job.chain.gate_run)

    def action_cancel_job(self) -> None:
        if self.job is not None:
            self.app.push_screen(CancelDialog(self.job))

    def action_copy_name(self) -> None:
        if self.job is not None:
            self.copy(self.job.name)
