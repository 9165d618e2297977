from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from posttrain.registry.store import Store, open_store

from .world import World

settings.register_profile("no-deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no-deadline")


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated data folder; tests get copies, because migrating takes longer than most of them."""
    home = tmp_path_factory.mktemp("empty") / "home"
    open_store(home).close()
    return home


@pytest.fixture(scope="session")
def small_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a base `base@1`, a sealed dataset `data@1` and the suite `toy`."""
    folder = tmp_path_factory.mktemp("small")
    with open_store(folder / "home") as store:
        made = World(store, folder)
        made.base()
        made.dataset()
        made.suite()
    return folder / "home"


@pytest.fixture
def store(empty_home: Path, tmp_path: Path) -> Iterator[Store]:
    with open_store(shutil.copytree(empty_home, tmp_path / "home")) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One for all examples of a property."""
    with open_store(tmp_path_factory.mktemp("shared") / "home") as opened:
        yield opened


@pytest.fixture
def world(small_home: Path, tmp_path: Path) -> Iterator[World]:
    with open_store(shutil.copytree(small_home, tmp_path / "home")) as opened:
        yield World(opened, tmp_path)
