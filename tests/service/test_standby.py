"""A process that waits for an attempt: what it then is, and who dies when."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from posttrain.service.executors import local, standby
from posttrain.service.executors.local import LocalExecutor, WorkerRecord, read_worker
from posttrain.service.proto import jobs_pb2

from .asking import submit, train_spec
from .serving import Server
from .test_local_executor import started
from .test_recovery import is_gone, transitions, worker_of

# Writes down what it is and waits for its end. How it goes wrong stands in the file "mode" beside it.
SCRIPT = """
import json, os, pathlib, resource, signal, sys, time
from posttrain.engine.events import write_atomic
from posttrain.service.executors.local import WorkerRecord, start_time
from posttrain.service.executors.standby import await_attempt, taken_clock_s
mode = pathlib.Path(__file__).with_name("mode").read_text()
def preload():
    if mode == "broken":
        raise ImportError("no torch here")
    if mode == "slow":
        pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))
        time.sleep(60)
taken_s = 0.0
if sys.argv[1] == "--standby":
    attempt = await_attempt(int(sys.argv[2]), preload)
    if attempt is None:
        sys.exit(0)
    folder, taken_s = attempt.folder, taken_clock_s()
    if mode == "dies before":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "dies after":
        attempt.confirm()
        os.kill(os.getpid(), signal.SIGKILL)
else:
    folder = pathlib.Path(sys.argv[1])
    os.set_inheritable(int(sys.argv[3]), False)
