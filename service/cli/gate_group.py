"""`posttrain gate VERSION` and its subcommands; `gate explain` and `gate replay` need no server."""

from __future__ import annotations

from typing import Any

import click

from posttrain.service.cli.gate_explain import explain
from posttrain.service.cli.gate_replay import replay
from posttrain.service.cli.gate_show import list_runs, show
from posttrain.service.cli.gates import gate as judge


class GateGroup(click.Group):
    """A group that is a command too: what is no subcommand's name is the version to judge."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.commands.get(cmd_name, judge)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        # Its parameters are those of the command that it also is, for help; a subcommand has its own alone.
        chosen = _SUBCOMMANDS if args and args[0] in self.commands else judge
        return chosen.make_context(info_name, args, parent, **extra)


_SUBCOMMANDS = click.Group("gate", commands={"explain": explain, "list": list_runs, "replay": replay, "show": show})
judge.epilog = "\b\nCommands:\n" + "\n".join(
    f"  {name:8} {command.get_short_help_str(90)}" for name, command in sorted(_SUBCOMMANDS.commands.items())
)
gate = GateGroup("gate", help=judge.help, params=judge.params, commands=_SUBCOMMANDS.commands)
