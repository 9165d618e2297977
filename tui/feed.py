"""All that the UI knows of the server, and the only code that talks to it.

Three loops, each a worker of the app: `watch` owns the job stream and reconnects, `keep_catalogue` rereads versions,
aliases and gate runs when a chain moved (or someone else may have), `follow` reads one job's metrics, log and events
while a screen shows it. They post messages (messages.py) to the screens that subscribed and touch no widget.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from textual.message import Message
from textual.message_pump import MessagePump

from posttrain.service.client import AsyncClient, ClientError, RetryNotice, is_over
from posttrain.service.proto import gates_pb2, jobs_pb2
from posttrain.tui.link import Connection, Followed, Link, ReadOnlyError
from posttrain.tui.messages import (
    CatalogueChanged,
    ConnectionChanged,
    FetchFailed,
    JobEvents,
    JobsChanged,
    LogLines,
    MetricsChanged,
)

OFFLINE_AFTER_S: Final = 30.0
LOG_PAGE: Final = 1_000
METRIC_PAGE: Final = 1_000
GATE_RUNS: Final = 200
EVENTS_EVERY_S: Final = 10.0  # and at once when the job's state changes


class Feed:
    """See the module.

    Args:
        client: the connection to the server.
        read_only: refuse every change here, whatever a screen does.
        tick_s: changes are shown at most once per tick.
        poll_s: how often to look for changes that no job stream announces.
    """

    def __init__(self, client: AsyncClient, read_only: bool = False, tick_s: float = 0.5, poll_s: float = 15.0) -> None:
        self.client = client
        self.read_only = read_only
        self.tick_s = tick_s
        self.poll_s = poll_s
        self.connection = Connection()
        self.jobs: dict[str, Any] = {}
        self.is_loaded = False
        self.versions: dict[str, Any] = {}  # by ref, parents before children
        self.aliases: list[Any] = []
        self.gate_runs: list[Any] = []
        self.has_catalogue = False
        self.followed = Followed()
        self._token = ""
        self._sequences: dict[str, int] = {}
        self._dirty: set[str] = set()
        self._snapshot: set[str] | None = None
        self._is_partial = False  # the snapshots after a gap need not name every job
        self._subscribers: list[MessagePump] = []
        self._flush_handle: asyncio.TimerHandle | None = None
        self._flushed_at = -math.inf
        self._stale = asyncio.Event()

    # -- who is told --------------------------------------------------------------------------------------------------

    def subscribe(self, pump: MessagePump) -> None:
        self._subscribers.append(pump)

    def unsubscribe(self, pump: MessagePump) -> None:
        self._subscribers.remove(pump)

    def _publish(self, make: Callable[[], Message]) -> None:
        for pump in self._subscribers:
            pump.post_message(make())

    # -- the job stream -----------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Reads the stream for ever; the client resumes it after the last answer."""
        while True:
            try:
                async for answer in self.client.watch("", self._token, patience_s=math.inf, on_retry=self._lost):
                    self._heard(answer)
            except ClientError as error:  # of a kind that waiting does not mend: say so, and look again later
                self._set_link(Link.OFFLINE, error)
            await asyncio.sleep(5.0)

    def _lost(self, notice: RetryNotice) -> None:
        link = Link.OFFLINE if notice.away_s >= OFFLINE_AFTER_S else Link.RECONNECTING
        self._set_link(link, notice.error)

    def _set_link(self, link: Link, error: ClientError | None = None) -> None:
        connection = self.connection
        was_away = connection.link in {Link.RECONNECTING, Link.OFFLINE}
        if link is Link.LIVE:
            connection.last_news = time.time()
            if connection.link is link:
                return
            self._stale.set()
        elif not was_away:
            connection.away_since = time.monotonic()
        connection.link, connection.error = link, error
        self._publish(ConnectionChanged)

    def _heard(self, answer: Any) -> None:
        self._set_link(Link.LIVE)
        self._token = answer.resume_token or self._token
        kinds = jobs_pb2.WatchJobsResponse
        if answer.type == kinds.SNAPSHOT:
            if self._snapshot is None:
                self._snapshot = set()
            self._snapshot.add(answer.job.name)
            self._take(answer)
        elif answer.type == kinds.GAP:
            self._is_partial = True
        elif answer.type == kinds.SNAPSHOT_DONE:
            is_whole = self._snapshot is not None and not self._is_partial
            removed = frozenset(self.jobs.keys() - (self._snapshot or set())) if is_whole else frozenset()
            self._snapshot, self._is_partial = None, False
            for name in removed:  # another database answers at this address now
                del self.jobs[name], self._sequences[name]
            self.is_loaded = True
            self._stale.set()
            self._flush(removed)
        elif answer.type == kinds.CHANGED and answer.sequence > self._sequences.get(answer.job.name, -1):
            self._take(answer)

    def _take(self, answer: Any) -> None:
        job, known = answer.job, self.jobs.get(answer.job.name)
        self.jobs[job.name] = job
        self._sequences[job.name] = answer.sequence
        self._dirty.add(job.name)
        if known is None or known.chain != job.chain or known.state != job.state:
            self._stale.set()
        if self._snapshot is None and self._flush_handle is None:
            wait_s = self._flushed_at + self.tick_s - time.monotonic()
            self._flush_handle = asyncio.get_running_loop().call_later(max(wait_s, 0.0), self._flush)

    def _flush(self, removed: frozenset[str] = frozenset()) -> None:
        """One message for all that changed since the last tick."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        self._flushed_at = time.monotonic()
        changed, self._dirty = frozenset(self._dirty) - removed, set()
        self._publish(lambda: JobsChanged(changed, removed))

    # -- versions, aliases, gate runs ---------------------------------------------------------------------------------

    def reload(self) -> None:
        """Reread the catalogue soon."""
        self._stale.set()

    async def keep_catalogue(self) -> None:
        self._stale.set()
        while True:
            with contextlib.suppress(TimeoutError):  # nothing announced a change: look all the same
                await asyncio.wait_for(self._stale.wait(), self.poll_s)
            self._stale.clear()
            if self.connection.link in {Link.LIVE, Link.CONNECTING}:
                try:
                    await self._read_catalogue()
                except ClientError as error:
                    self._report("registry", error)
            await asyncio.sleep(self.tick_s)

    async def _read_catalogue(self) -> None:
        lineage, aliases, gate_runs = await asyncio.gather(
            self.client.get_lineage(), self.client.list_aliases(), self.client.list_gate_runs(limit=GATE_RUNS)
        )
        versions = {version.ref: version for version in lineage.versions}
        gate_runs.sort(key=lambda run: run.create_time.seconds, reverse=True)
        if self.has_catalogue and (versions, aliases, gate_runs) == (self.versions, self.aliases, self.gate_runs):
            return
        self.versions, self.aliases, self.gate_runs, self.has_catalogue = versions, aliases, gate_runs, True
        self._publish(CatalogueChanged)

    def newest_gate_run(self, ref: str, alias: str = "") -> Any | None:
        """The newest gate run of a version, and of an alias if one is given."""
        return next((run for run in self.gate_runs if run.candidate == ref and alias in {"", run.alias}), None)

    def gate_run_of_job(self, job: Any) -> Any | None:
        return next((run for run in self.gate_runs if run.name == job.chain.gate_run), None)

    # -- one job ------------------------------------------------------------------------------------------------------

    def begin_follow(self, name: str) -> Followed:
        """Forgets the job followed so far; pass the answer to `follow`."""
        self.followed = Followed(name)
        return self.followed

    async def follow(self, followed: Followed) -> None:
        """Reads a job's metrics, log and events until it is over."""
        while True:
            job = self.jobs.get(followed.job)
            over = job is not None and is_over(job)  # looked at before the reads: what came last is read, too
            try:
                if self.connection.link in {Link.LIVE, Link.CONNECTING}:
                    await self._read_job(followed, job)
                    if over:
                        return
            except ClientError as error:
                self._report("job", error)
                if not error.is_retryable:
                    return
            await asyncio.sleep(max(self.tick_s, 0.05) * 2)

    async def _read_job(self, followed: Followed, job: Any) -> None:
        name = followed.job
        while True:
            page = await self.client.list_job_metrics(name, METRIC_PAGE, followed.metric_token)
            followed.metric_token = page.next_page_token or followed.metric_token
            if page.points:
                for point in page.points:
                    known = followed.points.get(point.step)
                    if known is not None and known.attempt == point.attempt:
                        known.values.update(point.values)  # held-out numbers are a point of their own
                    elif known is None or known.attempt < point.attempt:
                        followed.points[point.step] = point
                self._publish(lambda: MetricsChanged(name))
            if len(page.points) < METRIC_PAGE:
                break
        key = (time.monotonic() // EVENTS_EVERY_S, None if job is None else (job.state, job.attempt, job.chain.step))
        if key != followed.events_key:
            events = [
                event for event in await self.client.list_job_events(name) if event.sequence > followed.last_event
            ]
            followed.events_key = key
            if events:
                followed.last_event = max(event.sequence for event in events)
                self._publish(lambda: JobEvents(name, events))
        attempt = 0 if job is None else int(job.attempt)
        is_restart = attempt != followed.attempt
        if is_restart:
            followed.attempt, followed.log_token = attempt, ""
        while True:
            is_tail = not followed.log_token
            logs = await self.client.list_job_logs(name, attempt, LOG_PAGE, followed.log_token, tail=is_tail)
            followed.log_token = logs.next_page_token
            lines = list(logs.lines)
            if lines or is_restart:
                self._publish(partial(LogLines, name, attempt, lines, is_restart))
            is_restart = False
            if len(lines) < LOG_PAGE or is_tail:
                break

    def _report(self, what: str, error: ClientError) -> None:
        self._publish(lambda: FetchFailed(what, error))

    # -- changes ------------------------------------------------------------------------------------------------------

    async def cancel_job(self, job: Any) -> jobs_pb2.Job:
        self._check_may_write()
        return await self.client.cancel_job(job.name)

    async def promote(
        self, version: str, alias: str, gate_run: str, reason: str, etag: str, request_id: str
    ) -> gates_pb2.Promotion:
        """Asks for a promotion on the evidence and the alias that were shown; no etag: the alias did not exist."""
        self._check_may_write()
        try:
            return await self.client.create_promotion(version, alias, gate_run, reason, etag or "none", request_id)
        finally:
            self.reload()

    async def rollback(self, model: str, alias: str, reason: str, etag: str) -> Any:
        self._check_may_write()
        try:
            return await self.client.rollback_alias(model, alias, reason, etag)
        finally:
            self.reload()

    def _check_may_write(self) -> None:
        if self.read_only:
            raise ReadOnlyError
