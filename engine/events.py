"""Typed events of a running attempt: one JSON object a line, append-only, on disk; and the exit record, written last.

A worker appends to `events.jsonl` in its attempt folder; the supervisor tails the file. `seq` counts from 1 within
the attempt, so a reader can tell a repeated line from a new one. A last line without its newline is a write in
progress and is left for later. The exit record is written to a temporary name, fsynced and renamed: its absence means
that the attempt was interrupted, never that it succeeded.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

EVENTS_FILE = "events.jsonl"
EXIT_FILE = "exit.json"
HELD_OUT_PREFIX = "held_out_"  # of the names of numbers of rows that are not trained on


class Event(BaseModel):
    """Common to all events. `time` is seconds since the epoch (UTC)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seq: int = 0
    time: float = 0.0
    attempt: int = 0


class Phase(Event):
    """The attempt entered a phase: loading, data, reference, training, saving, evaluating."""

    type: Literal["phase"] = "phase"
    phase: str


class Progress(Event):
    """Work done and left within a phase. `eta_s` is -1 while it cannot be known."""

    type: Literal["progress"] = "progress"
    phase: str
    done: int
    total: int
    eta_s: float = -1.0


class StepMetrics(Event):
    """Numbers of one optimiser step (1-based). Values are finite: a non-finite loss is an error, not a metric."""

    type: Literal["metrics"] = "metrics"
    step: int
    total_steps: int
    values: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    eta_s: float = -1.0


class HeldOutMetrics(Event):
    """Numbers of the rows that are not trained on, after an optimiser step: `held_out_loss`, and the method's own under
    the same prefix. `is_best`: no evaluation before had a lower loss."""

    type: Literal["held_out"] = "held_out"
    step: int
    total_steps: int
    values: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    num_rows: int
    is_best: bool


class CheckpointSaved(Event):
    type: Literal["checkpoint"] = "checkpoint"
    step: int
    path: str


class Resumed(Event):
    """Training continues from a checkpoint, possibly of an earlier attempt."""

    type: Literal["resumed"] = "resumed"
    step: int
    path: str


class Note(Event):
    """A line for people: something was assumed, dropped or slow."""

    type: Literal["note"] = "note"
    level: Literal["info", "warning", "error"] = "info"
    message: str


AnyEvent = Phase | Progress | StepMetrics | HeldOutMetrics | CheckpointSaved | Resumed | Note
_EVENT: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="type")])


class ExitRecord(BaseModel):
    """How an attempt ended, written last.

    `code` is the error's stable code (see `posttrain.engine.errors`), empty on success; `output` names the folder of
    results, relative to the attempt folder; `summary` holds final numbers (for a training job at least `loss`,
    `steps`, `tokens`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Literal["succeeded", "failed", "cancelled"]
    attempt: int
    code: str = ""
    message: str = ""
    hint: str = ""
    retryable: bool = False
    output: str = ""
    summary: dict[str, Any] = Field(default_factory=dict)
    time: float = 0.0


class EventWriter:
    """Appends events to a file; numbering continues after the lines that are there."""

    def __init__(self, path: Path, attempt: int, clock: Callable[[], float] = time.time) -> None:
        self._attempt = attempt
        self._clock = clock
        ends = [end for _, end in read_events(path)] if path.exists() else []
        self._seq, whole = len(ends), ends[-1] if ends else 0
        if path.exists():
            os.truncate(path, whole)  # a killed writer may have left part of a line, which the next would be glued to
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - held for the attempt's life, closed by close()

    def write(self, event: AnyEvent) -> AnyEvent:
        """Stamps the event with sequence number, time and attempt, and appends it in one write.

        Raises:
            OSError: the line does not fit on the disk; the file then ends with the line before.
        """
        stamped = event.model_copy(update={"seq": self._seq + 1, "time": self._clock(), "attempt": self._attempt})
        line = stamped.model_dump_json().encode() + b"\n"
        before = os.fstat(self._file.fileno()).st_size
        written = self._file.write(line)
        if written != len(line):  # a nearly full disk takes the line's beginning
            os.truncate(self._file.fileno(), before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._file.name))
        self._seq += 1
        return stamped

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_events(path: Path, offset: int = 0) -> Iterator[tuple[AnyEvent, int]]:
    """Yields (event, offset after it) for each complete line from byte `offset` on.

    Raises:
        ValueError: a complete line is not an event.
    """
    with open(path, "rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield _EVENT.validate_json(line), offset


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file so that a reader or a crash sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def fsync_folder(path: Path) -> None:
    """Makes a rename or a new file in this folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_exit(folder: Path, record: ExitRecord) -> None:
    """Writes the attempt's exit record; the last thing that a worker does."""
    write_atomic(folder / EXIT_FILE, record.model_dump_json(indent=1).encode())


def read_exit(folder: Path) -> ExitRecord | None:
    """The attempt's exit record, or None while there is none."""
    try:
        return ExitRecord.model_validate(json.loads((folder / EXIT_FILE).read_bytes()))
    except FileNotFoundError:
        return None
