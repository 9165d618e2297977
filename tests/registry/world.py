"""A small registry for tests; what training and evaluation jobs would leave is written by hand."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from posttrain.engine.spec import IftSpec, canonical_json, parse_spec, sha256_text
from posttrain.engine.task import EvaluateTask, TrainTask
from posttrain.evals.policy import Policy, parse_policy
from posttrain.evals.rows import (
    EvalRun,
    GenerationInfo,
    RepeatInfo,
    ResultRow,
    RowsHeader,
    SuiteInfo,
    TemplateInfo,
    write_rows,
)
from posttrain.evals.scorers import scorer_digest
from posttrain.registry import datasets, gates, promotion, sealing, suites, versions
from posttrain.registry.evaluations import record_eval_run
from posttrain.registry.importing import import_model
from posttrain.registry.store import DATABASE_FILE, Store
from posttrain.registry.tables import (
    DatasetVersionRecord,
    EvalRunRecord,
    GateRunRecord,
    JobRecord,
    PromotionRecord,
    VersionRecord,
)

P = "default"
NUM_ROWS = 240
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
FLOOR = "{type: floor, at_least: 0.5}"
IMPROVE = "{type: improve, over: parent, by: 0.1, when: base}"


def policy_of(name: str, *rules: str) -> str:
    """A policy of one metric: the suite `toy`'s."""
    metric = "suite: toy\n    metric: toy\n    min_rows: 100\n    min_clusters: 40\n    rules:\n"
    return f"name: {name}\nversion: 1\nmetrics:\n  - {metric}" + "".join(f"      - {rule}\n" for rule in rules)


NO_WORSE = ("{type: noninferior, to: parent, margin: 0.1}", "{type: noninferior, to: champion, margin: 0.1}")
POLICY = policy_of("toy", FLOOR, IMPROVE, *NO_WORSE)


