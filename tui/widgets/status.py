"""The top line: where we are, what runs, and whether what is shown is true right now."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Static

from posttrain.service.proto import jobs_pb2
from posttrain.tui.link import Connection, Link
from posttrain.tui.marks import TERMINAL, Palette
from posttrain.tui.text import duration, one_line, styled

MODES = (("jobs", "1", "Jobs"), ("gates", "2", "Gates"), ("registry", "3", "Registry"))
QUIET_AFTER_S = 45.0


class ModeTab(Static):
    """One of the three places; a click goes there."""

    def __init__(self, mode: str, key: str, title: str) -> None:
        super().__init__(Text.assemble((key, "bold"), f" {title}"), classes="mode-tab")
        self.mode = mode

    async def on_click(self, event: events.Click) -> None:
        event.stop()
        await self.app.run_action(f"show_mode('{self.mode}')")


def describe_connection(connection: Connection, palette: Palette, now: float, monotonic: float) -> Text:
    """`● live`, `◌ reconnecting 12s`, or since when the data is old."""
    live, away, off = ("*", "~", "x") if palette.is_ascii else ("●", "◌", "✖")
    if connection.link is Link.LIVE:
        quiet = now - connection.last_news
        text = styled(f"{live} live", palette.success)
        return text.append(f", quiet {duration(quiet)}", palette.muted) if quiet > QUIET_AFTER_S else text
    gone = duration(monotonic - connection.away_since)
    if connection.link is Link.CONNECTING:
        return Text(f"{away} connecting", palette.warning)
    if connection.link is Link.RECONNECTING:
        return Text(f"{away} reconnecting {gone}", palette.warning)
    since = time.strftime("%H:%M", time.localtime(connection.last_news)) if connection.last_news else ""
    return Text(f"{off} offline, data from {since}" if since else f"{off} offline, no data", f"bold {palette.error}")


def describe_jobs(jobs: dict[str, Any], palette: Palette) -> Text:
    """How many run, wait and have failed."""
    counts = Counter(job.state for job in jobs.values())
    running = sum(
        number
        for state, number in counts.items()
        if state not in TERMINAL and state not in {jobs_pb2.QUEUED, jobs_pb2.PAUSED}
    )
    text = Text(no_wrap=True)
    for number, word, colour in (
        (running, "active", palette.primary),
        (counts[jobs_pb2.QUEUED] + counts[jobs_pb2.PAUSED], "waiting", palette.muted),
        (counts[jobs_pb2.FAILED], "failed", palette.error),
    ):
        if number:
            text.append(f"{number} {word}  ", colour)
    return text


class StatusBar(Horizontal):
    """Modes at the left, counts and the link at the right."""

    def compose(self) -> ComposeResult:
        yield Static(Text("posttrain", "bold"), id="brand")
        for mode, key, title in MODES:
            yield ModeTab(mode, key, title)
        yield Static("", id="counts")
        yield Static("", id="server")
        yield Static("", id="link")

    def show(
        self, mode: str, connection: Connection, jobs: dict[str, Any], palette: Palette, address: str, read_only: bool
    ) -> None:
        for tab in self.query(ModeTab):
            tab.set_class(tab.mode == mode, "-current")
        where = Text(one_line(address, 40), palette.muted)
        self._put("#counts", describe_jobs(jobs, palette))
        self._put("#server", where)
        link = styled("read-only  " if read_only else "", f"bold {palette.warning}")
        self._put("#link", link.append_text(describe_connection(connection, palette, time.time(), time.monotonic())))

    def _put(self, selector: str, text: Text) -> None:
        widget = self.query_one(selector, Static)
        if widget.content != text:  # a tick that changes nothing repaints nothing
            widget.update(text)
