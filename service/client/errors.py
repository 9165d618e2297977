"""What a call can raise.

    ClientError             a call failed: the status code, a stable reason, what to do
    └── UnreachableError    nothing answers at the address

Texts are as the server sent them: whoever shows one on a terminal strips control characters first.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

STATUS_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True)
class Unmet:
    """One thing that would have to hold and does not (google.rpc.PreconditionFailure.Violation)."""

    type: str
    subject: str
    description: str


class ClientError(Exception):
    """A call failed.

    Attributes:
        code: the gRPC status's name, e.g. "NOT_FOUND".
        reason: the stable code of google.rpc.ErrorInfo, e.g. "BAD_SPEC"; the status's name if there is none.
        message: what happened, for people.
        fields: (field path, description) of each field that is wrong.
        unmet: each precondition that does not hold.
        hint: what a person can do; may be empty.
        metadata: ErrorInfo's further facts.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        message: str,
        fields: list[tuple[str, str]] | None = None,
        unmet: list[Unmet] | None = None,
        hint: str = "",
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.fields = fields or []
        self.unmet = unmet or []
        self.hint = hint
        self.metadata = metadata or {}

    @property
    def is_retryable(self) -> bool:
        """Whether the same call may succeed later, unchanged."""
        return self.code in {"UNAVAILABLE", "ABORTED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}


class UnreachableError(ClientError, ConnectionError):
    """Nothing answers at the address."""

    def __init__(self, address: str, detail: str) -> None:
        super().__init__(
            "UNAVAILABLE",
            "UNREACHABLE",
            f"no server at {address}",
            hint="start one with `posttrain serve`",
            metadata={"address": address, "detail": detail},
        )


def from_rpc_error(error: grpc.RpcError, address: str) -> ClientError:
    """Turns a failed call into a ClientError, with the details that the server attached."""
    code: str = error.code().name
    message: str = error.details() or code
    status = _status_details(error)
    if status is None:
        if code == "UNAVAILABLE":
            return UnreachableError(address, message)
        return ClientError(code, code, message)
    info, bad, failure = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.PreconditionFailure(),
    )
    help_ = error_details_pb2.Help()
    for detail in status.details:
        for target in (info, bad, failure, help_):
            if detail.Is(target.DESCRIPTOR):
                target.ParseFromString(detail.value)
    metadata = dict(info.metadata)
    hint = metadata.pop("hint", "") or "; ".join(link.description for link in help_.links)
    return ClientError(
        code,
        info.reason or code,
        status.message or message,
        [(violation.field, violation.description) for violation in bad.field_violations],
        [Unmet(item.type, item.subject, item.description) for item in failure.violations],
        hint,
        metadata,
    )


def _status_details(error: grpc.RpcError) -> status_pb2.Status | None:
    """The google.rpc.Status that a server attaches; None if there is none, or if it cannot be read."""
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None
