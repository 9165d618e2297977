"""How sealing, encoding and starting grow with the number of rows: time, and memory beyond what imports take.

    python -m benchmarks.scale [--rows 1000,10000,100000] [--epoch-rows 20000] [--out FILE]

Each measurement is a process of its own (`--stage`); rows are generated, prompt and completion, with log-normal lengths
of 20 to 400 tokens under the tokenizer of the base inside the package.

- seal: the registry's sealing with deduplication: every row read, checked and compared, those that stay written anew.
- encode: the first job over the rows: read, rendered, encoded, kept on disk.
- start: a later job over the same rows: from the sealed dataset to rows that can be drawn, and the first epoch's order.
- draw: that many rows in the order of the mix, each read and compared with its digest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STAGES = ("seal", "encode", "start")
WORDS = ("river", "stone", "amber", "quick", "meadow", "copper", "lantern", "seven", "gentle", "harbor", "winter")


def write_rows(path: Path, num_rows: int) -> None:
    rng = random.Random(num_rows)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(num_rows):
            length = min(120, max(4, round(rng.lognormvariate(3.0, 0.7))))
            words = rng.choices(WORDS, k=length)
            row = {
                "prompt": f"{number}: " + " ".join(words[: length // 3]),
                "completion": " ".join(words[length // 3 :]),
            }
            file.write(json.dumps(row) + "\n")


def peak_bytes() -> int:
    """Largest resident memory of this process so far (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


def run_stage(stage: str, folder: Path, num_drawn: int) -> dict[str, float]:
    data = folder / "rows.jsonl"
    if stage == "seal":
        return _seal(folder, data)
    reader, dataset = _reader(folder, data)
    before, began = peak_bytes(), time.monotonic()
    rows = reader.read(dataset)
    found: dict[str, float] = {"rows": len(rows)}
    if stage == "start":
        from posttrain.engine.data.mixing import Mix

        mix = Mix([len(rows)], [1.0], 0)
        mix.at(0)
        found["seconds"] = time.monotonic() - began
        began, num = time.monotonic(), min(num_drawn, len(rows))
        tokens = sum(len(rows[mix.at(place)[1]]) for place in range(num))
        found["draw_rows_s"], found["tokens_a_row"] = num / (time.monotonic() - began), tokens / num
    else:
        found["seconds"] = time.monotonic() - began
    found["peak_bytes"] = peak_bytes() - before
    return found


def _seal(folder: Path, data: Path) -> dict[str, float]:
    from posttrain.registry import datasets
    from posttrain.registry.sealing import SealOptions, seal
    from posttrain.registry.store import open_store

    with open_store(folder / "home") as store:
        with open(data, "rb") as file:
            pieces = iter(lambda: file.read(2**20), b"")
            ref = datasets.upload(store, "default", "rows", pieces, source="benchmark").ref
        before, began = peak_bytes(), time.monotonic()
        made = seal(store, "default", ref, SealOptions(deduplicate=True))
        seconds = time.monotonic() - began
    return {"seconds": seconds, "peak_bytes": peak_bytes() - before, "rows": made.num_rows}


def _reader(folder: Path, data: Path) -> tuple[Any, Any]:
    from posttrain.engine.base import BASE_DIR
    from posttrain.engine.data.encode import Encoder
    from posttrain.engine.data.reading import RowReader
    from posttrain.engine.data.token_cache import TokenCache
    from posttrain.engine.methods import method_of
    from posttrain.engine.models import load_tokenizer
    from posttrain.engine.spec import IftSpec
    from posttrain.engine.task import DatasetInput, ModelInput

    spec = IftSpec.model_validate({"base": "base@1", "output": "out", "data": [{"dataset": "rows@1"}]})
    tokenizer = load_tokenizer(ModelInput(ref="base", path=str(BASE_DIR), digest="", weights_digest=""))
    method = method_of(spec)
    template, _ = method.prepare_tokenizer(tokenizer)
    encoder = Encoder(tokenizer, template, (tokenizer.eos_token_id,))
    encoder.plain("warm up")
    reader = RowReader(
        lambda example, source, number: method.encode(example, encoder, source, number), method.report, 4096, "refuse",
        lambda done, total: None, lambda note: None, TokenCache(folder / "tokens"), {"benchmark": "scale"},
    )  # fmt: skip
    sha256 = (folder / "sha256").read_text()
    return reader, DatasetInput(ref="rows@1", path=str(data), sha256=sha256, format="prompt_completion", weight=1.0)


def measure(num_rows: int, num_drawn: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder = Path(name)
        write_rows(folder / "rows.jsonl", num_rows)
        with open(folder / "rows.jsonl", "rb") as file:
            (folder / "sha256").write_text(hashlib.file_digest(file, "sha256").hexdigest())
        result: dict[str, Any] = {"rows": num_rows, "file_bytes": (folder / "rows.jsonl").stat().st_size}
        for stage in STAGES:
            command = [sys.executable, "-m", "benchmarks.scale", "--stage", stage, "--folder", name]
            done = subprocess.run(
                [*command, "--epoch-rows", str(num_drawn)], check=True, capture_output=True, text=True
            )
            result[stage] = json.loads(done.stdout.splitlines()[-1])
        result["cache_bytes"] = sum(path.stat().st_size for path in (folder / "tokens").rglob("*") if path.is_file())
        return result


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| rows | file MB | seal s | rows/s | MB | encode s | rows/s | MB | start s | MB | draw rows/s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        cells = [f"{one['rows']:,}", f"{one['file_bytes'] / 1e6:.1f}"]
        for stage in STAGES:
            found = one[stage]
            cells.append(f"{found['seconds']:.2f}")
            if stage != "start":
                cells.append(f"{one['rows'] / found['seconds']:,.0f}")
            cells.append(f"{found['peak_bytes'] / 1e6:.0f}")
        lines.append(f"| {' | '.join(cells)} | {one['start']['draw_rows_s']:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1000,10000,100000")
    parser.add_argument("--epoch-rows", type=int, default=20000, help="rows that are drawn")
    parser.add_argument("--out", type=Path, help="also write JSON to a file")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        sys.stdout.write(json.dumps(run_stage(options.stage, options.folder, options.epoch_rows)) + "\n")
        return
    load = os.getloadavg()[0]
    results = [measure(int(number), options.epoch_rows) for number in options.rows.split(",")]
    if options.out is not None:
        options.out.write_text(json.dumps({"load_1min": load, "results": results}, indent=1) + "\n", "utf-8")
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
