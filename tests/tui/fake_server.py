"""A server in this process that speaks the real protocol and keeps all in lists that a test can read and change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from posttrain.service.proto import (
    gates_pb2,
    gates_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
)

PARENT = "projects/default"
Kinds = jobs_pb2.WatchJobsResponse


class FakeServer(
    jobs_pb2_grpc.JobsServicer,
    models_pb2_grpc.ModelsServicer,
    gates_pb2_grpc.GatesServicer,
    gates_pb2_grpc.PromotionsServicer,
):
    """Records that the test sets, calls that the test reads, and a history of changes that a watch resumes in."""

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.history: list[Any] = []  # job messages in the order of their changes; the resume token is a position in it
        self.points: dict[str, list[Any]] = {}
        self.logs: dict[str, list[str]] = {}
        self.events: dict[str, list[Any]] = {}
        self.versions: list[Any] = []
        self.aliases: list[Any] = []
        self.moves: list[Any] = []
        self.gate_runs: list[Any] = []
        self.calls: list[tuple[str, Any]] = []
        self.watches: list[str] = []  # the resume token of each watch that began
        self.refusal: status_pb2.Status | None = None  # what the next write is answered with
        self.port = 0
        self._news = asyncio.Condition()
        self._server: grpc.aio.Server | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        jobs_pb2_grpc.add_JobsServicer_to_server(self, self._server)
        models_pb2_grpc.add_ModelsServicer_to_server(self, self._server)
        gates_pb2_grpc.add_GatesServicer_to_server(self, self._server)
        gates_pb2_grpc.add_PromotionsServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    def written(self, method: str) -> list[Any]:
        """The requests that a method got."""
        return [request for name, request in self.calls if name == method]

    # -- jobs ---------------------------------------------------------------------------------------------------------

    async def put(self, *jobs: Any) -> None:
        """Adds or changes jobs, and tells the watches."""
        for job in jobs:
            self.jobs[job.name] = job
            copy = jobs_pb2.Job()
            copy.CopyFrom(job)
            self.history.append(copy)
        async with self._news:
            self._news.notify_all()

    async def WatchJobs(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.watches.append(request.resume_token)
        position = int(request.resume_token or 0)
        if not request.resume_token:
            position = len(self.history)
            for job in list(self.jobs.values()):
                yield Kinds(type=Kinds.SNAPSHOT, job=job, sequence=position, resume_token="")
        yield Kinds(type=Kinds.SNAPSHOT_DONE, resume_token=str(position))
        while True:
            while position < len(self.history):
                job = self.history[position]
                position += 1
                yield Kinds(type=Kinds.CHANGED, job=job, sequence=position, resume_token=str(position))
            async with self._news:
                if position >= len(self.history):
                    await self._news.wait()

    async def CancelJob(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls.append(("CancelJob", request))
        await self._refuse(context)
        job = self.jobs[request.name]
        job.state = jobs_pb2.CANCELLING
        await self.put(job)
        return job

    async def ListJobMetrics(self, request: Any, context: Any) -> Any:  # noqa: N802
        points, start = self.points.get(request.parent, []), int(request.page_token or 0)
        page = points[start : start + (request.page_size or 100)]
        return jobs_pb2.ListJobMetricsResponse(points=page, next_page_token=str(start + len(page)))

    async def ListJobLogs(self, request: Any, context: Any) -> Any:  # noqa: N802
        lines, size = self.logs.get(request.parent, []), request.page_size or 100
        start = int(request.page_token or 0)
        if request.tail and not request.page_token:
            start = max(len(lines) - size, 0)
        page = lines[start : start + size]
        return jobs_pb2.ListJobLogsResponse(lines=page, next_page_token=str(start + len(page)))

    async def ListJobEvents(self, request: Any, context: Any) -> Any:  # noqa: N802
        return jobs_pb2.ListJobEventsResponse(events=self.events.get(request.parent, []))

    # -- models -------------------------------------------------------------------------------------------------------

    async def GetLineage(self, request: Any, context: Any) -> Any:  # noqa: N802
        return models_pb2.Lineage(versions=self.versions)

    async def ListAliases(self, request: Any, context: Any) -> Any:  # noqa: N802
        return models_pb2.ListAliasesResponse(aliases=self.aliases)

    async def ListAliasHistory(self, request: Any, context: Any) -> Any:  # noqa: N802
        return models_pb2.ListAliasHistoryResponse(moves=self.moves)

    async def RollbackAlias(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls.append(("RollbackAlias", request))
        await self._refuse(context)
        alias = next(alias for alias in self.aliases if alias.name == request.name)
        if request.etag != alias.etag:
            await self._abort(context, "ALIAS_MOVED", "the alias moved", code_pb2.ABORTED)
        alias.version, alias.etag = self.moves[0].from_version, alias.etag + "'"
        self.tell_versions()
        return alias

    # -- gates and promotions -----------------------------------------------------------------------------------------

    async def ListGateRuns(self, request: Any, context: Any) -> Any:  # noqa: N802
        return gates_pb2.ListGateRunsResponse(gate_runs=self.gate_runs)

    async def GetGateRun(self, request: Any, context: Any) -> Any:  # noqa: N802
        for run in self.gate_runs:
            if run.name == request.name:
                return run
        return await self._abort(context, "NOT_FOUND", f"no {request.name}", code_pb2.NOT_FOUND)

    async def CreatePromotion(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls.append(("CreatePromotion", request))
        await self._refuse(context)
        name = f"{PARENT}/models/{request.version.split('@')[0]}/aliases/{request.alias}"
        alias = next((alias for alias in self.aliases if alias.name == name), None)
        if request.expected_alias_etag != (alias.etag if alias else "none"):
            await self._abort(context, "ALIAS_MOVED", "the alias moved", code_pb2.ABORTED)
        if alias is None:
            alias = models_pb2.Alias(name=name, alias=request.alias)
            self.aliases.append(alias)
        alias.version, alias.etag = request.version, f"etag of {request.version}"
        self.tell_versions()
        return gates_pb2.Promotion(
            version=request.version, alias=request.alias, outcome=gates_pb2.Promotion.APPLIED, reason=request.reason
        )

    def tell_versions(self) -> None:
        for version in self.versions:
            del version.aliases[:]
            version.aliases.extend(alias.alias for alias in self.aliases if alias.version == version.ref)

    def refuse(self, reason: str, message: str, *unmet: str) -> None:
        """The next write is answered FAILED_PRECONDITION with these unmet items."""
        failure = error_details_pb2.PreconditionFailure()
        for item in unmet:
            failure.violations.add(type="GATE", subject="bot@2", description=item)
        self.refusal = _status(code_pb2.FAILED_PRECONDITION, reason, message, failure)

    async def _refuse(self, context: Any) -> None:
        if self.refusal is not None:
            status, self.refusal = self.refusal, None
            await context.abort_with_status(rpc_status.to_status(status))

    async def _abort(self, context: Any, reason: str, message: str, code: int) -> Any:
        await context.abort_with_status(rpc_status.to_status(_status(code, reason, message)))


def _status(code: int, reason: str, message: str, *details: Any) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=message)
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain="posttrain"), *details):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
