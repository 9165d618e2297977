"""How a command ends: exit codes, servers that are not there, wrong usage, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from posttrain.service.cli import exits, run, settings
from posttrain.service.cli.exits import Exit
from posttrain.service.client import ClientError
from posttrain.service.proto import gates_pb2, jobs_pb2

from .answers import Cli
from .fake_server import FakeServer, Refusal, change, job

OUTCOMES = [
    (job(jobs_pb2.SUCCEEDED), None, None, Exit.OK),
    (job(jobs_pb2.FAILED, error=jobs_pb2.JobError(code="DISK_FULL", message="full")), None, None, Exit.JOB_FAILED),
    (job(jobs_pb2.CANCELLED), None, None, Exit.CANCELLED),
    (job(jobs_pb2.SUCCEEDED, jobs_pb2.CHAIN_FAILED), None, None, Exit.JOB_FAILED),
    (job(jobs_pb2.SUCCEEDED, jobs_pb2.DONE), gates_pb2.PASS, gates_pb2.Promotion.APPLIED, Exit.OK),
    (job(jobs_pb2.SUCCEEDED, jobs_pb2.DONE), gates_pb2.FAIL, gates_pb2.Promotion.REFUSED, Exit.GATE_FAIL),
    (job(jobs_pb2.SUCCEEDED, jobs_pb2.DONE), gates_pb2.INCONCLUSIVE, gates_pb2.Promotion.REFUSED, Exit.INCONCLUSIVE),
    (job(jobs_pb2.SUCCEEDED, jobs_pb2.DONE), gates_pb2.PASS, gates_pb2.Promotion.REFUSED, Exit.REFUSED),
    (job(jobs_pb2.SUCCEEDED, jobs_pb2.CHAIN_FAILED), gates_pb2.PASS, None, Exit.JOB_FAILED),
]


@pytest.mark.parametrize(("ended", "verdict", "outcome", "code"), OUTCOMES)
def test_the_exit_code_tells_how_a_job_ended(
    cli: Cli, fake: FakeServer, spec: str, ended: Any, verdict: int | None, outcome: int | None, code: Exit
) -> None:
    item = jobs_pb2.Job()
    item.CopyFrom(ended)
    if verdict is not None:
        item.chain.gate_run = "projects/default/gateRuns/g1"
        fake.on("GetGateRun", gates_pb2.GateRun(verdict=verdict))
    if outcome is not None:
        item.chain.promotion = "projects/default/promotions/p1"
        fake.on("GetPromotion", gates_pb2.Promotion(outcome=outcome))
    fake.on("CreateJob", job(jobs_pb2.QUEUED)).on("WatchJobs", lambda _: [change(item)]).on("GetJob", item)
    fake.on("ListJobs", jobs_pb2.ListJobsResponse())
    for arguments in (
        ["submit", spec, "--wait"],
        ["submit", spec, "--wait", "--json"],
        ["jobs", "watch", "j1", "--json"],
    ):
        assert cli(*arguments)[0] == code


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [
        ("INVALID_ARGUMENT", "INVALID_FIELD", Exit.USAGE),
        ("NOT_FOUND", "NOT_FOUND", Exit.NOT_FOUND),
        ("FAILED_PRECONDITION", "PROMOTION_REFUSED", Exit.REFUSED),
        ("FAILED_PRECONDITION", "ILLEGAL_TRANSITION", Exit.CONFLICT),
        ("ABORTED", "CONFLICT", Exit.CONFLICT),
        ("ALREADY_EXISTS", "ALREADY_EXISTS", Exit.CONFLICT),
        ("RESOURCE_EXHAUSTED", "DISK_FULL", Exit.CONFLICT),
        ("INTERNAL", "INTERNAL", Exit.UNEXPECTED),
        ("DATA_LOSS", "TAMPERED", Exit.UNEXPECTED),
    ],
)
def test_the_exit_code_of_a_refused_call(cli: Cli, fake: FakeServer, status: str, reason: str, code: Exit) -> None:
    unmet = (("GATE", "bot@1", "no gate run"),)
    fake.on("CreatePromotion", Refusal(grpc.StatusCode[status], "it said no", reason, "do this", unmet=unmet))
    got, out, err = cli("promote", "bot@1", "production", "--json")
    assert (got, out) == (code, "")
    assert err == "error: it said no\n  unmet: no gate run\nhint: do this\n"


def test_every_status_has_an_exit_code() -> None:
    for status in grpc.StatusCode:
        assert exits.of_status(status.name, "") in exits.Exit


def test_no_server(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("POSTTRAIN_ADDRESS", raising=False)
    for command in (["jobs", "list"], ["jobs", "watch"], ["tui"], ["demo"]):
        if command != ["demo"]:  # which would start one
            assert run([*command, "--home", str(tmp_path)]) == Exit.NOT_FOUND
            out, err = capsys.readouterr()
            assert out == ""
            assert err == (
                f"error: no server runs on {tmp_path}\nhint: start one with `posttrain serve --home {tmp_path}`\n"
            )
        assert run([*command, "--home", str(tmp_path), "--address", "127.0.0.1:1"]) == Exit.NOT_FOUND
        assert capsys.readouterr().err == "error: no server at 127.0.0.1:1\nhint: start one with `posttrain serve`\n"


def test_an_address_that_is_not_on_this_machine(cli: Cli) -> None:
    code, _, err = cli("jobs", "list", "--address", "example.org:50061")
    assert code == Exit.USAGE
    assert "not on this machine" in err
    assert "ssh -L" in err


def test_the_server_of_a_home_is_found(fake: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("POSTTRAIN_ADDRESS", raising=False)
    fake.on("ListJobs", jobs_pb2.ListJobsResponse())
    (tmp_path / "server.json").write_text(json.dumps({"address": fake.address, "pid": os.getpid()}))
    assert run(["jobs", "list", "--home", str(tmp_path)]) == 0
    assert len(fake.of("ListJobs")) == 1


def test_what_a_killed_server_wrote_leads_to_no_other_one(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another home's server may listen at that port by now."""
    monkeypatch.delenv("POSTTRAIN_ADDRESS", raising=False)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / "server.json").write_text(json.dumps({"address": fake.address, "pid": gone.pid}))
    assert run(["jobs", "list", "--home", str(tmp_path)]) == Exit.NOT_FOUND
    assert fake.of("ListJobs") == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"address": 5, "pid": 1}', '{"other": 1}', '{"address": "a:1"}'])
