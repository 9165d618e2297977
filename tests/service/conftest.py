from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from posttrain.registry import datasets
from posttrain.registry.importing import import_model
from posttrain.registry.store import open_store

from .serving import Server
from .tiny import make_tiny_model

ROWS = [{"prompt": f"What is {n} plus one?", "completion": f"It is {n + 1}."} for n in range(24)]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def home(tmp_path: Path, tiny_model: Path) -> Path:
    """A data folder with a base `tiny@1` and a sealed dataset `sums@1`."""
    home = tmp_path / "home"
    with open_store(home) as store:
        import_model(store, "default", "tiny", str(tiny_model))
        data = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
        datasets.seal(store, "default", datasets.upload(store, "default", "sums", [data]).ref)
    return home


@pytest.fixture
def serve(home: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(**options: Any) -> Server:
        server = Server(home, **options)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.close()
