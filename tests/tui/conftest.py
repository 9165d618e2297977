"""The fake server, and a UI in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from textual.pilot import Pilot

from posttrain.service.proto import gates_pb2, jobs_pb2
from posttrain.tui.app import PosttrainApp
from posttrain.tui.screens import listing, registry
from tests.tui import records
from tests.tui.fake_server import FakeServer

PARENT = records.PARENT


class Session:
    """A running UI: press keys, wait until something holds, read what is on the screen."""

    def __init__(self, app: PosttrainApp, pilot: Pilot[None], server: FakeServer) -> None:
        self.app, self.pilot, self.server = app, pilot, server

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def until(self, what: Callable[[], Any], note: str = "", timeout_s: float = 20.0) -> None:
        """Waits until `what` is true; fails with the screen's text if it never is."""
        deadline = time.monotonic() + timeout_s
        while not what():
            if time.monotonic() > deadline:
                pytest.fail(f"never: {note or what}\n{self.text()}")
            await self.pilot.pause(0.04)

    async def shows(self, *texts: str) -> None:
        await self.until(lambda: all(text in self.text() for text in texts), f"shows {texts}")

    def text(self) -> str:
        """What the terminal shows, line by line."""
        strips = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip) for strip in strips)

    async def open(self, *keys: str, screen: str) -> Any:
        """Presses keys and waits for a screen of that class."""
        await self.press(*keys)
        await self.until(lambda: type(self.app.screen).__name__ == screen, f"screen {screen}")
        await self.pilot.pause()
        return self.app.screen


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the user to stop typing or moving does not wait for a test."""
    monkeypatch.setattr(listing, "FILTER_PAUSE_S", 0.001)
    monkeypatch.setattr(registry, "DETAILS_PAUSE_S", 0.001)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeServer]:
    """A server with a base, two versions (one blocked), an alias, and four jobs."""
    fake = FakeServer()
    chain = jobs_pb2.Chain
    await fake.put(
        records.job("one", jobs_pb2.RUNNING, 100, chain=chain(step=jobs_pb2.TRAIN)),
        records.job(
            "two",
            jobs_pb2.SUCCEEDED,
            900,
            400,
            chain=chain(step=jobs_pb2.DONE, version="bot@1", eval_runs=["e"], gate_run=f"{PARENT}/gateRuns/g1"),
        ),
        records.job(
            "three",
            jobs_pb2.FAILED,
            1800,
            33,
            error=jobs_pb2.JobError(code="NON_FINITE_LOSS", message="step 33 is NaN", hint="lower the learning rate"),
        ),
        records.job("four", jobs_pb2.QUEUED, 40, 0, 0, kind="evaluate"),
    )
    for name in list(fake.jobs):
        fake.points[name] = records.metrics(120)
        fake.logs[name] = [f"line {index} " + "x" * 200 for index in range(300)]
        fake.events[name] = [
            records.event(1, jobs_pb2.JOB_STATE_UNSPECIFIED, jobs_pb2.VALIDATING),
            records.event(2, jobs_pb2.VALIDATING, jobs_pb2.QUEUED),
        ]
    fake.versions = [
        records.version("base@1"),
        records.version("bot@1", "base@1", "PASS"),
        records.version("bot@2", "bot@1", "FAIL"),
        records.version("bot@3", "bot@1", "PASS"),
    ]
    fake.aliases = [records.alias("bot", "production", "bot@1")]
    # A reason of one word: beside a date, which stands there after midnight, two would wrap.
    fake.moves = [records.move("production", "", "bot@1", "launch")]
    fake.gate_runs = [
        records.gate_run("g1", "bot@1", age_s=900),
        records.gate_run("g2", "bot@2", gates_pb2.FAIL, 600, baselines=["parent bot@1", "champion bot@1"]),
        records.gate_run("g3", "bot@3", gates_pb2.PASS, 300, baselines=["parent bot@1", "champion bot@1"]),
    ]
    fake.tell_versions()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def open_ui(server: FakeServer) -> Callable[..., contextlib.AbstractAsyncContextManager[Session]]:
    """`async with open_ui(size=(140, 40), read_only=...) as ui`: jobs and registry are there."""

    @contextlib.asynccontextmanager
    async def opener(size: tuple[int, int] = (140, 40), **options: Any) -> AsyncIterator[Session]:
        app = PosttrainApp(
            server.address, tick_s=options.pop("tick_s", 0.02), poll_s=options.pop("poll_s", 60.0), **options
        )
        async with app.run_test(size=size, notifications=True) as pilot:
            session = Session(app, pilot, server)
            await session.until(lambda: app.feed.is_loaded and app.feed.has_catalogue, "loaded")
            await pilot.pause()
            yield session
            # What Textual cancels at the end must be over before the loop closes.
        await asyncio.sleep(0)

    return opener
