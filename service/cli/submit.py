"""`posttrain init` and `posttrain submit`: a spec's file, and the job that it makes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from posttrain.service.cli.settings import Settings, json_option, server_options
from posttrain.service.cli.text import echo, warn

if TYPE_CHECKING:
    from posttrain.service.cli.exits import Exit
    from posttrain.service.cli.specfile import SpecFile
    from posttrain.service.client import AsyncClient
    from posttrain.service.proto import jobs_pb2


class SpecKind(click.ParamType[str]):
    """A job kind of spec.py, which is loaded only when one is given."""

    name = "kind"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from posttrain.engine.spec import KINDS

        if value not in KINDS:
            self.fail(f"{value!r} is not one of {', '.join(KINDS)}", param, ctx)
        return value


@click.command()
@click.argument("kind", type=SpecKind())
@click.argument("file", required=False, type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
def init(kind: str, file: Path | None) -> None:
    """Write a commented spec with all options.

    KIND is what the job does. FILE is KIND.yaml if it is left out, and standard output if it is "-". An existing
    file is never overwritten.
    """
    from posttrain.service.cli.template import template

    if file == Path("-"):
        click.echo(template(kind), nl=False)
        return
    target = file or Path(f"{kind}.yaml")
    try:
        with open(target, "x", encoding="utf-8") as out:
            out.write(template(kind))
    except FileExistsError:
        raise click.UsageError(f"{target} exists already; name another file, or remove it first") from None
    except OSError as error:
        raise click.UsageError(f"{target}: {error.strerror}") from error
    warn(f"wrote {target}; then: posttrain submit {target} --wait")


@click.command()
@click.argument("spec", type=click.File("rb"))
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="OPTION=VALUE",
    help="Change an option: optimizer.learning_rate=1e-4, 'duration={type: steps, max_steps: 5}'. Repeatable.",
)
@click.option(
    "--wait/--no-wait", default=False, help="Follow the job and its chain to the end; the exit code tells how it ended."
)
@click.option("--validate-only", is_flag=True, help="Let the server check the spec, and queue nothing.")
@json_option
@server_options
def submit(
    settings: Settings, spec: BinaryIO, assignments: tuple[str, ...], wait: bool, validate_only: bool, as_json: bool
) -> Exit:
    """Queue the job that a YAML file describes.

    SPEC is the file; "-" is standard input.
    """
    from posttrain.service.cli.specfile import read_spec

    file = read_spec(spec.read(), getattr(spec, "name", "-"))
    for assignment in assignments:
        file.set(assignment)
    plain = file.checked()

    async def run() -> Exit:
        async with settings.connect_async() as client:
            job = await _create(client, file, plain, validate_only)
            if validate_only:
                warn("the spec is fine; nothing was queued")
            return await finish(client, job, wait and not validate_only, as_json, "queued", "waiting")

    return asyncio.run(run())


async def _create(client: AsyncClient, file: SpecFile, plain: dict[str, object], validate_only: bool) -> jobs_pb2.Job:
    """Creates the job; what the server finds wrong is named with its line, as what was found here."""
    from posttrain.service.cli.specfile import parse_path
    from posttrain.service.client import ClientError
    from posttrain.service.client.specs import Problem

    try:
        return await client.create_job(plain, validate_only=validate_only)
    except ClientError as error:
        if error.code != "INVALID_ARGUMENT" or not error.fields:
            raise
        raise file.error([Problem(parse_path(path), text) for path, text in error.fields]) from error


async def finish(client: AsyncClient, job: jobs_pb2.Job, wait: bool, as_json: bool, done: str, doing: str) -> Exit:
    """Prints a job, or follows it and prints how it ended.

    Args:
        done: what happened to the job so far: "queued".
        doing: what Ctrl-C stops: "waiting".
    """
    from posttrain.service.cli.exits import Exit
    from posttrain.service.cli.follow import exit_of, follow, outcome_of
    from posttrain.service.cli.progress import open_progress
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.show import echo_outcome
    from posttrain.service.client import is_over, short

    name = short(job.name)
    if not wait:
        if as_json:
            echo_json(job)
        else:
            echo(name)
        return Exit.OK
    try:
        if is_over(job):
            outcome = await outcome_of(client, job)
        else:
            with open_progress() as progress:
                progress.note(f"{done} {name}; Ctrl-C stops the {doing}, not the job")
                outcome = await follow(client, job.name, progress)
    except asyncio.CancelledError:
        warn(f"the job goes on: posttrain jobs watch {name}, or: posttrain jobs cancel {name}")
        raise
    if as_json:
        echo_json(outcome.job)
    else:
        echo_outcome(outcome)
    return exit_of(outcome)
