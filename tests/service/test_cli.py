"""Every command against a server that answers as told: output, JSON, exit codes, hostile text."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from posttrain.service.cli import exits, run, settings
from posttrain.service.cli.exits import Exit
from posttrain.service.cli.progress import PlainProgress
from posttrain.service.cli.text import clean, echo_table
from posttrain.service.client import ClientError
from posttrain.service.proto import datasets_pb2, gates_pb2, jobs_pb2, models_pb2

from .fake_server import FakeServer, Refusal, change, job

EVIL = "a\x1b[31mb\x1b]0;title\x07c\u202ed\x9be\rf"
SPEC = "kind: sft\nbase: a@1\noutput: bot\ndata: [{dataset: rows@1}]\n"
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def cli(fake: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Runs a command against the fake; gives exit code, stdout and stderr."""
    monkeypatch.setenv("POSTTRAIN_ADDRESS", fake.address)
    monkeypatch.setenv("POSTTRAIN_HOME", str(tmp_path / "home"))

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return str(path)


DATASET = datasets_pb2.DatasetVersion(ref="rows@1", sealed=True, num_rows=3, num_bytes=2048, sha256="ab" * 32)
MODEL = models_pb2.ModelVersion(
    ref="bot@1",
    role="instruct",
    form="full",
    num_parameters=7,
    parent="base@1",
    relation="finetune",
    aliases=["production"],
)
BASE = models_pb2.ModelVersion(ref="base@1", role="base", form="full")
GATE = gates_pb2.GateRun(
    name="projects/default/gateRuns/g1",
    verdict=gates_pb2.FAIL,
    candidate="bot@1",
    baselines=["parent base@1"],
    policy="default",
    reasons=[gates_pb2.GateReason(code="FLOOR", metric="reasoning", message="12.0 is below 30.0")],
    suites=[
        gates_pb2.GateResult(
            metric="reasoning",
            baseline_name="parent",
            n=500,
            baseline=0.1,
            candidate=0.12,
            difference=0.02,
            low=-0.01,
            high=0.05,
            level=0.99,
            verdict=gates_pb2.FAIL,
        )
    ],
)
PROMOTION = gates_pb2.Promotion(
    name="projects/default/promotions/p1",
    outcome=gates_pb2.Promotion.APPLIED,
    version="bot@1",
    model="bot",
    alias="production",
)
RUN = gates_pb2.EvalRun(
    name="projects/default/evalRuns/e1",
    job="projects/default/jobs/j1",
    version="bot@1",
    num_rows=500,
    scores=[gates_pb2.MetricScore(metric="reasoning", shard="gate", n=500, score=0.5, low=0.4, high=0.6, level=0.95)],
)
ALIAS = models_pb2.Alias(alias="production", version="bot@2", etag="e7")


def logs(*lines: str) -> Callable[[Any], Any]:
    """One page of lines, then none."""
    return lambda r: jobs_pb2.ListJobLogsResponse(lines=() if r.page_token else lines, next_page_token="t")


def events(*items: Any) -> Any:
    return jobs_pb2.ListJobEventsResponse(events=items)


