"""Scores answers in a process of its own, one at a time.

Before each answer the process sets a timer whose signal it does not handle: if the answer takes too long, in Python or
in C, the kernel ends the process, and also when the trainer was killed in between. The trainer sees the pipe close,
counts the answer as failed and starts another process for the next one. A line is a JSON object; see `scoring.main`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType

from posttrain.engine.rewards.base import Answer, Scored
from posttrain.engine.rewards.scoring import PARTS, make
from posttrain.engine.spec import RewardOptions

TIMEOUT_S = 10.0
_COMMAND = (sys.executable, "-c", "from posttrain.engine.rewards.scoring import main; main()")


class RewardProcess:
    """The process, started when the first answer comes. A context manager, which ends it.

    `command` is what is started, for tests.

    Raises:
        SpecError: a part cannot be made, such as one with a pattern that is none.
    """

    def __init__(
        self, options: Sequence[RewardOptions], timeout_s: float = TIMEOUT_S, command: Sequence[str] = _COMMAND
    ) -> None:
        self._is_idle = not make(options)
        self._command = command
        head = {"parts": PARTS.dump_python(list(options), mode="json"), "timeout_s": timeout_s}
        self._head = json.dumps(head).encode() + b"\n"
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def score(self, answer: Answer) -> Scored:
        """The parts of one answer, but those of reward models. Never raises because of an answer."""
        if self._is_idle:
            return Scored()
        line = json.dumps(asdict(answer)).encode() + b"\n"
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            said = process.stdout.readline()
        except BrokenPipeError:
            said = b""
        if said.endswith(b"\n"):
            return Scored(**json.loads(said))
        return Scored(failure=self._died())

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

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert self._process.stdin is not None
            self._process.stdin.write(self._head)
        return self._process

    def _died(self) -> str:
        assert self._process is not None
        self._process.communicate()
        code, self._process = self._process.returncode, None
        if code == -signal.SIGALRM:
            return f"no reward within {self._timeout_s:g} s"
        return f"the reward's process ended with {code}"
