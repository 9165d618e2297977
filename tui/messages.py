"""What the feed tells the screens. Screens read the data from the feed; a message says what has changed."""

from __future__ import annotations

from typing import Any

from textual.message import Message

from posttrain.service.client.errors import ClientError


class ConnectionChanged(Message, bubble=False):
    """The link to the server came, went, or got older."""


class JobsChanged(Message, bubble=False):
    """Jobs that are new or changed since the last message, and those that the server no longer has."""

    def __init__(self, changed: frozenset[str], removed: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.changed = changed
        self.removed = removed


class CatalogueChanged(Message, bubble=False):
    """Versions, aliases or gate runs are not what they were."""


class FetchFailed(Message, bubble=False):
    """A read that is tried again failed; what is on the screen stays, but is old."""

    def __init__(self, what: str, error: ClientError) -> None:
        super().__init__()
        self.what = what
        self.error = error


class MetricsChanged(Message, bubble=False):
    """The followed job has more points: `Feed.followed.points`."""

    def __init__(self, job: str) -> None:
        super().__init__()
        self.job = job


class LogLines(Message, bubble=False):
    """New lines of the followed job's log; `is_restart`: an attempt begins, drop what was shown."""

    def __init__(self, job: str, attempt: int, lines: list[str], is_restart: bool) -> None:
        super().__init__()
        self.job = job
        self.attempt = attempt
        self.lines = lines
        self.is_restart = is_restart


class JobEvents(Message, bubble=False):
    """Events of the followed job that were not sent before."""

    def __init__(self, job: str, events: list[Any]) -> None:
        super().__init__()
        self.job = job
        self.events = events


class Answered(Message, bubble=False):
    """The server's answer to what a dialog asked: a record, or why not."""

    def __init__(self, result: Any = None, error: ClientError | None = None) -> None:
        super().__init__()
        self.result = result
        self.error = error
