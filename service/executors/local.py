"""Workers as processes of this machine.

One worker per attempt is held by a lock on the attempt folder (`attempt.lock`, flock). The executor takes the lock
first and hands the locked descriptor to the process that it starts: whoever dies at whatever moment, the lock is held
exactly while the launch or the worker goes on. A service that starts anew asks the lock, so it neither starts a second
worker nor takes a recycled process id for its own. The worker writes its process id and start time (which does not move
with the clock) into `worker.json`; they are used for signals and age only. For a standby the executor writes it before
it sends the attempt, marked as an offer: if both fall silent then, the next service knows whom to end.

A worker is the leader of a session of its own: it outlives the service, and its children are ended with it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from posttrain.engine.events import write_atomic
from posttrain.engine.task import LOG_FILE
from posttrain.service.errors import LaunchError
from posttrain.service.executors.base import Look
from posttrain.service.executors.standby import TAKE_S, Standby, taken_clock_s

LOCK_FILE = "attempt.lock"
WORKER_FILE = "worker.json"
WORKER_COMMAND = (sys.executable, "-m", "posttrain.service.worker")
POLL_S = 0.05
REAP_S = 5.0  # from letting go of the lock to the end of the process; a busy machine takes a while

# All that a worker gets of the service's environment: what Python, torch and a GPU need, and no credentials.
PASSED_VARIABLES = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES", "HF_HOME", "PYTORCH_CUDA_ALLOC_CONF", "OMP_NUM_THREADS", "MLFLOW_TRACKING_URI",
)  # fmt: skip


class WorkerRecord(BaseModel):
    """Who holds an attempt: a process id is only good together with its start time.

    `taken_s` is when a standby took the attempt, on the clock of `taken_clock_s`; 0: it was started for it. An offer
    was sent to a standby, which has not said yet that it takes it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    started: float
    taken_s: float = 0.0
    is_offer: bool = False


