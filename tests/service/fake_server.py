"""A server that answers as a test tells it to: every method of the protocol, no database, no jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from posttrain.service.proto import datasets_pb2, gates_pb2, jobs_pb2, models_pb2

FILES = (jobs_pb2, datasets_pb2, models_pb2, gates_pb2, health_pb2)
METHODS = {
    method.name: (service.full_name, method)
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


class Refusal:
    """An error that the fake answers with, with the details that the real server attaches."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str = "no",
        reason: str = "",
        hint: str = "",
        fields: tuple[tuple[str, str], ...] = (),
        unmet: tuple[tuple[str, str, str], ...] = (),
    ) -> None:
        self.code = code
        self.status = status_pb2.Status(code=code.value[0], message=message)
        if reason:
            metadata = {"hint": hint, "retryable": "false"}
            self.status.details.add().Pack(
                error_details_pb2.ErrorInfo(reason=reason, domain="posttrain", metadata=metadata)
            )
        if fields:
            bad = error_details_pb2.BadRequest()
            for field, description in fields:
                bad.field_violations.add(field=field, description=description)
            self.status.details.add().Pack(bad)
        if unmet:
            failure = error_details_pb2.PreconditionFailure()
            for kind, subject, description in unmet:
                failure.violations.add(type=kind, subject=subject, description=description)
            self.status.details.add().Pack(failure)


class FakeServer:
    """`on(METHOD, answer)`: a message, a Refusal, a list (of messages to stream), or a function of the request.

    `requests` holds (method, request) in order; of an upload, the list of its parts.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []
        self._answers: dict[str, Any] = {
            "Check": health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        }
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        for name, (service, method) in METHODS.items():
            handler = self._handler(name, method)
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def on(self, method: str, answer: Any) -> FakeServer:
        assert method in METHODS, method
        self._answers[method] = answer
        return self

    def of(self, method: str) -> list[Any]:
        """The requests to a method."""
        return [request for name, request in self.requests if name == method]

    def close(self) -> None:
        self._server.stop(0).wait()

    def _handler(self, name: str, method: Any) -> Any:
        make: Callable[..., Any] = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
        }[(method.client_streaming, method.server_streaming)]

        def unary(request: Any, context: Any) -> Any:
            return self._answer(name, list(request) if method.client_streaming else request, context)

        def stream(request: Any, context: Any) -> Iterator[Any]:
            for item in self._answer(name, request, context):
                yield self._given(item, context)

        return make(
            stream if method.server_streaming else unary,
            request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def _answer(self, name: str, request: Any, context: Any) -> Any:
        self.requests.append((name, request))
        answer = self._answers.get(name, Refusal(grpc.StatusCode.UNIMPLEMENTED, f"the test gives no answer to {name}"))
        if callable(answer):
            answer = answer(request)
        return self._given(answer, context)

    def _given(self, answer: Any, context: Any) -> Any:
        if not isinstance(answer, Refusal):
            return answer
        if answer.status.details:
            context.abort_with_status(rpc_status.to_status(answer.status))
        context.abort(answer.code, answer.status.message)
        raise AssertionError("abort raises")


def job(
    state: int = jobs_pb2.SUCCEEDED, step: int = jobs_pb2.CHAIN_STEP_UNSPECIFIED, name: str = "j1", **fields: Any
) -> jobs_pb2.Job:
    """A job in a state, with a chain at a step."""
    chain = {"step": step, **fields.pop("chain", {})}
    return jobs_pb2.Job(
        name=f"projects/default/jobs/{name}", state=state, kind=fields.pop("kind", "ift"), chain=chain, **fields
    )


def change(item: jobs_pb2.Job, token: str = "", kind: int = jobs_pb2.WatchJobsResponse.CHANGED) -> Any:
    return jobs_pb2.WatchJobsResponse(type=kind, job=item, resume_token=token)
