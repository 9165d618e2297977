"""Scores answers in a process of its own, one at a time.

Before each answer the process sets two timers whose signals it does not handle: if the answer takes too long, in Python
or in C, the kernel ends the process, and also when the trainer was killed in between. One counts the process's own CPU
time, so that a busy machine takes no rewards away; the other, for what waits, is longer. The trainer sees the pipe
close, counts the answer as failed and starts another process for the next one. A function that takes the timers away is
ended by the trainer, a little later. A line is a JSON object; see `scoring.main`.
"""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
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
        said = self._ask(json.dumps(asdict(answer)).encode() + b"\n", self._timeout_s)
        if said.endswith(b"\n"):
            return Scored(**json.loads(said))
        return Scored(failure=self._died(self._timeout_s))

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._process is None:
            return
        self._process.kill()
        self._process.communicate()
        self._process = None

    def __enter__(self) -> RewardProcess:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _start(self) -> str:
        """Starts the process; returns why it cannot be used, if it cannot."""
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        said = self._ask(self._head, START_S)
        return str(json.loads(said)["failure"]) if said.endswith(b"\n") else self._died(START_S)

    def _ask(self, line: bytes, limit_s: float) -> bytes:
        """The line that the process answers with; less if it has ended, or had to be."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            return b""
        # One answer to each line, so that nothing of an earlier one is left in the buffer.
        if not select.select([self._process.stdout], [], [], limit_s + GRACE_S)[0]:
            self._is_late = True
            self._process.kill()
        return self._process.stdout.readline()

    def _died(self, limit_s: float) -> str:
        assert self._process is not None
        self._process.communicate()
        code, self._process = self._process.returncode, None
        was_late, self._is_late = self._is_late, False
        if code == -signal.SIGALRM or was_late:
            return f"no reward within {limit_s:g} s"
        if code == -signal.SIGPROF:
            return f"no reward within {self._cpu_s:g} s of CPU time"
        return f"the reward's process ended with {code}"
