"""The terminal UI: `run(address)`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

from textual.app import App
from textual.binding import BindingType
from textual.filter import LineFilter
from textual.screen import Screen

from posttrain.service.client import AsyncClient, check_address
from posttrain.tui import actions
from posttrain.tui.ascii import AsciiFilter
from posttrain.tui.feed import Feed
from posttrain.tui.marks import DARK, LIGHT, Palette
from posttrain.tui.palette import ActionProvider, JumpProvider
from posttrain.tui.screens.base import BaseScreen
from posttrain.tui.screens.gate import GateScreen
from posttrain.tui.screens.gates import GatesScreen
from posttrain.tui.screens.help import HelpScreen, help_text
from posttrain.tui.screens.job import JobScreen
from posttrain.tui.screens.jobs import JobsScreen
from posttrain.tui.screens.move_alias import PromoteDialog
from posttrain.tui.screens.registry import RegistryScreen


def run(address: str, read_only: bool = False, ascii_only: bool | None = None) -> None:
    """Shows the UI until the user quits.

    Args:
        address: host:port of the server.
        read_only: hide and refuse everything that changes something.
        ascii_only: draw without Unicode; None: as the locale says.

    Raises:
        ClientError: the address is not one that may be spoken to. A server that is away is shown, not raised.
    """
    check_address(address)
    PosttrainApp(address, read_only=read_only, ascii_only=_wants_ascii() if ascii_only is None else ascii_only).run()


def _wants_ascii() -> bool:
    """Whether the locale cannot show more: LANG=C and the like."""
    locale = os.environ.get("LC_ALL") or os.environ.get("LC_CTYPE") or os.environ.get("LANG") or "C.UTF-8"
    return "utf" not in locale.lower()


class PosttrainApp(App[None]):
    """Three modes over one feed.

    Args:
        server: host:port, or a client that the caller closes.
        tick_s: how often changes are shown at most.
        poll_s: how often to look for changes that nothing announces.
    """

    TITLE = "posttrain"
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"
    COMMANDS = {ActionProvider, JumpProvider}  # noqa: RUF012  Textual declares it as a set
    BINDINGS: ClassVar[list[BindingType]] = actions.bindings("app")
    MODES = {"jobs": JobsScreen, "gates": GatesScreen, "registry": RegistryScreen}  # noqa: RUF012  likewise
    DEFAULT_MODE = "jobs"
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (40, "-narrow"), (80, "-medium"), (120, "-wide")]  # noqa: RUF012  likewise
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (12, "-low"), (30, "-high")]  # noqa: RUF012  likewise

    def __init__(
        self,
        server: str | AsyncClient,
        read_only: bool = False,
        ascii_only: bool = False,
        tick_s: float = 0.5,
        poll_s: float = 15.0,
    ) -> None:
        super().__init__()
        self._server = server
        self._options = (read_only, tick_s, poll_s)
        self.ascii_only = ascii_only
        self._ascii_filter = AsciiFilter(enabled=ascii_only)
        self.feed: Feed
        self._palette: tuple[str, Palette] | None = None
        for theme in (DARK, LIGHT):
            self.register_theme(theme)
        self.theme = DARK.name
        self.animation_level = "none"  # a key's effect is there at once
        self.set_class(ascii_only, "-ascii")

    @property
    def palette(self) -> Palette:
        """The running theme's colours; asked for once per cell, so not computed each time."""
        if self._palette is None or self._palette[0] != self.theme:
            self._palette = self.theme, Palette.of(self.current_theme, self.ascii_only)
        return self._palette[1]

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's own filters, then ours: whatever a widget of either draws passes here."""
        return [*super().get_line_filters(), *([self._ascii_filter] if self.ascii_only else [])]

    def on_load(self) -> None:
        """Runs inside the event loop and before any screen exists."""
        client = self._server if isinstance(self._server, AsyncClient) else AsyncClient(self._server)
        self.feed = Feed(client, *self._options)

    def on_mount(self) -> None:
        self.run_worker(self.feed.watch(), group="watch", exclusive=True)
        self.run_worker(self.feed.keep_catalogue(), group="catalogue", exclusive=True)

    async def on_unmount(self) -> None:
        self.workers.cancel_all()
        if not isinstance(self._server, AsyncClient):
            await self.feed.client.close()

    # -- where one can go ---------------------------------------------------------------------------------------------

    def follow(self, job: str) -> None:
        """Makes the feed read this job's details instead of another's."""
        self.run_worker(self.feed.follow(self.feed.begin_follow(job)), group="follow", exclusive=True)

    def open_job(self, name: str) -> None:
        self.push_screen(JobScreen(name))

    def open_gate(self, gate_run: str) -> None:
        self.push_screen(GateScreen(gate_run))

    def open_promote(self, ref: str) -> None:
        self.push_screen(PromoteDialog(ref))

    async def show_version(self, ref: str) -> None:
        await self.switch_mode("registry")
        screen = self.screen
        if isinstance(screen, RegistryScreen):
            screen.select(ref)

    # -- keys ---------------------------------------------------------------------------------------------------------

    async def action_show_mode(self, mode: str) -> None:
        await self.switch_mode(mode)

    async def action_back(self) -> None:
        screen: Screen[object] = self.screen
        if isinstance(screen, BaseScreen):
            screen.go_back()

    def action_reload(self) -> None:
        """Rereads the catalogue, and starts the stream anew where it was: a wait for the next attempt ends."""
        self.feed.reload()
        self.run_worker(self.feed.watch(), group="watch", exclusive=True)
        self.notify("reloading", timeout=1, markup=False)

    def action_help(self) -> None:
        scope = self.screen.SCOPE if isinstance(self.screen, BaseScreen) else "app"
        self.push_screen(HelpScreen(help_text(scope, self.feed.read_only, self.palette)))
