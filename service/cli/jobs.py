"""`posttrain jobs`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from posttrain.service.cli.settings import Settings, json_option, server_options
from posttrain.service.cli.text import echo

if TYPE_CHECKING:
    from posttrain.service.cli.exits import Exit


@click.group()
def jobs() -> None:
    """Look at jobs, follow them, stop them."""


@jobs.command("list")
@click.option("--state", default="", help="Only jobs in this state, e.g. RUNNING.")
@click.option("--kind", default="", help="Only jobs of this kind, e.g. ift.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(0), help="At most so many; 0: all.")
@json_option
@server_options
def list_jobs(settings: Settings, state: str, kind: str, limit: int, as_json: bool) -> None:
    """List jobs, newest first."""
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.show import echo_jobs

    terms = [f"state:{state.upper()}" if state else "", f"kind:{kind}" if kind else ""]
    with settings.connect() as client:
        found = client.list_jobs(" ".join(filter(None, terms)), limit)
    if as_json:
        for job in found:
            echo_json(job)
    else:
        echo_jobs(found)


@jobs.command()
@click.argument("job")
@json_option
@server_options
def get(settings: Settings, job: str, as_json: bool) -> None:
    """Show one job: state, error, chain and spec."""
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.show import echo_job

    with settings.connect() as client:
        found = client.get_job(job)
    if as_json:
        echo_json(found)
    else:
        echo_job(found)


@jobs.command()
@click.argument("job", required=False, default="")
@json_option
@server_options
def watch(settings: Settings, job: str, as_json: bool) -> Exit:
    """Follow a job and its chain to the end, or all jobs.

    The exit code tells how JOB ended; without JOB, all jobs are shown until Ctrl-C. With --json each change is one
    line: the job as it is then.
    """
    from posttrain.service.cli.exits import Exit
    from posttrain.service.cli.follow import PATIENCE_S, Shown, exit_of, outcome_of
    from posttrain.service.cli.progress import open_progress
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.submit import finish

    async def run() -> Exit:
        async with settings.connect_async() as client:
            if job:
                found = await client.get_job(job)
                if not as_json:
                    return await finish(client, found, True, False, "following", "following")
                ended = await client.wait_job(job, echo_json, PATIENCE_S)
                return exit_of(await outcome_of(client, ended))
            await client.check_health()
            with open_progress() as progress:
                shown = Shown(progress, echo)
                async for change in client.watch(patience_s=PATIENCE_S):
                    if change.HasField("job"):
                        (echo_json if as_json else shown.job)(change.job)
            return Exit.OK

    return asyncio.run(run())


@jobs.command()
@click.argument("job")
@click.option("--attempt", default=0, show_default="the newest", type=click.IntRange(0), help="Which attempt.")
@click.option(
    "--tail", default=0, show_default="all of it", type=click.IntRange(0, 1000), help="Only the last so many lines."
)
@click.option("--follow", "-f", is_flag=True, help="Wait for more until the job is over.")
@click.option("--events", is_flag=True, help="The job's events instead of the worker's output.")
@json_option
@server_options
def logs(settings: Settings, job: str, attempt: int, tail: int, follow: bool, events: bool, as_json: bool) -> None:
    """Print what a job's worker wrote, or its events."""
    if events:
        if follow:
            raise click.UsageError("--events shows what has happened so far; to follow a job: posttrain jobs watch JOB")
        _print_events(settings, job, attempt, tail, as_json)
        return
    asyncio.run(_print_logs(settings, job, attempt, tail, follow, as_json))


async def _print_logs(settings: Settings, job: str, attempt: int, tail: int, follow: bool, as_json: bool) -> None:
    from posttrain.service.cli.records import echo_json
    from posttrain.service.client import is_over

    async with settings.connect_async() as client:
        token, is_first = "", True
        while True:
            # Asked before the lines are: a job that was over then has no lines after these.
            is_last = not follow or is_over(await client.get_job(job))
            page = await client.list_job_logs(
                job, attempt, page_size=tail if is_first else 0, page_token=token, tail=bool(tail) and is_first
            )
            token, is_first = page.next_page_token, False
            for line in page.lines:
                if as_json:
                    echo_json({"line": line})
                else:
                    echo(line.rpartition("\r")[2])  # of a bar that rewrote itself, its last state
            if not page.lines:
                if is_last:
                    return
                await asyncio.sleep(0.5)


def _print_events(settings: Settings, job: str, attempt: int, tail: int, as_json: bool) -> None:
    from posttrain.service.cli.records import echo_json, enum_name
    from posttrain.service.cli.text import moment
    from posttrain.service.proto import jobs_pb2

    with settings.connect() as client:
        found = [event for event in client.list_job_events(job) if attempt in (0, event.attempt)]
    for event in found[-tail:] if tail else found:
        if as_json:
            echo_json(event)
            continue
        states = [enum_name(jobs_pb2.JobState, state) for state in (event.from_state, event.to_state) if state]
        what = "  ".join(filter(None, [event.type, " -> ".join(states), event.message]))
        echo(f"{moment(event.time)}  attempt {event.attempt}  {what}")


@jobs.command()
@click.argument("job")
@json_option
@server_options
def cancel(settings: Settings, job: str, as_json: bool) -> None:
    """Ask a job to stop. It shows CANCELLING until its worker has gone."""
    from posttrain.service.cli.follow import state_text
    from posttrain.service.cli.records import echo_json
    from posttrain.service.client import short

    with settings.connect() as client:
        found = client.cancel_job(job)
    if as_json:
        echo_json(found)
    else:
        echo(f"{short(found.name)}: {state_text(found)}")
