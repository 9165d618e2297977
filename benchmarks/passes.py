"""What the size of a forward pass costs: `batch.micro_tokens` against rate and peak memory, on the engine's side alone.

    python -m benchmarks.passes [--only sft_lora] [--model 135m] [--steps 4] [--json FILE]

The rows are those of `python -m benchmarks`; each line comes from a process of its own. No loss depends on it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.alone import peak_bytes
from benchmarks.workload import ENTRIES, SIZES, num_tokens, steps_of
from posttrain.engine.data.encoded import AnyRow

MICRO_TOKENS = (256, 512, 1024, 4096)


def measure(name: str, model: str, micro_tokens: int, num_steps: int) -> dict[str, Any]:
    """Median tokens/s of `num_steps` steps after one to warm up, and this process's peak in MB."""
    from benchmarks.ours import Ours

    size, entry = SIZES[model], ENTRIES[name]
    num_rows = size.rows if entry.kind == "sft" else size.rows // 2
    entry = replace(entry, options={**entry.options, "batch": {"num_rows": num_rows, "micro_tokens": micro_tokens}})
    rates: list[float] = []

    def on_step(rows: Sequence[AnyRow], loss: float, seconds: float) -> None:
        rates.append(num_tokens(rows) / seconds)

    with tempfile.TemporaryDirectory(prefix="passes-") as folder:
        Ours(entry, model, steps_of(entry, model, size.rows, 1 + num_steps)).run(Path(folder), on_step)
    return {
        "name": name,
        "model": model,
        "micro_tokens": micro_tokens,
        "tokens_s": statistics.median(rates[1:]),
        "peak_mb": peak_bytes() / 1e6,
        "steps": num_steps,
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """One line an entry and model: tokens/s and MB at each size."""
    sizes = sorted({one["micro_tokens"] for one in results})
    lines = [f"| entry | model | {' | '.join(f'{size:,}' for size in sizes)} |", "|---|---|" + "---|" * len(sizes)]
    found = {(one["name"], one["model"], one["micro_tokens"]): one for one in results}
    for name, model in dict.fromkeys((one["name"], one["model"]) for one in results):
        cells = [found[name, model, size] for size in sizes]
        texts = [f"{one['tokens_s']:,.0f} tokens/s, {one['peak_mb']:,.0f} MB" for one in cells]
        lines.append(f"| {name} | {model} | {' | '.join(texts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=ENTRIES, action="append")
    parser.add_argument("--model", choices=SIZES, action="append")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--json", type=Path, help="also write the results there")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(json.dumps(measure(*json.loads(options.one))) + "\n")
        return
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    load, results = os.getloadavg()[0], list[dict[str, Any]]()
    for model in options.model or SIZES:
        for name in options.only or ENTRIES:
            for size in MICRO_TOKENS:
                given = json.dumps([name, model, size, options.steps])
                command = [sys.executable, "-m", "benchmarks.passes", "--one", given]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                results.append(json.loads(done.stdout.splitlines()[-1]))
    if options.json is not None:
        options.json.write_text(json.dumps({"load_1min": load, "results": results}, indent=1) + "\n", "utf-8")
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
