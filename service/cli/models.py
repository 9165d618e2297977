"""`posttrain models`."""

from __future__ import annotations

from pathlib import Path

import click

from posttrain.service.cli.settings import Settings, json_option, server_options
from posttrain.service.cli.text import echo


@click.group()
def models() -> None:
    """Import base models; list, inspect and export versions."""


@models.command("import")
@click.argument("name")
@click.argument("source")
@click.option("--validate-only", is_flag=True, help="Check it, and register nothing.")
@json_option
@server_options
def import_model(settings: Settings, name: str, source: str, validate_only: bool, as_json: bool) -> None:
    """Register SOURCE as the next version of model NAME.

    SOURCE is a Hugging Face folder, a .gguf file, a hub id (ORGANISATION/MODEL), or builtin:tiny-base, which comes with
    this package. Weights are read as safetensors or GGUF only.
    """
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.show import echo_model

    local = Path(source).expanduser()
    with settings.connect() as client:
        found = client.import_model(
            name, str(local.absolute()) if local.exists() else source, validate_only=validate_only
        )
    if as_json:
        echo_json(found)
    else:
        echo_model(found)


@models.command("list")
@click.argument("name", required=False, default="")
@click.option("--limit", default=0, show_default="all", type=click.IntRange(0), help="At most so many.")
@json_option
@server_options
def list_models(settings: Settings, name: str, limit: int, as_json: bool) -> None:
    """List versions, of model NAME or of all."""
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.show import echo_models

    with settings.connect() as client:
        found = client.list_models(name, limit)
    if as_json:
        for item in found:
            echo_json(item)
    else:
        echo_models(found)


@models.command()
@click.argument("ref")
@json_option
@server_options
def get(settings: Settings, ref: str, as_json: bool) -> None:
    """Show one version.

    REF is NAME@NUMBER, NAME@ALIAS, or NAME for the newest.
    """
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.show import echo_model

    with settings.connect() as client:
        found = client.get_model(ref)
    if as_json:
        echo_json(found)
    else:
        echo_model(found)


@models.command()
@click.argument("ref", required=False, default="")
@json_option
@server_options
def lineage(settings: Settings, ref: str, as_json: bool) -> None:
    """Show what a version comes from and what came of it.

    Without REF, all versions.
    """
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.show import echo_lineage

    with settings.connect() as client:
        found = client.get_lineage(ref)
    if as_json:
        echo_json(found)
    else:
        echo_lineage(found)


@models.command()
@click.argument("ref")
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
@server_options
def export(settings: Settings, ref: str, folder: Path, as_json: bool) -> None:
    """Write a version as an ordinary Hugging Face folder.

    With a model card. FOLDER must not exist.
    """
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.text import num_bytes

    with settings.connect() as client:
        written = client.export_model(ref, str(folder.expanduser().absolute()))
    if as_json:
        echo_json(written)
    else:
        echo(f"{written.folder}  {num_bytes(written.num_bytes)}")
