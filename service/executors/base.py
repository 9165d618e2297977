"""What the supervisor needs of a place where workers run.

An executor only starts, looks at and ends workers. What a worker is to do stands in its attempt folder, and so does all
that it reports; so an executor for a cluster's queue needs nothing else of the service. To add one: a file beside this
one that has these three methods, and its name in `posttrain.service.server`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Look:
    """Whether an attempt's worker lives, and for how long it has, on a clock that nobody sets."""

    alive: bool
    age_s: float = 0.0


class Executor(Protocol):
    async def launch(self, folder: Path) -> None:
        """Starts the worker of an attempt folder, never two at a time: where one lives already, this does nothing.

        Raises:
            LaunchError: it could not be started; none is alive then.
        """

    async def look(self, folder: Path) -> Look:
        """Whether the attempt's worker lives, also one that an earlier service process started."""

    async def stop(self, folder: Path, grace_s: float) -> None:
        """Asks the worker to stop, ends it with its children after the grace period, and returns when it is gone."""
