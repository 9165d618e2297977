from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.registry import datasets, sealing
from posttrain.registry.importing import import_model
from posttrain.registry.store import open_store
from posttrain.registry.suites import add_suite
from posttrain.service.cli import run

from .answers import SPEC, Cli
from .fake_server import FakeServer
from .serving import Server
from .tiny import make_tiny_model

ROWS = [{"prompt": f"What is {n} plus one?", "completion": f"It is {n + 1}."} for n in range(24)]

POLICY = """
name: tiny
version: 1
metrics:
  - suite: sums
    metric: sums
    min_rows: 10
    min_clusters: 10
    max_truncated: 1.0
    rules:
      - {type: floor, at_least: 0.5}
      - {type: improve, over: parent, by: 0.1, when: base}
      - {type: noninferior, to: champion, margin: 0.3}
"""


def make_suite(folder: Path) -> Path:
    folder.mkdir()
    rows = [{"id": f"sum-{n}", "question": f"What is {n} plus one?", "answer": f"#### {n + 1}"} for n in range(40)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "sums.jsonl").write_bytes(data)
    manifest = folder / "sums.suite.yaml"
    manifest.write_text(
        "name: sums\nversion: '1'\ntasks:\n  - name: sums\n    metric: sums\n    scorer: gsm8k\n    max_new_tokens: 4\n"
        "    shards: [gate]\n    shots:\n      - {prompt: 'What is one plus one?', answer: '2'}\n"
        f"    source: {{format: gsm8k, path: sums.jsonl, sha256: {hashlib.sha256(data).hexdigest()}}}\n"
    )
    return manifest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def seeded_home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    home = tmp_path_factory.mktemp("seeded") / "home"
    with open_store(home) as store:
        import_model(store, "default", "tiny", str(tiny_model))
        add_suite(store, "default", make_suite(home.parent / "suite"))
        data = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
        sealing.seal(store, "default", datasets.upload(store, "default", "sums", [data]).ref)
    (home / "policies").mkdir()
    (home / "policies" / "tiny.yaml").write_text(POLICY)
    return home


@pytest.fixture
def home(tmp_path: Path, seeded_home: Path) -> Path:
    """A data folder with a base `tiny@1`, a sealed dataset `sums@1`, a suite `sums` and a policy `tiny`."""
    return Path(shutil.copytree(seeded_home, tmp_path / "home"))


@pytest.fixture
def serve(home: Path) -> Iterator[Callable[..., Server]]:
    """Starts the real server on `home`; every server and every worker that it left is ended afterwards."""
    servers: list[Server] = []

    def start(**options: Any) -> Server:
        server = Server(home, **options)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, seeded_home: Path) -> Iterator[Server]:
    """One server with scripted workers for all tests of a module that leave it as it is."""
    home = Path(shutil.copytree(seeded_home, tmp_path_factory.mktemp("shared") / "home"))
    server = Server(home, fake=True).start()
    yield server
    server.close()


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command; gives exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def cli(fake: FakeServer, monkeypatch: pytest.MonkeyPatch, call: Cli, tmp_path: Path) -> Cli:
    """Runs a command against the fake."""
    monkeypatch.setenv("POSTTRAIN_ADDRESS", fake.address)
    monkeypatch.setenv("POSTTRAIN_HOME", str(tmp_path / "home"))
    return call


@pytest.fixture
def spec_text() -> str:
    """What `spec` holds; a module with another spec has a fixture of this name."""
    return SPEC


@pytest.fixture
def spec(tmp_path: Path, spec_text: str) -> str:
    path = tmp_path / "spec.yaml"
    path.write_text(spec_text)
    return str(path)