def open_files():
    links = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            links[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            pass  # the one that lists
    return sorted(links.values())
def at_work():
    own = {
        "cwd": os.getcwd(), "environment": dict(os.environ), "files": open_files(),
        "leads": os.getsid(0) == os.getpid(), "group": os.getpgrp() == os.getpid(),
        "nice": os.getpriority(os.PRIO_PROCESS, 0), "umask": os.umask(0o77),
        "limits": [resource.getrlimit(n) for n in range(16)],
        "signals": [line for line in open("/proc/self/status") if line.startswith(("SigIgn", "SigBlk", "Threads"))],
        "inherited": [n for n in os.listdir("/proc/self/fd") if int(n) > 2 and os.path.exists(f"/proc/self/fd/{n}")
                      and os.get_inheritable(int(n))],
    }
    (folder / "report").write_text(json.dumps(own))
    with open(folder / "started", "a") as file:
        file.write(f"{os.getpid()}\\n")
    me = WorkerRecord(pid=os.getpid(), started=start_time(os.getpid()), taken_s=taken_s)
    write_atomic(folder / "worker.json", me.model_dump_json().encode())
    print("at work", flush=True)
at_work()
if sys.argv[1] == "--standby":
    attempt.confirm()
time.sleep(300)
"""


class Bench:
    """An executor with a standby of the script, and attempt folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = folder / "script.py"
        self.script.write_text(SCRIPT)
        self.executors: list[LocalExecutor] = []
        self.attempts: list[Path] = []
        self.says("")

    def says(self, mode: str) -> None:
        (self.folder / "mode").write_text(mode)

    def executor(self, has_standby: bool = True) -> LocalExecutor:
        made = LocalExecutor(threads=2, command=(sys.executable, str(self.script)))
        if has_standby:
            made.keep_standby(self.folder)
        self.executors.append(made)
        return made

    def attempt(self) -> Path:
        folder = self.folder / f"attempt-{len(self.attempts)}"
        folder.mkdir()
        self.attempts.append(folder)
        return folder

    async def ready(self, executor: LocalExecutor) -> psutil.Process:
        """The idle process, once it is ready."""
        assert executor._standby is not None
        await until(lambda: executor._standby is not None and executor._standby.is_ready)
        assert executor._standby._process is not None
        return psutil.Process(executor._standby._process.pid)


async def until(done: Callable[[], Any]) -> Any:
    for _ in range(1500):
        found = done()
        if found:
            return found
        await asyncio.sleep(0.01)
    raise AssertionError("waited in vain")


def is_dead(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(standby, "REFILL_S", 0.0)
    made = Bench(tmp_path)
    yield made
    for executor in made.executors:
        executor.detach()
    for folder in made.attempts:
        record = read_worker(folder)
        if record is not None:
            asyncio.run(LocalExecutor().stop(folder, 0))


async def test_what_took_an_attempt_is_the_worker_that_a_launch_starts(bench: Bench) -> None:
    cold, warm = bench.attempt(), bench.attempt()
    await bench.executor(has_standby=False).launch(cold)
    executor = bench.executor()
    idle = await bench.ready(executor)
    await asyncio.sleep(0.5)
    await executor.launch(warm)
    ours, theirs = await started(warm), await started(cold)
    assert (ours.pid, theirs.taken_s) == (idle.pid, 0.0)
    assert (await executor.look(warm)).age_s < 0.4, "from when it took the attempt, not from its own start"
    assert (warm / "worker.log").read_text() == (cold / "worker.log").read_text() == "at work\n"
    mine, other = (json.loads((folder / "report").read_text()) for folder in (warm, cold))
    mine["cwd"], other["cwd"] = (Path(one["cwd"]).name for one in (mine, other))
    assert (mine.pop("cwd"), other.pop("cwd")) == (warm.name, cold.name)
    for report, folder in ((mine, warm), (other, cold)):
        named = report.pop("files")
        socket_left = [name for name in named if name.startswith("socket")]
        assert len(socket_left) == (1 if folder == warm else 0), "the one to say that it is taken"
        wanted = {"/dev/null", f"{folder}/worker.log", f"{folder}/attempt.lock"}
        assert {name for name in named if not name.startswith(("socket", "/proc"))} == wanted
    assert mine == other, "environment, session, priority, limits, signals, inheritable descriptors"
    assert mine["inherited"] == []
    assert mine["nice"] == os.getpriority(os.PRIO_PROCESS, 0)


async def test_one_process_takes_one_attempt_and_the_next_one_follows(bench: Bench) -> None:
    executor = bench.executor()
    pids = []
    for folder in (bench.attempt(), bench.attempt()):
        pids.append((await bench.ready(executor)).pid)
        await asyncio.gather(executor.launch(folder), executor.launch(folder))
        await started(folder)
        assert (folder / "started").read_text().split() == [str(pids[-1])]
    assert pids[0] != pids[1]
    await executor.stop(bench.attempts[0], 5)
    assert not psutil.pid_exists(pids[0])
    assert (await executor.look(bench.attempts[1])).alive


async def test_a_launch_does_not_wait_for_a_standby_that_is_not_ready(bench: Bench) -> None:
    bench.says("slow")
    executor, folder = bench.executor(), bench.attempt()
    await until((bench.folder / "pid").exists)
    bench.says("")
    await executor.launch(folder)
    assert (await started(folder)).taken_s == 0.0
    executor.detach()
    assert is_gone(WorkerRecord(pid=int((bench.folder / "pid").read_text()), started=0)), "ended with its server"


@pytest.mark.parametrize("how", ["killed while idle", "stopped", "dies before"])
async def test_a_standby_that_is_lost_costs_no_attempt(bench: Bench, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "TAKE_S", 0.3)
    if how == "dies before":
        bench.says(how)
    executor, folder = bench.executor(), bench.attempt()
    idle = await bench.ready(executor)
    bench.says("")
    if how == "killed while idle":
        idle.kill()  # the executor may or may not have seen it when it launches
    if how == "stopped":
        idle.suspend()
    await executor.launch(folder)
    record = await started(folder)
    assert record.pid != idle.pid
    assert is_dead(idle)
    assert (folder / "started").read_text().split() == [str(record.pid)], "one worker, started once"
    assert (await bench.ready(executor)).pid not in (idle.pid, record.pid)


async def test_one_that_died_with_the_attempt_is_a_worker_that_was_killed(bench: Bench) -> None:
    bench.says("dies after")
    executor, folder = bench.executor(), bench.attempt()
    await bench.ready(executor)
    bench.says("")
    await executor.launch(folder)
    await until(lambda: not (folder / "started").exists())
    for _ in range(500):
        if not (await executor.look(folder)).alive:
            break
        await asyncio.sleep(0.01)
    assert not (await executor.look(folder)).alive
    assert not (folder / "started").exists(), "no second worker behind the supervisor's back"


async def test_a_standby_that_cannot_import_is_tried_again_slowly(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.says("broken")
    executor, folder = bench.executor(), bench.attempt()
    await until(lambda: "standby ended" in caplog.text)
    assert "no torch here" in (bench.folder / standby.STANDBY_LOG).read_text()
    await executor.launch(folder)
    assert (await started(folder)).taken_s == 0.0
    await asyncio.sleep(0.5)
    assert caplog.text.count("standby ended") == 1


# -- the server dies --------------------------------------------------------------------------------------------------

# A service that dies by SIGKILL: while the standby imports, when it is ready, or when it was just sent an attempt.
SERVICE = """
import asyncio, os, pathlib, signal, socket, sys
from posttrain.service.executors.local import LocalExecutor
from posttrain.service.executors import standby
when, script, folder = sys.argv[1:]
send = socket.send_fds
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def send_and_die(*arguments):
    send(*arguments)
    die()
socket.send_fds = send_and_die
async def main():
    executor = LocalExecutor(command=(sys.executable, script))
    executor.keep_standby(pathlib.Path(folder).parent)
    waiting = executor._standby
    while not (waiting.is_ready or (when == "importing" and pathlib.Path(script).with_name("pid").exists())):
        await asyncio.sleep(0.01)
    print(waiting._process.pid, flush=True)
    if when != "sent":
        die()
    os.kill(waiting._process.pid, signal.SIGSTOP)
    await executor.launch(pathlib.Path(folder))
asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["importing", "idle", "sent"])
async def test_a_server_that_dies(bench: Bench, when: str) -> None:
    bench.says("slow" if when == "importing" else "")
    folder = bench.attempt()
    done = subprocess.run(
        [sys.executable, "-c", SERVICE, when, str(bench.script), str(folder)], check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    orphan = psutil.Process(int(done.stdout))
    if when != "sent":
        await until(lambda: is_dead(orphan))
        assert not (folder / "started").exists()
        return
    # It has not even read the message, and holds the attempt all the same: nobody else starts it.
    executor = bench.executor(has_standby=False)
    assert (await executor.look(folder)).alive
    await executor.launch(folder)
    assert (await started(folder)).is_offer, "written by the service that died"
    orphan.resume()
    await until((folder / "started").exists)
    await until(lambda: not (read_worker(folder) or WorkerRecord(pid=0, started=0, is_offer=True)).is_offer)
    assert (await started(folder)).pid == orphan.pid
    assert (folder / "started").read_text().split() == [str(orphan.pid)]
    with open(folder / "attempt.lock") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_a_mute_standby_and_a_dead_server_leave_no_attempt_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was sent the attempt, so it holds the lock, and nobody waits for its answer any more."""
    folder = bench.attempt()
    done = subprocess.run(
        [sys.executable, "-c", SERVICE, "sent", str(bench.script), str(folder)], check=False, capture_output=True
    )
    mute = psutil.Process(int(done.stdout))
    executor = bench.executor(has_standby=False)
    assert (await executor.look(folder)).alive, "it may still answer"
    monkeypatch.setattr(local, "TAKE_S", 0.0)
    for _ in range(500):
        if not (await executor.look(folder)).alive:
            break
        await asyncio.sleep(0.01)
    assert is_dead(mute)
    assert not (await executor.look(folder)).alive
    await executor.launch(folder)
    await until((folder / "started").exists)
    assert (await started(folder)).pid != mute.pid


async def test_an_offered_attempt_can_be_stopped(bench: Bench) -> None:
    folder = bench.attempt()
    done = subprocess.run(
        [sys.executable, "-c", SERVICE, "sent", str(bench.script), str(folder)], check=False, capture_output=True
    )
    await asyncio.wait_for(bench.executor(has_standby=False).stop(folder, 0.2), 20)
    assert is_gone(WorkerRecord(pid=int(done.stdout), started=0))


# -- the whole service, with a scripted engine ------------------------------------------------------------------------


def standby_of(server: Server, number: int = 1) -> int:
    """The process id of the `number`th standby that was ready."""

    def find() -> int:
        lines = [json.loads(line) for line in (server.home / "logs" / "server.log").read_text().splitlines()]
        pids = [line["pid"] for line in lines if line["message"] == "standby ready"]
        return pids[number - 1] if len(pids) >= number else 0

    found = server.wait(find, "the standby")
    assert isinstance(found, int)
    return found


def test_a_job_of_a_standby_outlives_the_server_and_is_found_again(serve: Callable[..., Server]) -> None:
    server = serve(fake=True, settings={"standby": True})
    pid = standby_of(server)
    job = submit(server, train_spec("steps=40 delay=0.05"))
    assert worker_of(server, job).pid == pid
    wanted = job.name.rpartition("/")[2][-15:]
    server.wait(lambda: psutil.Process(pid).name() == wanted, "its name in ps; its command line names no job")
    server.wait(lambda: server.get(job.name).progress.done >= 2, "some steps")
    server.kill()
    time.sleep(0.3)
    assert psutil.pid_exists(pid)
    server.start()
    second = standby_of(server, 2)
    done = server.until(job.name, "SUCCEEDED")
    assert done.attempt == 1
    points = server.jobs.ListJobMetrics(jobs_pb2.ListJobMetricsRequest(parent=job.name, page_size=1000)).points
    assert [point.step for point in points] == list(range(1, 41)), "each event once"
    # The one of the second server is idle: killed there, it costs the next job nothing.
    os.kill(second, signal.SIGKILL)
    other = submit(server, train_spec("steps=2", seed=5))
    assert server.until(other.name, "SUCCEEDED").attempt == 1
    assert "RECOVERING" not in transitions(server, other)
    assert server.stop() == 0


def test_a_stopped_server_leaves_no_idle_process(serve: Callable[..., Server]) -> None:
    server = serve(fake=True, settings={"standby": True})
    pid = standby_of(server)
    assert server.stop() == 0
    assert is_gone(WorkerRecord(pid=pid, started=0))


@pytest.mark.parametrize("point", ["launch:prepared", "launch:launched"])
def test_a_server_that_crashes_around_the_launch(serve: Callable[..., Server], point: str) -> None:
    server = serve(fake=True, crash_at=point, settings={"standby": True})
    pid = standby_of(server)
    job = submit(server, train_spec("steps=5 delay=0.05"))
    server.await_crash()
    server.start()
    done = server.until(job.name, "SUCCEEDED")
    assert (done.attempt, done.progress.done) == (1, 5)
    assert (worker_of(server, job).pid == pid) == (point == "launch:launched"), "else it ended with its server"
