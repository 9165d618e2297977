"""The asyncio client. `posttrain.service.client.Client` is the same for code without an event loop.

    async with AsyncClient("127.0.0.1:50061") as client:
        job = await client.create_job({"kind": "ift", "base": "tiny-base@1", ...})
        async for change in client.watch(job.name):
            ...

Every call raises ClientError. Lists follow their pages until `limit` records (0: all) are there.
"""

from __future__ import annotations

from grpc_health.v1 import health_pb2, health_pb2_grpc

from posttrain.service.client.assets import DatasetCalls, ModelCalls
from posttrain.service.client.gates import GateCalls
from posttrain.service.client.jobs import JobCalls


class AsyncClient(JobCalls, DatasetCalls, ModelCalls, GateCalls):
    """Typed calls to a posttrain server; use as an async context manager, or `close()` it.

    References are what people write: a job's id or full name, `NAME@NUMBER`, `NAME@ALIAS`, or `NAME` for the newest
    version.

    Args:
        address: host:port on this machine.
        project: whose resources are meant.
        timeout_s: deadline of an ordinary call.
    """

    async def check_health(self, timeout_s: float = 5.0) -> bool:
        """Whether the server says that it serves.

        Raises:
            UnreachableError: nothing answers.
        """
        answer = await self._call(
            health_pb2_grpc.HealthStub(self._channel).Check, health_pb2.HealthCheckRequest(), timeout_s
        )
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
