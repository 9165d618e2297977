"""Every command against a server that answers as told: output and JSON."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from posttrain.service.cli.exits import Exit
from posttrain.service.cli.progress import PlainProgress
from posttrain.service.cli.text import echo_table
from posttrain.service.proto import datasets_pb2, gates_pb2, jobs_pb2, models_pb2

from .answers import DATASET, RECORDS, SPEC, Cli, fill, logs
from .fake_server import FakeServer, Refusal, change, job


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