def write_model(folder: Path, value: float = 0.0, template: str = "", tensors: dict[str, Any] | None = None) -> Path:
    """A folder that looks like a Llama to whoever reads config and headers."""
    folder.mkdir(parents=True)
    save_file(tensors or {"w": np.full((4, 8), value, dtype=np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    (folder / "tokenizer.json").write_text("{}")
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return folder


class World:
    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.policies: dict[str, Policy] = {"toy": parse_policy(POLICY)}
        self._count = 0

    def fresh(self, name: str) -> Path:
        self._count += 1
        return self.folder / f"{name}-{self._count}"

    def sql(self, *statements: str) -> None:
        """Edits the database as somebody with a shell would."""
        connection = sqlite3.connect(self.store.home / DATABASE_FILE)
        try:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        finally:
            connection.close()

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.store.home / DATABASE_FILE)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    # -- inputs -------------------------------------------------------------------------------------------------------

    def base(self, name: str = "base") -> VersionRecord:
        return import_model(self.store, P, name, str(write_model(self.fresh("base"))))

    def dataset(self, name: str = "data", text: str = "yes") -> DatasetVersionRecord:
        row = json.dumps({"prompt": "say yes", "completion": text}).encode() + b"\n"
        record = datasets.upload(self.store, P, name, [row])
        return sealing.seal(self.store, P, record.ref)

    def suite(self, name: str = "toy", version: str = "1", question: str = "say yes") -> None:
        folder = self.fresh("suite")
        folder.mkdir()
        rows = []
        for number in range(NUM_ROWS):
            row = {
                "id": f"toy-{number:04d}",
                "metric": "toy",
                "shard": "gate",
                "messages": [{"role": "user", "content": f"{question} {number}"}],
                "checker": "final_answer",
                "target": {"answer": "yes"},
                "wording_id": f"w{number % 60}",
                "cluster_id": f"w{number % 60}",
            }
            rows.append(json.dumps(row))
        content = ("\n".join(rows) + "\n").encode()
        (folder / "toy.jsonl").write_bytes(content)
        source = {"format": "posttrain", "path": "toy.jsonl", "sha256": hashlib.sha256(content).hexdigest()}
        task = {"name": "toy", "metric": "toy", "source": source, "scorer": "final_answer", "max_new_tokens": 8}
        manifest = {"name": name, "version": version, "tasks": [{**task, "shards": ["gate"]}]}
        path = folder / f"{name}.suite.yaml"
        path.write_text(json.dumps(manifest))
        suites.add_suite(self.store, P, path)

    # -- training -----------------------------------------------------------------------------------------------------

    def train_job(self, base: str, data: str = "data@1", output: str = "bot") -> tuple[JobRecord, TrainTask]:
        self._count += 1
        spec = parse_spec(
            {"kind": "ift", "base": base, "output": output, "data": [{"dataset": data}], "seed": self._count}
        )
        assert isinstance(spec, IftSpec)
        with self.store.transaction() as tx:
            job = tx.create_job(P, spec)
        task = TrainTask(
            job=job.id,
            attempt=1,
            spec=spec,
            base=versions.model_input(self.store, P, base),
            datasets=[datasets.dataset_input(self.store, P, data, 1.0)],
        )
        return job, task

    def trained(self, base: str = "base@1", value: float = 1.0, output: str = "bot") -> VersionRecord:
        _, task = self.train_job(base, output=output)
        folder = write_model(self.fresh("output"), value, TEMPLATE)
        return versions.register_trained(self.store, P, task, folder)

    # -- evidence -----------------------------------------------------------------------------------------------------

    def evaluate_job(
        self, ref: str, template: dict[str, Any], repeat: bool = False, shard: str = "gate"
    ) -> EvaluateTask:
        asked = {"kind": "evaluate", "version": ref, "suites": ["toy"], "template": template, "repeat": repeat}
        spec = parse_spec(asked | {"shard": shard})
        with self.store.transaction() as tx:
            job = tx.create_job(P, spec)
        return EvaluateTask(
            job=job.id,
            attempt=1,
            spec=spec,
            model=versions.model_input(self.store, P, ref),
            suites=[suites.suite_input(self.store, P, "toy")],
        )

    def make_rows(self, task: EvaluateTask, scores: Sequence[float], version: VersionRecord) -> EvalRun:
        kind = task.spec.template.type
        header = RowsHeader(
            version=task.model.ref,
            manifest_digest=task.model.digest,
            weights_digest=task.model.weights_digest,
            template=TemplateInfo(
                type=kind, digest=sha256_text(TEMPLATE), source=version.ref, has_own=bool(version.template_digest)
            ),
            shard=task.spec.shard,
            suites=[SuiteInfo(name="toy", version="1", digest=task.suites[0].digest, num_rows=len(scores))],
            scorer_digest=scorer_digest(),
            generation=GenerationInfo(max_new_tokens=0, max_rows=0, seed=0),
            dtype="float32",
            packages={},
            repeat=RepeatInfo(job=task.job, batch_rows=7) if task.spec.repeat else None,
        )
        rows = tuple(
            ResultRow(
                example_id=f"toy-{number:04d}",
                suite="toy",
                task="toy",
                metric="toy",
                shard=task.spec.shard,
                wording_id=f"w{number % 60}",
                cluster_id=f"w{number % 60}",
                messages_digest=sha256_text(canonical_json({"number": number})),
                prompt_digest=sha256_text(f"prompt {number}"),
                score=float(score),
                stop_reason="stop",
                num_tokens=2,
            )
            for number, score in enumerate(scores)
        )
        return EvalRun(header=header, rows=rows)

    def evaluated(
        self,
        version: VersionRecord,
        right: int = NUM_ROWS,
        template_of: str = "",
        repeat: bool = False,
        shard: str = "gate",
        **header: Any,
    ) -> EvalRunRecord:
        """Rows with the first `right` of 240 answers right; a base answers under the template of `template_of`."""
        template = {"type": "version", "version": template_of} if template_of else {"type": "own"}
        task = self.evaluate_job(version.ref, template, repeat, shard)
        if "mark" in header:
            header["repeat"] = header.pop("mark")
        path = self.fresh("rows.jsonl")
        run = self.make_rows(task, [1.0] * right + [0.0] * (NUM_ROWS - right), version)
        write_rows(path, run.model_copy(update={"header": run.header.model_copy(update=header)}))
        return record_eval_run(self.store, P, task, path)

    def gate(self, version: VersionRecord, alias: str = "production", policy: str = "toy") -> GateRunRecord:
        return gates.create_gate_run(self.store, P, version.ref, self.policies[policy], alias)

    def promote(self, version: VersionRecord, alias: str = "production", **options: Any) -> PromotionRecord:
        return promotion.promote(
            self.store, P, version.ref, alias, policies=self.policies.__getitem__, **{"reason": "a test", **options}
        )

    def candidate(self, base: VersionRecord, right: int = NUM_ROWS, value: float = 1.0) -> VersionRecord:
        """A trained version with all the evidence that a gate needs."""
        version = self.trained(base.ref, value)
        self.evaluated(base, 0, version.ref)
        self.evaluated(version, right)
        return version

    def named(self, alias: str = "production", model: str = "bot") -> str:
        """What an alias names, in the database itself; empty: it does not exist."""
        rows = self.query(
            "SELECT v.model || '@' || v.number FROM aliases a JOIN model_versions v ON v.id = a.version"
            f" WHERE a.model = '{model}' AND a.alias = '{alias}'"
        )
        return rows[0][0] if rows else ""


def drop_triggers(world: World) -> None:
    """What an attacker with the file does first."""
    names = [name for (name,) in world.query("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
    world.sql(*(f"DROP TRIGGER {name}" for name in names))
