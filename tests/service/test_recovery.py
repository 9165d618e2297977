"""Workers and services that die: attempts, resuming, budgets, timeouts, re-attachment."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from posttrain.service.executors.local import WorkerRecord, read_worker
from posttrain.service.proto import jobs_pb2

from .asking import refused, submit, train_spec
from .serving import Server


def worker_of(server: Server, job: jobs_pb2.Job, attempt: int = 1) -> WorkerRecord:
    folder = server.home / "jobs" / job.name.rpartition("/")[2] / "attempts" / str(attempt)
    found = server.wait(lambda: read_worker(folder) if folder.exists() else None, "the worker")
    assert isinstance(found, WorkerRecord)
    return found


def is_gone(worker: WorkerRecord) -> bool:
    """An orphan stays a zombie where process 1 reaps nobody."""
    try:
        return psutil.Process(worker.pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def transitions(server: Server, job: jobs_pb2.Job) -> list[str]:
    return [jobs_pb2.JobState.Name(event.to_state) for event in server.events(job.name) if event.type == "state"]


def test_a_killed_worker_is_resumed_from_its_newest_checkpoint(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    job = submit(server, train_spec("steps=12 every=5 die=7"))
    done = server.until(job.name, "SUCCEEDED")
    assert done.attempt == 2
    assert transitions(server, job) == [
        "VALIDATING", "QUEUED", "STARTING", "RUNNING", "RECOVERING", "QUEUED", "STARTING", "RUNNING", "SUCCEEDED",
    ]  # fmt: skip
    resumed = [event for event in server.events(job.name) if event.type == "resumed"]
    assert [event.attempt for event in resumed] == [2]
    points = server.jobs.ListJobMetrics(jobs_pb2.ListJobMetricsRequest(parent=job.name)).points
    assert [(p.attempt, p.step) for p in points] == [*((1, n) for n in range(1, 8)), *((2, n) for n in range(6, 13))]


def test_a_damaged_checkpoint_is_passed_over(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    job = submit(server, train_spec("steps=12 every=3 hang=7"))
    worker = worker_of(server, job)
    server.wait(lambda: server.get(job.name).progress.done == 7, "step 7")
    checkpoint = server.home / "jobs" / job.name.rpartition("/")[2] / "attempts/1/checkpoints/step-00000006"
    (checkpoint / "manifest.json").write_text("{}")
    os.kill(worker.pid, signal.SIGKILL)
    second = server.wait(lambda: [e for e in server.events(job.name) if e.type == "resumed"], "the resumption")
    assert server.get(job.name).attempt == 2
    started = [e for e in server.events(job.name) if e.type == "state" and e.to_state == jobs_pb2.QUEUED][-1]
    assert started.message == "resumes from step-00000003"
    assert second[0].attempt == 2


def test_a_worker_that_is_lost_again_and_again_fails(serve: Callable[..., Server]) -> None:
    server = serve(fake=True, settings={"max_interruptions": 3})
    job = submit(server, train_spec("steps=9 every=50 die=2 always"))
    done = server.until(job.name, "FAILED")
    assert (done.attempt, done.termination_reason, done.error.code) == (3, "INTERRUPTED", "INTERRUPTED")
    assert "3 times" in done.error.message
    assert done.error.retryable


def test_a_worker_that_comes_further_each_time_is_not_given_up(serve: Callable[..., Server]) -> None:
    server = serve(fake=True, settings={"max_interruptions": 2})
    job = submit(server, train_spec("steps=8 every=2 dienext=2"))
    done = server.until(job.name, "SUCCEEDED")
    assert done.attempt > 2


def test_a_worker_lost_before_its_first_event(serve: Callable[..., Server]) -> None:
    server = serve(fake=True, settings={"max_interruptions": 2})
    job = submit(server, train_spec("mute=0"))
    done = server.until(job.name, "FAILED")
    assert done.attempt == 2
    assert transitions(server, job) == ["VALIDATING", "QUEUED", "STARTING", "QUEUED", "STARTING", "FAILED"]


def test_an_attempt_that_takes_too_long_is_stopped(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    job = submit(server, train_spec("hang=1", timeout_s=1))
    done = server.until(job.name, "FAILED")
    assert (done.termination_reason, done.attempt) == ("TIMEOUT", 1)
    assert "timeout_s" in done.error.message


def test_a_worker_that_somebody_else_stopped_is_resumed(serve: Callable[..., Server]) -> None:
    """A SIGTERM from outside, as of a machine that shuts down, is an interruption and no cancel."""
    server = serve(fake=True)
    job = submit(server, train_spec("steps=60 delay=0.05 every=2"))
    worker = worker_of(server, job)
    server.wait(lambda: server.get(job.name).progress.done >= 3, "some steps")
    os.kill(worker.pid, signal.SIGTERM)
    done = server.until(job.name, "SUCCEEDED")
    assert done.attempt == 2
    assert "RECOVERING" in transitions(server, job)


def test_an_unimportable_engine_is_an_exit_record(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    job = submit(server, train_spec("importerror"))
    done = server.until(job.name, "FAILED")
    assert done.error.code == "WORKER_ERROR"
    assert "No module named" in done.error.message
    logs = server.jobs.ListJobLogs(jobs_pb2.ListJobLogsRequest(parent=job.name, page_size=100)).lines
    assert any("ModuleNotFoundError" in line for line in logs)


# -- the service ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gentle", [True, False], ids=["stopped", "killed"])
def test_a_worker_outlives_the_service_and_is_found_again(serve: Callable[..., Server], gentle: bool) -> None:
    server = serve(fake=True)
    job = submit(server, train_spec("steps=80 delay=0.05"))
    worker = worker_of(server, job)
    server.wait(lambda: server.get(job.name).progress.done >= 2, "some steps")
    if gentle:
        assert server.stop() == 0
    else:
        server.kill()
    events = server.home / "jobs" / job.name.rpartition("/")[2] / "attempts/1/events.jsonl"
    before = events.read_bytes().count(b"\n")
    time.sleep(0.5)
    assert psutil.pid_exists(worker.pid)
    assert events.read_bytes().count(b"\n") > before, "it goes on without a service"
    server.start()
    done = server.until(job.name, "SUCCEEDED")
    assert done.attempt == 1
    points = server.jobs.ListJobMetrics(jobs_pb2.ListJobMetricsRequest(parent=job.name, page_size=1000)).points
    assert [point.step for point in points] == list(range(1, 81)), "each event once"


def test_a_data_folder_that_was_moved_resumes_from_its_own_checkpoints(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    job = submit(server, train_spec("steps=12 every=4 hang=9"))
    worker = worker_of(server, job)
    server.wait(lambda: server.get(job.name).progress.done == 9, "step 9")
    server.kill()
    os.killpg(worker.pid, signal.SIGKILL)
    server.home = server.home.rename(server.home.with_name("moved"))
    server.start()
    done = server.until(job.name, "SUCCEEDED")
    assert done.attempt == 2
    points = server.jobs.ListJobMetrics(jobs_pb2.ListJobMetricsRequest(parent=job.name)).points
    assert [point.step for point in points if point.attempt == 2] == [9, 10, 11, 12], "from its checkpoint at 8"


def test_a_copy_of_a_data_folder_leaves_the_original_alone(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(fake=True)
    job = submit(server, train_spec("steps=400 delay=0.05"))
    worker = worker_of(server, job)
    server.wait(lambda: server.get(job.name).progress.done >= 2, "some steps")
    server.kill()
    copy = Server(Path(shutil.copytree(server.home, tmp_path / "copy")), fake=True)
    try:
        copy.start()
        copy.wait(lambda: copy.get(job.name).attempt == 2, "a worker of its own: the original's is not the copy's")
        copy.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=job.name))
        copy.until(job.name, "CANCELLED")
        assert not is_gone(worker)
    finally:
        copy.close()
    server.start()
    server.until(job.name, "RUNNING")
    assert server.get(job.name).attempt == 1


def test_a_worker_that_ended_while_there_was_no_service(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    job = submit(server, train_spec("steps=6 delay=0.1"))
    worker = worker_of(server, job)
    server.kill()
    deadline = time.monotonic() + 30
    while not is_gone(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    server.start()
    done = server.until(job.name, "SUCCEEDED")
    assert (done.attempt, done.progress.done) == (1, 6)


def test_a_worker_that_was_killed_while_there_was_no_service(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    job = submit(server, train_spec("steps=40 delay=0.05 every=2"))
    worker = worker_of(server, job)
    server.wait(lambda: server.get(job.name).progress.done >= 4, "some steps")
    server.kill()
    os.kill(worker.pid, signal.SIGKILL)
    server.start()
    assert server.until(job.name, "SUCCEEDED").attempt == 2


def test_a_cancel_survives_a_restart(serve: Callable[..., Server]) -> None:
    server = serve(fake=True, settings={"grace_s": 60})
    job = submit(server, train_spec("stubborn hang=1"))
    worker = worker_of(server, job)
    server.until(job.name, "RUNNING")
    server.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=job.name))
    server.kill()
    server.start(settings={"grace_s": 0.2})
    assert server.until(job.name, "CANCELLED").termination_reason == "CANCELLED"
    assert is_gone(worker)


def test_events_that_cannot_be_read_end_the_job(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    job = submit(server, train_spec("hang=1"))
    worker = worker_of(server, job)
    server.until(job.name, "RUNNING")
    with open(server.home / "jobs" / job.name.rpartition("/")[2] / "attempts/1/events.jsonl", "ab") as file:
        file.write(b'{"type": "phase"\n')
    done = server.until(job.name, "FAILED")
    assert done.termination_reason == "BAD_EVENTS"
    assert is_gone(worker)


def test_an_event_of_another_attempt_is_refused(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    job = submit(server, train_spec("hang=1"))
    server.until(job.name, "RUNNING")
    with open(server.home / "jobs" / job.name.rpartition("/")[2] / "attempts/1/events.jsonl", "ab") as file:
        file.write(b'{"type": "phase", "phase": "stale", "seq": 99, "attempt": 7}\n')
    done = server.until(job.name, "FAILED")
    assert done.termination_reason == "BAD_EVENTS"
    assert all(event.message != "stale" for event in server.events(job.name))


def test_workers_run_side_by_side_up_to_the_limit(serve: Callable[..., Server]) -> None:
    server = serve(fake=True, settings={"workers": 2})
    made = [submit(server, train_spec("hang=1", seed=n)) for n in range(3)]
    for job in made[:2]:
        server.until(job.name, "RUNNING")
    time.sleep(0.5)
    assert server.get(made[2].name).state == jobs_pb2.QUEUED
    server.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=made[0].name))
    server.until(made[2].name, "RUNNING")
    with refused():
        server.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=made[0].name.replace("sft-", "ift-")))


def test_attempt_folders_hold_no_secret_and_are_private(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server = serve(fake=True)
    job = submit(server, train_spec("hang=1"))
    worker = worker_of(server, job)
    assert b"hf_secret" not in Path(f"/proc/{worker.pid}/environ").read_bytes()
