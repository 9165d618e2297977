"""The server of one data folder: gRPC on loopback, metrics on a port of their own, the scheduler and the chains.

A stop leaves the workers running; the next server finds them again. `HOME/server.json` says where the server listens.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from posttrain.engine.events import write_atomic
from posttrain.registry.store import open_store
from posttrain.service.chain import Chains
from posttrain.service.core import Core, Settings
from posttrain.service.errors import UnsafeAddressError
from posttrain.service.executors.base import Executor
from posttrain.service.executors.local import LocalExecutor
from posttrain.service.logs import LOG_FOLDER, close_log, open_log
from posttrain.service.measuring import Measurer
from posttrain.service.metrics import Metrics, MetricsServer
from posttrain.service.proto import (
    datasets_pb2,
    datasets_pb2_grpc,
    gates_pb2,
    gates_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
)
from posttrain.service.sampling import Sampler
from posttrain.service.scheduler import Scheduler
from posttrain.service.servicers.datasets import DatasetsServicer
from posttrain.service.servicers.gates import EvaluationsServicer, GatesServicer, PromotionsServicer
from posttrain.service.servicers.jobs import JobsServicer
from posttrain.service.servicers.models import ModelsServicer
from posttrain.service.statuses import ErrorInterceptor

ADDRESS_FILE = "server.json"
DEFAULT_ADDRESS = "127.0.0.1:50061"
STOP_GRACE_S = 2.0
log = logging.getLogger(__name__)

SERVICES = tuple(
    service.full_name
    for file in (datasets_pb2, jobs_pb2, models_pb2, gates_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)


@dataclass(frozen=True)
class Address:
    """A loopback address. Port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def check_address(text: str) -> Address:
    """HOST:PORT of this machine.

    Raises:
        UnsafeAddressError: any other address; there is no authentication yet, so whoever reaches the port may do
        anything.
    """
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise UnsafeAddressError(f"{text!r} is not HOST:PORT", "for example 127.0.0.1:50061")
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise UnsafeAddressError(
            f"{text} is not on this machine: without authentication, which does not exist yet, whoever reaches the port"
            " could run jobs and move aliases, so only a loopback address is served"
        )
    return Address("127.0.0.1" if host == "localhost" else host, int(port))


async def serve(
    home: Path,
    address: str = DEFAULT_ADDRESS,
    metrics_port: int = 0,
    workers: int = 1,
    *,
    settings: Settings | None = None,
    executor: Executor | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serves a data folder until SIGTERM or SIGINT. `ready` is called with the address once requests are answered.

    Raises:
        UnsafeAddressError: not a loopback address.
        HomeLockedError: another server runs on this data folder.
        OSError: the port is taken.
    """
    where = check_address(address)
    settings = settings or Settings(workers=workers)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with open_store(home) as store:
        handler = open_log(store.home)
        metrics = Metrics()
        metrics_server = MetricsServer(metrics, where.host, metrics_port)
        core = Core(store, settings, metrics)
        try:
            running = await _start(
                core, where, metrics_server.address, executor or LocalExecutor(settings.threads_per_worker)
            )
            if ready is not None:
                ready(running.address)
            await stop.wait()
            log.info("server stops")
            await running.stop()
        finally:
            metrics_server.close()
            core.close()
            close_log(handler)


@dataclass
class Running:
    address: str
    stop: Callable[[], Awaitable[None]]


async def _start(core: Core, where: Address, metrics_address: str, executor: Executor) -> Running:
    limit = core.settings.max_message_bytes
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor(core.metrics.observe_rpc)],
        options=[
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a second server on the port is an error, not half of the calls
        ],
    )
    jobs_pb2_grpc.add_JobsServicer_to_server(JobsServicer(core), server)
    datasets_pb2_grpc.add_DatasetsServicer_to_server(DatasetsServicer(core, Measurer(core)), server)
    models_pb2_grpc.add_ModelsServicer_to_server(ModelsServicer(core, Sampler(core)), server)
    gates_pb2_grpc.add_EvaluationsServicer_to_server(EvaluationsServicer(core), server)
    gates_pb2_grpc.add_GatesServicer_to_server(GatesServicer(core), server)
    gates_pb2_grpc.add_PromotionsServicer_to_server(PromotionsServicer(core), server)
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection((*SERVICES, "grpc.health.v1.Health", reflection.SERVICE_NAME), server)
    try:
        port = server.add_insecure_port(str(where))
    except RuntimeError as error:
        hint = "is another server there? --address 127.0.0.1:0 takes any free port"
        raise OSError(f"cannot listen on {where}: {hint}") from error
    address = str(Address(where.host, port))
    await server.start()
    if core.settings.standby and isinstance(executor, LocalExecutor):
        executor.keep_standby(core.home / LOG_FOLDER)
    for name in SERVICES:
        await health.set(name, health_pb2.HealthCheckResponse.SERVING)
    loops = [
        asyncio.create_task(Scheduler(core, executor).run(), name="scheduler"),
        asyncio.create_task(Chains(core).run(), name="chains"),
    ]
    entry = {"address": address, "pid": os.getpid(), "metrics": metrics_address}
    write_atomic(core.home / ADDRESS_FILE, json.dumps(entry).encode())
    log.info("server listens", extra=entry)

    async def stop() -> None:
        await health.enter_graceful_shutdown()
        await server.stop(STOP_GRACE_S)
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        if isinstance(executor, LocalExecutor):
            executor.detach()
        (core.home / ADDRESS_FILE).unlink(missing_ok=True)

    return Running(address, stop)