def fill(fake: FakeServer) -> None:
    done = job(jobs_pb2.SUCCEEDED, spec_json="{}", display_name="mine")
    fake.on("CreateJob", job(jobs_pb2.QUEUED)).on("GetJob", done).on("CancelJob", job(jobs_pb2.CANCELLING))
    fake.on("ListJobs", jobs_pb2.ListJobsResponse(jobs=[done, job(name="j0")])).on("WatchJobs", [change(done)])
    lines = [
        jobs_pb2.ListJobLogsResponse(next_page_token="t"),
        jobs_pb2.ListJobLogsResponse(lines=["x"], next_page_token="t"),
    ]
    fake.on("ListJobLogs", lambda request: lines[not request.page_token])
    fake.on(
        "ListJobEvents",
        jobs_pb2.ListJobEventsResponse(events=[jobs_pb2.JobEvent(sequence=1, type="state", to_state=2)]),
    )
    fake.on("UploadDataset", datasets_pb2.DatasetVersion(name="n")).on("SealDataset", DATASET)
    fake.on("GetDatasetVersion", DATASET)
    fake.on("ListDatasetVersions", datasets_pb2.ListDatasetVersionsResponse(versions=[DATASET]))
    fake.on("ImportModel", BASE).on("GetModelVersion", MODEL)
    fake.on("ListModelVersions", models_pb2.ListModelVersionsResponse(versions=[MODEL, BASE]))
    edge = models_pb2.LineageEdge(parent="rows@1", child="bot@1", kind="trained_on")
    fake.on("GetLineage", models_pb2.Lineage(versions=[BASE, MODEL], edges=[edge]))
    fake.on("ExportModelVersion", models_pb2.ExportModelVersionResponse(folder="/x", num_bytes=5))
    fake.on("SampleModelVersion", [models_pb2.SampleModelVersionResponse(version="bot@1", text="hello", num_tokens=1)])
    measured = {"num_rows": 10, "num_tokens": 1000, "num_trained": 300, "limit": 256, "num_overlong": 3, "num_cut": 40}
    fake.on("MeasureDataset", datasets_pb2.DatasetStatistics(dataset="rows@1", **measured))
    fake.on("ListSuites", gates_pb2.ListSuitesResponse(suites=[gates_pb2.Suite(name="reasoning", num_rows=500)]))
    fake.on("AddSuite", gates_pb2.Suite(name="mine"))
    fake.on("ListEvalRuns", gates_pb2.ListEvalRunsResponse(eval_runs=[RUN]))
    fake.on("CreateGateRun", GATE).on("GetGateRun", GATE).on("GetEvalRun", RUN)
    fake.on("CreatePromotion", PROMOTION).on("GetPromotion", PROMOTION)
    fake.on("ListPromotions", gates_pb2.ListPromotionsResponse(promotions=[PROMOTION]))
    fake.on("ListAliases", models_pb2.ListAliasesResponse(aliases=[ALIAS]))
    fake.on("RollbackAlias", models_pb2.Alias(alias="production", version="bot@1"))


RECORDS: list[tuple[str, int, str]] = [  # command, lines of JSON, something that people see
    ("submit SPEC", 1, "j1"),
    ("submit SPEC --wait", 1, "SUCCEEDED"),
    ("submit SPEC --validate-only", 1, "j1"),
    ("jobs list", 2, "mine"),
    ("jobs get j1", 1, "SUCCEEDED"),
    ("jobs watch j1", 1, "SUCCEEDED"),
    ("jobs logs j1", 1, "x"),
    ("jobs logs j1 --events", 1, "QUEUED"),
    ("jobs cancel j1", 1, "CANCELLING"),
    ("datasets add rows ROWS", 1, "rows@1"),
    ("datasets list", 1, "2.0 KiB"),
    ("datasets get rows", 1, "rows@1"),
    ("datasets stats rows --model bot", 1, "3 rows (30.0%) above 256 tokens; cutting them drops 40 tokens (4.0%)"),
    ("models import base builtin:tiny-base", 1, "base@1"),
    ("models list", 2, "production"),
    ("models get bot@production", 1, "bot@1"),
    ("models lineage", 1, "    finetune -> bot@1"),
    ("models export bot@1 out", 1, "/x"),
    ("suites list", 1, "reasoning"),
    ("suites add SPEC", 1, "mine"),
    ("eval bot@1", 1, "50.0"),
    ("eval bot@1 --no-wait", 1, "j1"),
    ("gate bot@1", 1, "12.0 is below 30.0"),
    ("promote bot@1 production", 1, "APPLIED"),
    ("promotions list", 1, "APPLIED"),
    ("promotions get p1", 1, "APPLIED"),
    ("rollback bot production --reason why", 1, "bot@2 -> bot@1"),
    ("sample bot@1 --prompt hi", 1, "hello"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "num_lines", "seen"), RECORDS, ids=[row[0] for row in RECORDS])
