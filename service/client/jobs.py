"""Calls about jobs, and the watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import grpc

from posttrain.service.client.base import Calls, new_request_id
from posttrain.service.client.errors import from_rpc_error
from posttrain.service.client.specs import spec_to_proto
from posttrain.service.client.watching import RetryNotice, Watch, is_over
from posttrain.service.proto import jobs_pb2, jobs_pb2_grpc, spec_pb2


class JobCalls(Calls):
    @property
    def _jobs(self) -> jobs_pb2_grpc.JobsStub:
        return jobs_pb2_grpc.JobsStub(self._channel)

    async def create_job(
        self,
        spec: Mapping[str, Any] | spec_pb2.JobSpec,
        request_id: str = "",
        validate_only: bool = False,
    ) -> jobs_pb2.Job:
        """Validates a spec (a plain dict with `kind`, or a message) and queues it."""
        return await self._call(
            self._jobs.CreateJob,
            jobs_pb2.CreateJobRequest(
                parent=self.names.parent,
                spec=spec_to_proto(spec) if isinstance(spec, Mapping) else spec,
                request_id=request_id or new_request_id(),
                validate_only=validate_only,
            ),
        )

    async def get_job(self, job: str) -> jobs_pb2.Job:
        return await self._call(self._jobs.GetJob, jobs_pb2.GetJobRequest(name=self.names.job(job)))

    async def list_jobs(self, filter: str = "", limit: int = 0) -> list[jobs_pb2.Job]:
        """Newest first. `filter`: terms that must all match, as in "state:RUNNING kind:ift"."""
        request = jobs_pb2.ListJobsRequest(parent=self.names.parent, filter=filter)
        return await self._list(self._jobs.ListJobs, request, "jobs", limit)

    async def cancel_job(self, job: str, etag: str = "") -> jobs_pb2.Job:
        request = jobs_pb2.CancelJobRequest(name=self.names.job(job), etag=etag)
        return await self._call(self._jobs.CancelJob, request)

    async def list_job_events(self, job: str, limit: int = 0) -> list[jobs_pb2.JobEvent]:
        request = jobs_pb2.ListJobEventsRequest(parent=self.names.job(job))
        return await self._list(self._jobs.ListJobEvents, request, "events", limit)

    async def list_job_logs(
        self, job: str, attempt: int = 0, page_size: int = 0, page_token: str = "", tail: bool = False
    ) -> jobs_pb2.ListJobLogsResponse:
        """One page; its `next_page_token` is always set and asks for the lines that come after."""
        return await self._call(
            self._jobs.ListJobLogs,
            jobs_pb2.ListJobLogsRequest(
                parent=self.names.job(job), attempt=attempt, page_size=page_size, page_token=page_token, tail=tail
            ),
        )

    async def list_job_metrics(
        self, job: str, page_size: int = 0, page_token: str = ""
    ) -> jobs_pb2.ListJobMetricsResponse:
        """One page; its `next_page_token` is always set and asks for the points that come after."""
        request = jobs_pb2.ListJobMetricsRequest(parent=self.names.job(job), page_size=page_size, page_token=page_token)
        return await self._call(self._jobs.ListJobMetrics, request)

    async def watch(
        self,
        job: str = "",
        resume_token: str = "",
        patience_s: float = 60.0,
        on_retry: Callable[[RetryNotice], None] | None = None,
    ) -> AsyncGenerator[jobs_pb2.WatchJobsResponse, None]:
        """Snapshots, then changes, of one job or of all; a lost connection is resumed after the last answer seen.

        At least once: the same change can come twice, `sequence` tells. Ends after a named job (and its chain) is over.
        Leave it early through `contextlib.aclosing`, so that the stream is closed at once.

        Args:
            patience_s: how long a server may be away before the watch gives up (math.inf: never).
            on_retry: told before each wait, so that a screen can say that it is stale.

        Raises:
            ClientError: of a kind that trying again does not mend, or the server was away for too long.
        """
        watch = Watch(resume_token=resume_token, patience_s=patience_s, on_retry=on_retry)
        name = self.names.job(job) if job else ""
        while True:
            request = jobs_pb2.WatchJobsRequest(parent=self.names.parent, name=name, resume_token=watch.resume_token)
            call = self._jobs.WatchJobs(request)
            try:
                async for response in call:
                    watch.saw(response)
                    yield response
                delay_s = watch.delay_after_end(bool(name))
            except grpc.RpcError as error:
                delay_s = watch.delay_after(from_rpc_error(error, self.address))
            finally:
                call.cancel()
            if delay_s is None:
                return
            await asyncio.sleep(delay_s)

    async def wait_job(
        self,
        job: str,
        on_change: Callable[[jobs_pb2.Job], None] | None = None,
        patience_s: float = 60.0,
        on_retry: Callable[[RetryNotice], None] | None = None,
    ) -> jobs_pb2.Job:
        """Waits until a job and its chain are over, and returns it as it is then."""
        async with aclosing(self.watch(job, patience_s=patience_s, on_retry=on_retry)) as changes:
            async for response in changes:
                if not response.HasField("job"):
                    continue
                if on_change is not None:
                    on_change(response.job)
                if is_over(response.job):
                    return response.job
        return await self.get_job(job)
