"""A worker's only entry: `python -m posttrain.service.worker ATTEMPT_FOLDER`.

Reads the assignment, holds the attempt's lock, hands over to the engine or to the evaluation runner, and makes sure
that an exit record says how it ended, also when torch cannot even be imported. Torch is imported by what it hands
over to, never by this module.

    python -m posttrain.service.worker FOLDER [--lock-fd N]   runs an attempt; the descriptor holds FOLDER's lock
    python -m posttrain.service.worker --standby N            imports all, then waits for an attempt (standby.py)
    python -m posttrain.service.worker --sample               answers one request on standard output (sampling.py)
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType

from posttrain.engine.errors import CancelledError, EngineError
from posttrain.engine.events import ExitRecord, read_exit, write_atomic, write_exit
from posttrain.engine.task import EvaluateTask, TrainTask, read_assignment
from posttrain.service.executors.local import LOCK_FILE, WORKER_FILE, WorkerRecord, start_time
from posttrain.service.executors.standby import await_attempt, taken_clock_s

PROCESS_NAME_BYTES = 15  # Linux cuts off what is behind them
EXIT_HELD = 75  # EX_TEMPFAIL: another worker holds the attempt


def _run(task: TrainTask | EvaluateTask, folder: Path) -> ExitRecord:
    if isinstance(task, TrainTask):
        from posttrain.engine.run import run_training

        return run_training(task, folder)
    from posttrain.evals.runner import run_evaluation

    return run_evaluation(task, folder)


def preload() -> None:
    """Imports all that attempts use, and loads the small base of this package once: transformers builds tables at its
    first model. Nothing of a job is known here, and nothing that a job computes with is left behind.
    """
    import posttrain.engine.adapters
    import posttrain.engine.run
    import posttrain.evals.runner  # noqa: F401
    from posttrain.engine.base import BASE_DIR
    from posttrain.engine.models import load
    from posttrain.engine.task import ModelInput

    load(ModelInput(ref="standby", path=str(BASE_DIR), digest="", weights_digest=""))


def run_attempt(folder: Path) -> ExitRecord:
    """Runs the attempt in a folder whose lock is held, and returns the exit record that is on disk then."""
    signal.signal(signal.SIGTERM, _stop)
    attempt = 0
    try:
        task = read_assignment(folder)
        attempt = task.attempt
        record = _run(task, folder)
    except CancelledError as error:
        record = ExitRecord(status="cancelled", attempt=attempt, code=error.code, message=str(error), time=time.time())
    except EngineError as error:
        traceback.print_exc()
        record = ExitRecord(
            status="failed",
            attempt=attempt,
            code=error.code,
            message=str(error),
            hint=error.hint,
            retryable=error.retryable,
            time=time.time(),
        )
    except Exception as error:
        # Whatever it was, a job must end with a reason; the traceback is in the attempt's log.
        traceback.print_exc()
        record = ExitRecord(
            status="failed", attempt=attempt, code="WORKER_ERROR", message=f"{type(error).__name__}: {error}"[:2000],
            hint="the traceback is in the attempt's log (`posttrain jobs logs`)", time=time.time(),
        )  # fmt: skip
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    written = read_exit(folder)
    if written is None:
        write_exit(folder, record)
        return record
    return written


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise CancelledError("the worker was asked to stop")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="posttrain.service.worker", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--lock-fd", type=int, default=-1, help="a descriptor that holds the attempt's lock")
    parser.add_argument("--standby", type=int, default=-1, help="a socket that will bring an attempt")
    parser.add_argument("--sample", action="store_true", help="read a sampling request from standard input")
    options = parser.parse_args(arguments)
    # peft imports bitsandbytes where it is installed, which then misses a package that nothing here needs.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if options.sample:
        from posttrain.service.sampling import serve_sample

        return serve_sample(sys.stdin.buffer, sys.stdout.buffer)
    if options.standby >= 0:
        return _stand_by(options.standby)
    if options.folder is None:
        parser.error("an attempt folder is needed")
    folder: Path = options.folder.resolve()
    descriptor = options.lock_fd if options.lock_fd >= 0 else os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another worker holds {folder}", file=sys.stderr)  # noqa: T201 - to the log of whoever started this by hand
        return EXIT_HELD
    os.set_inheritable(descriptor, False)
    _say_who(folder)
    return 0 if run_attempt(folder).status == "succeeded" else 1


def _stand_by(descriptor: int) -> int:
    attempt = await_attempt(descriptor, preload)
    if attempt is None:
        return 0
    _say_who(attempt.folder, taken_clock_s())
    attempt.confirm()
    return 0 if run_attempt(attempt.folder).status == "succeeded" else 1


def _say_who(folder: Path, taken_s: float = 0.0) -> None:
    """In `worker.json`, and on Linux as the process's name in `ps` and `top`: the job's, or its last 15 characters. The
    command line, which cannot be changed, names the attempt folder of those only that were started for it."""
    pid = os.getpid()
    record = WorkerRecord(pid=pid, started=start_time(pid), taken_s=taken_s)
    write_atomic(folder / WORKER_FILE, record.model_dump_json().encode())
    with suppress(OSError):
        Path("/proc/self/comm").write_text(folder.parents[1].name[-PROCESS_NAME_BYTES:])


if __name__ == "__main__":
    raise SystemExit(main())