def test_what_prints_records(cli: Cli, fake: FakeServer, spec: str, command: str, num_lines: int, seen: str) -> None:
    fill(fake)
    rows = Path(spec).with_name("rows.jsonl")
    rows.write_text('{"prompt": "q", "completion": "a"}\n')
    arguments = [{"SPEC": spec, "ROWS": str(rows)}.get(word, word) for word in command.split()]
    expected = Exit.GATE_FAIL if arguments[0] == "gate" else Exit.OK
    code, out, err = cli(*arguments)
    assert (code, seen in out) == (expected, True), out + err
    code, out, err = cli(*arguments, "--json")
    assert code == expected, err
    records = [json.loads(line) for line in out.splitlines()]
    assert len(records) == num_lines
    assert all(isinstance(record, dict) and record for record in records)


def test_json_has_the_protocols_names_and_real_numbers(cli: Cli, fake: FakeServer) -> None:
    fake.on("GetDatasetVersion", DATASET)
    _, out, _ = cli("datasets", "get", "rows", "--json")
    record = json.loads(out)
    assert set(record) | {"create_time"} == set(datasets_pb2.DatasetVersion.DESCRIPTOR.fields_by_name)
    assert (record["num_rows"], record["num_bytes"], record["sealed"], record["format"]) == (3, 2048, True, "")
    progress = jobs_pb2.JobProgress(total=5, eta_s=float("nan"), values={"loss": float("inf")})
    fake.on("GetJob", job(progress=progress, attempt=2))
    _, out, _ = cli("jobs", "get", "j1", "--json")
    record = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (record["state"], record["attempt"], record["progress"]["total"]) == ("SUCCEEDED", 2, 5)
    assert (record["progress"]["eta_s"], record["progress"]["values"]) == ("NaN", {"loss": "Infinity"})


def test_the_spec_that_is_sent(cli: Cli, fake: FakeServer, spec: str) -> None:
    fake.on("CreateJob", job(jobs_pb2.QUEUED))
    assert cli("submit", spec, "--set", "optimizer.learning_rate=3e-4", "--set", "adapter.type=lora")[0] == 0
    sent = fake.of("CreateJob")[0].spec.sft
    assert (sent.optimizer.learning_rate, sent.adapter.lora.rank, sent.base) == (3e-4, 16, "a@1")


def test_a_spec_from_standard_input(cli: Cli, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    fake.on("CreateJob", job(jobs_pb2.QUEUED))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(SPEC.encode())))
    assert cli("submit", "-")[:2] == (0, "j1\n")


