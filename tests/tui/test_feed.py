"""What the feed makes of the streams: live changes, reconnection, stale data."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from posttrain.service.client import AsyncClient
from posttrain.service.proto import jobs_pb2
from posttrain.tui.feed import Feed
from posttrain.tui.link import Connection, Link, ReadOnlyError
from posttrain.tui.marks import DARK, Palette
from posttrain.tui.messages import JobsChanged
from posttrain.tui.widgets.status import describe_connection
from tests.tui import records
from tests.tui.fake_server import FakeServer, Kinds


class Inbox:
    """Stands for a screen: keeps what it is sent."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def post_message(self, message: Any) -> bool:
        self.messages.append(message)
        return True

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]


def answer(kind: int, name: str = "", sequence: int = 0, **fields: Any) -> Any:
    job = records.job(name, **fields) if name else None
    return Kinds(type=kind, job=job, sequence=sequence, resume_token=f"t{sequence}")


@pytest.fixture
async def feed() -> Any:
    client = AsyncClient("127.0.0.1:1")
    made = Feed(client, tick_s=0.05)
    yield made
    await client.close()


@pytest.fixture
def inbox(feed: Feed) -> Inbox:
    box = Inbox()
    feed.subscribe(box)  # type: ignore[arg-type]
    return box


async def test_a_snapshot_is_one_message(feed: Feed, inbox: Inbox) -> None:
    for number in range(5):
        feed._heard(answer(Kinds.SNAPSHOT, f"j{number}"))
    assert not inbox.of(JobsChanged)
    feed._heard(answer(Kinds.SNAPSHOT_DONE))
    (message,) = inbox.of(JobsChanged)
    assert len(message.changed) == 5
    assert feed.is_loaded


async def test_a_burst_of_changes_is_one_message_a_tick(feed: Feed, inbox: Inbox) -> None:
    feed._heard(answer(Kinds.SNAPSHOT_DONE))
    inbox.messages.clear()
    for number in range(1, 201):
        feed._heard(answer(Kinds.CHANGED, "j", number, done=number))
    await asyncio.sleep(0.2)
    assert len(inbox.of(JobsChanged)) == 1
    assert feed.jobs["projects/default/jobs/j"].progress.done == 200


async def test_a_change_that_comes_twice_or_late_is_dropped(feed: Feed) -> None:
    feed._heard(answer(Kinds.CHANGED, "j", 7, done=70))
    feed._heard(answer(Kinds.CHANGED, "j", 7, done=1))
    feed._heard(answer(Kinds.CHANGED, "j", 6, done=1))
    assert feed.jobs["projects/default/jobs/j"].progress.done == 70


async def test_a_whole_snapshot_drops_jobs_that_are_gone_but_one_after_a_gap_does_not(feed: Feed, inbox: Inbox) -> None:
    for name in ("a", "b"):
        feed._heard(answer(Kinds.SNAPSHOT, name))
    feed._heard(answer(Kinds.SNAPSHOT_DONE))
    for kind, name in ((Kinds.GAP, ""), (Kinds.SNAPSHOT, "a"), (Kinds.SNAPSHOT_DONE, "")):
        feed._heard(answer(kind, name))
    assert len(feed.jobs) == 2
    feed._heard(answer(Kinds.SNAPSHOT, "a"))
    feed._heard(answer(Kinds.SNAPSHOT_DONE))
    assert list(feed.jobs) == ["projects/default/jobs/a"]
    assert inbox.of(JobsChanged)[-1].removed == {"projects/default/jobs/b"}


async def test_read_only_refuses_before_anything_is_sent(server: FakeServer) -> None:
    async with AsyncClient(server.address) as client:
        feed = Feed(client, read_only=True)
        with pytest.raises(ReadOnlyError):
            await feed.cancel_job(records.job("one"))
        with pytest.raises(ReadOnlyError):
            await feed.promote("bot@3", "production", "", "why", "e1", "id")
        with pytest.raises(ReadOnlyError):
            await feed.rollback("bot", "production", "why", "e1")
    assert server.calls == []


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        (Connection(Link.CONNECTING), "◌ connecting"),
        (Connection(Link.LIVE, last_news=1000.0), "● live"),
        (Connection(Link.LIVE, last_news=900.0), "● live, quiet 1m40s"),
        (Connection(Link.RECONNECTING, 990.0, away_since=38.0), "◌ reconnecting 12s"),
        (Connection(Link.OFFLINE), "✖ offline, no data"),
    ],
)
def test_the_link_is_told(connection: Connection, expected: str) -> None:
    assert describe_connection(connection, Palette.of(DARK, False), 1000.0, 50.0).plain == expected


