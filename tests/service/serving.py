"""Runs the real server in a process of its own, so that a test can kill it; and says where it should die by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import psutil

from posttrain.service.executors.local import read_worker
from posttrain.service.proto import (
    datasets_pb2_grpc,
    gates_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    models_pb2_grpc,
)

HERE = Path(__file__).parent
PROJECT = "projects/default"


class Server:
    """A server on a data folder. `options` go to server_main.py: fake, crash_at, settings."""

    def __init__(self, home: Path, **options: Any) -> None:
        self.home = home
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""
        self.metrics = ""
        self._channel: grpc.Channel | None = None

    def start(self, **changes: Any) -> Server:
        assert self.process is None
        (self.home / "server.json").unlink(missing_ok=True)
        self.home.mkdir(parents=True, exist_ok=True)
        output = open(self.home / "server.out", "ab")  # noqa: SIM115 - the process holds it
        command = [
            sys.executable,
            str(HERE / "server_main.py"),
            str(self.home),
            json.dumps({**self.options, **changes}),
        ]
        self.process = subprocess.Popen(command, stdout=output, stderr=output)
        output.close()
        self.wait(lambda: (self.home / "server.json").exists(), "the server to listen")
        entry = json.loads((self.home / "server.json").read_text())
        self.address, self.metrics = entry["address"], entry["metrics"]
        self._channel = grpc.insecure_channel(self.address, [("grpc.enable_http_proxy", 0)])
        return self

    def wait(self, done: Any, what: str, timeout_s: float = 60.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = done()
            if found:
                return found
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the server ended ({self.process.returncode}): {self.output()}")
            time.sleep(0.03)
        raise AssertionError(f"waited in vain for {what}: {self.output()}")

    def output(self) -> str:
        return (self.home / "server.out").read_text()[-4000:]

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        return self._end(signal.SIGTERM)

    def await_crash(self, timeout_s: float = 60.0) -> None:
        """Until it has killed itself at its crash point."""
        assert self.process is not None
        assert self.process.wait(timeout_s) == -signal.SIGKILL, self.output()
        self._forget()

    def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(30)
        self._forget()
        return code

    def _forget(self) -> None:
        self.process = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def close(self) -> None:
        """Ends the server and every worker that it has left."""
        if self.process is not None:
            self.kill()
        for path in self.home.glob("jobs/*/attempts/*"):
            record = read_worker(path)
            if record is not None and psutil.pid_exists(record.pid):
                try:
                    os.killpg(record.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    # -- stubs --------------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> Any:
        return jobs_pb2_grpc.JobsStub(self._channel)

    @property
    def datasets(self) -> Any:
        return datasets_pb2_grpc.DatasetsStub(self._channel)

    @property
    def models(self) -> Any:
        return models_pb2_grpc.ModelsStub(self._channel)

    @property
    def evaluations(self) -> Any:
        return gates_pb2_grpc.EvaluationsStub(self._channel)

    @property
    def gates(self) -> Any:
        return gates_pb2_grpc.GatesStub(self._channel)

    @property
    def promotions(self) -> Any:
        return gates_pb2_grpc.PromotionsStub(self._channel)

    @property
    def channel(self) -> grpc.Channel:
        assert self._channel is not None
        return self._channel

    # -- shorthand ----------------------------------------------------------------------------------------------------

    def get(self, name: str) -> jobs_pb2.Job:
        return self.jobs.GetJob(jobs_pb2.GetJobRequest(name=name))

    def until(self, name: str, *states: str, timeout_s: float = 60.0) -> jobs_pb2.Job:
        """The job once it is in one of these states."""
        wanted = {jobs_pb2.JobState.Value(state) for state in states}
        return self.wait(lambda: (job := self.get(name)).state in wanted and job, f"{name} to be {states}", timeout_s)

    def until_chain(self, name: str, *steps: str, timeout_s: float = 60.0) -> jobs_pb2.Job:
        wanted = {jobs_pb2.ChainStep.Value(step) for step in steps}
        return self.wait(lambda: (job := self.get(name)).chain.step in wanted and job, f"chain at {steps}", timeout_s)

    def events(self, name: str, size: int = 1000) -> list[jobs_pb2.JobEvent]:
        return list(self.jobs.ListJobEvents(jobs_pb2.ListJobEventsRequest(parent=name, page_size=size)).events)
