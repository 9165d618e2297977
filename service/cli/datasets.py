"""`posttrain datasets`."""

from __future__ import annotations

from pathlib import Path

import click

from posttrain.service.cli.check import check
from posttrain.service.cli.settings import Settings, json_option, server_options
from posttrain.service.cli.text import warn


@click.group()
def datasets() -> None:
    """Add datasets and look at them."""


datasets.add_command(check)


@datasets.command()
@click.argument("name")
@click.argument("source", metavar="FILE")
@click.option("--source", "origin", default="", help="Where it comes from, for the record.  [default: the file's name]")
@click.option(
    "--on-bad-row",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="fail: nothing is sealed; skip: bad rows are left out, counted and recorded.",
)
@click.option("--deduplicate", is_flag=True, help="Leave out rows that mean the same as an earlier one.")
@click.option(
    "--held-out",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    metavar="SHARE",
    help="Put the rows of about this share of prompts into a second dataset, NAME-held-out.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of that choice.")
@click.option("--split", default="train", show_default=True, help="Which split of a hub dataset.")
@click.option("--config", default="", help="Which configuration of a hub dataset.  [default: its only one]")
@click.option("--revision", default="main", show_default=True, help="Which commit, tag or branch of a hub dataset.")
@json_option
@server_options
def add(
    settings: Settings,
    name: str,
    source: str,
    origin: str,
    on_bad_row: str,
    deduplicate: bool,
    held_out: float,
    seed: int,
    split: str,
    config: str,
    revision: str,
    as_json: bool,
) -> None:
    """Upload rows as the next version of a dataset.

    FILE is JSONL, JSON (a list of rows), CSV, TSV or Parquet, a folder of such files, or ORG/NAME on the Hugging Face
    hub. Rows are messages, prompt/completion, Alpaca, ShareGPT, preference, labelled ones or prompts. Every row is
    checked, and the version is sealed: it never changes after that. If a row is wrong, nothing is sealed, unless it may
    be skipped; the number stays with what was uploaded, and the next one is a higher one.
    """
    from posttrain.engine.data.sources import HUB_NAME, KINDS, HubSource, prepared, shown_name
    from posttrain.service.cli.progress import open_progress
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.show import echo_dataset
    from posttrain.service.client import ClientError

    path = Path(source)
    given: Path | HubSource = path
    if not path.exists():
        if not HUB_NAME.fullmatch(source):
            raise click.UsageError(f"{source}: no such file or folder, and no ORG/NAME of the hub")
        if path.suffix.lower() in KINDS or path.parent.is_dir():
            raise click.UsageError(f"{source}: no such file")  # mistyped: its name is not told to the hub
        given = HubSource(source, split, config, revision)
    told = origin or shown_name(Path(path.name))  # refused before anything is read or sent
    what = f"upload {path.name}"
    with settings.connect() as client, open_progress() as progress:
        with prepared(given, lambda num_rows: progress.update(f"read {path.name}", num_rows, 0)) as rows:
            for note in rows.notes:
                progress.note(note)
            uploaded = client.upload_dataset(
                name,
                rows.path,
                told,
                lambda done, total: progress.update(what, done, total),
            )
        progress.finish(what)
        progress.note("checking every row")
        try:
            sealed = client.seal_dataset(uploaded.name, on_bad_row, deduplicate, held_out, seed, rows.files)
        except ClientError as error:
            if error.code == "INVALID_ARGUMENT":
                progress.note(f"{uploaded.ref} stays open and no job takes it; the next upload has a higher number")
            raise
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


@datasets.command()
@click.argument("ref")
@click.option("--model", required=True, metavar="VERSION", help="Whose tokenizer, template and context are meant.")
@click.option("--template", default="", metavar="NAME", help="A built-in chat template.  [default: the model's own]")
@click.option(
    "--max-tokens",
    default=0,
    show_default="the model's context",
    type=click.IntRange(0, 2**31 - 1),
    help="Longest row: what is above it is counted.",
)
@json_option
@server_options
def stats(settings: Settings, ref: str, model: str, template: str, max_tokens: int, as_json: bool) -> None:
    """Count tokens as a job would: lengths, what is too long, what is trained."""
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.show import echo_statistics

    with settings.connect() as client:
        found = client.measure_dataset(ref, model, template, max_tokens)
    if as_json:
        echo_json(found)
    else:
        echo_statistics(found)
