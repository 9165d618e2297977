"""Scores answers in a process of its own, one at a time.

Before each answer the process sets two timers whose signals it does not handle: if the answer takes too long, in Python
or in C, the kernel ends the process, and also when the trainer was killed in between. One counts the process's own CPU
time, so that a busy machine takes no rewards away; the other, for what waits, is longer. The trainer sees the pipe
end, counts the answer as failed and starts another process for the next one. A function that takes the timers away is
ended by the trainer, a little later. A line is a JSON object; see `scoring.main`.

A function may start processes of its own, which keep the pipe open when it is gone: so nobody waits for the pipe's end,
and all of them are ended with it (they have a process group of their own).
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType

from posttrain.engine.errors import SpecError
from posttrain.engine.rewards.base import Answer, Scored
from posttrain.engine.rewards.scoring import PARTS, make
from posttrain.engine.spec import PythonReward, RewardOptions

CPU_S = 10.0
TIMEOUT_S = 60.0
START_S = 60.0  # for the modules of functions, which may import much
GRACE_S = 5.0
POLL_S = 0.2  # how soon it is seen that the process has ended, where a child of it keeps the pipe open
# -P: what lies in the folder that the worker happens to run in is nobody's module.
_COMMAND = (sys.executable, "-P", "-c", "from posttrain.engine.rewards.scoring import main; main()")


class RewardProcess:
    """The process, started when the first answer comes, or at once if a part is a Python function, which is imported
    there. A context manager, which ends it.

    `command` is what is started, for tests.

    Raises:
        SpecError: a part cannot be made, such as one with a pattern that is none, or a function that is not there.
    """

    def __init__(
        self,
        options: Sequence[RewardOptions],
        timeout_s: float = TIMEOUT_S,
        command: Sequence[str] = _COMMAND,
        cpu_s: float = CPU_S,
    ) -> None:
        self._is_idle = not make(options)
        self._command = command
        limits = {"cpu_s": cpu_s, "timeout_s": timeout_s, "start_s": START_S}
        self._head = json.dumps({"parts": PARTS.dump_python(list(options), mode="json"), **limits}).encode() + b"\n"
        self._cpu_s, self._timeout_s = cpu_s, timeout_s
        self._is_late = False
        self._number = 0  # of the answer that is asked about
        self._process: subprocess.Popen[bytes] | None = None
        if any(isinstance(option, PythonReward) for option in options):
            failure = self._start()
            if failure:
                self.close()
                raise SpecError(ascii(failure)[1:-1], hint="the module has to be where the server's Python finds it")

    def score(self, answer: Answer) -> Scored:
        """The parts of one answer, but those of reward models. Never raises because of an answer."""
        if self._is_idle:
            return Scored()
        failure = self._start() if self._process is None else ""
        if failure:
            self.close()
            return Scored(failure=failure)
        self._number += 1
        said = self._ask(json.dumps({"number": self._number, **asdict(answer)}).encode() + b"\n", self._timeout_s)
        if not said.endswith(b"\n"):
            return Scored(failure=self._died(self._timeout_s))
        scored = _read(said, self._number)
        if scored is None:
            self.close()  # what else it has written would be taken for the next answer's
            return Scored(failure="the reward's process wrote what is no score of this answer")
        return scored

    def close(self) -> None:
        """Ends the process, if there is one, and what it has started."""
        if self._process is not None:
            self._end(self._process)

    def __enter__(self) -> RewardProcess:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _start(self) -> str:
        """Starts the process; returns why it cannot be used, if it cannot."""
        self._process = subprocess.Popen(
            self._command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
        )
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        said = self._ask(self._head, START_S)
        return str(json.loads(said)["failure"]) if said.endswith(b"\n") else self._died(START_S)

    def _ask(self, line: bytes, limit_s: float) -> bytes:
        """The line that the process answers with; less if it has ended, or had to be."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        deadline, said = time.monotonic() + limit_s + GRACE_S, b""
        while not said.endswith(b"\n"):
            has_ended = _has_ended(process)  # asked first: what it wrote before is there by now
            readable, writable, _ = select.select([process.stdout], [process.stdin] if line else [], [], POLL_S)
            if writable:
                try:
                    line = line[os.write(process.stdin.fileno(), line) :]
                except BrokenPipeError:
                    line = b""  # it has ended, or will have been ended in time
            if readable:
                found = os.read(process.stdout.fileno(), 2**16)
                said += found
                if not found:
                    break
            elif has_ended:
                break
            if time.monotonic() > deadline and not said.endswith(b"\n"):
                self._is_late = True
                break
        return said

    def _died(self, limit_s: float) -> str:
        assert self._process is not None
        code = self._end(self._process)
        was_late, self._is_late = self._is_late, False
        if code == -signal.SIGALRM or was_late:
            return f"no reward within {limit_s:g} s"
        if code == -signal.SIGPROF:
            return f"no reward within {self._cpu_s:g} s of CPU time"
        return f"the reward's process ended with {code}"

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        """Ends its group, before its number can be another's; returns how it ended, if it had already."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None
        return code


def _read(said: bytes, number: int) -> Scored | None:
    """What the process says of the answer of this number; None if it is something else."""
    try:
        found = json.loads(said)
        if found.pop("number") == number:
            return Scored(**found)
    except (ValueError, TypeError, AttributeError, KeyError):
        pass  # another line than `scoring.main` writes
    return None


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Leaves it to be waited for: until then nobody else gets its number."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
