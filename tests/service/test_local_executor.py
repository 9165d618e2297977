"""Workers as real processes: one per attempt, found again by its lock, ended with its children."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from posttrain.service.errors import LaunchError
from posttrain.service.executors.local import (
    LocalExecutor,
    WorkerRecord,
    read_worker,
    start_time,
    worker_environment,
)

# Waits to be told to stop; with `stubborn` it ignores that; with `child` it leaves a child behind that holds on; with
# `slow` it lets go of the lock a while before it ends, as the kernel does while it frees the memory of a large process.
SCRIPT = """
import os, pathlib, signal, subprocess, sys, time
from posttrain.engine.events import write_atomic
from posttrain.service.executors.local import WorkerRecord, start_time
folder = pathlib.Path(sys.argv[1])
lock = int(sys.argv[sys.argv.index("--lock-fd") + 1])
mode = (folder / "mode").read_text()
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode == "child":
    child = subprocess.Popen(["sleep", "300"], pass_fds=[lock])
    (folder / "child").write_text(str(child.pid))
with open(folder / "started", "a") as file:
    file.write(f"{os.getpid()}\\n")
me = WorkerRecord(pid=os.getpid(), started=start_time(os.getpid()))
write_atomic(folder / "worker.json", me.model_dump_json().encode())
print("at work", flush=True)
if mode == "slow":
    os.close(lock)
    time.sleep(0.5)
    os._exit(0)
