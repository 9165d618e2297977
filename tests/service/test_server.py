"""The server as a process: where it listens, what it says about itself, how it stops, and what it must not do."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from posttrain.engine.errors import EngineError
from posttrain.registry.errors import HomeLockedError
from posttrain.service.errors import UnsafeAddressError
from posttrain.service.proto import jobs_pb2
from posttrain.service.server import SERVICES, check_address
from posttrain.service.server import serve as run_server

from .asking import GATE, refused, submit, train_spec
from .serving import PROJECT, Server


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:50061", "[::]:1", "192.168.1.2:50061", "10.0.0.1:80", "example.org:50061", "169.254.169.254:80"],
)
def test_only_loopback_is_served(tmp_path: Path, address: str) -> None:
    with pytest.raises(UnsafeAddressError, match="without authentication"):
        asyncio.run(run_server(tmp_path / "home", address))
    assert not (tmp_path / "home").exists(), "refused before anything is made"


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1:", "127.0.0.1:port", "127.0.0.1:70000"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UnsafeAddressError):
        check_address(address)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("localhost:5", "127.0.0.1:5"),
        ("127.8.8.8:1", "127.8.8.8:1"),
        ("[::1]:7", "[::1]:7"),
    ],
)
def test_loopback_addresses(address: str, told: str) -> None:
    assert str(check_address(address)) == told


def test_health_and_reflection(shared: Server) -> None:
    health = health_pb2_grpc.HealthStub(shared.channel)
    for name in ("", *SERVICES):
        assert (
            health.Check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING
        )
    reflection = reflection_pb2_grpc.ServerReflectionStub(shared.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflection.ServerReflectionInfo(iter([request]))
    assert {service.name for service in answer.list_services_response.service} >= {
        "posttrain.v1.Jobs", "posttrain.v1.Datasets", "posttrain.v1.Models", "posttrain.v1.Evaluations",
        "posttrain.v1.Gates", "posttrain.v1.Promotions", "grpc.health.v1.Health",
    }  # fmt: skip


def scrape(server: Server) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def test_metrics_tell_the_story(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    start = scrape(server)
    assert start['posttrain_loop_errors_total{loop="supervisor"}'] == 0, "an alert sees the first error too"
    assert start['posttrain_interruptions_total{kind="sft"}'] == 0
    done = submit(server, train_spec("steps=2", then=GATE))
    server.until_chain(done.name, "DONE")
    running = submit(server, train_spec("steps=3 hang=2"))
    submit(server, train_spec("steps=1"))
    server.wait(lambda: server.get(running.name).progress.done == 2, "step 2")
    with refused():
        server.get(f"{PROJECT}/jobs/none")
    found = server.wait(lambda: (m := scrape(server)).get("posttrain_queue_depth") == 1 and m, "the queue to show")
    job = running.name.rpartition("/")[2]
    assert found['posttrain_jobs{kind="sft",state="RUNNING"}'] == 1
    assert found['posttrain_jobs{kind="sft",state="QUEUED"}'] == 1
    assert found['posttrain_jobs_ended_total{kind="sft",reason="OK",state="SUCCEEDED"}'] == 1
    assert found['posttrain_attempts_total{kind="evaluate"}'] == 3
    assert found['posttrain_gate_verdicts_total{verdict="PASS"}'] == 1
    assert found['posttrain_promotions_total{outcome="APPLIED"}'] == 1
    assert found[f'posttrain_tokens_per_second{{job="{job}"}}'] == 100
    assert 0 <= found[f'posttrain_event_lag_seconds{{job="{job}"}}'] < 60
    assert found['posttrain_rpc_seconds_count{code="NOT_FOUND",method="Jobs/GetJob"}'] == 1
    assert found['posttrain_phase_seconds_count{kind="sft",phase="training"}'] == 1
    ended = done.name.rpartition("/")[2]
    assert not any(ended in name for name in found), "a job that has ended leaves no series"


def test_logs_are_json_with_job_and_attempt(shared: Server) -> None:
    job = submit(shared, train_spec("steps=1"))
    shared.until(job.name, "SUCCEEDED")
    number = job.name.rpartition("/")[2]
    lines = [json.loads(line) for line in (shared.home / "logs/server.log").read_text().splitlines()]
    ours = [line for line in lines if line.get("job") == number and "attempt" in line]
    assert [line["state"] for line in ours if "state" in line] == ["STARTING", "SUCCEEDED"]
    assert all(line["attempt"] == 1 and line["level"] == "INFO" and line["time"] > 0 for line in ours)


def test_stopping_takes_the_address_away_and_leaves_no_lock(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    assert server.stop() == 0
    assert not (server.home / "server.json").exists()
    server.start()
    assert server.get(submit(server, train_spec()).name).state


def test_two_servers_cannot_share_a_data_folder(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    with pytest.raises(HomeLockedError):
        asyncio.run(run_server(server.home, "127.0.0.1:0"))
    assert json.loads((server.home / "server.json").read_text())["pid"] == server.process.pid  # type: ignore[union-attr]


def test_a_port_that_is_taken_is_an_error(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(fake=True)
    with pytest.raises(OSError, match="cannot listen"):
        asyncio.run(run_server(tmp_path / "other", server.address))


def test_the_server_loads_no_torch() -> None:
    code = (
        "import sys, posttrain.service.server, posttrain.service.worker\n"
        "wrong = {'torch', 'transformers', 'peft', 'lm_eval'} & set(sys.modules)\n"
        "raise SystemExit(f'loaded: {sorted(wrong)}' if wrong else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_running_server_has_loaded_no_torch(serve: Callable[..., Server]) -> None:
    """After a whole chain; server_main.py looks at sys.modules when it has stopped."""
    server = serve(fake=True)
    job = submit(server, train_spec("steps=1", then=GATE))
    server.until_chain(job.name, "DONE")
    maps = Path(f"/proc/{server.process.pid}/maps")  # type: ignore[union-attr]
    if maps.exists():
        assert "libtorch" not in maps.read_text()
    assert server.stop() == 0, server.output()


def test_an_unforeseen_error_is_internal_and_tells_nothing(serve: Callable[..., Server]) -> None:
    server = serve(fake=True)
    job = submit(server, train_spec("hang=1"))
    server.until(job.name, "RUNNING")
    database = server.home / "posttrain.db"
    code = (
        "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.execute('ALTER TABLE jobs RENAME TO gone'); c.commit()"
    )
    subprocess.run([sys.executable, "-c", code, str(database)], check=True)
    with refused() as said:
        server.get(job.name)
    assert (said.code, said.reason) == ("INTERNAL", "INTERNAL")
    assert "sqlite" not in said.message.lower()
    assert "Traceback" not in said.message
    assert said.metadata["log_id"] in said.message
    entries = (json.loads(line) for line in (server.home / "logs/server.log").read_text().splitlines())
    entry = next(entry for entry in entries if entry.get("log_id") == said.metadata["log_id"])
    assert "no such table" in entry["traceback"]


def test_an_unknown_method_is_unimplemented(shared: Server) -> None:
    call = shared.channel.unary_unary("/posttrain.v1.Jobs/DropTables")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def _write_for_ever(file: Any, block: bytes) -> None:
    while True:
        file.write(block)


def fill(path: Path) -> None:
    """Takes what is left of the disk."""
    with open(path, "wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            with pytest.raises(OSError, match="No space left"):
                _write_for_ever(file, b"0" * size)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk(tmp_path: Path, seeded_home: Path) -> None:
    """Uploads and jobs are refused or fail by name; the server stays up, and goes on once there is room."""
    import shutil

    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mount)], check=False).returncode != 0:
        pytest.skip("this machine does not let us mount a tmpfs")
    server = None
    try:
        home = Path(shutil.copytree(seeded_home, mount / "home"))
        server = Server(home, fake=True).start()
        from .asking import upload

        with refused() as said:
            upload(server, b'{"prompt": "a", "completion": "b"}\n' * 400_000)
        assert (said.code, said.reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
        ballast = home / "ballast"
        fill(ballast)
        with refused() as said:
            submit(server, train_spec("steps=1"))
        assert (said.code, said.reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
        ballast.unlink()
        job = submit(server, train_spec("steps=2"))
        assert server.until(job.name, "SUCCEEDED").attempt == 1
        assert len(server.jobs.ListJobs(jobs_pb2.ListJobsRequest(parent=PROJECT)).jobs) == 1
    finally:
        if server is not None:
            server.close()
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_every_error_has_a_status() -> None:
    """Walks all subclasses of all packages' errors."""
    import posttrain.evals.errors
    import posttrain.registry.errors
    import posttrain.service.errors  # noqa: F401
    from posttrain.service.statuses import STATUS, to_status

    todo, seen = [EngineError], set()
    while todo:
        kind = todo.pop()
        if kind in seen:
            continue
        seen.add(kind)
        todo += kind.__subclasses__()
    assert len(seen) > 35
    assert {kind.code for kind in seen if kind.__module__.startswith("posttrain.")} <= set(STATUS)
    assert all(kind.hint or kind.__name__ in ROOTS for kind in seen), [k for k in seen if not k.hint]
    assert all(STATUS[kind.code] != grpc.StatusCode.OK for kind in seen)
    worst = EngineError("\N{SNOWMAN}" * 5000, "hint " * 1000)
    assert len(to_status(worst).SerializeToString()) < 4096


ROOTS = {"EngineError", "EvalError", "RegistryError", "ServiceError"}
