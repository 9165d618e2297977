"""Property tests draw the same cases in every run, so that CI says something of the change and not of its luck; `make
fuzz` draws new ones."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True)
settings.register_profile("fuzz", derandomize=False, print_blob=True)
settings.load_profile("same")

# In the background of a shell script Ctrl-C is ignored, which processes that tests start would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: `make unit` deals whole files to its processes, and a long one at the end would
    leave the others idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
