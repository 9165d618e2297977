"""The client against a server that answers as told: errors, pages, retries, uploads, and a method for every RPC."""

from __future__ import annotations

import inspect
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from posttrain.service import convert
from posttrain.service.client import (
    AsyncClient,
    Client,
    ClientError,
    Names,
    UnreachableError,
    check_address,
    connect,
    short,
    spec_to_proto,
)
from posttrain.service.client.errors import STATUS_DETAILS_KEY
from posttrain.service.proto import datasets_pb2, gates_pb2, jobs_pb2, models_pb2

from .fake_server import METHODS, FakeServer, Refusal, job

NOWHERE = "127.0.0.1:1"
SPEC = {"kind": "sft", "base": "a@1", "output": "b", "data": [{"dataset": "d@1"}]}


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


async def test_details_of_an_error_arrive(fake: FakeServer) -> None:
    fake.on(
        "CreatePromotion",
        Refusal(
            grpc.StatusCode.FAILED_PRECONDITION,
            "refused",
            "PROMOTION_REFUSED",
            "evaluate it first",
            fields=(("version", "too new"),),
            unmet=(("GATE", "a@1", "no gate run"), ("ALIAS", "production", "moved")),
        ),
    )
    async with connect(fake.address) as client:
        with pytest.raises(ClientError) as caught:
            await client.create_promotion("a@1", "production")
    error = caught.value
    assert (error.code, error.reason, error.message) == ("FAILED_PRECONDITION", "PROMOTION_REFUSED", "refused")
    assert error.hint == "evaluate it first"
    assert error.fields == [("version", "too new")]
    assert [(item.type, item.subject, item.description) for item in error.unmet] == [
        ("GATE", "a@1", "no gate run"),
        ("ALIAS", "production", "moved"),
    ]
    assert error.metadata == {"retryable": "false"}
    assert not error.is_retryable


async def test_an_error_without_details_keeps_its_status(fake: FakeServer) -> None:
    fake.on("GetJob", Refusal(grpc.StatusCode.NOT_FOUND, "no job x"))
    async with AsyncClient(fake.address) as client:
        with pytest.raises(ClientError, match="no job x") as caught:
            await client.get_job("x")
    assert (caught.value.code, caught.value.reason, caught.value.fields) == ("NOT_FOUND", "NOT_FOUND", [])


def test_details_that_cannot_be_read_leave_the_status() -> None:
    from posttrain.service.client.errors import from_rpc_error

    metadata = grpc.aio.Metadata((STATUS_DETAILS_KEY, b"\xff\xff\xff"))
    error = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, metadata, metadata, details="broken")
    assert from_rpc_error(error, NOWHERE).code == "INTERNAL"
    assert from_rpc_error(error, NOWHERE).message == "broken"


async def test_nothing_at_the_address() -> None:
    started = time.monotonic()
    async with AsyncClient(NOWHERE) as client:
        with pytest.raises(UnreachableError) as caught:
            await client.get_job("x")
        with pytest.raises(ConnectionError):
            await client.check_health()
    assert NOWHERE in str(caught.value)
    assert "posttrain serve" in caught.value.hint
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "address", ["10.0.0.1:50061", "example.org:50061", "0.0.0.0:1", "127.0.0.1", "127.0.0.1:0", ":1", ""]
)
def test_only_this_machine_is_spoken_to(address: str) -> None:
    with pytest.raises(ClientError) as caught:
        check_address(address)
    assert caught.value.code == "INVALID_ARGUMENT"
    with pytest.raises(ClientError):
        Client(address)


@pytest.mark.parametrize("address", ["127.0.0.1:50061", "localhost:1", "[::1]:65535", "127.8.9.1:80"])
def test_loopback_addresses(address: str) -> None:
    assert check_address(address) == address


async def test_reads_are_tried_again_and_a_rollback_is_not(fake: FakeServer) -> None:
    left = [Refusal(grpc.StatusCode.UNAVAILABLE, "restarting")] * 2
    fake.on("GetJob", lambda _: left.pop() if left else job())
    fake.on("RollbackAlias", Refusal(grpc.StatusCode.UNAVAILABLE, "restarting"))
    async with AsyncClient(fake.address) as client:
        assert (await client.get_job("j1")).state == jobs_pb2.SUCCEEDED
        with pytest.raises(ClientError):
            await client.rollback_alias("m", "production", "why")
    assert len(fake.of("GetJob")) == 3
    assert len(fake.of("RollbackAlias")) == 1


