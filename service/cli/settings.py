"""Where the data folder is and where the server listens: options, environment, then what the server wrote there."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from posttrain.service.client import AsyncClient, Client

DEFAULT_ADDRESS: Final = "127.0.0.1:50061"
SERVER_FILE: Final = "server.json"  # these two are the server's own; a test compares them


def default_home() -> Path:
    """The platform's folder for an application's data."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "posttrain"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "posttrain"
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "share") / "posttrain"


@dataclass(frozen=True)
class Settings:
    """Of one command.

    Attributes:
        home: the data folder, absolute.
        given_address: of the option or the environment; empty: look into the home.
    """

    home: Path
    given_address: str = ""

    @property
    def address(self) -> str:
        """Where the home's server is: never another home's, whatever listens at the usual port.

        Raises:
            ClientError: no server runs on this home.
        """
        address = self.given_address or read_address(self.home)
        if not address:
            from posttrain.service.client import ClientError

            hint = f"start one with `posttrain serve --home {self.home}`"
            raise ClientError("UNAVAILABLE", "NO_SERVER", f"no server runs on {self.home}", hint=hint)
        return address

    def connect(self) -> Client:
        """A client, for a `with` block."""
        from posttrain.service.client import Client

        return Client(self.address)

    def connect_async(self) -> AsyncClient:
        """A client, for an `async with` block."""
        from posttrain.service.client import AsyncClient

        return AsyncClient(self.address)


def read_address(home: Path) -> str:
    """The address that the running server of this home wrote; empty if there is none, or it was killed."""
    try:
        written = json.loads((home / SERVER_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    if not isinstance(written, dict):
        return ""
    address, pid = written.get("address"), written.get("pid")
    return address if isinstance(address, str) and isinstance(pid, int) and _runs(pid) else ""


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process, which is one too
        return True
    return True


def home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --home."""
    return click.option(
        "--home",
        envvar="POSTTRAIN_HOME",
        show_envvar=True,
        type=click.Path(file_okay=False, path_type=Path),
        default=None,
        help=f"The data folder: database, artifacts, logs.  [default: {shown_home()}]",
    )(command)


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --home and --address, and hands the command a Settings as its first argument."""

    @functools.wraps(command)
    def with_settings(*args: Any, home: Path | None, address: str, **kwargs: Any) -> Any:
        return command(Settings(absolute_home(home), address), *args, **kwargs)

    return home_option(
        click.option(
            "--address",
            envvar="POSTTRAIN_ADDRESS",
            show_envvar=True,
            default="",
            metavar="HOST:PORT",
            help="Where the server is.  [default: what it wrote into the data folder]",
        )(with_settings)
    )


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --json, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="One line of JSON a record, on stdout.")(command)


def absolute_home(home: Path | None) -> Path:
    return (home or default_home()).expanduser().absolute()


def shown_home() -> str:
    """The default as help shows it: without anyone's user name in it."""
    home = default_home()
    return f"~/{home.relative_to(Path.home())}" if home.is_relative_to(Path.home()) else str(home)
