"""Two steps of one side, for its memory: `python -m benchmarks.alone '{"entry": ..., "model": ..., "side": ...}'`
prints its peak in MB. Only that side is imported."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.workload import ENTRIES, SIZES, SMOKE, steps_of

STEPS = 2  # from the second on, the optimiser's state is there beside the activations


def main(text: str) -> None:
    given = json.loads(text)
    entry, model = ENTRIES[given["entry"]], given["model"]
    size = (SMOKE if given["is_smoke"] else SIZES)[model]
    steps = steps_of(entry, model, size.rows, STEPS)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        if given["side"] == "ours":
            from benchmarks.ours import Ours

            Ours(entry, model, steps).run(Path(name), ignore)
        else:
            from benchmarks.peer import Peer

            peer = Peer(entry, model, STEPS, Path(name))
            for rows in steps:
                peer.prepare(rows)
                peer.step(rows, given["layout"])
    sys.stdout.write(f"{peak_bytes() / 1e6}\n")


def ignore(rows: Sequence[Any], loss: float, seconds: float) -> None:
    """Nothing happens between the steps."""


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss also counts what the process was before exec
        for line in status.read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main(sys.argv[1])