def test_a_bad_spec_starts_nothing(cli: Cli, fake: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(SPEC.replace("output", "outptu"))
    code, out, err = cli("submit", str(path))
    assert (code, out) == (Exit.USAGE, "")
    assert f"{path}:3: outptu: no such option; did you mean 'output'?" in err
    assert fake.requests == []


def test_what_the_server_finds_wrong_is_named_with_its_line(cli: Cli, fake: FakeServer, spec: str) -> None:
    fields = (("data[0].dataset", "no dataset rows@1"), ("base", "a@1 is not a model"))
    fake.on("CreateJob", Refusal(grpc.StatusCode.INVALID_ARGUMENT, "bad", "INVALID_FIELD", fields=fields))
    code, _, err = cli("submit", spec)
    assert code == Exit.USAGE
    assert f"{spec}:4: data[0].dataset: no dataset rows@1\n{spec}:2: base: a@1 is not a model" in err


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


def test_hostile_text_does_not_reach_the_terminal(cli: Cli, fake: FakeServer, spec: str) -> None:
    reason = gates_pb2.GateReason(code=EVIL, metric=EVIL, baseline=EVIL, message=EVIL)
    result = gates_pb2.GateResult(metric=EVIL, baseline_name=EVIL, rule=EVIL)
    evil_job = job(
        jobs_pb2.FAILED,
        display_name=EVIL,
        kind=EVIL,
        termination_reason=EVIL,
        error=jobs_pb2.JobError(code=EVIL, message=EVIL, hint=EVIL),
        spec_json=EVIL,
        parent_job=EVIL,
    )
    dataset = datasets_pb2.DatasetVersion(ref=EVIL, format=EVIL, source=EVIL, notes=[EVIL], sha256=EVIL)
    model = models_pb2.ModelVersion(
        ref=EVIL,
        role=EVIL,
        form=EVIL,
        source=EVIL,
        aliases=[EVIL],
        files=[models_pb2.ModelFile(path=EVIL)],
        datasets=[EVIL],
    )
    gate = gates_pb2.GateRun(
        candidate=EVIL,
        baselines=[EVIL],
        policy=EVIL,
        reasons=[reason],
        suites=[result],
        metrics=[result],
        explanation=EVIL,
    )
    promotion = gates_pb2.Promotion(
        version=EVIL, alias=EVIL, model=EVIL, reason=EVIL, from_version=EVIL, missing=[reason]
    )
    fill(fake)
    fake.on("GetJob", evil_job).on("WatchJobs", [change(evil_job)]).on("CancelJob", evil_job)
    fake.on("ListJobs", jobs_pb2.ListJobsResponse(jobs=[evil_job]))
    fake.on(
        "ListJobLogs", lambda r: jobs_pb2.ListJobLogsResponse(lines=[] if r.page_token else [EVIL], next_page_token="t")
    )
    fake.on(
        "ListJobEvents",
        jobs_pb2.ListJobEventsResponse(events=[jobs_pb2.JobEvent(type=EVIL, message=EVIL, to_state=99)]),
    )
    fake.on("SealDataset", dataset).on("GetDatasetVersion", dataset)
    fake.on("ListDatasetVersions", datasets_pb2.ListDatasetVersionsResponse(versions=[dataset]))
    fake.on("GetModelVersion", model).on("ListModelVersions", models_pb2.ListModelVersionsResponse(versions=[model]))
    fake.on(
        "GetLineage",
        models_pb2.Lineage(
            versions=[model], edges=[models_pb2.LineageEdge(parent=EVIL, child=EVIL, kind="trained_on")]
        ),
    )
    fake.on("ExportModelVersion", models_pb2.ExportModelVersionResponse(folder=EVIL))
    fake.on("SampleModelVersion", [models_pb2.SampleModelVersionResponse(version=EVIL, text=EVIL, stop_reason=EVIL)])
    suite = gates_pb2.Suite(name=EVIL, version=EVIL, description=EVIL, metrics=[EVIL])
    measured = {"num_rows": 10, "num_tokens": 1000, "num_trained": 300, "limit": 256, "num_overlong": 3, "num_cut": 40}
    fake.on("MeasureDataset", datasets_pb2.DatasetStatistics(dataset="rows@1", **measured))
    fake.on("ListSuites", gates_pb2.ListSuitesResponse(suites=[suite])).on("AddSuite", suite)
    fake.on("CreateGateRun", gate)
    fake.on("CreatePromotion", promotion).on("GetPromotion", promotion)
    fake.on("ListPromotions", gates_pb2.ListPromotionsResponse(promotions=[promotion]))
    fake.on("RollbackAlias", models_pb2.Alias(version=EVIL))
    for command, _, _ in RECORDS:
        if command.startswith("eval"):
            continue  # its suites' names would not pass as a spec; the scores are tried below
        for extra in ([], ["--json"]):
            _, out, err = cli(*[spec if word == "SPEC" else word for word in command.split()], *extra)
            shown = out + err
            assert shown, command
            assert not set(shown) & {"\x1b", "\x07", "\u202e", "\x9b", "\r"}, command
    fake.on("GetJob", Refusal(grpc.StatusCode.NOT_FOUND, EVIL, "NOT_FOUND", "hint", ((EVIL, EVIL),)))
    _, out, err = cli("jobs", "get", "j1")
    assert clean(err) == err


def test_a_floor_is_shown_as_a_score_and_a_rule_against_a_baseline_as_a_difference(cli: Cli, fake: FakeServer) -> None:
    numbers = {"n": 520, "candidate": 0.9, "low": 0.85, "high": 0.95, "level": 0.9, "verdict": gates_pb2.PASS}
    floor = gates_pb2.GateResult(metric="a", rule="at least 50.0%", **numbers)
    better = gates_pb2.GateResult(metric="b", baseline_name="parent", baseline=0.0, difference=0.9, **numbers)
    fake.on("CreateGateRun", gates_pb2.GateRun(verdict=gates_pb2.PASS, candidate="m@1", metrics=[floor, better]))
    _, out, _ = cli("gate", "m@1")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line[:2] in {"a ", "b "}}
    assert rows["a"][1:8] == ["-", "520", "-", "90.0", "-", "[85.0,", "95.0]"]
    assert rows["b"][1:8] == ["parent", "520", "0.0", "90.0", "+90.0", "[+85.0,", "+95.0]"]


