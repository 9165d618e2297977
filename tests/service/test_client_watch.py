"""A watch over lost connections: what resumes it, what ends it, how long it waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.service.client import AsyncClient, Client, ClientError, RetryNotice, is_over
from posttrain.service.client.watching import LAST_DELAY_S, Watch
from posttrain.service.proto import jobs_pb2

from .fake_server import FakeServer, Refusal, change, job

RUNNING, DONE = job(jobs_pb2.RUNNING), job(jobs_pb2.SUCCEEDED)
AWAY = Refusal(grpc.StatusCode.UNAVAILABLE, "restarting", "RESTARTING")


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


def connections(*streams: list[Any]) -> Callable[[Any], list[Any]]:
    """One stream for each connection, in order."""
    left = list(streams)
    return lambda _: left.pop(0)


async def collect(client: AsyncClient, job: str = "j1", **options: Any) -> list[Any]:
    async with aclosing(client.watch(job, **options)) as changes:
        return [item async for item in changes]


async def test_a_lost_connection_resumes_after_the_last_answer(fake: FakeServer) -> None:
    bookmark = jobs_pb2.WatchJobsResponse(type=jobs_pb2.WatchJobsResponse.BOOKMARK, resume_token="t2")
    fake.on("WatchJobs", connections([change(RUNNING, "t1"), bookmark, AWAY], [AWAY], [change(DONE, "t3")]))
    notices: list[RetryNotice] = []
    async with AsyncClient(fake.address) as client:
        seen = await collect(client, on_retry=notices.append)
    assert [item.job.state for item in seen if item.HasField("job")] == [jobs_pb2.RUNNING, jobs_pb2.SUCCEEDED]
    assert [request.resume_token for request in fake.of("WatchJobs")] == ["", "t2", "t2"]
    assert [notice.attempt for notice in notices] == [1, 2]
    assert notices[0].error.code == "UNAVAILABLE"


async def test_a_stream_that_ends_before_the_job_does_is_opened_again(fake: FakeServer) -> None:
    fake.on("WatchJobs", connections([change(RUNNING, "t1")], [change(DONE, "t2")]))
    async with AsyncClient(fake.address) as client:
        assert len(await collect(client)) == 2
    assert len(fake.of("WatchJobs")) == 2


async def test_a_stream_that_ends_with_the_job_is_the_end(fake: FakeServer) -> None:
    fake.on("WatchJobs", connections([change(RUNNING), change(DONE)]))
    async with AsyncClient(fake.address) as client:
        assert len(await collect(client)) == 2
    assert len(fake.of("WatchJobs")) == 1


async def test_a_token_that_is_too_old_starts_over(fake: FakeServer) -> None:
    old = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "not of this watch", "BAD_RESUME_TOKEN")
    fake.on("WatchJobs", connections([old], [change(DONE, "t9")]))
    async with AsyncClient(fake.address) as client:
        assert len(await collect(client, resume_token="old")) == 1
    assert [request.resume_token for request in fake.of("WatchJobs")] == ["old", ""]


async def test_what_waiting_does_not_mend_is_raised_at_once(fake: FakeServer) -> None:
    fake.on("WatchJobs", connections([Refusal(grpc.StatusCode.NOT_FOUND, "no job")]))
    async with AsyncClient(fake.address) as client:
        with pytest.raises(ClientError, match="no job"):
            await collect(client)
    assert len(fake.of("WatchJobs")) == 1


async def test_a_server_that_stays_away_is_given_up(fake: FakeServer) -> None:
    fake.on("WatchJobs", lambda _: [AWAY])
    started = time.monotonic()
    async with AsyncClient(fake.address) as client:
        with pytest.raises(ClientError, match="restarting"):
            await collect(client, patience_s=0.5)
    assert 0.4 < time.monotonic() - started < 5


async def test_waiting_for_a_job_and_its_chain(fake: FakeServer) -> None:
    states = [job(jobs_pb2.RUNNING), job(jobs_pb2.SUCCEEDED, jobs_pb2.GATE), job(jobs_pb2.SUCCEEDED, jobs_pb2.DONE)]
    fake.on("WatchJobs", [change(item) for item in states])
    seen: list[int] = []
    async with AsyncClient(fake.address) as client:
        ended = await client.wait_job("j1", lambda item: seen.append(item.chain.step))
    assert ended.chain.step == jobs_pb2.DONE
    assert seen == [jobs_pb2.CHAIN_STEP_UNSPECIFIED, jobs_pb2.GATE, jobs_pb2.DONE]


def test_a_watch_without_an_event_loop(fake: FakeServer) -> None:
    fake.on("WatchJobs", connections([change(RUNNING, "t1"), AWAY], [change(DONE)]))
    with Client(fake.address) as client:
        assert [item.job.state for item in client.watch("j1")] == [jobs_pb2.RUNNING, jobs_pb2.SUCCEEDED]


def test_a_watch_that_is_left_early_is_closed(fake: FakeServer) -> None:
    fake.on("WatchJobs", lambda _: [change(RUNNING), change(RUNNING), change(DONE)])
    fake.on("GetJob", DONE)
    with Client(fake.address) as client:
        changes = client.watch("j1")
        next(changes)
        changes.close()
        assert client.get_job("j1").state == jobs_pb2.SUCCEEDED, "the client can be used on"


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (job(jobs_pb2.RUNNING), False),
        (job(jobs_pb2.CANCELLING), False),
        (job(jobs_pb2.SUCCEEDED), True),
        (job(jobs_pb2.SUCCEEDED, jobs_pb2.REGISTER), False),
        (job(jobs_pb2.SUCCEEDED, jobs_pb2.PROMOTE), False),
        (job(jobs_pb2.SUCCEEDED, jobs_pb2.DONE), True),
        (job(jobs_pb2.SUCCEEDED, jobs_pb2.CHAIN_FAILED), True),
        (job(jobs_pb2.FAILED, jobs_pb2.TRAIN), True),
        (job(jobs_pb2.CANCELLED), True),
    ],
)
def test_when_a_job_is_over(item: Any, expected: bool) -> None:
    assert is_over(item) is expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_delays_grow_have_jitter_and_stay_bounded(draws: list[float]) -> None:
    left = iter(draws)
    watch = Watch(patience_s=1e9, clock=lambda: 0.0, uniform=lambda low, high: low + next(left) * (high - low))
    delays = [watch.delay_after(ClientError("UNAVAILABLE", "X", "x")) for _ in draws]
    for index, delay in enumerate(delays):
        ceiling = min(LAST_DELAY_S, 0.2 * 2**index)
        assert ceiling / 4 <= delay <= ceiling


def test_an_answer_resets_the_delay_and_the_patience() -> None:
    now = [0.0]
    watch = Watch(patience_s=10.0, clock=lambda: now[0], uniform=lambda _, high: high)
    error = ClientError("UNAVAILABLE", "X", "x")
    first = watch.delay_after(error)
    watch.delay_after(error)
    now[0] = 9.0
    watch.saw(change(RUNNING, "t"))
    assert watch.delay_after(error) == first
    now[0] = 18.9
    assert watch.delay_after(error) > 0, "9.9 seconds since the server went away again"
    now[0] = 19.1
    with pytest.raises(ClientError):
        watch.delay_after(error)
