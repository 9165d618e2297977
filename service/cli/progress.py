"""How long work shows itself, on stderr: bars with an ETA on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol

import click

from posttrain.service.cli.text import clean, one_line, seconds

PLAIN_EVERY_S: Final = 10.0
SHOWN: Final = {"loss", "held_out_loss", "tokens_per_s"}  # of a job's numbers


class Progress(Protocol):
    """Something that shows work being done. `what` names the piece of work; a new name is a new bar."""

    def update(
        self, what: str, done: float, total: float, eta_s: float = -1.0, values: Mapping[str, float] | None = None
    ) -> None: ...

    def finish(self, what: str) -> None: ...

    def note(self, text: str) -> None: ...


@contextmanager
def open_progress() -> Generator[Progress, None, None]:
    """Bars if stderr is a terminal, lines if not."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    with _rich_progress() as bars:
        yield bars


class PlainProgress:
    """A line when a piece of work starts and ends, and one each ten seconds in between."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown: dict[str, float] = {}
        self._last: dict[str, str] = {}

    def update(
        self, what: str, done: float, total: float, eta_s: float = -1.0, values: Mapping[str, float] | None = None
    ) -> None:
        line = f"{one_line(what)}: {_amount(done, total)}{_extra(eta_s, values)}"
        self._last[what] = line
        now = self._clock()
        if what not in self._shown or now - self._shown[what] >= PLAIN_EVERY_S:
            self._shown[what] = now
            self._print(what)

    def finish(self, what: str) -> None:
        self._print(what)

    def note(self, text: str) -> None:
        click.echo(clean(text), err=True)

    def _print(self, what: str) -> None:
        line = self._last.pop(what, "")
        if line:
            click.echo(line, err=True)


def _amount(done: float, total: float) -> str:
    return f"{done:,.0f}/{total:,.0f} ({done / total:.0%})" if total > 0 else f"{done:,.0f}"


def _extra(eta_s: float, values: Mapping[str, float] | None) -> str:
    parts = [f"ETA {seconds(eta_s)}"] if math.isfinite(eta_s) and eta_s >= 0 else []
    parts += [f"{name} {value:.4g}" for name, value in sorted((values or {}).items()) if name in SHOWN]
    return "  " + "  ".join(parts) if parts else ""


@contextmanager
def _rich_progress() -> Generator[Progress, None, None]:
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TaskProgressColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Foreign(ProgressColumn):
        """A task's own text: never markup."""

        def __init__(self, field: str) -> None:
            super().__init__()
            self._field = field

        def render(self, task: Task) -> Text:
            return Text(str(task.fields.get(self._field, "")))

    console = Console(stderr=True)
    columns = (Foreign("label"), BarColumn(), TaskProgressColumn(), Foreign("amount"), Foreign("extra"))
    bars = Bars(*columns, console=console, refresh_per_second=4)
    tasks: dict[str, TaskID] = {}

    class RichProgress:
        def update(
            self, what: str, done: float, total: float, eta_s: float = -1.0, values: Mapping[str, float] | None = None
        ) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task("", total=None, label=one_line(what), amount="", extra="")
            bars.update(
                tasks[what],
                completed=done,
                total=total if total > 0 else None,
                amount=f"{done:,.0f}/{total:,.0f}" if total > 0 else "",
                extra=_extra(eta_s, values).strip(),
            )

        def finish(self, what: str) -> None:
            if what in tasks:
                total = bars.tasks[bars.task_ids.index(tasks[what])].total
                bars.update(tasks[what], completed=total, extra="")

        def note(self, text: str) -> None:
            console.print(Text(clean(text)))

    with bars:
        yield RichProgress()
