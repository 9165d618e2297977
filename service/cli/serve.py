"""`posttrain serve` and `posttrain tui`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from posttrain.service.cli.settings import DEFAULT_ADDRESS, Settings, absolute_home, home_option, server_options
from posttrain.service.cli.text import echo


@click.command()
@home_option
@click.option(
    "--address",
    envvar="POSTTRAIN_ADDRESS",
    show_envvar=True,
    default=DEFAULT_ADDRESS,
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen: a loopback address; port 0 takes a free one.",
)
@click.option(
    "--metrics-port", default=0, show_default="a free one", type=click.IntRange(0, 65535), help="Prometheus metrics."
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Jobs that run at a time.")
@click.option(
    "--standby/--no-standby",
    envvar="POSTTRAIN_STANDBY",
    show_envvar=True,
    default=True,
    show_default=True,
    help="Keep one idle process with everything imported, in which the next job starts at once (about 0.5 GB).",
)
@click.option(
    "--reward-module",
    "reward_modules",
    envvar="POSTTRAIN_REWARD_MODULES",
    show_envvar=True,
    multiple=True,
    metavar="MODULE",
    help="Let jobs reward with functions of this Python module, which run with all rights of a worker; may be "
    "repeated.  [default: none]",
)
@click.option(
    "--python-tool/--no-python-tool",
    envvar="POSTTRAIN_PYTHON_TOOL",
    show_envvar=True,
    default=False,
    show_default=True,
    help="Let models run Python while they answer in training; each snippet is shut in, without network and files.",
)
def serve(
    home: Path | None,
    address: str,
    metrics_port: int,
    workers: int,
    standby: bool,
    reward_modules: tuple[str, ...],
    python_tool: bool,
) -> None:
    """Run the service until Ctrl-C or SIGTERM. Workers outlive it and are found again."""
    from posttrain.service.core import Settings as ServerSettings
    from posttrain.service.server import serve as run_server

    folder = absolute_home(home)

    def ready(where: str) -> None:
        echo(f"posttrain serves {folder} at {where}; Ctrl-C stops it")

    limits = ServerSettings(workers=workers, standby=standby, reward_modules=reward_modules, python_tool=python_tool)
    asyncio.run(run_server(folder, address, metrics_port, settings=limits, ready=ready))


@click.command()
@server_options
@click.option("--read-only", is_flag=True, help="Hide and refuse everything that changes something.")
@click.option(
    "--ascii", "ascii_only", is_flag=True, default=None, help="Draw without Unicode.  [default: as the locale says]"
)
@click.option("--serve", "with_server", is_flag=True, help="Start a server first if none runs, and stop it at the end.")
def tui(settings: Settings, read_only: bool, ascii_only: bool | None, with_server: bool) -> None:
    """Open the terminal UI: jobs, verdicts, registry."""
    from posttrain.tui.app import run as run_app

    if not with_server:
        from posttrain.service.cli.spawn import is_serving

        is_serving(settings.address, must_answer=True)
        run_app(settings.address, read_only, ascii_only)
        return
    from posttrain.service.cli.spawn import running_server

    with running_server(settings) as (address, _):
        run_app(address, read_only, ascii_only)