async def test_pages_are_followed(fake: FakeServer) -> None:
    def answer(request: Any) -> Any:
        start = int(request.page_token or 0)
        page = [job(name=str(number)) for number in range(start, min(start + 2, 5))]
        return jobs_pb2.ListJobsResponse(jobs=page, next_page_token=str(start + 2) if start + 2 < 5 else "")

    fake.on("ListJobs", answer)
    async with AsyncClient(fake.address) as client:
        assert [short(item.name) for item in await client.list_jobs()] == list("01234")
        assert [short(item.name) for item in await client.list_jobs(limit=3)] == list("012")
    assert [request.page_token for request in fake.of("ListJobs")] == ["", "2", "4", "", "2"]
    assert fake.of("ListJobs")[-1].page_size == 3


async def test_a_token_that_does_not_move_is_the_end(fake: FakeServer) -> None:
    fake.on("ListJobs", jobs_pb2.ListJobsResponse(jobs=[job()], next_page_token="same"))
    async with AsyncClient(fake.address) as client:
        assert len(await client.list_jobs()) == 2


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3 * (1 << 20) + 7])
async def test_an_upload_in_chunks(fake: FakeServer, tmp_path: Path, size: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(bytes(index % 251 for index in range(size)))
    fake.on("UploadDataset", datasets_pb2.DatasetVersion(name="projects/default/datasets/d/versions/1"))
    fake.on("SealDataset", datasets_pb2.DatasetVersion(ref="d@1", sealed=True))
    seen: list[tuple[int, int]] = []
    async with AsyncClient(fake.address) as client:
        sealed = await client.add_dataset("d", path, "a test", lambda done, total: seen.append((done, total)))
    assert sealed.sealed
    (parts,) = fake.of("UploadDataset")
    assert (parts[0].header.parent, parts[0].header.dataset, parts[0].header.source) == (
        "projects/default",
        "d",
        "a test",
    )
    chunks = [part.chunk for part in parts[1:]]
    assert b"".join(chunks) == path.read_bytes()
    assert all(0 < len(chunk) <= 1 << 20 for chunk in chunks)
    assert fake.of("SealDataset")[0].name == "projects/default/datasets/d/versions/1"
    assert [total for _, total in seen] == [size] * len(chunks)
    assert not chunks or seen[-1] == (size, size)


async def test_a_create_can_be_repeated_under_its_id(fake: FakeServer) -> None:
    fake.on("CreateJob", job(jobs_pb2.QUEUED))
    async with AsyncClient(fake.address) as client:
        await client.create_job(SPEC, request_id="mine")
        await client.create_job(SPEC)
        await client.create_job(SPEC)
    ids = [request.request_id for request in fake.of("CreateJob")]
    assert ids[0] == "mine"
    assert len(set(ids)) == 3
    assert all(ids)


def test_a_spec_is_checked_before_it_is_sent() -> None:
    from posttrain.engine.spec import parse_spec

    message = spec_to_proto(SPEC)
    assert parse_spec(convert.to_dict(message)) == parse_spec(SPEC)
    assert message.sft.optimizer.HasField("learning_rate"), "the whole spec is sent, defaults included"
    with pytest.raises(ClientError) as caught:
        spec_to_proto({**SPEC, "optimizer": {"lerning_rate": 1}, "data": [{"dataset": "D"}]})
    assert caught.value.code == "INVALID_ARGUMENT"
    fields = dict(caught.value.fields)
    assert fields["optimizer.lerning_rate"] == "no such option; did you mean 'learning_rate'?"
    assert "NAME@NUMBER" in fields["data[0].dataset"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("bot", "projects/p/models/bot/versions/latest"),
        ("bot@3", "projects/p/models/bot/versions/3"),
        ("bot@latest", "projects/p/models/bot/versions/latest"),
        ("bot@production", "projects/p/models/bot/aliases/production"),
        ("projects/q/models/bot/versions/1", "projects/q/models/bot/versions/1"),
    ],
)
def test_names_of_model_versions(text: str, name: str) -> None:
    assert Names("p").model_version(text) == name


def test_names_of_other_things() -> None:
    names = Names()
    assert names.job("j") == "projects/default/jobs/j"
    assert names.job("projects/x/jobs/j") == "projects/x/jobs/j"
    assert names.dataset_version("d@2") == "projects/default/datasets/d/versions/2"
    assert names.dataset_version("d") == "projects/default/datasets/d/versions/latest"
    assert short("projects/default/jobs/j") == "j"
    assert short("j") == "j"


