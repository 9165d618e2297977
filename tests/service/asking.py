"""Requests as tests write them, and errors as they read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from posttrain.service.convert import spec_to_proto
from posttrain.service.proto import datasets_pb2, jobs_pb2

from .serving import PROJECT, Server

GATE = {"type": "gate", "suites": ["sums"], "policy": "tiny", "alias": "production"}


def train_spec(script: str = "", **changes: Any) -> dict[str, Any]:
    """A training job; with scripted workers `script` says what they do."""
    return {
        "kind": "sft",
        "display_name": script,
        "base": "tiny@1",
        "output": "bot",
        "data": [{"dataset": "sums@1"}],
        "template": {"type": "builtin", "name": "chatml"},
        **changes,
    }


def submit(server: Server, spec: dict[str, Any], request_id: str = "", validate_only: bool = False) -> jobs_pb2.Job:
    return server.jobs.CreateJob(
        jobs_pb2.CreateJobRequest(
            parent=PROJECT, spec=spec_to_proto(spec), request_id=request_id, validate_only=validate_only
        )
    )


def upload(server: Server, data: bytes, dataset: str = "rows", request_id: str = "", source: str = "") -> Any:
    header = datasets_pb2.UploadHeader(parent=PROJECT, dataset=dataset, request_id=request_id, source=source)

    def parts() -> Iterator[datasets_pb2.UploadDatasetRequest]:
        yield datasets_pb2.UploadDatasetRequest(header=header)
        for start in range(0, len(data), 2**20):
            yield datasets_pb2.UploadDatasetRequest(chunk=data[start : start + 2**20])

    return server.datasets.UploadDataset(parts(), timeout=60)


@dataclass
class Refusal:
    """What an error says."""

    code: str = ""
    message: str = ""
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    unmet: list[tuple[str, str, str]] = field(default_factory=list)


@contextmanager
def refused() -> Iterator[Refusal]:
    """Expects a gRPC error with exactly one ErrorInfo of this package, and fills in what it says."""
    said = Refusal()
    with pytest.raises(grpc.RpcError) as caught:
        yield said
    said.code, said.message = caught.value.code().name, caught.value.details()
    status = rpc_status.from_call(caught.value)
    assert status is not None, f"no details: {said.code} {said.message}"
    infos = 0
    for detail in status.details:
        info, bad, unmet = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.PreconditionFailure(),
        )
        if detail.Unpack(info):
            infos += 1
            assert info.domain == "posttrain"
            said.reason, said.metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            said.fields = {item.field: item.description for item in bad.field_violations}
        elif detail.Unpack(unmet):
            said.unmet = [(item.type, item.subject, item.description) for item in unmet.violations]
    assert infos == 1
