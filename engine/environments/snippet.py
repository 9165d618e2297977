"""Runs Python that a model wrote, each snippet in a process of its own that reaches nothing (`jail.py`).

A snippet has an empty folder in memory, the standard library and its time. What it prints is what comes back. It is a
function of its code as far as that asks for nothing that changes: hashes and `random` are seeded, clocks and
`os.urandom` are not. Imports no torch.
"""

from __future__ import annotations

import math
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.engine.errors import SpecError

WALL_FACTOR = 4.0  # a busy machine takes no result away: most of the time is CPU time, which is what is limited
GRACE_S = 10.0
MAX_OUTPUT_BYTES = 64 * 2**10
# -P, -s and -S: nothing but the standard library can be imported.
_COMMAND = (sys.executable, "-P", "-s", "-S", "-B", str(Path(__file__).with_name("jail.py")))
_TIMED_OUT, _KILLED = 124, 128 + 9


@dataclass(frozen=True)
class Ran:
    """What a snippet printed, and why it failed; empty: it did not."""

    output: str
    failure: str = ""


class Snippets:
    """Runs snippets of at most `timeout_s` seconds of CPU time, and four times that in all. `command` is for tests.

    Raises:
        SpecError: nothing can be shut in here, such as where the network cannot be taken from a process.
    """

    def __init__(self, timeout_s: float, command: Sequence[str] = _COMMAND) -> None:
        self._cpu_s = max(1, math.ceil(timeout_s))
        self._wall_s = WALL_FACTOR * timeout_s
        self._command = command
        reason = "this is no Linux" if sys.platform != "linux" else ""
        if not reason:
            ran, status = self._start("print(6 * 7)")
            if status != "ok" or ran.output != "42":
                reason = status.removeprefix("ok") or ran.failure or "a first snippet did not run"
        if reason:
            raise SpecError(
                f"environment.tools: python: code cannot be kept from the network and the files of this machine: "
                f"{ascii(reason)[1:-1]}",
                hint="allow user namespaces to the worker (kernel.unprivileged_userns_clone, "
                "kernel.apparmor_restrict_unprivileged_userns, the container's seccomp profile), or leave python out",
            )

    def run(self, code: str) -> Ran:
        """Never raises because of the code."""
        ran, status = self._start(code)
        return ran if status == "ok" else Ran("", "the code could not be run")

    def _start(self, code: str) -> tuple[Ran, str]:
        with tempfile.TemporaryDirectory(prefix="snippet-") as folder:
            said, tells = os.pipe()
            arguments = (str(self._cpu_s), str(self._wall_s), str(tells))
            with os.fdopen(said, "rb") as status:
                try:
                    process = subprocess.Popen(
                        [*self._command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT, cwd=folder, env={"PYTHONHASHSEED": "0"}, pass_fds=[tells],
                        start_new_session=True,
                    )  # fmt: skip
                finally:
                    os.close(tells)
                with process:
                    output, is_whole = self._read(process, code.encode("utf-8", "replace"))
                return self._ran(output, is_whole, process.returncode), status.read(500).decode("utf-8", "replace")

    def _read(self, process: subprocess.Popen[bytes], code: bytes) -> tuple[bytes, bool]:
        """What it prints, and whether that is all of it; it is ended when that is too much, or the time long over."""
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + self._wall_s + GRACE_S
        output = bytearray()
        try:
            process.stdin.write(code)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended, and its status says why
        try:
            while len(output) <= MAX_OUTPUT_BYTES:
                if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    return bytes(output), False
                part = os.read(process.stdout.fileno(), 2**16)
                if not part:
                    process.wait(max(0.1, deadline - time.monotonic()))
                    return bytes(output), True
                output += part
            return bytes(output[:MAX_OUTPUT_BYTES]), False
        except subprocess.TimeoutExpired:
            return bytes(output), False
        finally:
            self._end(process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """The first process is asked: it ends the other one, which may not care that it is an orphan."""
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()

    def _ran(self, output: bytes, is_whole: bool, code: int) -> Ran:
        text = output.decode("utf-8", "replace").strip()
        if len(output) >= MAX_OUTPUT_BYTES:
            return Ran(text, "the code printed too much")
        if code == 0 and is_whole:
            return Ran(text)
        if code in (_TIMED_OUT, _KILLED) or not is_whole:
            return Ran(text, f"the code took more than {self._cpu_s} s of CPU time or {self._wall_s:g} s in all")
        return Ran(text, "the code failed")