def test_a_table_is_aligned_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    echo_table(["NAME", "N", "NOTE"], [["日本", 5, "-"], ["x" * 300, 1234, "-"], ["a", "-", "-"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "NAME" + " " * 296 + "     N  NOTE"
    assert lines[1] == "日本" + " " * 296 + "     5  -"
    assert lines[2] == "x" * 300 + "  1234  -"
    assert lines[3] == "a" + " " * 299 + "     -  -"


def test_clean_keeps_what_is_text() -> None:
    assert clean("naïve 日本 👍\n\ttab") == "naïve 日本 👍\n\ttab"
    assert clean("\x1b[2J\x7f\x00") == "\ufffd[2J\ufffd\ufffd"


def test_the_last_state_of_a_bar_in_a_log(cli: Cli, fake: FakeServer) -> None:
    fill(fake)
    fake.on("ListJobLogs", logs("10%\r50%\r100%"))
    assert cli("jobs", "logs", "j1")[1] == "100%\n"


def test_a_watch_of_all_jobs_shows_changes_of_state(cli: Cli, fake: FakeServer) -> None:
    progress = [jobs_pb2.JobProgress(phase="training", done=done, total=9) for done in (1, 2)]
    changes = [change(job(jobs_pb2.RUNNING, progress=item)) for item in progress]
    gone = Refusal(grpc.StatusCode.PERMISSION_DENIED, "no more", "NO_MORE")
    fake.on("WatchJobs", lambda _: [*changes, change(job(jobs_pb2.SUCCEEDED)), gone])
    assert cli("jobs", "watch")[:2] == (Exit.UNEXPECTED, "ift j1: RUNNING\nift j1: SUCCEEDED\n")
    _, out, _ = cli("jobs", "watch", "--json")
    assert [json.loads(line)["progress"]["done"] for line in out.splitlines()[:2]] == [1, 2]


def test_a_watch_of_a_job_that_is_over_says_how_it_ended_and_says_it_once(cli: Cli, fake: FakeServer) -> None:
    fake.on("GetJob", job(jobs_pb2.CANCELLED)).on("ListJobs", jobs_pb2.ListJobsResponse())
    code, out, err = cli("jobs", "watch", "j1")
    assert (code, out.count("CANCELLED"), err) == (Exit.CANCELLED, 1, "")


def test_a_watch_of_a_job_that_runs_says_that_it_follows(cli: Cli, fake: FakeServer) -> None:
    fake.on("GetJob", job(jobs_pb2.RUNNING)).on("WatchJobs", [change(job(jobs_pb2.SUCCEEDED))])
    fake.on("ListJobs", jobs_pb2.ListJobsResponse())
    code, out, err = cli("jobs", "watch", "j1")
    assert (code, err.splitlines()[0]) == (Exit.OK, "following j1; Ctrl-C stops the following, not the job")
    assert out.startswith("j1: SUCCEEDED")


def test_logs_are_followed_to_the_end_of_the_job(cli: Cli, fake: FakeServer) -> None:
    states = [jobs_pb2.SUCCEEDED, jobs_pb2.RUNNING, jobs_pb2.RUNNING]
    fake.on("GetJob", lambda _: job(states.pop() if len(states) > 1 else states[0]))
    pages = {"": ["a"], "1": [], "2": ["b"], "3": []}
    following = {"": "1", "1": "2", "2": "3", "3": "3"}
    fake.on(
        "ListJobLogs",
        lambda r: jobs_pb2.ListJobLogsResponse(lines=pages[r.page_token], next_page_token=following[r.page_token]),
    )
    assert cli("jobs", "logs", "j1", "--follow", "--tail", "5")[1] == "a\nb\n"
    first, *rest = fake.of("ListJobLogs")
    assert (first.tail, first.page_size) == (True, 5)
    assert not any(request.tail for request in rest)


def test_a_chat_remembers_its_turns(cli: Cli, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    def answer(request: Any) -> list[Any]:
        return [models_pb2.SampleModelVersionResponse(version=f"v{n}", text=f"answer {n}") for n in (1, 2)]

    fake.on("SampleModelVersion", answer)
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    code, out, _ = cli("sample", "bot@1", "--chat", "--against", "bot@2", "--system", "be kind")
    assert (code, out.count("answer 2")) == (0, 2)
    first, second = fake.of("SampleModelVersion")
    assert [(turn.role, turn.content) for turn in first.turns] == [("system", "be kind"), ("user", "one")]
    assert [turn.content for turn in second.turns] == ["be kind", "one", "answer 1", "two"]
    assert second.against == "bot@2"
    assert cli("sample", "bot@1", "--chat", "--prompt", "x")[0] == Exit.USAGE


def test_a_rollback_is_one_step_from_what_was_seen(cli: Cli, fake: FakeServer) -> None:
    fill(fake)
    assert cli("rollback", "bot", "production", "--reason", "bad")[0] == 0
    (request,) = fake.of("RollbackAlias")
    assert (request.etag, request.reason, request.name) == (
        "e7",
        "bad",
        "projects/default/models/bot/aliases/production",
    )
    assert cli("rollback", "bot", "staging", "--reason", "bad")[0] == Exit.NOT_FOUND
    assert len(fake.of("RollbackAlias")) == 1


def test_an_import_of_a_folder_is_absolute(
    cli: Cli, fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(fake)
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    for source in ("weights", "org/model", "builtin:tiny-base"):
        assert cli("models", "import", "m", source)[0] == 0
    assert [r.source for r in fake.of("ImportModel")] == [str(tmp_path / "weights"), "org/model", "builtin:tiny-base"]


def test_templates_of_an_evaluation(cli: Cli, fake: FakeServer) -> None:
    fill(fake)
    for text in ("own", "plain", "version:bot@2"):
        assert cli("eval", "bot@1", "--suite", "reasoning", "--template", text, "--no-wait")[0] == 0
    sent = [request.spec.evaluate.template for request in fake.of("CreateJob")]
    assert [item.WhichOneof("type") for item in sent] == ["own", "plain", "version"]
    assert sent[2].version.version == "bot@2"
    for text in ("version:", "other", "plain:3"):
        assert cli("eval", "bot@1", "--suite", "reasoning", "--template", text)[0] == Exit.USAGE


def test_an_evaluation_runs_all_suites_by_default(cli: Cli, fake: FakeServer) -> None:
    fill(fake)
    assert cli("eval", "bot@1")[0] == 0
    assert list(fake.of("CreateJob")[0].spec.evaluate.suites) == ["reasoning"]


def test_the_tui_gets_the_servers_address(cli: Cli, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain.tui import app

    assert list(inspect.signature(app.run).parameters) == ["address", "read_only", "ascii_only"]
    calls: list[Any] = []
    monkeypatch.setattr(app, "run", lambda *arguments: calls.append(arguments))
    assert cli("tui")[0] == 0
    assert cli("tui", "--serve", "--read-only", "--ascii")[0] == 0
    assert calls == [(fake.address, False, None), (fake.address, True, True)]


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["jobs", "get"], ["jobs", "list", "--limit", "x"], ["submit", "/no/such"], ["submit"]]
)
def test_wrong_usage(cli: Cli, arguments: list[str]) -> None:
    code, out, err = cli(*arguments)
    assert (code, out) == (Exit.USAGE, "")
    assert err


@pytest.mark.parametrize(
    "arguments",
    [
        [EVIL],
        ["jobs", EVIL],
        ["jobs", "list", "--limit", EVIL],
        ["jobs", "list", f"--{EVIL}"],
        ["datasets", "add", "rows", EVIL],
        ["datasets", "add", "rows", f"{EVIL}/x.jsonl"],
        ["datasets", "add", "rows", "x", "--on-bad-row", EVIL],
        ["submit", EVIL],
        ["submit", "x.yaml", "--set", EVIL],
        ["init", EVIL],
        ["init", "ift", f"/no/{EVIL}"],
        ["plan", "x.yaml", "--model", f"{EVIL}@1"],
    ],
    ids=lambda arguments: " ".join(arguments).replace(EVIL, "EVIL"),
)
def test_an_argument_is_not_repeated_to_the_terminal_as_it_is(
    cli: Cli, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(SPEC)
    code, out, err = cli(*arguments)
    assert (code, out) == (Exit.USAGE, "")
    assert not set(out + err) & set("\x1b\x07\u202e\x9b\r"), err
    assert err.endswith("\n")


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


def test_an_error_that_was_not_foreseen_keeps_its_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(settings.Settings, "connect", broken)
    with pytest.raises(ZeroDivisionError):
        cli("jobs", "list")


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


def test_progress_in_a_log_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = PlainProgress(clock=lambda: now[0])
    for step in range(31):
        now[0] = float(step)
        progress.update("ift j1 training", step, 30, 30 - step, {"loss": 1.23456, "grad_norm": 2, "held_out_loss": 1.5})
    progress.finish("ift j1 training")
    progress.finish("ift j1 training")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[3] for line in lines] == ["0/30", "10/30", "20/30", "30/30"]
    assert lines[1] == "ift j1 training: 10/30 (33%)  ETA 20s  held_out_loss 1.5  loss 1.235"


def test_a_files_name_that_acts_on_a_terminal_is_refused_before_a_byte_is_sent(
    cli: Cli, fake: FakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "rows\x1b[2J.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / path.name).write_bytes(path.read_bytes())
    for source in (path, folder):
        code, out, err = cli("datasets", "add", "rows", str(source))
        assert (code, out) == (Exit.USAGE, "")
        assert "a file's name with a control character (U+001B)" in err
        assert "\x1b" not in err
    assert fake.requests == []
    fill(fake)
    assert cli("datasets", "add", "rows", str(path), "--source", "mine")[0] == 0, "its name is not sent then"


def test_a_mistyped_path_is_not_asked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for source in ("data/rows", "dta/rows.jsonl", "dta/rows.CSV"):
        assert run(["datasets", "add", "rows", source]) == Exit.USAGE
        assert f"{source}: no such file\n" in capsys.readouterr().err
