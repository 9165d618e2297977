"""Importing, reading, exporting and rolling back models over gRPC."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from posttrain.service.proto import models_pb2

from .asking import refused
from .serving import PROJECT, Server


def imported(server: Server, source: str, model: str = "copy", **fields: object) -> models_pb2.ModelVersion:
    return server.models.ImportModel(
        models_pb2.ImportModelRequest(parent=PROJECT, model=model, source=source, **fields)
    )


def test_import_get_list_export(shared: Server, tiny_model: Path, tmp_path: Path) -> None:
    plan = imported(shared, str(tiny_model), validate_only=True)
    assert (plan.name, plan.role, plan.architecture) == ("", "base", "LlamaForCausalLM")
    made = imported(shared, str(tiny_model), request_id="i-1")
    assert (made.ref, made.role, made.form, made.parent) == ("copy@1", "base", "full", "")
    assert imported(shared, str(tiny_model), request_id="i-1") == made
    assert json.loads(made.manifest_json)["model"] == "copy"
    assert {file.path for file in made.files} >= {"config.json", "model.safetensors", "tokenizer.json"}
    got = shared.models.GetModelVersion(
        models_pb2.GetModelVersionRequest(name=f"{PROJECT}/models/copy/versions/latest")
    )
    assert got == made
    found = shared.models.ListModelVersions(models_pb2.ListModelVersionsRequest(parent=PROJECT)).versions
    assert {version.ref for version in found} >= {"tiny@1", "copy@1"}
    target = tmp_path / "exported"
    answer = shared.models.ExportModelVersion(models_pb2.ExportModelVersionRequest(name=made.name, folder=str(target)))
    assert answer.num_bytes > 0
    assert (target / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    with refused() as said:
        shared.models.ExportModelVersion(models_pb2.ExportModelVersionRequest(name=made.name, folder=str(target)))
    assert said.code == "ALREADY_EXISTS"
    with refused() as said:
        shared.models.ExportModelVersion(models_pb2.ExportModelVersionRequest(name=made.name, folder="relative"))
    assert set(said.fields) == {"folder"}


def test_what_cannot_be_imported(shared: Server, tiny_model: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(tiny_model / "config.json", pickled)
    shutil.copy(tiny_model / "tokenizer.json", pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    disguised = Path(shutil.copytree(pickled, tmp_path / "disguised"))
    (disguised / "pytorch_model.bin").rename(disguised / "model.safetensors")
    linked = Path(shutil.copytree(tiny_model, tmp_path / "linked"))
    (linked / "model.safetensors").unlink()
    (linked / "model.safetensors").symlink_to("/etc/passwd")
    for source, code, reason in (
        (tmp_path / "nowhere", "NOT_FOUND", "MODEL_NOT_FOUND"),
        (pickled, "INVALID_ARGUMENT", "UNSAFE_WEIGHTS"),
        (disguised, "INVALID_ARGUMENT", "UNSAFE_WEIGHTS"),
        (linked, "INVALID_ARGUMENT", "UNSAFE_PATH"),
    ):
        with refused() as said:
            imported(shared, str(source), "evil")
        assert (said.code, said.reason) == (code, reason), said
    with refused() as said:
        imported(shared, str(tiny_model), "../evil")
    assert set(said.fields) == {"model"}
    request = models_pb2.ListModelVersionsRequest(parent=f"{PROJECT}/models/evil")
    assert list(shared.models.ListModelVersions(request).versions) == []


@pytest.mark.parametrize(
    "name", ["", "projects/default/models/tiny", "projects/default/models/../versions/1", "tiny@1"]
)
def test_a_name_of_another_form(shared: Server, name: str) -> None:
    with refused() as said:
        shared.models.GetModelVersion(models_pb2.GetModelVersionRequest(name=name))
    assert (said.code, set(said.fields)) == ("INVALID_ARGUMENT", {"name"})


def test_a_rollback_needs_an_alias_and_a_reason(shared: Server) -> None:
    name = f"{PROJECT}/models/tiny/aliases/production"
    with refused() as said:
        shared.models.RollbackAlias(models_pb2.RollbackAliasRequest(name=name, reason="x"))
    assert said.code == "NOT_FOUND"
    with refused() as said:
        shared.models.RollbackAlias(models_pb2.RollbackAliasRequest(name=name))
    assert (said.code, set(said.fields)) == ("INVALID_ARGUMENT", {"reason"})


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"turns": []}, "turns"),
        ({"turns": [models_pb2.ChatTurn(role="robot", content="x")]}, "turns[0].role"),
        ({"turns": [models_pb2.ChatTurn(role="assistant", content="x")]}, "turns"),
        ({"turns": [models_pb2.ChatTurn(role="user", content="x")], "max_new_tokens": -1}, "max_new_tokens"),
        ({"turns": [models_pb2.ChatTurn(role="user", content="x")], "temperature": float("nan")}, "temperature"),
        ({"turns": [models_pb2.ChatTurn(role="user", content="x")], "temperature": 1e-6}, "temperature"),
    ],
)
def test_a_conversation_that_cannot_be_held(shared: Server, fields: dict[str, object], field: str) -> None:
    request = models_pb2.SampleModelVersionRequest(name=f"{PROJECT}/models/tiny/versions/1", **fields)
    with refused() as said:
        list(shared.models.SampleModelVersion(request))
    assert set(said.fields) == {field}


def test_talking_to_what_is_not_there(shared: Server) -> None:
    turns = [models_pb2.ChatTurn(role="user", content="hi")]
    with refused() as said:
        list(
            shared.models.SampleModelVersion(
                models_pb2.SampleModelVersionRequest(
                    name=f"{PROJECT}/models/tiny/versions/1", against="ghost@1", turns=turns
                )
            )
        )
    assert said.code == "NOT_FOUND"
