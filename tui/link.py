"""What the feed keeps about its link to the server and about the job that a screen shows."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from posttrain.service.client import ClientError


class Link(enum.Enum):
    CONNECTING = "connecting"
    LIVE = "live"
    RECONNECTING = "reconnecting"
    OFFLINE = "offline"


class ReadOnlyError(ClientError, PermissionError):
    """A change was asked for while the UI runs with --read-only."""

    def __init__(self) -> None:
        super().__init__(
            "PERMISSION_DENIED", "READ_ONLY", "this UI runs with --read-only", hint="start it without that flag"
        )


@dataclass
class Connection:
    """How the link is. `last_news` is wall-clock time of the last answer, 0 before the first."""

    link: Link = Link.CONNECTING
    last_news: float = 0.0
    away_since: float = 0.0
    error: ClientError | None = None


@dataclass
class Followed:
    """What is known of the job that a screen shows in detail."""

    job: str = ""
    points: dict[int, Any] = field(default_factory=dict)  # by step: a later attempt repeats steps, its values count
    attempt: int = -1
    log_token: str = ""
    metric_token: str = ""
    last_event: int = 0
    events_key: tuple[Any, ...] = ()
