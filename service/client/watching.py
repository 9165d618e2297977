"""When a watch goes on, waits or gives up: no network here, so that each rule is tested alone."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from posttrain.service.client.errors import ClientError
from posttrain.service.proto import jobs_pb2

TERMINAL: Final = frozenset({jobs_pb2.SUCCEEDED, jobs_pb2.FAILED, jobs_pb2.CANCELLED})
CHAIN_OVER: Final = frozenset({jobs_pb2.CHAIN_STEP_UNSPECIFIED, jobs_pb2.DONE, jobs_pb2.CHAIN_FAILED})
FIRST_DELAY_S: Final = 0.2
LAST_DELAY_S: Final = 10.0


def is_over(job: jobs_pb2.Job) -> bool:
    """Whether nothing more will happen to the job: it is terminal, and so is what follows it."""
    if job.state not in TERMINAL:
        return False
    return job.state != jobs_pb2.SUCCEEDED or job.chain.step in CHAIN_OVER


@dataclass(frozen=True)
class RetryNotice:
    """The watch lost its server: for how long so far, when it tries again, and why."""

    attempt: int
    away_s: float
    delay_s: float
    error: ClientError


@dataclass
class Watch:
    """The state of a watch over its connections: the resume token, and how long the server has been away."""

    resume_token: str = ""
    patience_s: float = 60.0
    on_retry: Callable[[RetryNotice], None] | None = None
    clock: Callable[[], float] = time.monotonic
    uniform: Callable[[float, float], float] = random.uniform
    _attempt: int = 0
    _away_since: float | None = None
    _is_over: bool = field(default=False, init=False)

    def saw(self, response: Any) -> None:
        """Notes an answer: the connection works, and a new one would start after it."""
        self._attempt = 0
        self._away_since = None
        if response.resume_token:
            self.resume_token = response.resume_token
        if response.HasField("job"):
            self._is_over = is_over(response.job)

    def delay_after_end(self, is_single: bool) -> float | None:
        """After a stream that ended in order: None if the job is over, else seconds to wait (it shuts down)."""
        if is_single and self._is_over:
            return None
        return self._delay(ClientError("UNAVAILABLE", "STREAM_ENDED", "the server ended the stream"))

    def delay_after(self, error: ClientError) -> float:
        """Seconds to wait after a failure; raises it if waiting does not help or has lasted too long."""
        if self.resume_token and error.reason in {"BAD_RESUME_TOKEN", "OUT_OF_RANGE"}:
            self.resume_token = ""  # too old for this server: start over from snapshots
            return 0.0
        if not error.is_retryable:
            raise error
        return self._delay(error)

    def _delay(self, error: ClientError) -> float:
        now = self.clock()
        if self._away_since is None:
            self._away_since = now
        away_s = now - self._away_since
        if away_s >= self.patience_s:
            raise error
        # Full jitter: many watchers of one restarted server do not come back at the same moment.
        ceiling_s = min(LAST_DELAY_S, FIRST_DELAY_S * 2**self._attempt)
        self._attempt += 1
        delay_s = min(self.uniform(ceiling_s / 4, ceiling_s), max(self.patience_s - away_s, 0.01))
        if self.on_retry is not None:
            self.on_retry(RetryNotice(self._attempt, away_s, delay_s, error))
        return delay_s
