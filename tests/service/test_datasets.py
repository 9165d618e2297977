"""Uploading and sealing over gRPC: limits, broken-off streams, and rows that name themselves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from posttrain.service.proto import datasets_pb2

from .asking import refused, upload
from .serving import PROJECT, Server

GOOD = b'{"prompt": "a", "completion": "b"}\n'


def seal(server: Server, name: str) -> datasets_pb2.DatasetVersion:
    return server.datasets.SealDataset(datasets_pb2.SealDatasetRequest(name=name))


def listed(server: Server, dataset: str) -> list[datasets_pb2.DatasetVersion]:
    request = datasets_pb2.ListDatasetVersionsRequest(parent=f"{PROJECT}/datasets/{dataset}")
    return list(server.datasets.ListDatasetVersions(request).versions)


def test_upload_seal_get_list(shared: Server) -> None:
    made = upload(shared, GOOD * 3, "letters", source="the alphabet")
    assert (made.ref, made.sealed, made.num_bytes, made.source) == ("letters@1", False, len(GOOD) * 3, "the alphabet")
    sealed = seal(shared, made.name)
    assert (sealed.sealed, sealed.format, sealed.num_rows) == (True, "prompt_completion", 3)
    assert seal(shared, made.name) == sealed
    second = upload(shared, GOOD, "letters")
    assert second.ref == "letters@2"
    latest = shared.datasets.GetDatasetVersion(
        datasets_pb2.GetDatasetVersionRequest(name=f"{PROJECT}/datasets/letters/versions/latest")
    )
    assert latest.ref == "letters@1", "the newest sealed one"
    assert [version.ref for version in listed(shared, "letters")] == ["letters@2", "letters@1"]


def test_an_upload_is_idempotent_by_request_id(shared: Server) -> None:
    first = upload(shared, GOOD, "once", request_id="u-1")
    assert upload(shared, GOOD, "once", request_id="u-1") == first
    with refused() as said:
        upload(shared, GOOD * 2, "once", request_id="u-1")
    assert said.code == "ALREADY_EXISTS"
    assert len(listed(shared, "once")) == 1


BAD_ROWS: list[tuple[bytes, str, str]] = [
    (GOOD + b'{"prompt": "a"}\n', "rows[2].completion", "missing"),
    (GOOD + b'{"prompt": 5, "completion": "b"}\n', "rows[2].prompt", ""),
    (GOOD + b'{"prompt": "a", "completion": ""}\n', "rows[2].completion", ""),
    (GOOD + b'{"prompt": "\xff\xfe", "completion": "b"}\n', "rows[2]", "not UTF-8"),
    (GOOD + b"not json\n", "rows[2]", ""),
    (GOOD + b"[1, 2]\n", "rows[2]", ""),
    (GOOD + b'{"messages": [{"role": "user", "content": "x"}]}\n', "rows[2]", ""),
    (b"", "rows", "empty"),
    (b"\n\n  \n", "rows", "empty"),
]


@pytest.mark.parametrize(("data", "field", "text"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_is_named_and_nothing_is_sealed(shared: Server, data: bytes, field: str, text: str) -> None:
    made = upload(shared, data, "bad")
    with refused() as said:
        seal(shared, made.name)
    assert (said.code, said.reason) == ("INVALID_ARGUMENT", "INVALID_DATASET")
    assert any(place.startswith(field) and text in what for place, what in said.fields.items()), said
    again = shared.datasets.GetDatasetVersion(datasets_pb2.GetDatasetVersionRequest(name=made.name))
    assert not again.sealed


def measure(server: Server, dataset: str, **options: Any) -> datasets_pb2.DatasetStatistics:
    name = f"{PROJECT}/datasets/{dataset}/versions/latest"
    return server.datasets.MeasureDataset(datasets_pb2.MeasureDatasetRequest(name=name, **options), timeout=120)


@pytest.mark.slow
def test_a_dataset_is_measured_as_a_job_would_see_it(shared: Server) -> None:
    """The small model's tokenizer has a token for each byte; ChatML adds its turns' tokens and names."""
    rows = [("a", "b" * 10), ("a", "b" * 200)]
    data = "".join(json.dumps({"prompt": prompt, "completion": answer}) + "\n" for prompt, answer in rows)
    seal(shared, upload(shared, data.encode(), "measured").name)
    found = measure(shared, "measured", model="tiny@latest", template="chatml", max_tokens=100)
    assert (found.dataset, found.model, found.num_rows, found.num_characters) == ("measured@1", "tiny@1", 2, 212)
    assert (found.limit, found.num_overlong, found.longest) == (100, 1, found.p95)
    assert found.num_trained >= 2, "each answer's end at least"
    assert found.num_trained < found.num_tokens
    assert found.mean * 2 == found.num_tokens
    assert found.num_cut == found.longest - 100
    for options, expected in (
        ({"model": "nobody@1"}, "NOT_FOUND"),
        ({"model": "tiny"}, "INVALID_ARGUMENT"),
        ({"model": "tiny@1", "template": "poem"}, "INVALID_ARGUMENT"),
        ({"model": "tiny@1", "max_tokens": -1}, "INVALID_ARGUMENT"),
    ):
        with refused() as said:
            measure(shared, "measured", **options)
        assert said.code == expected, said


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"on_bad_row": "ignore"}, "on_bad_row"),
        ({"held_out": 1.0}, "held_out"),
        ({"held_out": -0.1}, "held_out"),
        ({"held_out": float("nan")}, "held_out"),
        ({"held_out": 0.5}, "held_out"),  # of one row
        ({"files": [datasets_pb2.SourceFile(name="a", num_rows=-1)]}, "files[0].num_rows"),
        ({"files": [datasets_pb2.SourceFile(name="\x1b[2J", num_rows=1)]}, "files[0].name"),
        ({"files": [datasets_pb2.SourceFile(name="a", num_rows=2)]}, "files"),
        ({"files": [datasets_pb2.SourceFile(name="a", num_rows=2**62)] * 4}, "files"),
        ({"files": [datasets_pb2.SourceFile(name="a")] * 10_001}, "files"),
    ],
)
def test_a_bad_option_of_sealing_is_named(shared: Server, change: dict[str, Any], field: str) -> None:
    made = upload(shared, GOOD, "options")
    with refused() as said:
        shared.datasets.SealDataset(datasets_pb2.SealDatasetRequest(name=made.name, **change))
    assert (said.code, set(said.fields)) == ("INVALID_ARGUMENT", {field})
    assert not shared.datasets.GetDatasetVersion(datasets_pb2.GetDatasetVersionRequest(name=made.name)).sealed


def test_what_sealing_left_out_is_in_the_answer(shared: Server) -> None:
    made = upload(shared, GOOD * 3 + b"{}\n" + GOOD, "sieved")
    request = datasets_pb2.SealDatasetRequest(
        name=made.name,
        on_bad_row="skip",
        deduplicate=True,
        files=[datasets_pb2.SourceFile(name="a.csv", num_rows=3), datasets_pb2.SourceFile(name="b.csv", num_rows=2)],
    )
    sealed = shared.datasets.SealDataset(request)
    assert (sealed.num_rows, sealed.num_skipped, sealed.num_duplicates) == (1, 1, 3)
    assert [text[:14] for text in sealed.skipped] == ["b.csv, row 1: "]
    assert (sealed.num_bytes, sealed.sha256) != (made.num_bytes, made.sha256)


def test_a_thousand_bad_rows_still_fit_into_an_error(shared: Server) -> None:
    made = upload(shared, GOOD + b'{"prompt": "\xc3\xa9\xc3\xa9"}\n' * 1000, "worse")
    with refused() as said:
        seal(shared, made.name)
    assert said.reason == "INVALID_DATASET"
    assert 0 < len(said.fields) <= 12


def parts(*given: Any) -> Iterator[datasets_pb2.UploadDatasetRequest]:
    for part in given:
        if isinstance(part, bytes):
            yield datasets_pb2.UploadDatasetRequest(chunk=part)
        else:
            yield datasets_pb2.UploadDatasetRequest(header=datasets_pb2.UploadHeader(**part))


HEADER = {"parent": PROJECT, "dataset": "odd"}


def test_a_bad_header_is_refused_before_a_chunk_came(shared: Server) -> None:
    never = threading.Event()

    def waits() -> Iterator[datasets_pb2.UploadDatasetRequest]:
        yield from parts(HEADER | {"source": "rows\x1b[2J.jsonl"})
        never.wait(30)

    with refused() as said:
        shared.datasets.UploadDataset(waits(), timeout=20)
    never.set()
    assert said.code == "INVALID_ARGUMENT"
    assert said.fields == {"header.source": "a control character (U+001B) at position 5"}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ([], "header"),
        ([GOOD], "header"),
        ([{}], "header.parent"),
        ([HEADER | {"dataset": "../../etc"}], "dataset"),
        ([HEADER | {"dataset": "UP"}, GOOD], "dataset"),
        ([HEADER | {"source": "\x1b]0;x"}, GOOD], "header.source"),
        ([HEADER | {"request_id": "a b"}, GOOD], "request_id"),
        ([HEADER, GOOD, HEADER], "chunk"),
        ([HEADER, b"x" * (2**20 + 1)], "chunk"),
        ([HEADER | {"num_bytes": 100}, GOOD], "header.num_bytes"),
        ([HEADER | {"num_bytes": 0}, GOOD], "header.num_bytes"),
    ],
)
def test_a_bad_upload_leaves_nothing(shared: Server, given: list[Any], field: str) -> None:
    with refused() as said:
        shared.datasets.UploadDataset(parts(*given), timeout=30)
    assert said.code == "INVALID_ARGUMENT"
    assert set(said.fields) == {field}
    assert listed(shared, "odd") == []
    assert_clean(shared)


def assert_clean(server: Server) -> None:
    server.wait(lambda: not list((server.home / "tmp").iterdir()), "no unfinished file")


def test_a_stream_that_breaks_off_leaves_nothing(shared: Server) -> None:
    sent = threading.Event()
    over = threading.Event()

    def slowly() -> Iterator[datasets_pb2.UploadDatasetRequest]:
        yield from parts({"parent": PROJECT, "dataset": "torn"}, GOOD * 1000)
        sent.set()
        over.wait(20)

    call = shared.datasets.UploadDataset.future(slowly())
    assert sent.wait(10)
    shared.wait(lambda: list((shared.home / "tmp").iterdir()), "a file in the making")
    call.cancel()
    over.set()
    assert_clean(shared)
    assert listed(shared, "torn") == []


def test_an_upload_above_the_limit_is_refused(serve: Callable[..., Server]) -> None:
    server = serve(fake=True, settings={"max_upload_bytes": 3 * 2**20})
    before = time.monotonic()
    with refused() as said:
        upload(server, GOOD * 2_000_000, "big")
    assert (said.code, said.reason) == ("RESOURCE_EXHAUSTED", "TOO_LARGE")
    assert time.monotonic() - before < 30
    assert listed(server, "big") == []
    assert_clean(server)
    assert upload(server, GOOD, "big").ref == "big@1", "the server goes on"


def test_a_message_above_the_limit_is_refused(shared: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        shared.datasets.UploadDataset(parts(HEADER, b"x" * (9 * 2**20)), timeout=30)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert json.loads((shared.home / "server.json").read_text())["address"] == shared.address
    assert listed(shared, "odd") == []
