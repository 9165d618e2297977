"""TensorBoard and MLflow get the numbers of events.jsonl; one that fails, hangs or is not there never harms a job."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from posttrain.engine import trackers as trackers_module
from posttrain.engine.errors import CancelledError
from posttrain.engine.events import AnyEvent, HeldOutMetrics, Note, StepMetrics
from posttrain.engine.run import run_training
from posttrain.engine.task import TrainTask
from posttrain.engine.trackers import TRACKERS, MlflowTracker, flatten, tracked
from tests.engine.test_run import events_of, failed, succeeded
from tests.engine.tiny import make_task

HELD_OUT = {"type": "share", "ratio": 0.25, "every_steps": 3}


class Heard:
    """A tracker that remembers, and fails when it is told to."""

    made: ClassVar[list[Heard]] = []

    def __init__(self, task: TrainTask, folder: Path) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.status = ""
        Heard.made.append(self)

    def log(self, step: int, values: Mapping[str, float], time_s: float) -> None:
        assert time_s > 1e9
        self.points.append((step, dict(values)))

    def close(self, status: str) -> None:
        self.status = status


@pytest.fixture(autouse=True)
def _forget() -> None:
    Heard.made.clear()


def use(monkeypatch: pytest.MonkeyPatch, **classes: type[Any]) -> None:
    for name, kind in classes.items():
        monkeypatch.setitem(TRACKERS, name, (kind, "json"))


def numbers(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """What events.jsonl says."""
    found = [*events_of(folder, StepMetrics), *events_of(folder, HeldOutMetrics)]
    return [(event.step, event.values) for event in sorted(found, key=lambda event: event.seq)]


def test_a_tracker_gets_what_events_jsonl_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tensorboard=Heard, mlflow=Heard)
    task = make_task(tmp_path, "sft", trackers=["tensorboard", "mlflow", "mlflow"], held_out=HELD_OUT)
    succeeded(task, tmp_path / "a1")
    assert len(Heard.made) == 2
    for heard in Heard.made:
        assert heard.points == numbers(tmp_path / "a1")
        assert [step for step, _ in heard.points] == [1, 2, 3, 3, 4, 5, 6, 6]
        assert heard.status == "FINISHED"
    assert not [note for note in events_of(tmp_path / "a1", Note) if note.level != "info"]


@pytest.mark.parametrize("place", ["__init__", "log", "close"])
def test_a_tracker_that_fails_is_told_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def fail(*_: Any) -> None:
        raise ConnectionError("no route to https://me:p@ss@host:5000/api\nsecond line")

    use(monkeypatch, mlflow=type("Broken", (Heard,), {place: fail}), tensorboard=Heard)
    succeeded(make_task(tmp_path, "sft", trackers=["mlflow", "tensorboard"]), tmp_path / "a1")
    told = [note.message for note in events_of(tmp_path / "a1", Note) if note.level == "warning"]
    assert told == ["the tracker mlflow is left alone: ConnectionError: no route to https://host:5000/api"]
    assert [heard.points for heard in Heard.made if heard.status] == [numbers(tmp_path / "a1")]


def test_a_tracker_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(trackers_module, "CLOSE_S", 0.1)
    monkeypatch.setattr(trackers_module, "MAX_WAITING", 3)
    use(monkeypatch, mlflow=type("Hanging", (Heard,), {"log": lambda *_: released.wait(60)}))
    told: list[AnyEvent] = []
    try:
        with tracked(make_task(tmp_path, "sft", trackers=["mlflow"]), tmp_path, told.append) as emit:
            emit(StepMetrics(step=1, total_steps=2, values={"loss": 1.0}))
        assert [note.message for note in told if isinstance(note, Note)] == [
            "the tracker mlflow is left alone: it did not take all numbers within 0.1 s of the end"
        ]
        told.clear()
        with tracked(make_task(tmp_path, "sft", trackers=["mlflow"]), tmp_path, told.append) as emit:
            for step in range(1, 9):
                emit(StepMetrics(step=step, total_steps=9, values={"loss": 1.0}))
            notes = [note.message for note in told if isinstance(note, Note)]
            assert notes == ["the tracker mlflow is left alone: 3 events wait for it"], "told while the job runs"
        assert len([note for note in told if isinstance(note, Note)]) == 1
    finally:
        released.set()


@pytest.mark.parametrize(("error", "status"), [(CancelledError("x"), "KILLED"), (ValueError("x"), "FAILED")])
def test_a_tracker_hears_how_the_job_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str
) -> None:
    use(monkeypatch, mlflow=Heard)
    with (
        pytest.raises(type(error)),
        tracked(make_task(tmp_path, "sft", trackers=["mlflow"]), tmp_path, lambda _: None),
    ):
        raise error
    assert Heard.made[0].status == status


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_package_that_is_not_installed_is_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda package, *rest: None if package == name else found(package))
    record = failed(make_task(tmp_path, "sft", trackers=[name]), tmp_path / "a1")
    assert (record.code, record.message) == (
        "BAD_SPEC",
        f"trackers: {name} needs a package that is not installed",
    )
    assert f"pip install 'posttrain[{name}]'" in record.hint
    assert not events_of(tmp_path / "a1", StepMetrics)


def test_tensorboard_reads_the_numbers_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    task = make_task(tmp_path, "sft", trackers=["tensorboard"], held_out=HELD_OUT)
    succeeded(task, tmp_path / "a1")
    read = EventAccumulator(str(tmp_path / "a1" / "tensorboard"))
    read.Reload()
    for name in ("loss", "grad_norm", "held_out_loss"):
        expected = [(step, values[name]) for step, values in numbers(tmp_path / "a1") if name in values]
        assert [scalar.step for scalar in read.Scalars(name)] == [step for step, _ in expected]
        assert [scalar.value for scalar in read.Scalars(name)] == pytest.approx([value for _, value in expected])


# mlflow 3.17 uses what sqlalchemy 2.1 calls deprecated.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_mlflow_reads_the_numbers_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    task = make_task(tmp_path, "sft", trackers=["mlflow"])
    tracker = MlflowTracker(task, tmp_path)
    tracker.log(1, {"loss": 2.0, "held_out_loss": 3.0}, 1.7e9)
    tracker.log(2, {"loss": 1.5}, 1.7e9 + 1)
    tracker.close("FINISHED")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny-out")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status, run.data.tags["posttrain.job"]) == ("j1-1", "FINISHED", "j1")
    assert run.data.params["optimizer.learning_rate"] == "0.001"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(1, 2.0), (2, 1.5)]
    assert run.data.metrics["held_out_loss"] == 3.0


def test_options_are_flattened() -> None:
    nested = {"adapter": {"rank": 4, "targets": []}, "data": [{"dataset": "a@1"}], "seed": 0}
    assert flatten(nested) == {"adapter.rank": "4", "data.0.dataset": "a@1", "seed": "0"}


def test_without_trackers_nothing_is_wrapped(tmp_path: Path) -> None:
    task, before = make_task(tmp_path, "sft"), threading.active_count()
    assert run_training(task, tmp_path / "a1").status == "succeeded"
    assert threading.active_count() == before
    assert not (tmp_path / "a1" / "tensorboard").exists()
