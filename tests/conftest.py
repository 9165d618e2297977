"""Property tests draw the same cases in every run, so that CI says something of the change and not of its luck; `make
fuzz` draws new ones."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("same", derandomize=True)
settings.register_profile("fuzz", derandomize=False, print_blob=True)
settings.load_profile("same")
