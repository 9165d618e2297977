"""`posttrain demo`: from a base model to a promoted instruct model, over the real service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from posttrain.service.cli.settings import Settings, json_option, server_options
from posttrain.service.cli.text import echo, seconds, warn

if TYPE_CHECKING:
    from posttrain.service.cli.follow import Outcome
    from posttrain.service.cli.progress import Progress
    from posttrain.service.client import AsyncClient
    from posttrain.service.proto import datasets_pb2, models_pb2

T = TypeVar("T")
SPEC_FILE: Final = "demo_ift.yaml"
BASE: Final = ("tiny-base", "builtin:tiny-base")
DATASET: Final = "demo-ift"
SABOTAGE: Final = 100.0  # on the learning rate: the weights end as noise


@click.command()
@click.option(
    "--sabotage", is_flag=True, help="Train a bad candidate on purpose (learning rate x 100): the gate has to block it."
)
@json_option
@server_options
def demo(settings: Settings, sabotage: bool, as_json: bool) -> int:
    """Train, judge and promote the model inside this package.

    It takes a few minutes on two cores.

    Uses the server of the data folder, or starts one and stops it at the end. A second run makes version 2, judged
    against version 1. With --json the last line of standard output is the result.
    """
    from posttrain.service.cli.demo_report import as_record, echo_result
    from posttrain.service.cli.follow import exit_of
    from posttrain.service.cli.progress import open_progress
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.spawn import running_server

    started = time.monotonic()
    with open_progress() as progress, running_server(settings) as (address, is_own):
        progress.note(
            f"{'started a server' if is_own else 'using the server'} at {address}, data folder {settings.home}"
        )
        result = asyncio.run(_run(address, is_own, sabotage, progress))
    took_s = time.monotonic() - started
    record = as_record(result, took_s)
    if as_json:
        echo_json(record)
    else:
        echo_result(result, record)
        echo(f"all of it took {seconds(took_s)}; look around: posttrain tui --serve --home {settings.home}")
    return exit_of(result)


async def _run(address: str, is_own: bool, sabotage: bool, progress: Progress) -> Outcome:
    from posttrain.service.cli.follow import follow
    from posttrain.service.client import AsyncClient, short

    async with AsyncClient(address) as client:
        base = await _base(client, progress)
        dataset = await _dataset(client, progress)
        job = await client.create_job(demo_spec(base.ref, dataset.ref, sabotage))
        try:
            return await follow(client, job.name, progress)
        except asyncio.CancelledError:
            if is_own:
                await client.cancel_job(job.name)
                warn(f"cancelled {short(job.name)}")
            else:
                warn(f"the job goes on: posttrain jobs watch {short(job.name)}")
            raise


def demo_spec(base: str, dataset: str, sabotage: bool = False) -> dict[str, Any]:
    """The spec that is submitted, as a plain dict."""
    from importlib.resources import files

    from posttrain.service.cli.specfile import read_spec

    file = read_spec((files("posttrain.service.cli") / SPEC_FILE).read_bytes(), SPEC_FILE)
    file.plain["base"] = base
    file.plain["data"][0]["dataset"] = dataset
    spec = file.checked()
    if sabotage:
        spec["display_name"] += f", sabotaged (learning rate x {SABOTAGE:g})"
        spec["optimizer"]["learning_rate"] *= SABOTAGE
    return spec


async def _base(client: AsyncClient, progress: Progress) -> models_pb2.ModelVersion:
    """The base model's newest version; imported the first time."""
    name, source = BASE
    known = [item for item in await _or_none(client.list_models(name)) if item.source == source]
    if known:
        return max(known, key=lambda item: int(item.ref.rpartition("@")[2]))
    progress.note(f"importing {source}")
    return await client.import_model(name, source)


async def _dataset(client: AsyncClient, progress: Progress) -> datasets_pb2.DatasetVersion:
    """The sealed version with the digest of the package's file; added if there is none."""
    import hashlib
    from importlib.resources import as_file, files

    with as_file(files("posttrain.evals") / "suites" / "data" / "ift.jsonl") as path:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        for item in await _or_none(client.list_datasets(DATASET)):
            if item.sealed and item.sha256 == digest:
                return item
        what = f"upload {DATASET}"
        added = await client.add_dataset(
            DATASET, path, "comes with this package", lambda done, total: progress.update(what, done, total)
        )
        progress.finish(what)
        return added


async def _or_none(listing: Awaitable[list[T]]) -> list[T]:
    """A list, empty if the thing whose versions are asked for does not exist yet."""
    from posttrain.service.client import ClientError

    try:
        return await listing
    except ClientError as error:
        if error.code == "NOT_FOUND":
            return []
        raise
