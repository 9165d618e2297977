"""The command line. Every command's `--help` answers at once: what a command needs is imported when it runs.

exits.py       exit codes
settings.py    --home, --address, --json
text.py        what may reach a terminal
records.py     messages as JSON
progress.py    bars and lines, on stderr
follow.py      waiting for a job and its chain
spawn.py       a server of one's own
specfile.py    a spec's YAML, with the lines of what is wrong; template.py: `init`'s commented one
serve.py submit.py plan.py jobs.py datasets.py models.py gates.py sample.py demo.py    the commands
check.py      `datasets check`
gate_group.py  `gate`, which is a command and has gate_explain.py and gate_replay.py below it
"""

from __future__ import annotations

import difflib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import click

from posttrain.service.cli import exits
from posttrain.service.cli.exits import Exit
from posttrain.service.cli.text import clean

COMMANDS: Final[dict[str, str]] = {
    "demo": "demo:demo",
    "serve": "serve:serve",
    "tui": "serve:tui",
    "init": "submit:init",
    "plan": "plan:plan",
    "submit": "submit:submit",
    "jobs": "jobs:jobs",
    "datasets": "datasets:datasets",
    "models": "models:models",
    "suites": "gates:suites",
    "eval": "gates:evaluate",
    "gate": "gate_group:gate",
    "promote": "gates:promote",
    "promotions": "gates:promotions",
    "rollback": "gates:rollback",
    "sample": "sample:sample",
}


class LazyGroup(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(import_module(f"{__name__}.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if close:
                ctx.fail(f"no such command {args[0]!r}; did you mean {close[0]!r}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Whoever read our output has gone (`| head`): no error, but what is in the buffer has to go somewhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return Exit.OK

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code.value), exits.MEANING[code]) for code in Exit])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="posttrain", message="%(prog)s %(version)s")
def root() -> None:
    """From a base model to a promoted model: train, evaluate, gate, promote.

    The commands talk to a server (`posttrain serve`); `posttrain demo` brings its own.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; what went wrong is said on stderr."""
    try:
        result = root.main(arguments, prog_name="posttrain", standalone_mode=False)
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)  # click repeats arguments and names of files as they are
        click.echo(clean(said.getvalue()), err=True, nl=False)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return Exit.INTERRUPTED
    except Exception as error:
        return _explain(error)
    return result if isinstance(result, int) else Exit.OK


def main() -> None:
    """The console script."""
    sys.exit(run())


def _explain(error: Any) -> int:
    """Says what went wrong; an error that was not foreseen keeps its traceback."""
    client: Any = sys.modules.get("posttrain.service.client.errors")
    engine: Any = sys.modules.get("posttrain.engine.errors")
    lines = [f"error: {error}"]
    if client is not None and isinstance(error, client.ClientError):
        code = exits.of_status(error.code, error.reason)
        lines += [f"  {field}: {text}" for field, text in error.fields if text not in error.message]
        lines += [f"  unmet: {item.description}" for item in error.unmet if item.description not in error.message]
    elif engine is not None and isinstance(error, engine.EngineError):  # `serve` runs the server in this process
        from posttrain.service.statuses import STATUS

        code = exits.of_status(STATUS[error.code].name, error.code)
    elif isinstance(error, OSError):  # a full disk, a port that is taken, a folder that may not be written
        code = Exit.CONFLICT
    else:
        click.echo(clean("".join(traceback.format_exception(error))), err=True, nl=False)
        return Exit.UNEXPECTED
    hint = getattr(error, "hint", "")
    if hint:
        lines.append(f"hint: {hint}")
    click.echo(clean("\n".join(lines)), err=True)
    return code
