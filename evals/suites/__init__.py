"""Suites: versioned sets of evaluation tasks, each a manifest NAME.suite.yaml and the sources that it pins.

Imports no torch.
"""

from __future__ import annotations

from posttrain.evals.suites.load import (
    Suite,
    SuiteTask,
    builtin_suites,
    load_suite,
    pack_suite,
    sample,
)
from posttrain.evals.suites.sources import Example

__all__ = ["Example", "Suite", "SuiteTask", "builtin_suites", "load_suite", "pack_suite", "sample"]
