"""Metrics for TensorBoard and MLflow, beside events.jsonl, which has them always.

A tracker is fed in a thread of its own and can neither slow a job down nor end it: the first time that it fails it is
left alone, and a note says why. Which ones a job uses is its choice; where MLflow sends to is the server's
(`MLFLOW_TRACKING_URI`), since an address in a spec would let anyone who may submit a job reach hosts from the worker.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from posttrain.engine.errors import CancelledError, SpecError
from posttrain.engine.events import AnyEvent, HeldOutMetrics, Note, StepMetrics
from posttrain.engine.task import TrainTask

CLOSE_S = 5.0  # how long the end of a job waits for all its trackers
MAX_WAITING = 10_000  # events that a slow tracker has not taken yet
_MAX_TEXT = 500  # of a parameter's value
_CREDENTIALS = re.compile(r"//[^/\s]*@")  # of a URL, whose password may hold an @

Emit = Callable[[AnyEvent], None]


class Tracker(Protocol):
    """Where numbers go. Made, used and closed in one thread; may raise whatever it likes."""

    def __init__(self, task: TrainTask, folder: Path) -> None: ...

    def log(self, step: int, values: Mapping[str, float], time_s: float) -> None:
        """Numbers of an optimiser step; `time_s` is seconds since the epoch."""
        ...

    def close(self, status: str) -> None:
        """The job is over: FINISHED, FAILED or KILLED."""
        ...


class TensorBoardTracker:
    """Event files under `tensorboard/` in the attempt's folder: `tensorboard --logdir FOLDER`."""

    def __init__(self, task: TrainTask, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))
        self._writer.add_text("spec", f"```\n{json.dumps(task.spec.model_dump(mode='json'), indent=1)}\n```")

    def log(self, step: int, values: Mapping[str, float], time_s: float) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, walltime=time_s)

    def close(self, status: str) -> None:
        self._writer.close()


class MlflowTracker:
    """A run in the experiment named like the output model: on the server's tracking URI, else in `mlflow.db` in the
    attempt's folder."""

    def __init__(self, task: TrainTask, folder: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # or it reports its use to its makers
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self._client: Any = MlflowClient(tracking_uri=uri or f"sqlite:///{folder.resolve() / 'mlflow.db'}")
        name = task.spec.output
        known = self._client.get_experiment_by_name(name)
        place = None if uri else str(folder.resolve() / "mlflow")
        experiment = known.experiment_id if known else self._client.create_experiment(name, artifact_location=place)
        tags = {"posttrain.job": task.job, "posttrain.attempt": str(task.attempt), "posttrain.base": task.base.ref}
        run = self._client.create_run(experiment, run_name=f"{task.job}-{task.attempt}", tags=tags)
        self._run: str = run.info.run_id
        flat = flatten(task.spec.model_dump(mode="json"))
        self._client.log_batch(self._run, params=[Param(key, value[:_MAX_TEXT]) for key, value in flat.items()][:100])

    def log(self, step: int, values: Mapping[str, float], time_s: float) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, round(time_s * 1000), step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self, status: str) -> None:
        self._client.set_terminated(self._run, status)


# Name in a spec and of the extra -> class, and package to import.
TRACKERS: dict[str, tuple[type[Tracker], str]] = {
    "tensorboard": (TensorBoardTracker, "tensorboard"),
    "mlflow": (MlflowTracker, "mlflow"),
}


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested options as texts by dotted path: {"adapter.rank": "4", "data.0.dataset": "a@1"}."""
    if not isinstance(value, dict | list):
        return {prefix: str(value)}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    start = f"{prefix}." if prefix else ""
    return {path: text for key, item in items for path, text in flatten(item, f"{start}{key}").items()}


@dataclass
class _Fed:
    """One tracker, its thread, and what it has still to take. `reason` says why it was given up; empty: it was not."""

    name: str
    make: Callable[[], Tracker]
    reason: str = ""
    is_told: bool = False
    _waiting: queue.Queue[StepMetrics | HeldOutMetrics | str] = field(default_factory=lambda: queue.Queue(MAX_WAITING))

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._work, name=f"tracker-{self.name}", daemon=True)
        self._thread.start()

    def put(self, item: StepMetrics | HeldOutMetrics | str) -> None:
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            self.reason = self.reason or f"{MAX_WAITING} events wait for it"

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.reason = self.reason or f"it did not take all numbers within {CLOSE_S:g} s of the end"

    def _work(self) -> None:
        try:
            tracker = self.make()
            while not self.reason:
                item = self._waiting.get()
                if isinstance(item, str):
                    tracker.close(item)
                    return
                tracker.log(item.step, item.values, item.time)
        except Exception as error:  # of a library, a disk or a network that the job does not depend on
            first = _CREDENTIALS.sub("//", str(error)).strip().split("\n")[0][:300]
            self.reason = f"{type(error).__name__}: {first}"


def check_trackers(task: TrainTask) -> None:
    """Asked before anything is loaded.

    Raises:
        SpecError: a tracker's package is not installed.
    """
    for name in task.spec.trackers:
        if importlib.util.find_spec(TRACKERS[name][1]) is None:
            raise SpecError(
                f"trackers: {name} needs a package that is not installed",
                hint=f"on the server: pip install 'posttrain[{name}]', or leave {name} out",
            )


@contextmanager
def tracked(task: TrainTask, folder: Path, events: Emit) -> Iterator[Emit]:
    """`events`, which also feeds the task's trackers while the block runs.

    Raises:
        SpecError: see `check_trackers`.
    """
    check_trackers(task)
    names = list(dict.fromkeys(task.spec.trackers))
    fed = [_Fed(name, lambda kind=TRACKERS[name][0]: kind(task, folder)) for name in names]  # type: ignore[misc]

    def tell() -> None:
        for tracker in fed:
            if tracker.reason and not tracker.is_told:
                tracker.is_told = True
                events(Note(level="warning", message=f"the tracker {tracker.name} is left alone: {tracker.reason}"))

    def emit(event: AnyEvent) -> None:
        events(event)
        if isinstance(event, StepMetrics | HeldOutMetrics):
            stamped = event.model_copy(update={"time": time.time()})
            for tracker in fed:
                tracker.put(stamped)
        tell()

    status = "FAILED"
    try:
        yield emit
        status = "FINISHED"
    except CancelledError:
        status = "KILLED"
        raise
    finally:
        deadline = time.monotonic() + CLOSE_S
        for tracker in fed:
            tracker.put(status)
        for tracker in fed:
            tracker.join(max(0.0, deadline - time.monotonic()))
        tell()
