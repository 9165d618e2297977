from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from posttrain.registry.store import Store, open_store

from .world import World

settings.register_profile("no-deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no-deadline")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "home") as opened:
        yield opened


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One for all examples of a property."""
    with open_store(tmp_path_factory.mktemp("shared") / "home") as opened:
        yield opened


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    """A base `base@1`, a sealed dataset `data@1` and the suite `toy`."""
    made = World(store, tmp_path)
    made.base()
    made.dataset()
    made.suite()
    return made
