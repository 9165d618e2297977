"""`posttrain demo` against a server that answers as told; and a server of one's own, the real one."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from posttrain.service.cli import progress as progress_module
from posttrain.service.cli import run, spawn
from posttrain.service.cli.demo import demo_spec
from posttrain.service.cli.exits import Exit
from posttrain.service.cli.settings import Settings, read_address
from posttrain.service.client import Client, ClientError
from posttrain.service.proto import datasets_pb2, gates_pb2, jobs_pb2, models_pb2

from .fake_server import FakeServer, change, job

SUITES = ["instruction_following", "conversation", "reasoning", "refusal", "tool_use"]
DATA = files("posttrain.evals") / "suites" / "data" / "ift.jsonl"
CHAIN = {
    "version": "tiny-instruct@1",
    "eval_runs": ["projects/default/evalRuns/e0", "projects/default/evalRuns/e1"],
    "gate_run": "projects/default/gateRuns/g1",
    "promotion": "projects/default/promotions/p1",
}


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


def result(suite: str, against: str, difference: float) -> Any:
    low, high = difference - 0.05, difference + 0.05
    return gates_pb2.GateResult(
        metric=suite, baseline_name=against, n=500, baseline=0.1, candidate=0.1 + difference,
        difference=difference, low=low, high=high, level=0.99,
    )  # fmt: skip


def play(fake: FakeServer, verdict: int = gates_pb2.PASS, champion: bool = False, spec: Any = None) -> None:
    """A server on which a demo runs through."""
    baselines = ["parent", *(["champion"] if champion else [])]
    gate = gates_pb2.GateRun(
        name=CHAIN["gate_run"],
        verdict=verdict,
        candidate="tiny-instruct@1",
        baselines=[f"{name} x@1" for name in baselines],
        suites=[result(suite, name, 0.5 if name == "parent" else 0.01) for suite in SUITES for name in baselines],
    )
    promotion = gates_pb2.Promotion(name=CHAIN["promotion"], outcome=gates_pb2.Promotion.APPLIED)
    if verdict != gates_pb2.PASS:
        gate.reasons.add(code="FLOOR", metric="refusal", message="0.0 is below 60.0")
        promotion.outcome = gates_pb2.Promotion.REFUSED
        promotion.missing.add(code="FLOOR", metric="refusal", message="0.0 is below 60.0")
        promotion.missing.add(code="VERDICT", message="the gate run is not PASS")
    spec_json = json.dumps(spec or demo_spec("tiny-base@1", "demo-ift@1"))
    done = job(jobs_pb2.SUCCEEDED, jobs_pb2.DONE, chain=CHAIN, spec_json=spec_json)
    done.start_time.FromSeconds(100)
    done.end_time.FromSeconds(160)
    child = job(kind="evaluate", name="j2", parent_job=done.name)
    child.start_time.FromSeconds(160)
    child.end_time.FromSeconds(190)
    fake.on("ListModelVersions", models_pb2.ListModelVersionsResponse())
    fake.on("ImportModel", models_pb2.ModelVersion(ref="tiny-base@1", source="builtin:tiny-base"))
    fake.on("ListDatasetVersions", datasets_pb2.ListDatasetVersionsResponse())
    fake.on("UploadDataset", datasets_pb2.DatasetVersion(name="projects/default/datasets/demo-ift/versions/1"))
    fake.on("SealDataset", datasets_pb2.DatasetVersion(ref="demo-ift@1", sealed=True))
    fake.on("CreateJob", job(jobs_pb2.QUEUED))
    running = job(jobs_pb2.SUCCEEDED, jobs_pb2.EVALUATE, chain=CHAIN, spec_json=spec_json)
    fake.on("WatchJobs", lambda _: [change(running), change(done)])
    fake.on(
        "ListJobs", lambda request: jobs_pb2.ListJobsResponse(jobs=[child] if request.filter == "parent:j1" else [])
    )
    fake.on("GetGateRun", gate).on("GetPromotion", promotion)


def demo(fake: FakeServer, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    code = run(["demo", "--address", fake.address, *options])
    return code, *capsys.readouterr()


def test_the_last_line_is_the_result(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    play(fake)
    code, out, err = demo(fake, capsys, "--json")
    assert code == Exit.OK, err
    (line,) = out.splitlines()
    record = json.loads(line)
    assert (record["base"], record["candidate"]) == ("tiny-base@1", "tiny-instruct@1")
    assert (record["verdict"], record["promotion"], record["alias"]) == ("PASS", "APPLIED", "production")
    assert list(record["suites"]) == SUITES
    assert record["suites"]["reasoning"] == {
        "n": 500,
        "baseline": 0.1,
        "candidate": 0.6,
        "difference": 0.5,
        "interval": [0.45, 0.55],
        "level": 0.99,
        "against": "parent",
    }
    assert record["reasons"] == []
    assert record["seconds"]["training"] == 60
    assert record["seconds"]["evaluation"] == 30
    assert 0 < record["seconds"]["all"] < 60
    assert record["records"] == {"job": "projects/default/jobs/j1", **{k: CHAIN[k] for k in ("gate_run", "promotion")}}


def test_people_see_a_table(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    play(fake)
    code, out, _ = demo(fake, capsys)
    assert code == Exit.OK
    assert "PASS: tiny-instruct@1 against parent x@1" in out
    for suite in SUITES:
        assert any(line.startswith(suite) and "[+45.0, +55.0]" in line for line in out.splitlines())
    assert "training 1m00s, evaluation 30s" in out


def test_a_second_run_is_compared_with_the_champion(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    play(fake, champion=True)
    record = json.loads(demo(fake, capsys, "--json")[1])
    assert record["baselines"] == ["parent x@1", "champion x@1"]
    assert {entry["against"] for entry in record["suites"].values()} == {"champion"}


@pytest.mark.parametrize(
    ("verdict", "name", "expected"),
    [(gates_pb2.FAIL, "FAIL", Exit.GATE_FAIL), (gates_pb2.INCONCLUSIVE, "INCONCLUSIVE", Exit.INCONCLUSIVE)],
)
def test_a_blocked_candidate(
    fake: FakeServer, capsys: pytest.CaptureFixture[str], verdict: int, name: str, expected: Exit
) -> None:
    play(fake, verdict, spec=demo_spec("tiny-base@1", "demo-ift@1", sabotage=True))
    code, out, _ = demo(fake, capsys, "--sabotage", "--json")
    record = json.loads(out.splitlines()[-1])
    assert (code, record["verdict"], record["promotion"]) == (expected, name, "REFUSED")
    assert [reason["code"] for reason in record["reasons"]] == ["FLOOR", "VERDICT"], "each reason once"
    sent = fake.of("CreateJob")[0].spec.ift.optimizer.learning_rate
    assert sent == pytest.approx(100 * demo_spec("a@1", "b@1")["optimizer"]["learning_rate"])
    assert "0.0 is below 60.0" in demo(fake, capsys, "--sabotage")[1]


def test_a_job_that_fails_still_gives_a_line(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    play(fake)
    spec_json = json.dumps(demo_spec("tiny-base@1", "demo-ift@1"))
    failed = job(jobs_pb2.FAILED, jobs_pb2.CHAIN_FAILED, spec_json=spec_json)
    failed.error.code, failed.error.message = "NON_FINITE", "the loss of step 7 is nan"
    fake.on("WatchJobs", lambda _: [change(failed)])
    code, out, _ = demo(fake, capsys, "--json")
    record = json.loads(out)
    assert (code, record["verdict"], record["candidate"], record["suites"]) == (Exit.JOB_FAILED, "", "", {})
    assert record["reasons"][0]["code"] == "NON_FINITE"
    assert record["seconds"]["training"] is None
    assert "the loss of step 7 is nan" in demo(fake, capsys)[1]


def test_base_and_data_are_added_once(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    play(fake)
    assert demo(fake, capsys)[0] == 0
    (parts,) = fake.of("UploadDataset")
    assert b"".join(part.chunk for part in parts[1:]) == DATA.read_bytes()
    digest = hashlib.sha256(DATA.read_bytes()).hexdigest()
    versions = [
        datasets_pb2.DatasetVersion(ref="demo-ift@1", sealed=True, sha256="0" * 64),
        datasets_pb2.DatasetVersion(ref="demo-ift@2", sealed=False, sha256=digest),
        datasets_pb2.DatasetVersion(ref="demo-ift@3", sealed=True, sha256=digest),
    ]
    bases = [models_pb2.ModelVersion(ref=f"tiny-base@{n}", source="builtin:tiny-base") for n in (9, 10)]
    other = models_pb2.ModelVersion(ref="tiny-base@11", source="elsewhere")
    fake.on("ListDatasetVersions", datasets_pb2.ListDatasetVersionsResponse(versions=versions))
    fake.on("ListModelVersions", models_pb2.ListModelVersionsResponse(versions=[*bases, other]))
    assert demo(fake, capsys)[0] == 0
    assert (len(fake.of("UploadDataset")), len(fake.of("ImportModel"))) == (1, 1)
    sent = fake.of("CreateJob")[-1].spec.ift
    assert (sent.base, sent.data[0].dataset) == ("tiny-base@10", "demo-ift@3")


def test_a_given_address_without_a_server_starts_none(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="no server"), spawn.running_server(Settings(tmp_path, "127.0.0.1:1")):
        pytest.fail("there is no server")


def test_a_server_of_ones_own(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "server.json").write_text('{"address": "127.0.0.1:1"}')  # of a server that was killed
    with spawn.running_server(Settings(home)) as (address, is_own):
        assert is_own
        assert read_address(home) == address != "127.0.0.1:1"
        with Client(address) as client:
            assert client.list_jobs() == []
        with spawn.running_server(Settings(home)) as (again, is_own_too):
            assert (again, is_own_too) == (address, False), "the one that runs is used"
        assert spawn.is_serving(address), "and not stopped by who only used it"
    assert not spawn.is_serving(address)


def test_a_server_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    with pytest.raises((ClientError, OSError)), spawn.running_server(Settings(tmp_path / "home")):
        pytest.fail("it cannot start")
    home = tmp_path / "other"
    home.mkdir()
    (home / "registry.db").mkdir()  # a database cannot be opened there
    (home / "posttrain.db").mkdir()
    with pytest.raises(ClientError, match="the server ended at once") as caught, spawn.running_server(Settings(home)):
        pytest.fail("it cannot start")
    assert str(home / spawn.LOG_FILE) in caught.value.hint


def test_ctrl_c_cancels_the_demos_job_and_stops_its_server(tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = [sys.executable, "-m", "posttrain.service.cli", "demo", "--home", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (home / "server.json").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        address = read_address(home)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == Exit.INTERRUPTED, err
    assert out == ""
    assert "Traceback" not in err
    assert not spawn.is_serving(address)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_on_a_terminal_and_no_markup_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_module.open_progress() as progress:
        progress.update("ift [red]j1[/red]\x1b]0;x\x07", 5, 10, 65.0, {"loss": 2.5})
        progress.note("[bold]plain[/bold]\x07")
        progress.update("ift [red]j1[/red]\x1b]0;x\x07", 9, 10, 1.0)
        time.sleep(0.6)  # it is drawn four times a second
        progress.finish("ift [red]j1[/red]\x1b]0;x\x07")
        progress.finish("nothing of that name")
    text = screen.getvalue()
    assert "ift [red]j1[/red]\ufffd]0;x\ufffd" in text
    assert "9/10 ETA 1s" in text.replace("\x1b[0m", "")
    assert "[bold]plain[/bold]\ufffd" in text
    assert "\x07" not in text
