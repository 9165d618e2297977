"""The commands that README and docs show: each parses, and the README's way by hand runs as written."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from posttrain.service.cli import root, run
from posttrain.service.cli.exits import Exit

from .serving import Server

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(r"^```(?:console|bash|sh)?\n([\s\S]*?)^```$|^ {4}(\S.*)$|`([^`\n]+)`", re.M)
CONSOLE = re.compile(r"^```console\n([\s\S]*?)^```$", re.M)
COMMAND = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?posttrain ((?:[a-z-]+ ?)+.*)$")


def commands_of(text: str) -> list[str]:
    """What stands behind `posttrain ` in the code of a page, without comments and prompts."""
    found = []
    for blocks in CODE.findall(text):
        for line in "\n".join(blocks).splitlines():
            command = COMMAND.match(line.strip())
            if command and "COMMAND" not in line:
                found.append(command[1].split("  #")[0].strip().removesuffix("&").strip())
    return found


SHOWN = [(page.name, command) for page in PAGES for command in commands_of(page.read_text(encoding="utf-8"))]


def test_there_are_commands_to_check() -> None:
    assert len(SHOWN) > 40
    assert {page for page, _ in SHOWN} >= {"README.md", "cli.md"}


@pytest.mark.parametrize(("page", "command"), SHOWN)
def test_every_command_that_is_shown_exists(page: str, command: str) -> None:
    """Names of commands and options; arguments may be left out in running text."""
    node: click.Command = root
    words = shlex.split(re.sub(r"\[[^]]*\]", "", command).split("|")[0])
    while isinstance(node, click.Group) and words:
        node_found = node.get_command(click.Context(node), words.pop(0))
        assert node_found is not None, f"{page}: posttrain {command}"
        node = node_found
    known = {option for parameter in node.params for option in [*parameter.opts, *parameter.secondary_opts]}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known | {"--help", "-"}, command


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "home", fake=True, settings={"builtin_suites": True}).start()
    yield server
    server.close()


@pytest.mark.slow
def test_the_readmes_way_by_hand(
    empty: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With scripted workers: what training and evaluation say is tested elsewhere."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("POSTTRAIN_ADDRESS", raising=False)
    monkeypatch.setenv("POSTTRAIN_HOME", str(empty.home))
    special: dict[str, Callable[[], int]] = {
        "serve": lambda: Exit.OK,  # it runs already
        "jobs watch": lambda: watch_until_done(empty),
        "tui": lambda: Exit.OK,  # tests/tui runs it
    }
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## The same by hand")[1].split("\n## ")[0]
    commands = [command for block in CONSOLE.findall(section) for command in commands_of(f"```\n{block}```")]
    assert len(commands) > 12
    codes = {}
    for command in commands:
        words = [word.replace("/tmp/", f"{tmp_path}/") for word in shlex.split(command)]
        codes[command] = special[command]() if command in special else run(words)
        assert codes[command] == Exit.OK, "\n".join((command, *capsys.readouterr()))


def watch_until_done(server: Server) -> int:
    """Ctrl-C ends a watch of all jobs; the code of the chain's end is what counts here."""
    command = [sys.executable, "-m", "posttrain.service.cli", "jobs", "watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        deadline = time.monotonic() + 120
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "chain DONE" in line or time.monotonic() > deadline:
                break
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(30)
        finally:
            process.kill()  # or leaving the block waits for it, whatever was wrong
        assert code == Exit.INTERRUPTED
    assert "chain DONE" in lines[-1], lines
    return Exit.OK
