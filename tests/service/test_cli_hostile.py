"""Nothing that acts on a terminal reaches it, from the server, a file or an argument."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from posttrain.service.cli.exits import Exit
from posttrain.service.cli.text import clean
from posttrain.service.proto import datasets_pb2, gates_pb2, jobs_pb2, models_pb2

from .answers import EVIL, RECORDS, SPEC, Cli, fill
from .fake_server import FakeServer, Refusal, change, job


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


def test_clean_keeps_what_is_text() -> None:
    assert clean("naïve 日本 👍\n\ttab") == "naïve 日本 👍\n\ttab"
    assert clean("\x1b[2J\x7f\x00") == "\ufffd[2J\ufffd\ufffd"
