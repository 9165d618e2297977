"""How long from submitting a job to its first optimiser step, on the base inside the package, over the real service.

    python -m benchmarks.startup [--jobs N] [--no-standby] [--rows N]

Each job is the demo's, cut to three steps. Times are wall-clock, from the client's call to the first `metrics` event's
own time; `phases` says what the attempt did until then. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from posttrain.engine.events import EVENTS_FILE, Phase, StepMetrics, read_events
from posttrain.service.cli.demo import demo_spec
from posttrain.service.cli.settings import Settings
from posttrain.service.cli.spawn import running_server
from posttrain.service.client import Client
from posttrain.service.proto import jobs_pb2

WAIT_S = 120.0
OVER = (jobs_pb2.SUCCEEDED, jobs_pb2.FAILED, jobs_pb2.CANCELLED)
FIRST_STEP = "first step"
LOG_FILE = Path("logs", "server.log")
READY = '"standby ready"'


def spec_of(base: str, dataset: str) -> dict[str, Any]:
    spec = demo_spec(base, dataset)
    spec["duration"] = {"type": "steps", "max_steps": 3}
    spec["batch"]["num_rows"] = 8
    del spec["then"]
    return spec


def one_job(client: Client, home: Path, spec: dict[str, Any]) -> dict[str, float]:
    """Seconds from the submission to its answer, to each phase of the attempt, and to the end of the first step."""
    began = time.time()
    job = client.create_job(spec)
    found = {"submitted": time.time() - began}
    path = home / "jobs" / job.name.rpartition("/")[2] / "attempts" / "1" / EVENTS_FILE
    deadline = time.monotonic() + WAIT_S
    while client.get_job(job.name).state not in OVER:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{job.name} did not end within {WAIT_S:.0f} s")
        time.sleep(0.1)
    for event, _ in read_events(path):
        name = event.phase if isinstance(event, Phase) else FIRST_STEP if isinstance(event, StepMetrics) else ""
        while name in found and name != FIRST_STEP:
            name += " again"  # the tokenizer is loaded before the data, the weights after it
        if name:
            found.setdefault(name, event.time - began)
    return {name: round(value, 3) for name, value in found.items()}


def wait_for_standby(home: Path, number: int) -> None:
    """Until the server's log says for the `number`th time that a standby is ready."""
    deadline = time.monotonic() + WAIT_S
    while sum(line.count(READY) for line in (home / LOG_FILE).read_text("utf-8").splitlines()) < number:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no standby within {WAIT_S:.0f} s")
        time.sleep(0.1)


def measure(num_jobs: int, has_standby: bool, rows: int) -> list[dict[str, float]]:
    os.environ["POSTTRAIN_STANDBY"] = str(int(has_standby))
    jobs = []
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        home = Path(name) / "home"
        with running_server(Settings(home)) as (address, _), Client(address) as client:
            base = client.import_model("tiny-base", "builtin:tiny-base")
            data = Path(name) / "data.jsonl"
            with as_file(files("posttrain.evals") / "suites" / "data" / "ift.jsonl") as path:
                data.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:rows]))
            dataset = client.add_dataset("rows", data)
            for number in range(num_jobs):
                if has_standby:
                    wait_for_standby(home, number + 1)
                jobs.append(one_job(client, home, spec_of(base.ref, dataset.ref)))
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=9000, help="of the demo's instruction data, which has 9,000")
    parser.add_argument("--no-standby", action="store_true")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    jobs = measure(options.jobs, not options.no_standby, options.rows)
    medians = {name: statistics.median(job[name] for job in jobs) for name in jobs[0]}
    report = {"standby": not options.no_standby, "rows": options.rows, "load_1min": load, "median_s": medians}
    sys.stdout.write(json.dumps({**report, "jobs": jobs}) + "\n")


if __name__ == "__main__":
    main()
