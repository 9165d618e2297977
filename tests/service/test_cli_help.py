"""Help of every command: at once, and without loading what only some command needs."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest

from posttrain.service.cli import exits, root

DOCS = Path(__file__).parent.parent.parent / "docs" / "cli.md"
FORBIDDEN = ("torch", "sqlmodel", "sqlalchemy", "grpc", "textual", "transformers", "pydantic")
WALK = """
import contextlib, io, json, sys
from posttrain.service.cli import run
for arguments in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = run([*arguments, "--help"])
    print(json.dumps([arguments, code, out.getvalue(), [m for m in json.loads(sys.argv[2]) if m in sys.modules]]))
"""


def command_paths(command: click.Command = root, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command and group, from the tree itself."""
    found = [path]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found += command_paths(child, (*path, name))
    return found


PATHS = command_paths()


def test_the_commands_of_the_issue_are_there() -> None:
    wanted = ["serve", "init", "submit", "eval", "gate", "promote", "rollback", "sample", "demo", "tui"]
    groups = {"jobs": "list get watch logs cancel", "datasets": "add list get stats"}
    groups["models"] = "import list get lineage export"
    assert {(name,) for name in wanted} <= set(PATHS)
    assert {(group, name) for group, names in groups.items() for name in names.split()} <= set(PATHS)


def test_help_of_every_command_loads_nothing_heavy() -> None:
    arguments = [sys.executable, "-c", WALK, json.dumps(PATHS), json.dumps(FORBIDDEN)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [tuple(row[0]) for row in rows] == PATHS
    for path, code, text, loaded in rows:
        assert code == 0, path
        assert text.startswith("Usage: posttrain"), path
        assert loaded == [], path


@pytest.mark.parametrize("path", [(), ("submit",), ("jobs", "list"), ("demo",)], ids=" ".join)
def test_help_answers_in_half_a_second(path: tuple[str, ...]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "posttrain.service.cli", *path, "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Time of the processor, so that a busy machine does not fail a fast program.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_command_says_what_it_does_and_every_option_too(path: tuple[str, ...]) -> None:
    command: click.Command = root
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    assert command.help
    if path:
        assert not command.get_short_help_str(80).endswith("..."), "the list of commands shows all of it"
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name


@pytest.mark.parametrize(
    ("path", "terms"),
    [
        ("eval", {"stratified", "cap", "choosing"}),
        ("gate", {"champion"}),
        ("promote", {"holds"}),
    ],
)
def test_help_of_evidence_uses_no_word_that_it_does_not_explain(path: str, terms: set[str]) -> None:
    command = root.get_command(click.Context(root), path)
    assert command is not None
    texts = [command.help or "", *(option.help or "" for option in command.params if isinstance(option, click.Option))]
    words = set(" ".join(texts).lower().replace(".", " ").replace(",", " ").split())
    assert not words & terms
    assert all(len(text) <= 80 for text in texts[1:] if "[default" not in text and "data folder" not in text)


WITHOUT_RECORDS = {
    (),
    ("init",),
    ("serve",),
    ("tui",),
    ("jobs",),
    ("datasets",),
    ("models",),
    ("suites",),
    ("promotions",),
}


@pytest.mark.parametrize("path", [path for path in PATHS if path not in WITHOUT_RECORDS], ids=" ".join)
def test_whatever_prints_a_record_takes_json(path: tuple[str, ...]) -> None:
    command: click.Command = root
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name) or command
    assert "--json" in {text for option in command.params for text in option.opts}


def test_the_exit_codes_stand_in_help_and_in_the_docs() -> None:
    from click.testing import CliRunner

    text = " ".join(CliRunner().invoke(root, ["--help"]).output.split())
    docs = DOCS.read_text("utf-8")
    for code in exits.Exit:
        assert f"{code.value} {exits.MEANING[code]}" in text
        assert f"| {code.value} | {exits.MEANING[code]} |" in docs
    assert set(exits.MEANING) == set(exits.Exit)


def test_the_docs_name_every_command() -> None:
    docs = DOCS.read_text("utf-8")
    for path in PATHS:
        assert f"posttrain {' '.join(path)}".strip() in docs


def test_help_names_no_ones_home() -> None:
    environment = {**os.environ, "HOME": "/nowhere/someone"}
    environment.pop("XDG_DATA_HOME", None)
    command = [sys.executable, "-m", "posttrain.service.cli", "submit", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "someone" not in done.stdout
