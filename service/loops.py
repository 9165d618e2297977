"""A loop that looks at the store whenever something has changed, and has a task for each thing in hand."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import ClassVar

from posttrain.service.core import Core

IDLE_S = 2.0
log = logging.getLogger(__name__)


class StoreLoop(ABC):
    """Subclasses say in `tick` what to start; `_tasks` holds what runs, by id."""

    NAME: ClassVar[str]

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until it is cancelled; its tasks are cancelled with it. An unforeseen error is logged and counted, and the
        next change, or IDLE_S, brings the next look."""
        try:
            while True:
                ticket = self._core.bell.ticket()
                # Before the look: what a task that is forgotten here has stored is then seen.
                self._tasks = {key: task for key, task in self._tasks.items() if not task.done()}
                try:
                    await self.tick()
                except Exception:
                    log.exception("a look at the store failed", extra={"loop": self.NAME})
                    self._core.metrics.loop_errors.labels(self.NAME).inc()
                await self._core.bell.wait(ticket, IDLE_S)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    @abstractmethod
    async def tick(self) -> None: ...
