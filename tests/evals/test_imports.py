"""What a registry imports loads no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "rows",
        "stats",
        "policy",
        "pairing",
        "report",
        "gate",
        "summary",
        "suites",
        "scorers",
        "suites.load",
        "contamination",
    ],
)
def test_pure_modules_load_neither_torch_nor_lm_eval(module: str) -> None:
    code = (
        f"import sys, posttrain.evals.{module}\n"
        "found = {'torch', 'lm_eval', 'transformers', 'datasets'} & set(sys.modules)\n"
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_running_loads_no_default_task_index() -> None:
    """lm-eval's index of all its tasks takes half a minute to build."""
    code = "import sys, posttrain.evals.runner\nassert 'lm_eval.tasks' not in sys.modules, 'the task index'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
