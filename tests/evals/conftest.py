"""Tiny models and a small suite on disk, made once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.engine.events import ExitRecord, read_exit
from posttrain.engine.spec import parse_spec
from posttrain.engine.task import EvaluateTask, ModelInput, SuiteInput

WORDS = ["fox", "dog", "cat", "cow", "hen", "pig"]


def suite_rows() -> list[dict[str, Any]]:
    rows = []
    for shard, count in (("gate", 24), ("dev", 6), ("unseen", 6)):
        for number in range(count):
            word = WORDS[number % len(WORDS)]
            rows.append(
                {
                    "id": f"{shard}/{number:03d}",
                    "metric": "echo",
                    "shard": shard,
                    "messages": [
                        {"role": "user", "content": f"Say {word} {number} times, please." + " please" * (number % 5)}
                    ],
                    "checker": "mentions",
                    "target": {"all": [word]},
                    "reference": word,
                    "wording_id": f"{shard}-w{number % 6}",
                    "cluster_id": f"{shard}-w{number % 6}",
                    "slots": {"word": word},
                }
            )
    return rows


def write_suite(folder: Path, name: str = "echo", rows: list[dict[str, Any]] | None = None, **task: Any) -> Path:
    """Writes a suite of one task; returns the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in (suite_rows() if rows is None else rows)).encode()
    (folder / f"{name}.jsonl").write_bytes(content)
    values = {
        "name": "echo",
        "metric": "echo",
        "source": {"format": "posttrain", "path": f"{name}.jsonl", "sha256": hashlib.sha256(content).hexdigest()},
        "scorer": "mentions",
        "max_new_tokens": 8,
        "shards": ["gate", "dev", "unseen"],
        "shots": [{"prompt": f"Say {word}.", "answer": word} for word in WORDS[:3]],
        **task,
    }
    manifest = folder / f"{name}.suite.yaml"
    manifest.write_text(yaml.safe_dump({"name": name, "version": "1", "tasks": [values]}))
    return manifest


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelInput]:
    """A chat model and a base without template, tiny and random."""
    import torch

    from tests.engine.tiny import save_base

    torch.set_num_threads(1)  # a tiny model is slower with more, above all on a busy machine
    root = tmp_path_factory.mktemp("models")
    chat, base = save_base(root / "chat", is_chat=True, seed=1), save_base(root / "base", seed=2)
    return {
        "chat": chat.model_copy(update={"ref": "bot@1", "weights_digest": "c" * 64}),
        "base": base.model_copy(update={"ref": "base@1", "weights_digest": "b" * 64}),
    }


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path / "suite")


@pytest.fixture
def make_task(models: dict[str, ModelInput], suite: Path) -> Callable[..., EvaluateTask]:
    """Builds an evaluation task; keywords are options of the spec, `model` and the task's own fields apart."""

    def make(model: str = "chat", manifest: Path = suite, **options: Any) -> EvaluateTask:
        from posttrain.evals.suites import load_suite

        fields = {
            key: options.pop(key) for key in ("cache", "resume_from", "template_from", "attempt") if key in options
        }
        loaded = load_suite(manifest)
        spec = parse_spec(
            {"kind": "evaluate", "version": models[model].ref, "suites": [loaded.name], "batch_rows": 4, **options}
        )
        return EvaluateTask.model_validate(
            {
                "job": "job-1",
                "attempt": 1,
                "spec": spec,
                "model": models[model],
                "suites": [SuiteInput(name=loaded.name, manifest=str(manifest), digest=loaded.digest)],
                **fields,
            }
        )

    return make


@pytest.fixture
def evaluate(tmp_path: Path, make_task: Callable[..., EvaluateTask]) -> Callable[..., tuple[ExitRecord, Path]]:
    """Runs an evaluation in a fresh folder; returns its exit record, as it is on disk, and the folder."""
    number = 0

    def run(model: str = "chat", **options: Any) -> tuple[ExitRecord, Path]:
        from posttrain.evals.runner import run_evaluation

        nonlocal number
        number += 1
        folder = tmp_path / f"attempt-{number}"
        record = run_evaluation(make_task(model, **options), folder)
        assert read_exit(folder) == record
        return record, folder

    return run
