"""What stands in attempt folders: how far an attempt came, where the next one resumes, and the log."""

from __future__ import annotations

import logging
from pathlib import Path

from posttrain.engine.checkpoint import find_checkpoints, read_checkpoint
from posttrain.engine.errors import CheckpointError
from posttrain.engine.events import (
    HELD_OUT_PREFIX,
    AnyEvent,
    HeldOutMetrics,
    Phase,
    Progress,
    StepMetrics,
    read_events,
)
from posttrain.engine.task import CHECKPOINTS_FOLDER, LOG_FILE, OUTPUT_FOLDER
from posttrain.evals.rows import ROWS_FILE

log = logging.getLogger(__name__)
EVENTS_AT_ONCE = 500
MAX_LINE_BYTES = 4096
LOG_BLOCK_BYTES = 256 * 2**10


def checkpoints(folder: Path) -> list[Path]:
    """An attempt's finished checkpoints, newest first; not verified."""
    return find_checkpoints(folder / CHECKPOINTS_FOLDER)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def newest_checkpoint(folders: list[Path], spec_sha256: str) -> str:
    """The furthest sound checkpoint of a job's attempts (oldest attempt first), or an empty text. Reads whole files."""
    found = [(_step_of(path), index, path) for index, folder in enumerate(folders) for path in checkpoints(folder)]
    for _, _, path in sorted(found, reverse=True):
        try:
            return str(read_checkpoint(path, spec_sha256).folder)
        except CheckpointError as error:
            log.warning("checkpoint skipped", extra={"checkpoint": path.name, "error": str(error)})
    return ""


def newest_rows(folders: list[Path]) -> str:
    """The rows of the evaluation attempt that came furthest, or an empty text."""
    files = [folder / OUTPUT_FOLDER / ROWS_FILE for folder in folders]
    found = [(path.stat().st_size, index, path) for index, path in enumerate(files) if path.is_file()]
    return str(max(found)[2]) if found else ""


def progress_of(folder: Path, is_training: bool) -> float:
    """How far an attempt came, as a number that only grows: the newest checkpoint's step, or bytes of rows."""
    if is_training:
        found = checkpoints(folder)
        return float(_step_of(found[0])) if found else 0.0
    rows = folder / OUTPUT_FOLDER / ROWS_FILE
    return float(rows.stat().st_size) if rows.is_file() else 0.0


def read_some_events(path: Path, offset: int) -> tuple[list[AnyEvent], int]:
    """The next events of a file and the offset after them; nothing while there is no file.

    Raises:
        ValueError: a complete line is not an event.
    """
    events: list[AnyEvent] = []
    if not path.exists():
        return events, offset
    for event, after in read_events(path, offset):
        events.append(event)
        offset = after
        if len(events) >= EVENTS_AT_ONCE:
            break
    return events, offset


def fold_progress(progress: dict[str, object], events: list[AnyEvent]) -> dict[str, object]:
    """A job's progress after these events. Held-out numbers stay until there are newer ones."""
    now, values = dict(progress), dict[str, float](progress.get("values") or {})  # type: ignore[call-overload]
    for event in events:
        if isinstance(event, Phase):
            now.update(phase=event.phase, done=0, total=0, eta_s=-1.0)
        elif isinstance(event, Progress):
            now.update(phase=event.phase, done=event.done, total=event.total, eta_s=event.eta_s)
        elif isinstance(event, StepMetrics):
            values = {name: value for name, value in values.items() if name.startswith(HELD_OUT_PREFIX)} | event.values
            now.update(done=event.step, total=event.total_steps, eta_s=event.eta_s, values=values)
        elif isinstance(event, HeldOutMetrics):
            values = values | event.values
            now.update(values=values)
    return now


def read_log(folder: Path, offset: int, size: int, tail: bool, is_over: bool) -> tuple[list[str], int]:
    """At most `size` complete lines of the attempt's log from byte `offset` on, or before its end; and the offset
    after them. Of an attempt that `is_over` the last line counts too if it has no end: its worker was killed in it.

    A line is cut at 4 KiB and never more than 256 KiB are read, whatever a worker wrote.
    """
    path = folder / LOG_FILE
    if not path.is_file():
        return [], offset
    with open(path, "rb") as file:
        end = file.seek(0, 2)
        if tail:
            offset = max(0, end - LOG_BLOCK_BYTES)
        file.seek(min(offset, end))
        block = file.read(LOG_BLOCK_BYTES)
    if tail and offset:
        first = block.find(b"\n") + 1
        block, offset = block[first:], offset + first
    complete = block.rfind(b"\n") + 1
    if not complete and len(block) == LOG_BLOCK_BYTES:
        complete = len(block)  # one endless line: hand it out in pieces
    if is_over and offset + len(block) >= end:
        complete = len(block)  # nothing will end its last line any more
    lines = block[:complete].splitlines(keepends=True)
    if tail:
        skipped = lines[:-size] if size < len(lines) else []
        offset += sum(len(line) for line in skipped)
        lines = lines[len(skipped) :]
    lines = lines[:size]
    offset += sum(len(line) for line in lines)
    return [line[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip("\r\n") for line in lines], offset
