"""The report as JSON and as a Markdown table, with all that the numbers depend on beside the code."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.measure import Result

BEGIN, END = "<!-- begin: python -m benchmarks -->", "<!-- end -->"
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate")
HEADER = (
    "| entry | model | TRL's best option | tokens/s, ours / TRL | ratio (min-max) | of matmul peak "
    "| peak MB, ours / TRL | loss differs by | steps |\n|---|---|---|---|---|---|---|---|---|\n"
)


def as_json(results: Sequence[Result]) -> str:
    return json.dumps([result.as_dict() for result in results], indent=1, allow_nan=False) + "\n"


def as_markdown(results: Sequence[Result], threads: int, load: float, is_smoke: bool) -> str:
    """Where and with what, and a row per result."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    date = time.strftime("%Y-%m-%d", time.gmtime())
    where = f"{date}, {cpu_name()}, {os.cpu_count()} cores, {threads} threads, load before {load:.1f}; Python "
    where += f"{platform.python_version()}, {versions}.\n"
    if is_smoke:
        where += "\nA smoke run: this shows that it works, and is no measurement.\n"
    return where + "\n" + HEADER + "".join(map(table_row, results))


def table_row(result: Result) -> str:
    cells = (
        result.name,
        result.model,
        result.peer_setting,
        f"{result.ours_tokens_s:,.0f} / {result.peer_tokens_s:,.0f}",
        f"{result.ratio:.2f} ({result.ratio_min:.2f}-{result.ratio_max:.2f})",
        f"{result.peak_share:.0%}",
        f"{result.ours_peak_mb:,.0f} / {result.peer_peak_mb:,.0f}",
        f"{result.max_loss_diff:.0e}",
        str(result.steps),
    )
    return f"| {' | '.join(cells)} |\n"


def put_into(page: Path, table: str) -> None:
    """Replaces what stands between the page's two marks.

    Raises:
        ValueError: the page has no marks.
    """
    text = page.read_text("utf-8")
    start, end = text.find(BEGIN), text.find(END)
    if not 0 <= start < end:
        raise ValueError(f"{page.name} has no {BEGIN} ... {END}")
    page.write_text(f"{text[: start + len(BEGIN)]}\n{table}{text[end:]}", "utf-8")


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
