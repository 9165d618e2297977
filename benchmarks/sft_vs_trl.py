"""SFT training speed of the engine against TRL's SFTTrainer, on equal work.

See benchmarks/README.md.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

import click

from posttrain.engine.base import BASE_DIR
from posttrain.engine.data.template import CHATML, TURN_END

ROOT = Path(__file__).resolve().parent.parent
ROWS_FILE = ROOT / "evals" / "suites" / "data" / "ift.jsonl"
WORKER = Path(__file__).resolve().with_name("sft_worker.py")
PACKAGES = ("posttrain", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers")
SAME_LOSS = 1e-4  # relative, of the first step: before any update both sides compute the same number
SMOKE = {"rows": 12, "batch_rows": 4, "steps": 3, "pairs": 1, "peer_settings": "grouped:4,packed:256"}
MIB = 2**20

Result = dict[str, Any]


@click.command(context_settings={"show_default": True})
@click.option("--rows", type=click.IntRange(1), default=512, help="First rows of the instruction data.")
@click.option("--batch-rows", type=click.IntRange(1), default=32, help="Rows per optimiser step, on both sides.")
@click.option("--steps", type=click.IntRange(2), default=11, help="Optimiser steps; the first is not timed.")
@click.option("--pairs", type=click.IntRange(1), default=5, help="Runs of engine and peer, next to each other.")
@click.option("--adapter", "adapters", type=click.Choice(["full", "lora"]), multiple=True, help="Default: both.")
@click.option(
    "--peer-settings",
    default="padded:8,grouped:4,packed:256,packed:1024",
    help="TRL's settings to run, with commas between: padded:ROWS, grouped:ROWS (padded, but sorted by length within "
    "a step) or packed:TOKENS, of one forward pass. The engine is compared with the fastest.",
)
@click.option("--seed", type=click.IntRange(0), default=0)
@click.option("--smoke", is_flag=True, help="Tiny sizes, one pair: shows that it works, measures nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print all runs and results as JSON instead of the table.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write that JSON to a file.")
@click.pass_context
def main(context: click.Context, as_json: bool, out: Path | None, smoke: bool, **sizes: Any) -> None:
    """Measures trained-step time and tokens per second, full and LoRA r 16, in separate interleaved processes."""
    if util.find_spec("trl") is None:
        raise click.ClickException("TRL is not installed; it comes with the extra: pip install -e '.[bench]'")
    if smoke:
        given = click.core.ParameterSource.COMMANDLINE
        sizes.update({key: value for key, value in SMOKE.items() if context.get_parameter_source(key) != given})
    settings = parse_settings(sizes["peer_settings"], sizes["batch_rows"])
    adapters = list(dict.fromkeys(sizes.pop("adapters"))) or ["full", "lora"]
    sizes.pop("peer_settings")

    def tell(text: str) -> None:
        click.echo(text, err=True)

    load = os.getloadavg()  # before our own
    with tempfile.TemporaryDirectory(prefix="sft-vs-trl-") as name:
        runs = measure(Path(name), sizes, adapters, settings, tell)
    report = {"environment": environment(runs[0]["engine"]["threads"], load), **summarise(runs, sizes)}
    text = json.dumps(report, indent=1, allow_nan=False)
    if out is not None:
        out.write_text(text + "\n", "utf-8")
    click.echo(text if as_json else table(report))


def parse_settings(text: str, batch_rows: int) -> list[str]:
    """`padded:8,packed:1024` as a list, checked."""
    settings = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for setting in settings:
        layout, _, size = setting.partition(":")
        if layout not in ("padded", "grouped", "packed") or not size.isdecimal() or int(size) < 1:
            raise click.BadParameter(
                f"{setting!r} is none of padded:ROWS, grouped:ROWS, packed:TOKENS", param_hint="--peer-settings"
            )
        if layout != "packed" and batch_rows % int(size):
            raise click.BadParameter(
                f"{setting}: {batch_rows} rows a step cannot be cut into passes of {size}", param_hint="--peer-settings"
            )
    if not settings:
        raise click.BadParameter("names no setting", param_hint="--peer-settings")
    return settings


# -- runs --------------------------------------------------------------------------------------------------------------


def prepare(folder: Path, num_rows: int) -> dict[str, str]:
    """The shipped base with a chat template and its stop token, and the first rows: the same files for both sides.

    A template that is there beforehand keeps what instruction tuning adds (trained rows of new tokens) out of it.
    """
    base, data = folder / "base", folder / "rows.jsonl"
    shutil.copytree(BASE_DIR, base)
    (base / "chat_template.jinja").write_text(CHATML, "utf-8")
    added = json.loads((base / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    stop_id = next(token["id"] for token in added if token["content"] == TURN_END)
    for name in ("tokenizer_config.json", "config.json", "generation_config.json"):
        values = json.loads((base / name).read_text("utf-8"))
        if name == "tokenizer_config.json":
            values.update(pad_token=values["eos_token"], eos_token=TURN_END)
        else:
            values.update(pad_token_id=values["eos_token_id"], eos_token_id=stop_id)
        (base / name).write_text(json.dumps(values), "utf-8")
    lines = ROWS_FILE.read_bytes().splitlines(keepends=True)[:num_rows]
    if len(lines) < num_rows:
        raise click.ClickException(f"{ROWS_FILE.name} has only {len(lines)} rows")
    data.write_bytes(b"".join(lines))
    return {"base": str(base), "data": str(data)}


def measure(
    folder: Path, sizes: dict[str, Any], adapters: Sequence[str], settings: Sequence[str], tell: Callable[[str], None]
) -> list[Result]:
    """Engine, peer, engine, peer, ... for each adapter and setting; every other pair begins with the peer."""
    inputs = prepare(folder, sizes["rows"])
    runs: list[Result] = []
    for pair in range(1, sizes["pairs"] + 1):
        for adapter in adapters:
            for setting in settings:
                sides = ["engine", "peer"] if pair % 2 else ["peer", "engine"]
                found = {}
                for side in sides:
                    job = {**inputs, **sizes, "side": side, "adapter": adapter, "setting": setting}
                    found[side] = run_worker(folder, len(runs) * 2 + len(found), job)
                check_equal_work(found["engine"], found["peer"])
                runs.append({"pair": pair, "adapter": adapter, "peer_setting": setting, **found})
                engine, peer = (speed(found[side]) for side in ("engine", "peer"))
                tell(
                    f"pair {pair}, {adapter}: engine {engine:,.0f} tokens/s, TRL {setting} {peer:,.0f} tokens/s, "
                    f"ratio {engine / peer:.2f}"
                )
    return runs


def run_worker(folder: Path, number: int, job: dict[str, Any]) -> Result:
    """One run in a process of its own.

    Raises:
        click.ClickException: it failed; shows the end of what it said.
    """
    place = folder / f"run-{number}"
    place.mkdir()
    job_file, result_file = place / "job.json", place / "result.json"
    # Nothing is fetched, and what libraries keep goes with the folder.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "PYTHONWARNINGS": "ignore"}
    job_file.write_text(json.dumps({**job, "folder": str(place / "out"), "launched": time.time()}), "utf-8")
    done = subprocess.run(
        [sys.executable, str(WORKER), str(job_file), str(result_file)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode or not result_file.exists():
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise click.ClickException(f"the {job['side']}'s run ({job['adapter']}, {job['setting']}) failed:\n{tail}")
    result: Result = json.loads(result_file.read_text("utf-8"))
    shutil.rmtree(place)
    return result


def check_equal_work(engine: Result, peer: Result) -> None:
    """Refuses to compare runs that did not do the same.

    Raises:
        click.ClickException: says what differs.
    """
    for name in ("digest", "step_tokens", "trained_tokens", "trained_parameters", "threads"):
        if engine[name] != peer[name]:
            raise click.ClickException(f"unequal work: {name} is {engine[name]} here and {peer[name]} at TRL")
    steps = len(engine["step_tokens"])
    if not all(len(side[name]) == steps for side in (engine, peer) for name in ("losses", "ends_s")):
        raise click.ClickException(f"unequal work: not every one of {steps} steps was reported")
    first, other = engine["losses"][0], peer["losses"][0]
    if not math.isclose(first, other, rel_tol=SAME_LOSS):
        raise click.ClickException(f"unequal work: the first step's loss is {first} here and {other} at TRL")


# -- results -----------------------------------------------------------------------------------------------------------


def step_times(run: Result) -> list[float]:
    """Seconds from the end of a step to the end of the next: all but the first, the warm-up."""
    return [after - before for before, after in zip(run["ends_s"], run["ends_s"][1:], strict=False)]


def speed(run: Result) -> float:
    """Real tokens per second over the timed steps."""
    return float(sum(run["step_tokens"][1:]) / sum(step_times(run)))


def side_summary(runs: Sequence[Result]) -> dict[str, float]:
    """Medians over runs; the peak is the largest."""
    return {
        "tokens_per_s": statistics.median(speed(run) for run in runs),
        "step_s": statistics.median(seconds for run in runs for seconds in step_times(run)),
        "startup_s": statistics.median(run["startup_s"] for run in runs),
        "peak_mib": max(run["peak_bytes"] for run in runs) / MIB,
        "final_loss": runs[-1]["losses"][-1],
    }


def summarise(runs: Sequence[Result], sizes: dict[str, Any]) -> dict[str, Any]:
    """Sizes, work, one result per adapter and setting, and all runs."""
    results = []
    for adapter, setting in dict.fromkeys((run["adapter"], run["peer_setting"]) for run in runs):
        here = [run for run in runs if (run["adapter"], run["peer_setting"]) == (adapter, setting)]
        ratios = [speed(run["engine"]) / speed(run["peer"]) for run in here]
        both = [pair for run in here for pair in zip(run["engine"]["losses"], run["peer"]["losses"], strict=True)]
        results.append(
            {
                "adapter": adapter,
                "peer_setting": setting,
                "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
                "engine": side_summary([run["engine"] for run in here]),
                "peer": side_summary([run["peer"] for run in here]),
                "final_loss_difference": abs(here[-1]["engine"]["losses"][-1] - here[-1]["peer"]["losses"][-1]),
                "largest_loss_difference": max(abs(engine - peer) for engine, peer in both),
            }
        )
    for result in results:
        rivals = [other for other in results if other["adapter"] == result["adapter"]]
        result["is_peers_best"] = result is max(rivals, key=lambda other: other["peer"]["tokens_per_s"])
    one = runs[0]["engine"]
    work = {
        "digest": one["digest"],
        "step_tokens": one["step_tokens"],
        "trained_tokens": one["trained_tokens"],
        "trained_parameters": {run["adapter"]: run["engine"]["trained_parameters"] for run in runs},
        "dtype": "float32",
    }
    return {"sizes": sizes, "work": work, "results": results, "runs": list(runs)}


def environment(threads: int, load: Sequence[float]) -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_average_before": list(load),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    where, work, sizes = report["environment"], report["work"], report["sizes"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    timed = work["step_tokens"][1:]
    load = where["load_average_before"][0]
    lines = [
        f"{where['cpu']}, {where['cores']} cores, {where['threads']} threads, load before {load:.1f}",
        f"Python {where['python']}, {versions}",
        f"{sizes['batch_rows']} rows and {min(timed)}-{max(timed)} tokens a step (no padding counted), "
        f"{len(timed)} timed steps after one for warm-up, {sizes['pairs']} pairs, {work['dtype']}",
        "",
        f"{'adapter':8}{'TRL setting':15}{'tokens/s':>16}{'s a step':>16}{'ratio (min-max)':>21}"
        f"{'peak MiB':>13}{'start-up s':>13}{'final loss':>17}{'differs by':>12}",
    ]
    for result in report["results"]:
        engine, peer, ratio = result["engine"], result["peer"], result["ratio"]
        spread = f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"
        lines.append(
            f"{result['adapter']:8}{result['peer_setting'] + (' *' if result['is_peers_best'] else ''):15}"
            f"{versus(engine, peer, 'tokens_per_s', ',.0f'):>16}{versus(engine, peer, 'step_s', '.3f'):>16}"
            f"{spread:>21}{versus(engine, peer, 'peak_mib', '.0f'):>13}{versus(engine, peer, 'startup_s', '.1f'):>13}"
            f"{versus(engine, peer, 'final_loss', '.4f'):>17}{result['largest_loss_difference']:>12.1e}"
        )
    best = [result for result in report["results"] if result["is_peers_best"]]
    lines += [
        "",
        "engine / TRL in each column; * is TRL's fastest setting, which the engine is compared with:",
        *(
            f"  {result['adapter']}: {result['ratio']['median']:.2f} times TRL's speed "
            f"({result['ratio']['min']:.2f}-{result['ratio']['max']:.2f} over {sizes['pairs']} pairs)"
            for result in best
        ),
    ]
    if sizes["pairs"] < 5:
        lines.append("Fewer than 5 pairs: this shows that it works, and is no measurement.")
    return "\n".join(lines)


def versus(engine: dict[str, float], peer: dict[str, float], key: str, form: str) -> str:
    return f"{engine[key]:{form}} / {peer[key]:{form}}"


if __name__ == "__main__":
    main()