class LocalExecutor:
    """Starts `command FOLDER --lock-fd N` for each attempt, or hands it to a standby that waits for one. `threads` is
    each worker's share of the cores.
    """

    def __init__(self, threads: int = 0, command: Sequence[str] = WORKER_COMMAND) -> None:
        self._threads = threads
        self._command = tuple(command)
        self._children: dict[Path, subprocess.Popen[bytes]] = {}
        self._standby: Standby | None = None

    def keep_standby(self, logs: Path) -> None:
        """Keeps one idle process from now on that has imported everything; what it says goes into the folder `logs`.
        Inside the event loop.
        """
        self._standby = Standby(self._command, worker_environment(self._threads), logs)
        self._standby.start()

    async def launch(self, folder: Path) -> None:
        descriptor = _try_lock(folder, fcntl.LOCK_EX)
        if descriptor is None:
            return
        try:
            with open(folder / LOG_FILE, "ab") as log:
                # Whoever held the lock before is gone; its record would be taken for the next one's until that writes.
                (folder / WORKER_FILE).unlink(missing_ok=True)
                if self._standby is not None:
                    taken = await self._standby.hand_over(
                        folder, descriptor, log.fileno(), lambda pid: _offer(folder, pid)
                    )
                    if taken is not None:
                        self._children[folder] = taken
                        return
                    (folder / WORKER_FILE).unlink(missing_ok=True)
                self._children[folder] = subprocess.Popen(
                    [*self._command, str(folder), "--lock-fd", str(descriptor)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=folder,
                    env=worker_environment(self._threads),
                    pass_fds=(descriptor,),
                    start_new_session=True,
                )
        except OSError as error:
            raise LaunchError(f"cannot start a worker for {folder.name}: {error}") from error
        finally:
            os.close(descriptor)

    async def look(self, folder: Path) -> Look:
        self._reap()
        if not (folder / LOCK_FILE).exists():
            return Look(alive=False)
        descriptor = _try_lock(folder, fcntl.LOCK_SH)
        if descriptor is not None:
            os.close(descriptor)
            child = self._children.get(folder)
            if child is not None:  # it let go of the lock while it ended: nobody may look at this folder again
                with suppress(subprocess.TimeoutExpired):
                    await asyncio.to_thread(child.wait, REAP_S)
                self._reap()
            return Look(alive=False)
        record = read_worker(folder)
        if record is None:
            return Look(alive=True)
        if _process(record) is not None:
            if record.is_offer and _age_s(record) > TAKE_S:  # it did nothing of the attempt; its lock ends with it
                await asyncio.to_thread(_end_session, record)
            return Look(alive=True, age_s=_age_s(record))
        # The leader is gone, a child of it still holds the lock: nobody will write an exit record any more.
        await asyncio.to_thread(_end_session, record)
        return Look(alive=False)

    async def stop(self, folder: Path, grace_s: float) -> None:
        deadline = time.monotonic() + grace_s
        asked = False
        while (await self.look(folder)).alive:
            record = read_worker(folder)
            process = None if record is None else _process(record)
            if record is not None and process is not None:
                if not asked:
                    asked = _signal(process, signal.SIGTERM)
                elif time.monotonic() > deadline:
                    await asyncio.to_thread(_end_session, record)
            await asyncio.sleep(POLL_S)

    def detach(self) -> None:
        """Forgets the workers without ending them; the next service finds them by their locks. An idle standby ends."""
        if self._standby is not None:
            self._standby.close()
        for child in self._children.values():
            if child.poll() is None:
                child.returncode = 0  # it is meant to outlive this object, which Popen would warn about
        self._children.clear()

    def _reap(self) -> None:
        """Forgets the workers that have ended, so that none of them stays a zombie."""
        self._children = {folder: child for folder, child in self._children.items() if child.poll() is None}


def worker_environment(threads: int) -> dict[str, str]:
    """A worker's whole environment: offline, no credentials, and no more threads than its share."""
    passed = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    fixed = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    share = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {}
    return {**passed, **fixed, **share}


def read_worker(folder: Path) -> WorkerRecord | None:
    """Who works on an attempt; None before the worker said so."""
    try:
        return WorkerRecord.model_validate_json((folder / WORKER_FILE).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise LaunchError(f"{folder / WORKER_FILE} is damaged: {error}") from error


def _offer(folder: Path, pid: int) -> None:
    """Says that an attempt is being sent to a standby.

    Raises:
        OSError: it cannot be written, or there is no such process.
    """
    try:
        record = WorkerRecord(pid=pid, started=start_time(pid), taken_s=taken_clock_s(), is_offer=True)
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(str(error)) from error
    write_atomic(folder / WORKER_FILE, record.model_dump_json().encode())


def start_time(pid: int) -> float:
    """When a process started, on a clock that nobody sets: ticks since boot on Linux, psutil's value elsewhere.

    Raises:
        psutil.NoSuchProcess: there is none.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return float(psutil.Process(pid).create_time())
    except ProcessLookupError as error:
        raise psutil.NoSuchProcess(pid) from error
    return float(text.rpartition(")")[2].split()[19])


def _age_s(record: WorkerRecord) -> float:
    if record.taken_s:
        return taken_clock_s() - record.taken_s
    if Path("/proc/self/stat").exists():
        return time.clock_gettime(time.CLOCK_BOOTTIME) - record.started / os.sysconf("SC_CLK_TCK")
    return time.time() - record.started


def _try_lock(folder: Path, mode: int) -> int | None:
    """A descriptor that holds the attempt's lock, or None if another process holds it."""
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _process(record: WorkerRecord) -> psutil.Process | None:
    """The recorded process if it lives; a zombie, or another process under the same id, does not count."""
    try:
        process = psutil.Process(record.pid)
        same = start_time(record.pid) == record.started
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _signal(process: psutil.Process, number: signal.Signals) -> bool:
    try:
        process.send_signal(number)  # psutil compares the start time again
    except psutil.NoSuchProcess:
        return False
    return True


def _end_session(record: WorkerRecord) -> None:
    """Kills the worker and whatever it started, by session: its id is not given out again while anyone is in it."""
    for process in psutil.process_iter():
        try:
            ours = os.getsid(process.pid) == record.pid
            # A recycled id would be another session's leader with another start time.
            if ours and (process.pid != record.pid or start_time(process.pid) == record.started):
                process.kill()
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