def test_offline_says_since_when() -> None:
    text = describe_connection(Connection(Link.OFFLINE, last_news=1000.0), Palette.of(DARK, False), 2000.0, 50.0).plain
    assert text.startswith("✖ offline, data from ")
    assert text[-3] == ":"


async def test_disconnect_and_reconnect_lose_and_repeat_nothing(open_ui: Any, server: FakeServer) -> None:
    async with open_ui() as ui:
        await ui.open("j", "enter", screen="JobScreen")
        name = ui.app.screen.job_name
        log = ui.app.screen.query_one("#log")
        await ui.until(lambda: len(log.lines) == 300 and len(ui.app.feed.followed.points) == 120, "log and points")
        events = len(ui.app.screen.events)
        await server.stop()
        await ui.shows("◌ reconnecting")
        assert ui.app.screen.has_class("-stale")
        server.logs[name] += [f"late {index}" for index in range(5)]
        server.points[name] = records.metrics(130)
        await server.start()
        await server.put(records.job("one", done=130), records.job("five", jobs_pb2.QUEUED, 1))
        await ui.shows("● live", "130 of 400")
        await ui.until(lambda: len(ui.app.feed.followed.points) == 130, "new points")
        await ui.until(lambda: list(log.lines)[-1] == "late 4", "new lines")
        assert len(log.lines) == 305
        assert len(set(log.lines)) == 305
        assert len(ui.app.screen.events) == events
        assert len(ui.app.feed.jobs) == 5
        assert server.watches[-1] != "", "the watch resumed with its token"
        assert not ui.app.screen.has_class("-stale")


async def test_a_later_attempt_replaces_the_steps_that_it_repeats(open_ui: Any, server: FakeServer) -> None:
    name = "projects/default/jobs/one"
    server.points[name] = records.metrics(50) + records.metrics(60, attempt=2)[40:]
    async with open_ui() as ui:
        await ui.open("j", "enter", screen="JobScreen")
        await ui.until(lambda: len(ui.app.feed.followed.points) == 60, "points")
        assert [ui.app.feed.followed.points[step].attempt for step in (40, 41, 50, 60)] == [1, 2, 2, 2]


async def test_held_out_numbers_join_the_step_that_they_belong_to(open_ui: Any, server: FakeServer) -> None:
    name = "projects/default/jobs/one"
    held_out = jobs_pb2.MetricPoint(step=2, attempt=1, values={"held_out_loss": 0.5})
    server.points[name] = [*records.metrics(3), held_out]
    async with open_ui() as ui:
        await ui.open("j", "enter", screen="JobScreen")
        await ui.until(lambda: len(ui.app.feed.followed.points) == 3, "points")
        values = ui.app.feed.followed.points[2].values
        assert values["held_out_loss"] == 0.5
        assert values["loss"] == records.metrics(3)[1].values["loss"]
        assert "held_out_loss" not in ui.app.feed.followed.points[1].values


async def test_a_server_that_is_away_at_the_start_is_shown_and_found_later(server: FakeServer) -> None:
    from posttrain.tui.app import PosttrainApp

    await server.stop()
    app = PosttrainApp(server.address, tick_s=0.02)
    async with app.run_test(size=(100, 30)) as pilot:
        async with asyncio.timeout(10):
            while app.feed.connection.link is not Link.RECONNECTING:
                await pilot.pause(0.02)
            await server.start()
            await pilot.press("ctrl+r")
            while not (app.feed.is_loaded and app.feed.has_catalogue):
                await pilot.pause(0.02)
        assert app.feed.connection.link is Link.LIVE
        assert len(app.feed.jobs) == 4