def test_a_damaged_server_file_is_no_server(text: str, tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text(text)
    assert settings.read_address(tmp_path) == ""
    with pytest.raises(ClientError, match="no server runs on"):
        _ = settings.Settings(tmp_path).address


def test_these_facts_are_the_servers() -> None:
    from posttrain.service import server

    assert settings.DEFAULT_ADDRESS == server.DEFAULT_ADDRESS
    assert settings.SERVER_FILE == server.ADDRESS_FILE


def test_the_default_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert settings.absolute_home(None) == Path("/data/posttrain")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert settings.absolute_home(None) == Path.home() / ".local/share/posttrain"
    assert settings.absolute_home(Path("here")).is_absolute()


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["jobs", "get"], ["jobs", "list", "--limit", "x"], ["submit", "/no/such"], ["submit"]]
)
def test_wrong_usage(cli: Cli, arguments: list[str]) -> None:
    code, out, err = cli(*arguments)
    assert (code, out) == (Exit.USAGE, "")
    assert err


def test_a_misspelt_command(cli: Cli) -> None:
    code, _, err = cli("sumbit", "x.yaml")
    assert code == Exit.USAGE
    assert "did you mean 'submit'?" in err


def test_a_server_that_cannot_start_says_why(cli: Cli, fake: FakeServer, tmp_path: Path) -> None:
    for arguments, code, text in [
        (["--address", "0.0.0.0:0"], Exit.USAGE, "not on this machine"),
        (["--address", fake.address], Exit.CONFLICT, f"cannot listen on {fake.address}"),
        (["--home", str(tmp_path / "file" / "x"), "--address", "127.0.0.1:0"], Exit.CONFLICT, "file"),
    ]:
        (tmp_path / "file").write_text("")
        got, out, err = cli("serve", *arguments)
        assert (got, out) == (code, ""), err
        assert err.startswith("error: ")
        assert text in err
        assert "Traceback" not in err


def test_a_port_that_is_taken_is_said_in_one_line(fake: FakeServer, tmp_path: Path) -> None:
    """In a process of its own, where gRPC's C core would write a line of its own to stderr."""
    command = [sys.executable, "-m", "posttrain.service.cli", "serve", "--home", str(tmp_path / "home")]
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    done = subprocess.run(
        [*command, "--address", fake.address], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == Exit.CONFLICT
    hint = "is another server there? --address 127.0.0.1:0 takes any free port"
    assert (done.stdout, done.stderr) == ("", f"error: cannot listen on {fake.address}: {hint}\n")


def test_an_error_that_was_not_foreseen_keeps_its_traceback_without_what_acts_on_a_terminal(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("what nobody \x1b]0;thought\x07 of")

    monkeypatch.setattr("posttrain.service.cli.settings.Settings.connect", broken)
    code, out, err = cli("jobs", "list")
    assert (code, out) == (Exit.UNEXPECTED, "")
    assert err.startswith("Traceback (most recent call last):\n")
    assert "ZeroDivisionError: what nobody" in err
    assert "in broken" in err
    assert not {"\x1b", "\x07"} & set(err)


def test_ctrl_c_stops_the_waiting_and_not_the_job(fake: FakeServer, spec: str) -> None:
    def forever(_: Any) -> Iterator[Any]:
        for _ in range(600):
            yield change(job(jobs_pb2.RUNNING))
            time.sleep(0.1)

    fake.on("CreateJob", job(jobs_pb2.QUEUED)).on("WatchJobs", forever)
    command = [sys.executable, "-m", "posttrain.service.cli", "submit", spec, "--wait", "--address", fake.address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not fake.of("WatchJobs") and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == Exit.INTERRUPTED, err
    assert out == ""
    assert "the job goes on: posttrain jobs watch j1" in err
    assert "Traceback" not in err
    assert fake.of("CancelJob") == []


def test_a_reader_that_has_gone_is_no_error(fake: FakeServer) -> None:
    fake.on("ListJobs", jobs_pb2.ListJobsResponse(jobs=[job(name=str(number)) for number in range(900)]))
    command = f"{sys.executable} -m posttrain.service.cli jobs list --json --address {fake.address}"
    script = f"{command} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


def test_a_mistyped_path_is_not_asked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for source in ("data/rows", "dta/rows.jsonl", "dta/rows.CSV"):
        assert run(["datasets", "add", "rows", source]) == Exit.USAGE
        assert f"{source}: no such file\n" in capsys.readouterr().err
