"""What the supervisor needs of a place where workers run.

An executor only starts, looks at and ends workers. What a worker is to do stands in its attempt folder, and so does all that it
reports; so an executor for a cluster's queue needs nothing else of the service. To add one: a file beside this one that has these
three methods, and its name in `posttrain.service.server`.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Protocol


class Liveness(Enum):
    """Whether an attempt's worker lives. NONE: none ever held this attempt, or it is gone for good."""

    ALIVE = "alive"
    NONE = "none"


class Executor(Protocol):
    async def launch(self, folder: Path) -> None:
        """Starts the worker of an attempt folder, at most one ever at a time: where one lives already, this does nothing.

        Raises:
            LaunchError: it could not be started; none is alive then.
        """

    async def look(self, folder: Path) -> Liveness:
        """Whether the attempt's worker lives, also one that an earlier service process started."""

    async def stop(self, folder: Path, grace_s: float) -> None:
        """Asks the worker to stop, and ends it with its children once the grace period is over. Returns when it is gone."""
