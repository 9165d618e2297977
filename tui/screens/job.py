"""One job: the chain, charts, log, events, and the error with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.text import Text
from textual import on
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from posttrain.service.client import is_over
from posttrain.tui import actions
from posttrain.tui.describe import job_card
from posttrain.tui.marks import state_mark
from posttrain.tui.messages import CatalogueChanged, JobEvents, JobsChanged, LogLines, MetricsChanged
from posttrain.tui.screens.base import BaseScreen
from posttrain.tui.screens.cancel import CancelDialog
from posttrain.tui.text import clean, clock, one_line, styled
from posttrain.tui.widgets.chart import Chart
from posttrain.tui.widgets.log_view import LogView

PANELS = ("all", "charts", "log", "events")
MAX_EVENTS = 500


class EventsBox(VerticalScroll, can_focus=True, inherit_bindings=False):
    """State changes and what the worker announced, newest first."""


class JobScreen(BaseScreen):
    SCOPE = "job"
    MODE = "jobs"
    AUTO_FOCUS = "LogView"
    BINDINGS = actions.bindings("job", "move")

    def __init__(self, job: str) -> None:
        super().__init__()
        self.job_name = job
        self.panel = "all"
        self.metric = "loss"
        self.events: list[Any] = []

    def compose_body(self) -> Iterable[Widget]:
        with VerticalScroll(id="job-head", can_focus=False):
            yield Static("", id="card")
        with Horizontal(id="panels"):
            with Vertical(id="charts"):
                yield Chart(self.metric, id="main-chart")
                with Horizontal(id="small-charts"):
                    for name in ("learning_rate", "grad_norm", "tokens_per_s"):
                        yield Chart(name, id=f"chart-{name}", is_smooth=name != "learning_rate")
            with Vertical(id="texts"):
                with Vertical(id="log-box"):
                    yield Static("", id="log-title")
                    yield LogView(id="log")
                with Vertical(id="events-box"):
                    yield Static(Text("events", "bold"), id="events-title")
                    with EventsBox(id="events-scroll"):
                        yield Static("", id="events")

    @property
    def job(self) -> Any | None:
        return self.feed.jobs.get(self.job_name)

    def mover(self) -> Widget | None:
        if self.panel == "events":
            return self.query_one(EventsBox)
        return self.focused or self.query_one(LogView)

    def on_mount(self) -> None:
        self.ui.follow(self.job_name)
        self.repaint()

    def on_screen_resume(self) -> None:
        if self.feed.followed.job != self.job_name:  # another screen's preview was read meanwhile
            self.query_one(LogView).clear()
            self.events.clear()
            self.ui.follow(self.job_name)

    def repaint(self) -> None:
        super().repaint()
        self.show_card()
        self.show_charts()
        self.show_events()
        self.show_log_title()
        self.set_panel(self.panel)

    # -- what arrives -------------------------------------------------------------------------------------------------

    @on(JobsChanged)
    def job_changed(self, message: JobsChanged) -> None:
        self.show_status()
        if self.job_name in message.changed | message.removed:
            self.show_card()

    @on(CatalogueChanged)
    def show_card(self) -> None:
        job = self.job
        missing = Text(f"{one_line(self.job_name)}: the server has no such job", self.palette.warning)
        card = missing if job is None else job_card(job, self.feed.gate_run_of_job(job), self.palette, self.now)
        self.query_one("#card", Static).update(card)
        self.refresh_bindings()

    @on(MetricsChanged)
    def show_charts(self) -> None:
        if self.feed.followed.job != self.job_name:
            return
        points = sorted(self.feed.followed.points.items())
        for chart in self.query(Chart):
            metric = self.metric if chart.id == "main-chart" else chart.metric
            series = [(step, point.values[metric]) for step, point in points if metric in point.values]
            chart.show(series, self.palette, metric)

    @on(LogLines)
    def show_lines(self, message: LogLines) -> None:
        if message.job != self.job_name:
            return
        log = self.query_one(LogView)
        if message.is_restart and log.lines:
            log.add([f"── attempt {message.attempt} ──"], self.palette)
        log.add(message.lines, self.palette)
        self.show_log_title()

    @on(LogView.FollowChanged)
    def show_log_title(self) -> None:
        log = self.query_one(LogView)
        title = styled("log", "bold").append(f"  {len(log.lines):,} lines  ", self.palette.muted)
        title.append(
            "following" if log.is_following else "held; f follows",
            self.palette.success if log.is_following else self.palette.warning,
        )
        self.query_one("#log-title", Static).update(title)

    @on(JobEvents)
    def events_arrived(self, message: JobEvents) -> None:
        if message.job == self.job_name:
            self.events = (self.events + message.events)[-MAX_EVENTS:]
            self.show_events()

    def show_events(self) -> None:
        palette, text = self.palette, Text()
        arrow = "->" if palette.is_ascii else "→"
        for event in reversed(self.events):
            if text:
                text.append("\n")
            text.append(f"{clock(event.time)}  ", palette.muted)
            if event.to_state:
                if event.from_state:
                    text.append_text(palette.mark(state_mark(event.from_state))).append(f" {arrow} ", palette.muted)
                text.append_text(palette.mark(state_mark(event.to_state)))
            else:
                text.append(one_line(event.type, 40), palette.primary)
            if event.message:
                text.append(f"  {clean(event.message, 500)}", palette.foreground)
        self.query_one("#events", Static).update(text if text else Text("no events yet", palette.muted))

    # -- keys ---------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "cancel_job" and (self.job is None or is_over(self.job)):
            return False if self.feed.read_only else None
        if action == "open_gate" and (self.job is None or not self.job.chain.gate_run):
            return None
        return super().check_action(action, parameters)

    def set_panel(self, panel: str) -> None:
        self.panel = panel
        for name in PANELS:
            self.set_class(name == panel, f"-panel-{name}")

    def action_next_panel(self) -> None:
        self.set_panel(PANELS[(PANELS.index(self.panel) + 1) % len(PANELS)])
        self.set_focus(self.query_one(EventsBox) if self.panel == "events" else self.query_one(LogView))

    def action_next_metric(self) -> None:
        known = sorted({name for point in self.feed.followed.points.values() for name in point.values})
        if known:
            position = known.index(self.metric) if self.metric in known else -1
            self.metric = known[(position + 1) % len(known)]
            self.show_charts()

    def action_log_scale(self) -> None:
        chart = self.query_one("#main-chart", Chart)
        chart.is_log = not chart.is_log

    def action_follow_log(self) -> None:
        self.query_one(LogView).toggle_following()

    def action_open_gate(self) -> None:
        if self.job is not None:
            self.ui.open_gate(self.job.chain.gate_run)

    def action_cancel_job(self) -> None:
        if self.job is not None:
            self.app.push_screen(CancelDialog(self.job))

    def action_copy_name(self) -> None:
        self.copy(self.job_name)
