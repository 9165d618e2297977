"""`posttrain plan`: what a training job will need, before it is submitted. Needs no server."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import click

from posttrain.service.cli.settings import json_option
from posttrain.service.cli.text import echo


@click.command()
@click.argument("spec", type=click.File("rb"))
@click.option(
    "--model",
    required=True,
    metavar="FOLDER",
    help="The base's Hugging Face folder, or builtin:tiny-base.",
)
@click.option("--memory", type=click.FloatRange(min=0, min_open=True), metavar="GB", help="[default: this machine's]")
@click.option("--cuda", is_flag=True, help="For a CUDA device; --memory is the device's then.")
@json_option
def plan(spec: BinaryIO, model: str, memory: float | None, cuda: bool, as_json: bool) -> None:
    """Estimate the peak memory of a training job.

    SPEC is its YAML file; "-" is standard input. Rows are taken to be as long as the spec allows. A job that cannot fit
    is an error that says what to change.
    """
    from posttrain.engine.base import BASE_DIR
    from posttrain.engine.plan import check_fits, memory_limit_bytes, memory_plan, read_shapes
    from posttrain.engine.spec import EvaluateSpec, parse_spec
    from posttrain.service.cli.records import echo_json
    from posttrain.service.cli.specfile import read_spec

    if "@" in model and not Path(model).exists():
        raise click.UsageError(f"--model {model}: a plan asks no server: give the model's folder, or builtin:tiny-base")
    job = parse_spec(read_spec(spec.read(), getattr(spec, "name", "-")).checked())
    if isinstance(job, EvaluateSpec):
        raise click.UsageError("an evaluation is not planned: its memory is the model's and that of its batch")
    if cuda and memory is None:
        raise click.UsageError("--cuda needs --memory: the device is not looked at")
    found = memory_plan(job, read_shapes(BASE_DIR if model == "builtin:tiny-base" else Path(model)), is_cuda=cuda)
    limit = memory_limit_bytes() if memory is None else round(memory * 1e9)
    if as_json:
        echo_json({"parts": found.parts, "total_bytes": found.total_bytes, "limit_bytes": limit})
    else:
        for name, number in found.parts.items():
            echo(f"{name:12} {number / 1e6:12,.0f} MB")
        echo(f"{'in all':12} {found.total_bytes / 1e6:12,.0f} MB of {limit / 1e6:,.0f}")
    check_fits(found, limit, job)
