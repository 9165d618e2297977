"""Errors on the wire: one table from an error's stable code to a gRPC status, and the interceptor that applies it to
every method.

An answer that is an error always carries one ErrorInfo (reason = the code, domain `posttrain`, metadata `hint` and
`retryable`), and what is wrong item by item: BadRequest for fields, PreconditionFailure for what does not hold. An
error that is not in the table is INTERNAL with a log id; its traceback goes to the log and nowhere else. All of it is
kept below 8 KiB, the size that a client takes in a trailer.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from posttrain.engine.data.rows import Problem
from posttrain.engine.errors import DiskFullError, EngineError
from posttrain.registry.errors import InvalidArgumentError, InvalidDatasetError, UnmetError
from posttrain.service.convert import choice_of
from posttrain.service.errors import FieldViolation, InvalidFieldError
from posttrain.service.names import shown
from posttrain.service.proto import spec_pb2

DOMAIN = "posttrain"
log = logging.getLogger(__name__)

_Code = grpc.StatusCode
STATUS: dict[str, grpc.StatusCode] = {
    # engine
    "ENGINE": _Code.INTERNAL,
    "BAD_SPEC": _Code.INVALID_ARGUMENT,
    "BAD_DATA": _Code.INVALID_ARGUMENT,
    "EMPTY_DATASET": _Code.INVALID_ARGUMENT,
    "ALL_LABELS_MASKED": _Code.INVALID_ARGUMENT,
    "ROW_TOO_LONG": _Code.INVALID_ARGUMENT,
    "BAD_SCHEMA": _Code.INVALID_ARGUMENT,
    "BAD_TEMPLATE": _Code.INVALID_ARGUMENT,
    "BAD_MODEL": _Code.INVALID_ARGUMENT,
    "MODEL_NOT_FOUND": _Code.NOT_FOUND,
    "UNSAFE_WEIGHTS": _Code.INVALID_ARGUMENT,
    "UNSUPPORTED_MODEL": _Code.UNIMPLEMENTED,
    "GGUF_EXTRA_MISSING": _Code.FAILED_PRECONDITION,
    "NON_FINITE": _Code.FAILED_PRECONDITION,
    "REWARD_FAILED": _Code.FAILED_PRECONDITION,
    "BAD_CHECKPOINT": _Code.DATA_LOSS,
    "DISK_FULL": _Code.RESOURCE_EXHAUSTED,
    "CANCELLED": _Code.CANCELLED,
    # evals
    "EVALUATION": _Code.INTERNAL,
    "BAD_ROWS": _Code.DATA_LOSS,
    "BAD_POLICY": _Code.INVALID_ARGUMENT,
    "BAD_SUITE": _Code.INVALID_ARGUMENT,
    # registry
    "REGISTRY": _Code.INTERNAL,
    "NOT_FOUND": _Code.NOT_FOUND,
    "ALREADY_EXISTS": _Code.ALREADY_EXISTS,
    "CONFLICT": _Code.ABORTED,
    "STALE_ATTEMPT": _Code.ABORTED,
    "UNMET": _Code.FAILED_PRECONDITION,
    "PROMOTION_REFUSED": _Code.FAILED_PRECONDITION,
    "BAD_REF": _Code.INVALID_ARGUMENT,
    "INVALID": _Code.INVALID_ARGUMENT,
    "INVALID_DATASET": _Code.INVALID_ARGUMENT,
    "UNSAFE_PATH": _Code.INVALID_ARGUMENT,
    "TOO_LARGE": _Code.RESOURCE_EXHAUSTED,
    "TAMPERED": _Code.DATA_LOSS,
    "HOME_LOCKED": _Code.FAILED_PRECONDITION,
    "SCHEMA_TOO_NEW": _Code.FAILED_PRECONDITION,
    "HUB_UNREACHABLE": _Code.UNAVAILABLE,
    # service
    "SERVICE": _Code.INTERNAL,
    "INVALID_FIELD": _Code.INVALID_ARGUMENT,
    "ILLEGAL_TRANSITION": _Code.FAILED_PRECONDITION,
    "BAD_RESUME_TOKEN": _Code.INVALID_ARGUMENT,
    "BUSY": _Code.RESOURCE_EXHAUSTED,
    "LAUNCH_FAILED": _Code.UNAVAILABLE,
    "CHAIN_FAILED": _Code.FAILED_PRECONDITION,
    "SAMPLING_FAILED": _Code.FAILED_PRECONDITION,
    "MEASURING_FAILED": _Code.FAILED_PRECONDITION,
    "UNSAFE_ADDRESS": _Code.INVALID_ARGUMENT,
}

_MESSAGE_BYTES = 1200
_DETAIL_BYTES = 240
_ITEMS = 12


def field_path(location: Sequence[str | int]) -> str:
    """Where a pydantic error lies, as the spec's author wrote it: `data[0].dataset`; the tags of choices are left
    out.
    """
    path = ""
    descriptor: Any = spec_pb2.JobSpec.DESCRIPTOR
    for part in location:
        if descriptor is not None and choice_of(descriptor) and part in descriptor.fields_by_name:
            descriptor = descriptor.fields_by_name[part].message_type
            continue
        if isinstance(part, int):
            path += f"[{part}]"
            continue
        path += f".{part}" if path else part
        field = descriptor.fields_by_name.get(part) if descriptor is not None else None
        descriptor = field.message_type if field is not None else None
    return path or "kind"


def violations(error: ValidationError) -> list[FieldViolation]:
    """What is wrong with a spec, field by field."""
    return [
        FieldViolation(field_path(item["loc"]), item["msg"])
        for item in error.errors(include_url=False, include_input=False)
    ]


def _cut(text: str, limit: int) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "..."


def _place(problem: Problem) -> str:
    """`rows[3].prompt`, or, where several files were joined, `files[a.csv].rows[3].prompt`."""
    row = f"rows[{problem.row}]" if problem.row else "" if problem.field else "rows"
    return ".".join(filter(None, (f"files[{problem.file}]" if problem.file else "", row, problem.field)))


def _bad_request(items: Sequence[FieldViolation]) -> Message:
    detail = error_details_pb2.BadRequest()
    for field, description in items[:_ITEMS]:
        detail.field_violations.add(field=_cut(field, 120), description=_cut(description, _DETAIL_BYTES))
    return detail


def _details(error: EngineError) -> tuple[dict[str, str], list[Message]]:
    """Extra ErrorInfo metadata, and the details item by item."""
    if isinstance(error, InvalidFieldError):
        return {}, [_bad_request(error.violations)]
    if isinstance(error, InvalidDatasetError):
        rows = [FieldViolation(_place(problem), problem.message) for problem in error.problems]
        return {"num_problems": str(len(rows))}, [_bad_request(rows)]
    if isinstance(error, InvalidArgumentError):
        return {}, [_bad_request([FieldViolation(error.field, str(error))])]
    if isinstance(error, UnmetError):
        detail = error_details_pb2.PreconditionFailure()
        for item in error.items[:_ITEMS]:
            detail.violations.add(
                type=item.code, subject=_cut(item.subject, 120), description=_cut(item.message, _DETAIL_BYTES)
            )
        promotion = getattr(error, "promotion", "")
        return {"promotion": promotion} if promotion else {}, [detail]
    return {}, []


def as_known(error: Exception) -> EngineError | None:
    """The error as one of this package's, or None if it is none that was foreseen."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, ValidationError):
        return InvalidFieldError(violations(error), "`posttrain init KIND` writes a spec with all options")
    if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or (
        isinstance(error, OperationalError) and "disk is full" in str(error)
    ):
        return DiskFullError("no space left on the data folder's disk")
    return None


