"""Evidence and decisions: `suites`, `eval`, `gate`, `promote`, `promotions`, `rollback`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from posttrain.service.cli.settings import Settings, json_option, server_options
from posttrain.service.cli.text import echo

if TYPE_CHECKING:
    from posttrain.service.cli.exits import Exit


@click.group()
def suites() -> None:
    """List evaluation suites, and add your own."""


@suites.command("list")
@json_option
@server_options
def list_suites(settings: Settings, as_json: bool) -> None:
    """List the suites that the server knows."""
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.text import echo_table

    with settings.connect() as client:
        found = client.list_suites()
    if as_json:
        for suite in found:
            echo_json(suite)
    else:
        rows = [[s.name, s.version, s.num_rows, ", ".join(s.metrics), s.digest[:12], s.description] for s in found]
        echo_table(["SUITE", "VERSION", "ROWS", "METRICS", "DIGEST", "DESCRIPTION"], rows)


@suites.command("add")
@click.argument("manifest", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder of its sources.  [default: the manifest's]",
)
@json_option
@server_options
def add_suite(settings: Settings, manifest: Path, root: Path | None, as_json: bool) -> None:
    """Copy a suite of your own into the store.

    MANIFEST is NAME.suite.yaml; its sources are copied too.
    """
    from posttrain.service.cli.records import echo_json

    with settings.connect() as client:
        suite = client.add_suite(str(manifest.absolute()), str(root.absolute()) if root else "")
    if as_json:
        echo_json(suite)
    else:
        echo(f"{suite.name} {suite.version}: {suite.num_rows} rows, metrics {', '.join(suite.metrics)}")


@click.command("eval")
@click.argument("version")
@click.option("--suite", "suites_", multiple=True, help="Which suite; repeatable.  [default: all]")
@click.option(
    "--template", default="own", show_default=True, metavar="own|plain|version:REF", help="How prompts are rendered."
)
@click.option(
    "--shard",
    default="gate",
    show_default=True,
    type=click.Choice(["gate", "dev"]),
    help="Which rows: gate for verdicts, dev for trying things out.",
)
@click.option(
    "--max-rows",
    default=0,
    show_default="all",
    type=click.IntRange(0),
    help="At most so many rows of each task, drawn evenly from its groups.",
)
@click.option(
    "--max-new-tokens",
    default=0,
    show_default="each task's own",
    type=click.IntRange(0),
    help="At most so many tokens an answer, where a task allows more.",
)
@click.option(
    "--repeat", is_flag=True, help="A second run, for a policy's noise floor: every answer is generated anew."
)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the scores.")
@json_option
@server_options
def evaluate(
    settings: Settings,
    version: str,
    suites_: tuple[str, ...],
    template: str,
    shard: str,
    max_rows: int,
    max_new_tokens: int,
    repeat: bool,
    wait: bool,
    as_json: bool,
) -> Exit:
    """Run suites on a version and keep a row per example.

    VERSION is NAME@NUMBER or NAME@ALIAS. With --json the evaluation run is printed, or the job with --no-wait.
    """

    async def run() -> Exit:
        from posttrain.service.cli.exits import Exit
        from posttrain.service.cli.records import echo_json
        from posttrain.service.cli.show import echo_eval_run, echo_outcome
        from posttrain.service.client import short

        async with settings.connect_async() as client:
            chosen = list(suites_) or [suite.name for suite in await client.list_suites()]
            job = await client.create_job(
                {
                    "kind": "evaluate",
                    "version": version,
                    "suites": chosen,
                    "template": _template(template),
                    "shard": shard,
                    "max_rows": max_rows,
                    "max_new_tokens": max_new_tokens,
                    "repeat": repeat,
                }
            )
            if not wait:
                if as_json:
                    echo_json(job)
                else:
                    echo(short(job.name))
                return Exit.OK
            outcome, code = await _follow(client, job.name)
            runs = [item for item in await client.list_eval_runs() if item.job == job.name]
            for item in runs:
                if as_json:
                    echo_json(item)
                else:
                    echo_eval_run(item)
            if not runs and as_json:
                echo_json(outcome.job)
            elif not runs:
                echo_outcome(outcome)
            return code

    return asyncio.run(run())


async def _follow(client: Any, job: str) -> tuple[Any, Exit]:
    from posttrain.service.cli.follow import exit_of, follow
    from posttrain.service.cli.progress import open_progress

    with open_progress() as progress:
        outcome = await follow(client, job, progress)
    return outcome, exit_of(outcome)


def _template(text: str) -> dict[str, str]:
    kind, _, ref = text.partition(":")
    if kind == "version" and ref:
        return {"type": "version", "version": ref}
    if text not in {"own", "plain"}:
        raise click.BadParameter(f"{text!r} is not own, plain or version:REF", param_hint="--template")
    return {"type": text}


@click.command()
@click.argument("version")
@click.option("--policy", default="default", show_default=True, help="The policy: which rules must hold.")
@click.option(
    "--alias", default="production", show_default=True, help="Compare also with the version that this alias names now."
)
@json_option
@server_options
def gate(settings: Settings, version: str, policy: str, alias: str, as_json: bool) -> Exit:
    """Judge a version by its stored evaluations.

    VERSION is NAME@NUMBER. Nothing is promoted; the exit code tells the verdict.
    """
    from posttrain.service.cli.follow import exit_of_verdict
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.show import echo_gate_run

    with settings.connect() as client:
        run = client.create_gate_run(version, policy, alias)
    if as_json:
        echo_json(run)
    else:
        echo_gate_run(run)
    return exit_of_verdict(run.verdict)


@click.command()
@click.argument("version")
@click.argument("alias")
@click.option(
    "--gate-run", default="", help="The gate run to rely on.  [default: the newest of this version and alias]"
)
@click.option("--reason", default="", help="For the record.")
@click.option("--validate-only", is_flag=True, help="Say what a promotion would do, and record nothing.")
@json_option
@server_options
def promote(
    settings: Settings, version: str, alias: str, gate_run: str, reason: str, validate_only: bool, as_json: bool
) -> Exit:
    """Move an alias to a version whose gate run says PASS.

    VERSION is NAME@NUMBER. A refusal is on record too.
    """
    from posttrain.service.cli.exits import Exit
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.show import echo_promotion
    from posttrain.service.proto import gates_pb2

    with settings.connect() as client:
        promotion = client.create_promotion(
            version, alias, gate_run=gate_run, reason=reason, validate_only=validate_only
        )
    if as_json:
        echo_json(promotion)
    else:
        echo_promotion(promotion)
    return Exit.OK if promotion.outcome == gates_pb2.Promotion.APPLIED else Exit.REFUSED


@click.group()
def promotions() -> None:
    """Look at promotions, those that were refused too."""


@promotions.command("list")
@click.argument("model", required=False, default="")
@click.option("--limit", default=0, show_default="all", type=click.IntRange(0), help="At most so many.")
@json_option
@server_options
def list_promotions(settings: Settings, model: str, limit: int, as_json: bool) -> None:
    """List promotions, of MODEL or of all."""
    from posttrain.service.cli.records import echo_json, enum_name
    from posttrain.service.cli.text import echo_table, moment
    from posttrain.service.client import short
    from posttrain.service.proto import gates_pb2

    with settings.connect() as client:
        found = client.list_promotions(model, limit)
    if as_json:
        for item in found:
            echo_json(item)
        return
    rows = [
        [
            short(item.name),
            enum_name(gates_pb2.Promotion.Outcome, item.outcome),
            item.version,
            item.alias,
            item.from_version or "-",
            moment(item.create_time),
            item.reason or ", ".join(reason.code for reason in item.missing),
        ]
        for item in found
    ]
    echo_table(["PROMOTION", "OUTCOME", "VERSION", "ALIAS", "BEFORE", "TIME", "REASON"], rows)


@promotions.command()
@click.argument("promotion")
@json_option
@server_options
def get(settings: Settings, promotion: str, as_json: bool) -> None:
    """Show one promotion: its outcome, and what was missing."""
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.show import echo_promotion

    with settings.connect() as client:
        found = client.get_promotion(promotion)
    if as_json:
        echo_json(found)
    else:
        echo_promotion(found)


@click.command()
@click.argument("model")
@click.argument("alias")
@click.option("--reason", required=True, help="For the record.")
@json_option
@server_options
def rollback(settings: Settings, model: str, alias: str, reason: str, as_json: bool) -> None:
    """Move an alias of a model back to what it named before."""
    from posttrain.service.cli.records import echo_json
    from posttrain.service.client import ClientError

    with settings.connect() as client:
        before = next((item for item in client.list_aliases(model) if item.alias == alias), None)
        if before is None:
            raise ClientError("NOT_FOUND", "NOT_FOUND", f"{model} has no alias {alias}")
        # The etag makes it one step back from what was seen here, whatever happens at the same moment.
        after = client.rollback_alias(model, alias, reason, before.etag)
    if as_json:
        echo_json(after)
    else:
        echo(f"{model}@{alias}: {before.version} -> {after.version}")
