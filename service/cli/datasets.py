"""`posttrain datasets`."""

from __future__ import annotations

from pathlib import Path

import click

from posttrain.service.cli.settings import Settings, json_option, server_options
from posttrain.service.cli.text import warn


@click.group()
def datasets() -> None:
    """Add datasets and look at them."""


@datasets.command()
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path))
@click.option("--source", default="", help="Where it comes from, for the record.  [default: the file's name]")
@json_option
@server_options
def add(settings: Settings, name: str, file: Path, source: str, as_json: bool) -> None:
    """Upload a file as the next version of a dataset.

    FILE is JSONL of messages, prompt/completion, Alpaca, ShareGPT, preference or labelled rows. Every row is checked,
    and the version is sealed: it never changes after that. If a row is wrong, nothing is sealed.
    """
    from posttrain.service.cli.progress import open_progress
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.show import echo_dataset

    what = f"upload {file.name}"
    with settings.connect() as client, open_progress() as progress:
        uploaded = client.upload_dataset(
            name, file, source or file.name, lambda done, total: progress.update(what, done, total)
        )
        progress.finish(what)
        progress.note("checking every row")
        sealed = client.seal_dataset(uploaded.name)
    if as_json:
        echo_json(sealed)
    else:
        echo_dataset(sealed)
        warn(f"use it in a spec: data: [{{dataset: {sealed.ref}}}]")


@datasets.command("list")
@click.argument("name", required=False, default="")
@click.option("--limit", default=0, show_default="all", type=click.IntRange(0), help="At most so many.")
@json_option
@server_options
def list_datasets(settings: Settings, name: str, limit: int, as_json: bool) -> None:
    """List dataset versions, of NAME or of all."""
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.show import echo_datasets

    with settings.connect() as client:
        found = client.list_datasets(name, limit)
    if as_json:
        for item in found:
            echo_json(item)
    else:
        echo_datasets(found)


@datasets.command()
@click.argument("ref")
@json_option
@server_options
def get(settings: Settings, ref: str, as_json: bool) -> None:
    """Show one version: NAME@NUMBER, or NAME for the newest."""
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.show import echo_dataset

    with settings.connect() as client:
        found = client.get_dataset(ref)
    if as_json:
        echo_json(found)
    else:
        echo_dataset(found)
