"""`posttrain gate list` and `posttrain gate show`: verdicts on record."""

from __future__ import annotations

import click

from posttrain.service.cli.settings import Settings, json_option, server_options
from posttrain.service.cli.text import echo


@click.command("list")
@click.argument("version", required=False, default="")
@click.option("--limit", default=0, show_default="all", type=click.IntRange(0), help="At most so many.")
@json_option
@server_options
def list_runs(settings: Settings, version: str, limit: int, as_json: bool) -> None:
    """List verdicts on VERSION, or all, newest first."""
    from posttrain.service.cli.records import echo_json, enum_name
    from posttrain.service.cli.text import echo_table, moment
    from posttrain.service.client import short
    from posttrain.service.proto import gates_pb2

    with settings.connect() as client:
        found = client.list_gate_runs(version, limit)
    if as_json:
        for item in found:
            echo_json(item)
        return
    rows = [
        [
            short(item.name),
            enum_name(gates_pb2.Verdict, item.verdict),
            item.candidate,
            item.alias,
            item.policy,
            f"{item.attempt} of {item.attempts_budget}" if item.attempt else "-",
            moment(item.create_time),
            ", ".join(dict.fromkeys(reason.code for reason in item.reasons)) or "-",
        ]
        for item in found
    ]
    echo_table(["GATE RUN", "VERDICT", "CANDIDATE", "ALIAS", "POLICY", "ATTEMPT", "TIME", "REASONS"], rows)


@click.command()
@click.argument("gate_run")
@json_option
@server_options
def show(settings: Settings, gate_run: str, as_json: bool) -> None:
    """Show a verdict, and what has changed since."""
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.show import echo_gate_run, reason_text

    with settings.connect() as client:
        run = client.get_gate_run(gate_run)
    if as_json:
        echo_json(run)
        return
    echo_gate_run(run)
    if run.stale:
        echo("\nnot of today: a promotion is refused until the version is judged again")
    for reason in run.stale:
        echo(reason_text(reason))
