"""What ctrl+p finds: the keys of this screen, jobs, and versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual.command import DiscoveryHit, Hit, Hits, Provider

from posttrain.tui import actions
from posttrain.tui.describe import job_title
from posttrain.tui.screens.base import BaseScreen
from posttrain.tui.text import one_line

if TYPE_CHECKING:
    from posttrain.tui.app import PosttrainApp

MAX_HITS = 30


class ActionProvider(Provider):
    """Every action of the screen below, and those that hold everywhere."""

    def _commands(self) -> Iterator[tuple[str, Callable[[], None]]]:
        screen = self.screen
        scopes = (screen.SCOPE, "app") if isinstance(screen, BaseScreen) else ("app",)
        for action in actions.in_scopes(*scopes):
            name = action.action.partition("(")[0]
            if name == "command_palette" or not screen.check_action(name, ()):
                continue

            def run(action: actions.Action = action) -> None:
                node = self.app if action.scope == "app" else screen
                self.app.call_later(self.app.run_action, action.action, node)

            yield f"{action.help}  ({action.shown_keys})", run

    async def discover(self) -> Hits:
        for title, run in self._commands():
            yield DiscoveryHit(Text(title), run, text=title)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for title, run in self._commands():
            score = matcher.match(title)
            if score > 0:
                yield Hit(score, matcher.highlight(title), run, text=title)


class JumpProvider(Provider):
    """Jobs and versions by name."""

    async def search(self, query: str) -> Hits:
        ui = cast("PosttrainApp", self.app)
        matcher = self.matcher(query)
        found: list[tuple[float, str, Callable[[], object]]] = []
        for job in ui.feed.jobs.values():
            title = f"job {job_title(job)} {one_line(job.name, 100)}"
            found.append((matcher.match(title), title, partial(ui.open_job, job.name)))
        for ref in ui.feed.versions:
            title = f"version {one_line(ref, 100)}"
            found.append((matcher.match(title), title, partial(ui.show_version, ref)))
        best = sorted((item for item in found if item[0] > 0), key=lambda item: item[0], reverse=True)
        for score, title, jump in best[:MAX_HITS]:
            yield Hit(score, matcher.highlight(title), jump, text=title)
