from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.registry.store import Store, open_store

from .world import World


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    """A base `base@1`, a sealed dataset `data@1` and the suite `toy`."""
    made = World(store, tmp_path)
    made.base()
    made.dataset()
    made.suite()
    return made
