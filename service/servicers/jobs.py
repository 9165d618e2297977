"""The Jobs service: requests to calls, records to messages. Rules are in posttrain.service.jobs and lifecycle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from posttrain.engine.spec import canonical_json, spec_digest
from posttrain.registry.store import Transaction
from posttrain.registry.tables import JobRecord
from posttrain.service import attempts, jobs, lifecycle, names, views, watching
from posttrain.service.convert import spec_to_proto
from posttrain.service.core import Core
from posttrain.service.proto import jobs_pb2, jobs_pb2_grpc

_LOG_LINES = 200


class JobsServicer(jobs_pb2_grpc.JobsServicer):  # type: ignore[misc]
    def __init__(self, core: Core) -> None:
        self._core = core

    async def CreateJob(self, request: jobs_pb2.CreateJobRequest, context: Any) -> jobs_pb2.Job:  # noqa: N802
        (project,) = names.parse(request.parent, names.PROJECT, field="parent")
        request_id = names.check_request_id(request.request_id)
        spec = jobs.read_spec(request.spec)
        jobs.check_allowed(spec, self._core.settings.reward_modules, self._core.settings.python_tool)
        policies = self._core.policy
        if jobs.wants_suites(spec):
            await self._core.ensure_suites(project)
        wrong = await self._core.thread(jobs.wrong_targets_of, self._core.store, project, spec)
        if request.validate_only:
            pinned = await self._core.read(lambda tx: jobs.preview(tx, project, spec, policies, wrong))
            return jobs_pb2.Job(
                spec=spec_to_proto(pinned.model_dump(mode="json")),
                spec_json=canonical_json(pinned),
                spec_sha256=spec_digest(pinned),
                kind=pinned.kind,
                display_name=pinned.display_name,
                state=jobs_pb2.VALIDATING,
            )

        def create(tx: Transaction) -> jobs_pb2.Job:
            return _message(tx, jobs.create(tx, project, spec, policies, request_id, wrong=wrong))

        return await self._core.write(create)

    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Any) -> jobs_pb2.Job:  # noqa: N802
        project, job = names.parse(request.name, names.JOB)
        return await self._core.read(lambda tx: _message(tx, tx.get_job(project, job)))

    async def ListJobs(self, request: jobs_pb2.ListJobsRequest, context: Any) -> jobs_pb2.ListJobsResponse:  # noqa: N802
        (project,) = names.parse(request.parent, names.PROJECT, field="parent")

        def read(tx: Transaction) -> jobs_pb2.ListJobsResponse:
            page = tx.list_jobs(project, request.filter, request.page_size, request.page_token)
            found = [_message(tx, job) for job in page.items]
            return jobs_pb2.ListJobsResponse(jobs=found, next_page_token=page.next_page_token)

        return await self._core.read(read)

    async def CancelJob(self, request: jobs_pb2.CancelJobRequest, context: Any) -> jobs_pb2.Job:  # noqa: N802
        project, job = names.parse(request.name, names.JOB)
        return await self._core.write(lambda tx: _message(tx, jobs.cancel(tx, project, job, request.etag)))

    async def WatchJobs(  # noqa: N802
        self, request: jobs_pb2.WatchJobsRequest, context: Any
    ) -> AsyncIterator[jobs_pb2.WatchJobsResponse]:
        scope = watching.scope_of(request.parent, request.name)
        async for answer in watching.watch(self._core, scope, request.resume_token):
            yield answer

    async def ListJobEvents(  # noqa: N802
        self, request: jobs_pb2.ListJobEventsRequest, context: Any
    ) -> jobs_pb2.ListJobEventsResponse:
        project, job = names.parse(request.parent, names.JOB, field="parent")
        page = await self._core.read(lambda tx: tx.list_events(project, job, (), request.page_size, request.page_token))
        found = [views.event_message(event) for event in page.items]
        return jobs_pb2.ListJobEventsResponse(events=found, next_page_token=page.next_page_token)

    async def ListJobMetrics(  # noqa: N802
        self, request: jobs_pb2.ListJobMetricsRequest, context: Any
    ) -> jobs_pb2.ListJobMetricsResponse:
        project, job = names.parse(request.parent, names.JOB, field="parent")
        types, size, token = ("metrics", "held_out"), request.page_size, request.page_token
        page = await self._core.read(lambda tx: tx.list_events(project, job, types, size, token, follow=True))
        points = [views.metric_message(event) for event in page.items]
        return jobs_pb2.ListJobMetricsResponse(points=points, next_page_token=page.next_page_token)

    async def ListJobLogs(  # noqa: N802
        self, request: jobs_pb2.ListJobLogsRequest, context: Any
    ) -> jobs_pb2.ListJobLogsResponse:
        project, job_id = names.parse(request.parent, names.JOB, field="parent")
        size = names.page_size(request.page_size, _LOG_LINES)
        number, offset = _log_place(request.page_token)

        def find(tx: Transaction) -> tuple[int, Path | None, bool]:
            job = tx.get_job(project, job_id)
            wanted = request.attempt or number or job.attempt
            if not wanted:
                return 0, None, False
            found = tx.get_attempt(job.id, wanted)
            return wanted, lifecycle.attempt_folder(self._core.home, job.id, found.number), found.state == "ENDED"

        attempt, folder, is_over = await self._core.read(find)
        if folder is None:
            return jobs_pb2.ListJobLogsResponse(next_page_token="0:0")
        tail = request.tail and not request.page_token
        lines, after = await self._core.thread(attempts.read_log, folder, offset, size, tail, is_over)
        return jobs_pb2.ListJobLogsResponse(lines=lines, next_page_token=f"{attempt}:{after}")


def _log_place(token: str) -> tuple[int, int]:
    """(attempt, byte) of a log's page token; 0:0 while there is no attempt yet."""
    if not token:
        return 0, 0
    attempt, colon, offset = token.partition(":")
    if not colon or not (attempt.isdecimal() and offset.isdecimal()) or len(token) > 40:
        raise names.invalid("page_token", "not a token of a log")
    return int(attempt), int(offset)


def _message(tx: Transaction, job: JobRecord) -> jobs_pb2.Job:
    return views.job_message(job, tx.get_chain(job.id))
