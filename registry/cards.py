"""Export: an ordinary Hugging Face folder with a model card whose front matter says where the model comes from."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import yaml
from sqlmodel import col, select

from posttrain.engine.events import fsync_folder
from posttrain.registry.aliases import list_aliases
from posttrain.registry.artifacts import full_disk_named
from posttrain.registry.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from posttrain.registry.gates import newest_gate_run
from posttrain.registry.store import Store
from posttrain.registry.tables import EvalRunRecord, VersionRecord
from posttrain.registry.transaction import TransactionBase
from posttrain.registry.versions import Manifest, checked_manifest, get_version, version_by_id

CARD_FILE = "README.md"
RELATIONS = {"finetune": "finetune", "adapter": "adapter", "merge": "merge", "quantized": "quantized"}


def export(store: Store, project: str, ref: str, folder: Path) -> int:
    """Writes a version's files and its card into a new folder, whole or not at all. Returns the bytes written.

    Raises:
        NotFoundError: no such version, or no folder to make it in.
        AlreadyExistsError: the folder is there.
        InvalidArgumentError: it would lie inside the data folder.
        TamperedError: the version was changed.
        DiskFullError: no space left.
    """
    target = Path(os.path.abspath(folder))
    if target.resolve().is_relative_to(store.home.resolve()):
        raise InvalidArgumentError(f"{target} lies inside the data folder", "folder", "export to another place")
    if not target.parent.is_dir():
        raise NotFoundError(f"{target.parent}: no such folder", "make it first")
    with store.read() as tx:
        version = get_version(tx, project, ref)
        manifest = checked_manifest(tx, version)
        card = model_card(tx, version, manifest)
    for sha256 in manifest.digests.values():
        store.artifacts.verify(sha256)
    try:
        target.mkdir()
    except FileExistsError:
        raise AlreadyExistsError(f"{target} exists", "name a folder that does not exist") from None
    except OSError as error:
        raise InvalidArgumentError(f"{target}: {error.strerror}", "folder", "export to another place") from error
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with full_disk_named(f"exporting {version.ref}"):
            num_bytes = store.artifacts.lay_out(temporary, manifest.digests, link=False)
            (temporary / CARD_FILE).write_text(card, encoding="utf-8")
            for path in sorted(temporary.rglob("*")):
                if path.is_file():
                    fsync_file(path)
            os.rename(temporary, target)  # onto the empty folder that reserved the name
            fsync_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if not any(target.iterdir()):
            target.rmdir()
        raise
    return num_bytes + len(card.encode())


def fsync_file(path: Path) -> None:
    """Makes a file's bytes survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def model_card(tx: TransactionBase, version: VersionRecord, manifest: Manifest) -> str:
    """The card's text: YAML front matter (hub metadata), then what the registry knows."""
    runs = select(EvalRunRecord).where(EvalRunRecord.version == version.id).order_by(col(EvalRunRecord.seq))
    newest = {
        score["metric"]: {**score, "template": run.template}
        for run in tx.session.exec(runs).all()
        for score in run.scores
        if score["shard"] == "gate"
    }
    front: dict[str, Any] = {"library_name": "peft" if manifest.form == "adapter" else "transformers"}
    front["pipeline_tag"] = "text-generation"
    if manifest.parent:
        front["base_model"] = base_name(tx, version)
        front["base_model_relation"] = RELATIONS[manifest.relation]
    if manifest.datasets:
        front["datasets"] = [entry.ref.partition("@")[0] for entry in manifest.datasets]
    front["tags"] = ["posttrain", manifest.role]
    if newest:
        front["model-index"] = [
            {"name": version.ref, "results": [_result(name, newest[name]) for name in sorted(newest)]}
        ]
    gate = newest_gate_run(tx, version)
    names = [item.alias for item in list_aliases(tx, version.project, version.model) if item.version == version.id]
    facts = {
        "role, form": f"{manifest.role}, {manifest.form}",
        "architecture": manifest.architecture,
        "parameters in the files": f"{manifest.num_parameters:,}",
        "manifest digest": manifest.digest,
        "weights digest": manifest.weights_digest,
        "chat template digest": manifest.template_digest or "it has no chat template",
        "parent": f"{manifest.parent} ({manifest.relation}) {manifest.parent_digest}" if manifest.parent else "",
        "job, spec digest": f"{manifest.job}, {manifest.spec_sha256}" if manifest.job else "",
        "source": manifest.source,
        "aliases when exported": ", ".join(names) or "none",
        "newest gate": f"{gate.verdict} under policy {gate.policy} ({gate.policy_digest})" if gate else "never judged",
        "packages": ", ".join(f"{name} {found}" for name, found in sorted(manifest.packages.items())),
    }
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {version.ref}",
        "",
    ]
    lines += [f"- {name}: {_code(value)}" for name, value in facts.items() if value]
    lines += ["", "## Data", ""] if manifest.datasets else []
    lines += [
        f"- {_code(entry.ref)}, sha256 {_code(entry.sha256)}, weight {entry.weight}" for entry in manifest.datasets
    ]
    if newest:
        lines += ["", "## Evaluation", "", "| metric | rows | score | interval | template |"]
        lines.append("|---|---|---|---|---|")
        for name in sorted(newest):
            score = newest[name]
            interval = f"{score['low']:.3f} to {score['high']:.3f} ({score['level']:.0%})"
            numbers = f"{score['n']} | {score['score']:.3f} | {interval}"
            lines.append(f"| {_code(name)} | {numbers} | {_code(score['template'])} |")
    lines += ["", "## Files", ""]
    lines += [f"- {_code(entry.path)}: sha256 {_code(entry.sha256)}" for entry in manifest.files]
    return "\n".join(lines) + "\n"


def base_name(tx: TransactionBase, version: VersionRecord) -> str:
    """The parent's id on the hub if it came from there, else its reference here."""
    parent = version_by_id(tx, version.parent)
    if parent.source.startswith("hub:"):
        return parent.source.removeprefix("hub:").partition("@")[0]
    return parent.ref


def _result(metric: str, score: dict[str, Any]) -> dict[str, Any]:
    suite = metric.partition("/")[0]
    return {
        "task": {"type": "text-generation"},
        "dataset": {"name": suite, "type": suite},
        "metrics": [{"name": metric, "type": "accuracy", "value": round(float(score["score"]), 6)}],
    }


def _code(text: str) -> str:
    """Text of unknown origin as inline code: it can neither end the code nor the line."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return "`" + " ".join(plain.split()).replace("`", "'") + "`"