CALLS: dict[str, tuple[Any, Any]] = {
    "Check": (lambda c: c.check_health(), None),
    "CreateJob": (lambda c: c.create_job(SPEC), job()),
    "GetJob": (lambda c: c.get_job("j1"), job()),
    "ListJobs": (lambda c: c.list_jobs(), jobs_pb2.ListJobsResponse()),
    "CancelJob": (lambda c: c.cancel_job("j1"), job()),
    "WatchJobs": (lambda c: list(c.watch("j1")), [jobs_pb2.WatchJobsResponse(job=job())]),
    "ListJobEvents": (lambda c: c.list_job_events("j1"), jobs_pb2.ListJobEventsResponse()),
    "ListJobLogs": (lambda c: c.list_job_logs("j1"), jobs_pb2.ListJobLogsResponse()),
    "ListJobMetrics": (lambda c: c.list_job_metrics("j1"), jobs_pb2.ListJobMetricsResponse()),
    "UploadDataset": (lambda c: c.upload_dataset("d", Path(__file__)), datasets_pb2.DatasetVersion()),
    "SealDataset": (lambda c: c.seal_dataset("d@1"), datasets_pb2.DatasetVersion()),
    "GetDatasetVersion": (lambda c: c.get_dataset("d"), datasets_pb2.DatasetVersion()),
    "MeasureDataset": (lambda c: c.measure_dataset("d", "m"), datasets_pb2.DatasetStatistics()),
    "ListDatasetVersions": (lambda c: c.list_datasets(), datasets_pb2.ListDatasetVersionsResponse()),
    "ImportModel": (lambda c: c.import_model("m", "x"), models_pb2.ModelVersion()),
    "GetModelVersion": (lambda c: c.get_model("m"), models_pb2.ModelVersion()),
    "ListModelVersions": (lambda c: c.list_models(), models_pb2.ListModelVersionsResponse()),
    "GetLineage": (lambda c: c.get_lineage(), models_pb2.Lineage()),
    "ListAliases": (lambda c: c.list_aliases(), models_pb2.ListAliasesResponse()),
    "ListAliasHistory": (lambda c: c.list_alias_history("m", "a"), models_pb2.ListAliasHistoryResponse()),
    "RollbackAlias": (lambda c: c.rollback_alias("m", "a", "why"), models_pb2.Alias()),
    "ExportModelVersion": (lambda c: c.export_model("m", "/x"), models_pb2.ExportModelVersionResponse()),
    "SampleModelVersion": (
        lambda c: list(c.sample_model("m", [("user", "hi")])),
        [models_pb2.SampleModelVersionResponse(text="hi")],
    ),
    "GetEvalRun": (lambda c: c.get_eval_run("e"), gates_pb2.EvalRun()),
    "ListEvalRuns": (lambda c: c.list_eval_runs(), gates_pb2.ListEvalRunsResponse()),
    "ListEvalRows": (lambda c: c.list_eval_rows("e"), gates_pb2.ListEvalRowsResponse()),
    "ListSuites": (lambda c: c.list_suites(), gates_pb2.ListSuitesResponse()),
    "AddSuite": (lambda c: c.add_suite("/x.suite.yaml"), gates_pb2.Suite()),
    "CreateGateRun": (lambda c: c.create_gate_run("m@1", "default", "production"), gates_pb2.GateRun()),
    "GetGateRun": (lambda c: c.get_gate_run("g"), gates_pb2.GateRun()),
    "ListGateRuns": (lambda c: c.list_gate_runs(), gates_pb2.ListGateRunsResponse()),
    "CreatePromotion": (lambda c: c.create_promotion("m@1", "production"), gates_pb2.Promotion()),
    "GetPromotion": (lambda c: c.get_promotion("p"), gates_pb2.Promotion()),
    "ListPromotions": (lambda c: c.list_promotions(), gates_pb2.ListPromotionsResponse()),
}
NOT_OURS = {"Watch", "List"}  # of the health service


def test_every_method_of_the_protocol_can_be_called(fake: FakeServer) -> None:
    assert set(CALLS) == set(METHODS) - NOT_OURS
    with Client(fake.address) as client:
        for method, (call, answer) in CALLS.items():
            if answer is not None:
                fake.on(method, answer)
            call(client)
            assert len(fake.of(method)) == 1, method


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> dict[str, Any]:
        return {
            name: inspect.signature(value).parameters.keys()
            for name, value in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") or name == "__init__"
        }

    assert public(Client) == public(AsyncClient)


def test_the_client_loads_neither_torch_nor_a_database() -> None:
    script = (
        "import sys, posttrain.service.client as c; c.spec_to_proto("
        "{'kind': 'sft', 'base': 'a@1', 'output': 'b', 'data': [{'dataset': 'd@1'}]});"
        "print([m for m in ('torch', 'sqlmodel', 'sqlalchemy', 'transformers', 'textual') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