def to_status(error: EngineError) -> status_pb2.Status:
    """An error as google.rpc.Status with its details."""
    metadata, items = _details(error)
    metadata = {"hint": _cut(error.hint, 400), "retryable": str(error.retryable).lower(), **metadata}
    info = error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN, metadata=metadata)
    status = status_pb2.Status(code=STATUS[error.code].value[0], message=_cut(str(error), _MESSAGE_BYTES))
    for detail in [info, *items]:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def internal_status(log_id: str) -> status_pb2.Status:
    message = f"an error of the server; its log tells more under {log_id}"
    info = error_details_pb2.ErrorInfo(
        reason="INTERNAL", domain=DOMAIN, metadata={"log_id": log_id, "retryable": "false"}
    )
    status = status_pb2.Status(code=_Code.INTERNAL.value[0], message=message)
    status.details.add().Pack(info)
    return status


Observe = Callable[[str, str, float], None]  # method, code, seconds


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Wraps every method: known errors become rich statuses, unknown ones INTERNAL; each call is observed."""

    def __init__(self, observe: Observe) -> None:
        self._observe = observe

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        build, inner = _parts(handler)
        wrapped = self._stream(inner, method) if handler.response_streaming else self._unary(inner, method)
        return build(
            wrapped, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )

    def _unary(self, inner: Any, method: str) -> Any:
        async def call(request: Any, context: Any) -> Any:
            started, code = time.monotonic(), "OK"
            try:
                return await inner(request, context)
            except BaseException as error:
                status, code = _judge(error, context, method)
                if status is None:
                    raise
                await context.abort_with_status(rpc_status.to_status(status))
            finally:
                self._observe(method, code, time.monotonic() - started)

        return call

    def _stream(self, inner: Any, method: str) -> Any:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            started, code = time.monotonic(), "OK"
            try:
                answers = inner(request, context)
                if hasattr(answers, "__aiter__"):
                    async for answer in answers:
                        yield answer
                else:  # it writes to the context itself (the health service does)
                    await answers
            except BaseException as error:
                status, code = _judge(error, context, method)
                if status is None:
                    raise
                await context.abort_with_status(rpc_status.to_status(status))
            finally:
                self._observe(method, code, time.monotonic() - started)

        return call


def _judge(error: BaseException, context: Any, method: str) -> tuple[status_pb2.Status | None, str]:
    """The status to end a call with, None where it has ended already; and the code's name."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return None, _Code.CANCELLED.name
    if isinstance(error, grpc.aio.AbortError) or not isinstance(error, Exception):
        return None, _NAMES.get(context.code(), _Code.UNKNOWN.name)
    known = as_known(error)
    if known is None:
        log_id = uuid.uuid4().hex[:12]
        log.error("internal error", exc_info=error, extra={"method": method, "log_id": log_id})
        return internal_status(log_id), _Code.INTERNAL.name
    log.info("refused", extra={"method": method, "code": known.code, "error": shown(str(known), 500)})
    status = to_status(known)
    return status, _NAMES[status.code]


_NAMES = {number: code.name for code in _Code for number in (code, code.value[0])}


def _parts(handler: Any) -> tuple[Any, Any]:
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler, handler.stream_stream
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler, handler.stream_unary
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler, handler.unary_stream
    return grpc.unary_unary_rpc_method_handler, handler.unary_unary