time.sleep(300)
"""


HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print(1, flush=True)
time.sleep(300)
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], tuple[LocalExecutor, Path]]]:
    script = tmp_path / "worker.py"
    script.write_text(SCRIPT)
    executors = []
    folders = []

    def build(mode: str) -> tuple[LocalExecutor, Path]:
        folder = tmp_path / "attempt"
        folder.mkdir(exist_ok=True)
        (folder / "mode").write_text(mode)
        executor = LocalExecutor(command=(sys.executable, str(script)))
        executors.append(executor)
        folders.append(folder)
        return executor, folder

    yield build
    for executor, folder in zip(executors, folders, strict=True):
        asyncio.run(executor.stop(folder, 0))
        executor.detach()


async def started(folder: Path) -> WorkerRecord:
    for _ in range(400):
        record = read_worker(folder)
        if record is not None:
            return record
        await asyncio.sleep(0.02)
    raise AssertionError("the worker never said who it is")


async def test_one_attempt_has_one_worker_whoever_asks(make: Callable[[str], tuple[LocalExecutor, Path]]) -> None:
    first, folder = make("")
    await first.launch(folder)
    # Before the worker has said anything: a second launch, by this service and by one that knows nothing of it.
    second, _ = make("")
    await asyncio.gather(first.launch(folder), second.launch(folder), second.launch(folder))
    assert (await second.look(folder)).alive
    record = await started(folder)
    await asyncio.sleep(0.3)
    assert 0.2 < (await second.look(folder)).age_s < 60
    assert (folder / "started").read_text().split() == [str(record.pid)]
    assert os.getsid(record.pid) == record.pid != os.getsid(0)
    assert (folder / "worker.log").read_text() == "at work\n"


async def test_a_record_of_the_one_before_is_not_taken_for_the_next_ones(
    make: Callable[[str], tuple[LocalExecutor, Path]],
) -> None:
    """A worker died before its first event, and so did the service: the attempt is launched again."""
    executor, folder = make("")
    gone = WorkerRecord(pid=2**22 - 1, started=1.0)
    (folder / "worker.json").write_text(gone.model_dump_json())
    await executor.launch(folder)
    assert (await executor.look(folder)).alive, "it holds the lock, and has not said yet who it is"
    assert (await started(folder)).pid != gone.pid


async def test_a_worker_that_ends_slowly_leaves_no_zombie(
    make: Callable[[str], tuple[LocalExecutor, Path]],
) -> None:
    executor, folder = make("slow")
    await executor.launch(folder)
    record = await started(folder)
    while (await executor.look(folder)).alive:
        await asyncio.sleep(0.01)
    assert not psutil.pid_exists(record.pid), "nobody looks at an attempt again that has ended"


async def test_stop_asks_first(make: Callable[[str], tuple[LocalExecutor, Path]]) -> None:
    executor, folder = make("")
    await executor.launch(folder)
    record = await started(folder)
    begin = time.monotonic()
    await executor.stop(folder, 30)
    assert time.monotonic() - begin < 10
    assert not psutil.pid_exists(record.pid)
    assert not (await executor.look(folder)).alive


async def test_stop_ends_who_does_not_listen(make: Callable[[str], tuple[LocalExecutor, Path]]) -> None:
    executor, folder = make("stubborn")
    await executor.launch(folder)
    record = await started(folder)
    begin = time.monotonic()
    await executor.stop(folder, 0.5)
    assert 0.4 < time.monotonic() - begin < 10
    assert not psutil.pid_exists(record.pid)


async def test_children_end_with_a_killed_worker(make: Callable[[str], tuple[LocalExecutor, Path]]) -> None:
    executor, folder = make("child")
    await executor.launch(folder)
    record = await started(folder)
    child = psutil.Process(int((folder / "child").read_text()))
    os.kill(record.pid, signal.SIGKILL)
    for _ in range(200):
        if not (await executor.look(folder)).alive:
            break
        await asyncio.sleep(0.02)
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


async def test_a_recycled_process_id_is_not_signalled(make: Callable[[str], tuple[LocalExecutor, Path]]) -> None:
    """The record names a living process of somebody else that started at another time."""
    executor, folder = make("")
    bystander = subprocess.Popen(["sleep", "300"], start_new_session=True)
    try:
        (folder / "worker.json").write_text(
            WorkerRecord(pid=bystander.pid, started=start_time(bystander.pid) - 1).model_dump_json()
        )
        assert not (await executor.look(folder)).alive
        # Somebody holds the lock, and the record is not about them.
        holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder / "attempt.lock")], stdout=subprocess.PIPE)
        assert holder.stdout is not None
        holder.stdout.readline()
        await executor.look(folder)
        assert bystander.poll() is None
        holder.kill()
        holder.wait()
        holder.stdout.close()
    finally:
        bystander.kill()
        bystander.wait()


def test_a_service_that_dies_right_after_the_launch(
    make: Callable[[str], tuple[LocalExecutor, Path]], tmp_path: Path
) -> None:
    """Killed between the fork and anything else: the worker holds the attempt, so the next service starts no other."""
    executor, folder = make("")
    service = (
        "import asyncio, os, pathlib, signal, sys\n"
        "from posttrain.service.executors.local import LocalExecutor\n"
        "executor = LocalExecutor(command=(sys.executable, sys.argv[1]))\n"
        "asyncio.run(executor.launch(pathlib.Path(sys.argv[2])))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", service, str(tmp_path / "worker.py"), str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL

    async def restarted() -> None:
        assert (await executor.look(folder)).alive
        await executor.launch(folder)
        record = await started(folder)
        await asyncio.sleep(0.3)
        assert (folder / "started").read_text().split() == [str(record.pid)]

    asyncio.run(restarted())


async def test_a_worker_that_cannot_start_leaves_no_lock(tmp_path: Path) -> None:
    executor = LocalExecutor(command=(str(tmp_path / "nothing"),))
    with pytest.raises(LaunchError, match="cannot start"):
        await executor.launch(tmp_path)
    assert not (await executor.look(tmp_path)).alive


def test_no_secret_reaches_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "POSTTRAIN_TOKEN", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    environment = worker_environment(3)
    assert environment["MLFLOW_TRACKING_URI"] == "http://tracking.example:5000"  # the operator's, never a job's
    assert "secret" not in environment.values()
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["TOKENIZERS_PARALLELISM"] == "false"
