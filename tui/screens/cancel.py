"""Cancel a job, after a question whose default is to let it run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.text import Text
from textual import on
from textual.widget import Widget
from textual.widgets import Button, Static

from posttrain.tui.describe import job_title
from posttrain.tui.marks import state_mark
from posttrain.tui.screens.dialog import Dialog
from posttrain.tui.text import styled


class CancelDialog(Dialog):
    CANCEL = "Keep it running"

    def __init__(self, job: Any) -> None:
        super().__init__()
        self.job = job

    def compose_fields(self) -> Iterable[Widget]:
        yield Static("", id="what")

    def compose_buttons(self) -> Iterable[Widget]:
        if not self.feed.read_only:
            yield Button("Cancel the job", id="confirm", variant="error")

    def on_mount(self) -> None:
        palette, job = self.palette, self.job
        self.set_title(Text("Cancel this job?", f"bold {palette.error}"))
        text = styled(job_title(job), f"bold {palette.foreground}").append("  ")
        text.append_text(palette.mark(state_mark(job.state)))
        if job.progress.total:
            text.append(f"\n{job.progress.done:,} of {job.progress.total:,} steps are done. ", palette.foreground)
        text.append("\nWhat it has written stays; the job does not continue and its chain ends.", palette.muted)
        self.query_one("#what", Static).update(text)

    @on(Button.Pressed, "#confirm")
    def confirm(self) -> None:
        self.ask(lambda: self.feed.cancel_job(self.job))

    def succeeded(self, result: Any) -> None:
        self.app.notify(f"{job_title(self.job)}: {state_mark(result.state).word}", markup=False)
        self.dismiss(None)
