"""A worker that has imported everything and waits for an attempt: it saves the seconds that importing takes.

The executor starts one process, `command --standby FD`, whose descriptor is one end of a socket pair. The process says
"ready" when it has imported what attempts need. A launch sends it the attempt folder together with two descriptors, the
attempt's lock and its log; from then on it is that attempt's worker, in the folder, with the log as its output, and
takes no other. It says "taken" before it does anything else. The executor then starts the next one, a little later.

Who dies when:

- The server, while the standby is idle: the standby reads the end of the socket and ends.
- The server, after it has sent an attempt: the message keeps the lock, also unread, and the standby goes on with it.
  The attempt's `worker.json`, written before, names it; if it never takes it, the next server ends it.
- The standby, before it said "taken": it did nothing, so the launch starts a cold worker with the lock that it still
  holds. After that it is a worker that was killed.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

STANDBY_LOG = "standby.log"
READY, TAKEN = b"r", b"t"
TAKE_S = 10.0  # an idle process answers in milliseconds; one that does not is ended
REFILL_S = 3.0  # the next one does not import while an attempt starts
MAX_BACKOFF_S = 300.0
IDLE_NICE = 19
NEITHER = "/"  # where it waits: neither an attempt's folder, nor one that has to be kept
MAX_PATH_BYTES = 16 * 1024
log = logging.getLogger(__name__)


class Standby:
    """The server's side; one process at most. Made and used inside one event loop."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], logs: Path) -> None:
        self._command = tuple(command)
        self._environment = environment
        self._log = logs / STANDBY_LOG
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._is_ready = False
        self._keeper: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def is_ready(self) -> bool:
        return self._is_ready

    def start(self, delay_s: float = 0.0) -> None:
        """Keeps one process from now on, in the background; another one after a crash, more and more slowly."""
        if not self._is_closed and (self._keeper is None or self._keeper.done()):
            self._keeper = asyncio.create_task(self._keep(delay_s), name="standby")

    async def hand_over(
        self, folder: Path, lock: int, worker_log: int, offer: Callable[[int], None]
    ) -> subprocess.Popen[bytes] | None:
        """Makes the waiting process the worker of an attempt whose lock is held by descriptor `lock`; None: there was
        none, or it died before it took the attempt, and whatever it was is gone. `offer` is called with its process id
        before anything is sent, and raises OSError if nothing may be.
        """
        if not self._is_ready or self._process is None or self._socket is None:
            return None
        # From here on it is not the idle process any more, whatever becomes of this call.
        process, channel = self._process, self._socket
        self._process, self._socket, self._is_ready = None, None, False
        is_taken = False
        try:
            await self._stop_keeping()
            offer(process.pid)
            socket.send_fds(channel, [os.fsencode(folder) + b"\0"], [lock, worker_log])
            loop = asyncio.get_running_loop()
            with suppress(TimeoutError):
                is_taken = await asyncio.wait_for(loop.sock_recv(channel, 1), TAKE_S) == TAKEN
        except OSError:
            pass  # it is dead: said below
        except asyncio.CancelledError:
            _let_go(process)  # the server stops: a process that was sent the attempt goes on with it, another ends
            channel.close()
            raise
        if not is_taken:
            await asyncio.to_thread(_end, process)
            with suppress(OSError):
                is_taken = channel.recv(1) == TAKEN  # said in the last moment, and then killed: a killed worker
            log.warning("standby lost", extra={"pid": process.pid, "taken": is_taken})
        channel.close()
        self.start(REFILL_S)
        return process if is_taken else None

    def close(self) -> None:
        """Ends the idle process."""
        self._is_closed = True
        if self._keeper is not None:
            self._keeper.cancel()
        self._drop()

    async def _keep(self, delay_s: float) -> None:
        backoff_s = 1.0
        await asyncio.sleep(delay_s)
        while True:
            try:
                channel = self._spawn()
                if await asyncio.get_running_loop().sock_recv(channel, 1) == READY:
                    self._is_ready, backoff_s = True, 1.0
                    log.info("standby ready", extra={"pid": self._process.pid if self._process else 0})
                    await asyncio.get_running_loop().sock_recv(channel, 1)  # nothing is said: this is its end
            except OSError as error:
                log.warning("standby failed", extra={"error": str(error)})
            code = await asyncio.to_thread(self._drop)
            log.warning("standby ended", extra={"exit_code": code, "log": str(self._log)})
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)

    def _spawn(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket = ours
        ours.setblocking(False)
        with theirs, open(self._log, "wb") as output:
            self._process = subprocess.Popen(
                [*self._command, "--standby", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=NEITHER,
                env=self._environment,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        return ours

    async def _stop_keeping(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    def _drop(self) -> int | None:
        process, channel = self._process, self._socket
        self._process, self._socket, self._is_ready = None, None, False
        if channel is not None:
            channel.close()
        return None if process is None else _end(process)


def _end(process: subprocess.Popen[bytes]) -> int:
    process.kill()  # it holds nothing yet; one that took an attempt meanwhile is a killed worker
    return process.wait()


def _let_go(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.returncode = 0  # it is meant to outlive this object, which Popen would warn about


# -- in the process ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Handover:
    """An attempt that was taken: its folder, and the descriptor that holds its lock."""

    folder: Path
    lock: int
    channel: socket.socket

    def confirm(self) -> None:
        """Says that it is taken; nothing of the attempt may have been done yet."""
        with suppress(OSError):  # a server that is gone need not know
            self.channel.send(TAKEN)
        self.channel.close()


def await_attempt(descriptor: int, preload: Callable[[], None]) -> Handover | None:
    """Preloads, waits for an attempt, and moves into its folder and log; None when the server is gone.

    Raises:
        ImportError, OSError and whatever else `preload` raises.
    """
    os.set_inheritable(descriptor, False)
    channel = socket.socket(fileno=descriptor)
    _preload(channel, preload)
    try:
        channel.send(READY)
        data, descriptors = b"", list[int]()
        while not data.endswith(b"\0"):
            part, received, _, _ = socket.recv_fds(channel, MAX_PATH_BYTES, 2)
            if not part:
                return None
            data, descriptors = data + part, descriptors + list(received)
    except ConnectionError:
        return None
    lock, output = descriptors
    for number in descriptors:
        os.set_inheritable(number, False)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    folder = Path(os.fsdecode(data[:-1]))
    os.chdir(folder)
    return Handover(folder, lock, channel)


def _preload(channel: socket.socket, preload: Callable[[], None]) -> None:
    """Runs `preload`, and ends this process if the server ends meanwhile.

    At the lowest priority, if this process may raise it again: an attempt runs at the priority of any worker.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            preload()
            gc.collect()
        except BaseException as error:
            traceback.print_exc()
            errors.append(error)

    is_low = _can_raise_priority()
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    if is_low:
        os.setpriority(os.PRIO_PROCESS, 0, IDLE_NICE)
    thread = threading.Thread(target=run, name="preload")  # it inherits the priority, as do all that libraries start
    thread.start()
    watch = select.poll()
    watch.register(channel, select.POLLIN | select.POLLHUP)
    while thread.is_alive():
        if watch.poll(50):
            os._exit(0)  # nothing is sent before "ready": this is the end, and importing cannot be stopped otherwise
    thread.join()
    if errors:
        raise errors[0]
    for task in os.listdir("/proc/self/task") if is_low else ():
        with suppress(ProcessLookupError):  # a thread that ended meanwhile
            os.setpriority(os.PRIO_PROCESS, int(task), usual)


def _can_raise_priority() -> bool:
    """Tried by a thread that is gone afterwards: on Linux each thread has a priority of its own."""
    found = []

    def probe() -> None:
        usual = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, IDLE_NICE)
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, usual)
            found.append(True)

    if sys.platform == "linux":
        thread = threading.Thread(target=probe)
        thread.start()
        thread.join()
    return bool(found)


def taken_clock_s() -> float:
    """Seconds on the clock that ages of workers are told by: since boot on Linux."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()
