"""The frame around one attempt, of training or of evaluation: events, a stop signal, and an exit record whatever
happens.

Imports no torch.
"""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from posttrain.engine.checkpoint import disk_errors, is_disk_full
from posttrain.engine.errors import CancelledError, DiskFullError, EngineError
from posttrain.engine.events import EVENTS_FILE, AnyEvent, EventWriter, ExitRecord, write_exit
from posttrain.engine.task import OUTPUT_FOLDER

RESERVE_BYTES = 64 * 1024
RESERVE_FILE = ".reserve"

ShouldStop = Callable[[], bool]


class Events:
    """Writes events, and turns a full disk into DiskFullError."""

    def __init__(self, writer: EventWriter) -> None:
        self._writer = writer

    def __call__(self, event: AnyEvent) -> None:
        with disk_errors("writing an event"):
            self._writer.write(event)


def run_attempt(folder: Path, attempt: int, work: Callable[[Events, ShouldStop], dict[str, Any]]) -> ExitRecord:
    """Calls `work`, which returns the summary, and writes the exit record of what became of it.

    Every error ends in the record; one that is no EngineError gets code INTERNAL and its traceback on standard error,
    which is the attempt's log.

    Raises:
        OSError: not even the exit record could be written; the attempt then counts as interrupted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reserve = folder / RESERVE_FILE
    try:
        with disk_errors("starting"):
            reserve.write_bytes(b"\0" * RESERVE_BYTES)  # room for the exit record when the disk is full
        with ExitStack() as stack:
            with disk_errors("opening the event file"):
                writer = stack.enter_context(EventWriter(folder / EVENTS_FILE, attempt))
            summary = work(Events(writer), stack.enter_context(stop_signal()))
        record = ExitRecord(
            status="succeeded", attempt=attempt, output=OUTPUT_FOLDER, summary=summary, time=time.time()
        )
    except BaseException as error:
        record = record_of(error, attempt)
        if record.code == "INTERNAL":
            traceback.print_exc()
    reserve.unlink(missing_ok=True)
    write_exit(folder, record)
    return record


def record_of(error: BaseException, attempt: int) -> ExitRecord:
    """The exit record of a failure."""
    if isinstance(error, KeyboardInterrupt):
        error = CancelledError("interrupted from the keyboard")
    if isinstance(error, OSError) and not isinstance(error, EngineError) and is_disk_full(error):
        error = DiskFullError("no space left on the data folder's disk")
    if isinstance(error, EngineError):
        return ExitRecord(
            status="cancelled" if isinstance(error, CancelledError) else "failed",
            attempt=attempt,
            code=error.code,
            message=str(error),
            hint=error.hint,
            retryable=error.retryable,
            time=time.time(),
        )
    return ExitRecord(
        status="failed",
        attempt=attempt,
        code="INTERNAL",
        message=f"{type(error).__name__}: {error}",
        hint="the attempt's log has the traceback; please report it",
        time=time.time(),
    )


@contextmanager
def stop_signal() -> Iterator[ShouldStop]:
    """True once SIGTERM came. Signals can be handled in a main thread only; elsewhere nothing changes."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping.is_set
        return

    def handle(_: int, __: FrameType | None) -> None:
        stopping.set()

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield stopping.is_set
    finally:
        signal.signal(signal.SIGTERM, previous)
