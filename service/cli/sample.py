"""`posttrain sample`: talk to a version before it is promoted."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from posttrain.service.cli.settings import Settings, json_option, server_options
from posttrain.service.cli.text import clean, echo, one_line, warn

if TYPE_CHECKING:
    from posttrain.service.client import Client
    from posttrain.service.proto import models_pb2


@click.command()
@click.argument("version")
@click.option("--prompt", default="", help="Ask this one thing.  [default: what standard input holds]")
@click.option("--chat", is_flag=True, help="Talk turn by turn; an empty line or Ctrl-D ends it.")
@click.option("--against", default="", metavar="VERSION", help="Show a second version's answers beside the first's.")
@click.option("--system", default="", help="A system message at the start.")
@click.option("--max-new-tokens", default=256, show_default=True, type=click.IntRange(1, 32768), help="Longest answer.")
@click.option(
    "--temperature", default=0.0, show_default=True, type=click.FloatRange(0, 5), help="0: the likeliest token."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the sampling.")
@json_option
@server_options
def sample(
    settings: Settings,
    version: str,
    prompt: str,
    chat: bool,
    against: str,
    system: str,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    as_json: bool,
) -> None:
    """Ask a version something, once or turn by turn.

    With --against both versions are asked the same; a chat goes on from the first one's answers.
    """
    if prompt and chat:
        raise click.UsageError("--prompt asks once, --chat turn by turn: choose one")
    if not prompt and not chat:
        if sys.stdin.isatty():
            raise click.UsageError("say what to ask: --prompt TEXT, --chat, or text on standard input")
        prompt = sys.stdin.read().rstrip("\n")
    turns = [("system", system)] if system else []

    def ask(client: Client) -> str:
        first = ""
        for index, answer in enumerate(client.sample_model(version, turns, against, max_new_tokens, temperature, seed)):
            _show(answer, as_json, with_name=bool(against))
            first = answer.text if index == 0 else first
        return first

    with settings.connect() as client:
        if not chat:
            turns.append(("user", prompt))
            ask(client)
            return
        while text := _read_turn():
            turns.append(("user", text))
            turns.append(("assistant", ask(client)))


def _show(answer: models_pb2.SampleModelVersionResponse, as_json: bool, with_name: bool) -> None:
    from posttrain.service.cli.records import echo_json

    if as_json:
        echo_json(answer)
        return
    if with_name:
        echo(f"--- {one_line(answer.version)}")
    echo(clean(answer.text))
    warn(f"({answer.num_tokens} tokens, {answer.seconds:.1f}s, {answer.stop_reason})")


def _read_turn() -> str:
    """The next turn; empty at the end."""
    if sys.stdin.isatty():
        click.echo("> ", nl=False, err=True)
    return sys.stdin.readline().strip()
