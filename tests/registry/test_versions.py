"""Versions: what a manifest holds, that registering is done once, and that no change to one stays unseen."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from posttrain.engine.errors import ModelError, UnsafeWeightsError
from posttrain.engine.spec import canonical_json, sha256_text
from posttrain.registry import lineage, versions
from posttrain.registry.artifacts import scan_folder
from posttrain.registry.cards import export
from posttrain.registry.collect import collect
from posttrain.registry.errors import (
    AlreadyExistsError,
    BadRefError,
    InvalidArgumentError,
    NotFoundError,
    TamperedError,
    UnsafePathError,
)
from posttrain.registry.modelfiles import count_parameters, inspect_folder
from posttrain.registry.store import Store
from posttrain.registry.verify import verify_home
from posttrain.registry.versions import FileEntry, Manifest, get_version

from .world import TEMPLATE, P, World, drop_triggers, write_model

NUMBERS = itertools.count()


def write_adapter(folder: Path, value: float = 0.5, alpha: int = 16) -> Path:
    folder.mkdir()
    save_file({"a": np.full((2, 2), value, dtype=np.float32)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": alpha}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


# -- registering ------------------------------------------------------------------------------------------------------


def test_a_trained_version_says_where_it_comes_from(world: World) -> None:
    job, task = world.train_job("base@1")
    version = versions.register_trained(world.store, P, task, write_model(world.fresh("out"), 1.0, TEMPLATE))
    with world.store.read() as tx:
        manifest = versions.checked_manifest(tx, version)
        base = get_version(tx, P, "base@1")
        data = task.datasets[0]
    assert (version.ref, version.role, version.form, version.relation) == ("bot@1", "instruct", "full", "finetune")
    assert (base.role, base.template_digest, base.parent) == ("base", "", None)
    assert (manifest.parent, manifest.parent_digest) == ("base@1", base.digest)
    assert (manifest.job, manifest.spec_sha256) == (job.id, job.spec_sha256)
    assert [(item.ref, item.sha256) for item in manifest.datasets] == [("data@1", data.sha256)]
    assert manifest.template_digest == sha256_text(TEMPLATE)
    assert manifest.packages["posttrain"] not in ("", "absent")
    assert (manifest.architecture, manifest.num_parameters) == ("LlamaForCausalLM", 32)
    assert version.digest == sha256_text(version.manifest_json) == manifest.digest


def test_registering_twice_is_registering_once(world: World) -> None:
    _, task = world.train_job("base@1")
    folder = write_model(world.fresh("out"), 1.0, TEMPLATE)
    start, found = threading.Barrier(3), []

    def register() -> None:
        start.wait()
        found.append(versions.register_trained(world.store, P, task, folder).ref)

    threads = [threading.Thread(target=register) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shutil.rmtree(folder)
    found.append(versions.register_trained(world.store, P, task, folder).ref)  # after a restart, the folder gone
    assert found == ["bot@1"] * 4


def test_each_job_makes_its_own_version_of_shared_blobs(world: World) -> None:
    first, second = world.trained(value=1.0), world.trained(value=1.0)
    assert (first.ref, second.ref) == ("bot@1", "bot@2")
    assert first.digest != second.digest
    assert first.weights_digest == second.weights_digest
    assert len(list(world.store.artifacts.blobs.glob("*/*"))) == len(
        {sha256 for (sha256,) in world.query("SELECT sha256 FROM version_files")}
        | {sha256 for (sha256,) in world.query("SELECT sha256 FROM dataset_versions")}
        | {sha256 for (files,) in world.query("SELECT files FROM suites") for sha256 in json.loads(files).values()}
    )


def test_a_task_of_another_job_parent_or_dataset_is_refused(world: World) -> None:
    _, task = world.train_job("base@1")
    folder = write_model(world.fresh("out"), 1.0, TEMPLATE)
    other_spec = task.model_copy(update={"spec": task.spec.model_copy(update={"seed": 99})})
    other_base = task.model_copy(update={"base": task.base.model_copy(update={"digest": "0" * 64})})
    item = task.datasets[0].model_copy(update={"sha256": "0" * 64})
    other_data = task.model_copy(update={"datasets": [item]})
    other_judge = task.model_copy(update={"reward_models": [other_base.base]})
    refused = ((other_spec, "task"), (other_base, "base"), (other_data, "datasets"), (other_judge, "rewards"))
    for wrong, field in refused:
        with pytest.raises(InvalidArgumentError) as caught:
            versions.register_trained(world.store, P, wrong, folder)
        assert caught.value.field == field
    with pytest.raises(NotFoundError):
        versions.register_trained(world.store, P, task.model_copy(update={"job": "ift-0"}), folder)
    assert world.query("SELECT count(*) FROM model_versions WHERE model = 'bot'") == [(0,)]


def test_a_reward_model_stands_beside_the_family(world: World) -> None:
    judge = world.trained(output="judge")
    _, task = world.train_job("base@1")
    task = task.model_copy(update={"reward_models": [versions.model_input(world.store, P, judge.ref)] * 2})
    version = versions.register_trained(world.store, P, task, write_model(world.fresh("out"), 2.0, TEMPLATE))
    with world.store.read() as tx:
        family, edges = lineage.get_lineage(tx, P, version.ref)
    assert [edge.digest for edge in edges if edge.kind == "rewarded_by"] == [judge.digest]
    assert [(edge.parent, edge.child) for edge in edges if edge.kind == "rewarded_by"] == [("judge@1", "bot@1")]
    assert [one.ref for one in family] == ["base@1", "bot@1"]


@pytest.mark.parametrize("field", ["parent", "parent_digest", "relation", "job", "spec_sha256", "datasets"])
def test_a_version_that_was_not_imported_needs_all_its_origins(world: World, field: str) -> None:
    version = world.trained()
    manifest = Manifest.model_validate_json(version.manifest_json)
    lacking = manifest.model_copy(update={field: [] if field == "datasets" else ""})
    with world.store.transaction() as tx, pytest.raises(InvalidArgumentError) as caught:
        versions.insert_version(tx, lacking, None)
    assert caught.value.field == field


def test_numbers_grow_and_a_crash_uses_none_up(world: World) -> None:
    world.trained()

    def crash() -> None:
        with world.store.transaction() as tx:
            manifest = Manifest.model_validate_json(get_version(tx, P, "bot@1").manifest_json)
            versions.insert_version(tx, manifest.model_copy(update={"job": "", "source": "x"}), None)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crash()
    assert world.trained(value=2.0).ref == "bot@2"


def test_a_link_in_a_worker_output_is_refused(world: World, tmp_path: Path) -> None:
    _, task = world.train_job("base@1")
    folder = write_model(world.fresh("out"), 1.0, TEMPLATE)
    (folder / "LICENSE").symlink_to("/etc/passwd")
    with pytest.raises(UnsafePathError, match="LICENSE"):
        versions.register_trained(world.store, P, task, folder)


# -- references -------------------------------------------------------------------------------------------------------


def test_references_find_numbers_aliases_and_the_newest(world: World) -> None:
    with world.store.read() as tx:
        base = get_version(tx, P, "base@1")
    first = world.candidate(base, value=1.0)
    world.gate(first)
    world.promote(first)
    world.trained(value=2.0)
    with world.store.read() as tx:
        assert get_version(tx, P, "bot@1").ref == "bot@1"
        assert get_version(tx, P, "bot@production").ref == "bot@1"
        assert get_version(tx, P, "bot@latest").ref == "bot@2"
        assert [version.ref for version in versions.list_versions(tx, P, "bot").items] == ["bot@2", "bot@1"]
        for missing in ("bot@3", "bot@staging", "cat@1", "cat@latest"):
            with pytest.raises(NotFoundError):
                get_version(tx, P, missing)
        with pytest.raises(NotFoundError):
            get_version(tx, "other", "bot@1")
        with pytest.raises(BadRefError):
            get_version(tx, P, "bot")


# -- lineage ----------------------------------------------------------------------------------------------------------


def test_lineage_has_parents_first_and_every_edge(world: World) -> None:
    world.trained()
    _, task = world.train_job("bot@1", output="bot2")
    versions.register_trained(world.store, P, task, write_model(world.fresh("out"), 2.0, TEMPLATE))
    world.base("other")
    with world.store.read() as tx:
        found, edges = lineage.get_lineage(tx, P, "bot@1")
        assert [version.ref for version in found] == ["base@1", "bot@1", "bot2@1"]
        assert {(edge.parent, edge.child, edge.kind) for edge in edges} == {
            ("base@1", "bot@1", "finetune"),
            ("bot@1", "bot2@1", "finetune"),
            ("data@1", "bot@1", "trained_on"),
            ("data@1", "bot2@1", "trained_on"),
        }
        assert lineage.ancestors(tx, P, "bot2@1") == {"bot@1", "base@1"}
        assert lineage.descendants(tx, P, "base@1") == {"bot@1", "bot2@1"}
        assert [version.ref for version in lineage.get_lineage(tx, P)[0]] == ["base@1", "bot@1", "bot2@1", "other@1"]


def test_lineage_stays_acyclic(world: World) -> None:
    world.trained()
    with world.store.transaction() as tx:
        for parent, child in (("bot@1", "bot@1"), ("bot@1", "base@1")):
            with pytest.raises(InvalidArgumentError, match="descend from itself"):
                lineage.add_edge(tx, P, parent, child, "merge", "")
        with pytest.raises(InvalidArgumentError, match="not a kind"):
            lineage.add_edge(tx, P, "base@1", "bot@1", "friend", "")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=10))
@settings(max_examples=30)
def test_no_order_of_edges_closes_a_circle(shared_store: Store, pairs: list[tuple[int, int]]) -> None:
    project = f"p{next(NUMBERS)}"
    with shared_store.transaction() as tx:
        for parent, child in pairs:
            closes = parent == child or f"v@{child}" in lineage.ancestors(tx, project, f"v@{parent}")
            refused = False
            try:
                lineage.add_edge(tx, project, f"v@{parent}", f"v@{child}", "merge", "")
            except InvalidArgumentError:
                refused = True
            assert refused == closes
        for number in range(4):
            assert f"v@{number}" not in lineage.ancestors(tx, project, f"v@{number}")


# -- using ------------------------------------------------------------------------------------------------------------


def test_an_adapter_is_laid_over_the_full_weights_of_its_chain(world: World) -> None:
    world.trained()
    refs = ["bot@1"]
    for number in (1, 2):
        _, task = world.train_job(refs[-1], output=f"lora{number}")
        made = versions.register_trained(world.store, P, task, write_adapter(world.fresh("adapter"), float(number)))
        assert (made.form, made.relation, made.role) == ("adapter", "adapter", "instruct")
        refs.append(made.ref)
    found = versions.model_input(world.store, P, "lora2@1")
    assert sorted(scan_folder(Path(found.path))) == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert len(found.adapters) == 2
    first, second = (count_parameters(Path(path) / "adapter_model.safetensors") for path in found.adapters)
    assert (first, second) == (4, 4)
    with world.store.read() as tx:
        digests = versions.checked_manifest(tx, get_version(tx, P, "lora1@1")).digests
    assert (Path(found.adapters[0]) / "adapter_model.safetensors").read_bytes() == world.store.artifacts.read(
        digests["adapter_model.safetensors"]
    )


def test_the_layers_of_an_adapter_are_those_of_its_full_weights(world: World) -> None:
    shapes = {"model.layers.0.mlp.up_proj.weight": (4, 8), "model.norm.weight": (8,)}
    tensors = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
    _, task = world.train_job("base@1")
    versions.register_trained(world.store, P, task, write_model(world.fresh("out"), 0.0, TEMPLATE, tensors))
    _, task = world.train_job("bot@1", output="lora")
    versions.register_trained(world.store, P, task, write_adapter(world.fresh("adapter")))
    assert versions.layers_of_version(world.store, P, "lora@1") == ["model.layers.0.mlp.up_proj"]


def test_an_adapters_weights_are_its_own_its_scale_and_its_base(world: World) -> None:
    seen = set()
    for base_value, value, alpha in ((1.0, 1.0, 16), (2.0, 1.0, 16), (1.0, 2.0, 16), (1.0, 1.0, 32)):
        base = world.trained(value=base_value)
        _, task = world.train_job(base.ref, output="lora")
        folder = write_adapter(world.fresh("adapter"), value, alpha)
        seen.add(versions.register_trained(world.store, P, task, folder).weights_digest)
    assert len(seen) == 4


ROW_ATTACKS = [
    "UPDATE model_versions SET manifest_json = replace(manifest_json, 'instruct', 'base') WHERE model = 'bot'",
    "UPDATE model_versions SET digest = 'f' WHERE model = 'bot'",
    "UPDATE model_versions SET weights_digest = 'f' WHERE model = 'bot'",
    "UPDATE model_versions SET role = 'base' WHERE model = 'bot'",
    "UPDATE model_versions SET parent = NULL WHERE model = 'bot'",
    "UPDATE model_versions SET job = NULL WHERE model = 'bot'",
    "UPDATE model_versions SET model = 'better' WHERE model = 'bot'",
    "UPDATE version_files SET path = 'other' WHERE path = 'config.json' AND version = 2",
    "DELETE FROM version_files WHERE path = 'chat_template.jinja'",
    "INSERT INTO version_files SELECT version, 'extra', sha256, num_bytes FROM version_files WHERE version = 2 LIMIT 1",
]


@pytest.mark.parametrize("attack", ROW_ATTACKS)
def test_an_edited_version_is_never_used(world: World, attack: str, tmp_path: Path) -> None:
    world.trained()
    drop_triggers(world)
    world.sql(attack)
    ref = "better@1" if "better" in attack else "bot@1"
    with pytest.raises(TamperedError):
        versions.model_input(world.store, P, ref)
    with pytest.raises(TamperedError):
        export(world.store, P, ref, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert any("bot" in message or "better" in message for message in verify_home(world.store, deep=False))


def test_verify_finds_a_version_taken_out_and_a_changed_blob(world: World) -> None:
    world.trained()
    assert verify_home(world.store) == []
    (sha256,) = world.query("SELECT sha256 FROM version_files WHERE path = 'model.safetensors' AND version = 2")[0]
    path = world.store.artifacts.path(sha256)
    path.chmod(0o644)
    path.write_bytes(b"other")
    assert any(sha256 in message for message in verify_home(world.store))
    assert verify_home(world.store, deep=False) == []
    drop_triggers(world)
    world.sql("DELETE FROM version_files WHERE version = 2", "DELETE FROM model_versions WHERE id = 2")
    assert any("bot@1 is in the audit" in message for message in verify_home(world.store, deep=False))


# -- manifests --------------------------------------------------------------------------------------------------------

ENTRY = st.builds(
    FileEntry,
    path=st.from_regex(r"[a-z]{1,8}\.json", fullmatch=True),
    sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    num_bytes=st.integers(0, 2**40),
)


@given(st.lists(ENTRY, max_size=4), st.text(max_size=20), st.integers(0, 2**50))
def test_a_manifest_survives_its_json_and_any_change_shows(files: list[FileEntry], source: str, count: int) -> None:
    manifest = Manifest(
        project=P,
        model="bot",
        role="base",
        form="full",
        files=files,
        weights_digest="w",
        template_digest="",
        architecture="A",
        num_parameters=count,
        source=source,
    )
    again = Manifest.model_validate_json(canonical_json(manifest))
    assert again == manifest
    assert again.digest == manifest.digest
    for change in ({"source": source + "x"}, {"num_parameters": count + 1}, {"role": "instruct"}, {"model": "b"}):
        assert manifest.model_copy(update=change).digest != manifest.digest


# -- reading model files ----------------------------------------------------------------------------------------------


def header(text: bytes, body: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + body


BAD_WEIGHTS = {
    "empty": b"",
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n",
    "a zip": b"PK\x03\x04" + b"\0" * 64,
    "a huge header": (2**62).to_bytes(8, "little") + b"{}",
    "a header beyond the file": (100).to_bytes(8, "little") + b"{}",
    "no JSON": header(b"{nonsense}"),
    "no object": header(b"[1, 2]"),
    "space before": header(b" {}"),
    "a gap": header(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"xx"),
    "an overlap": header(
        b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
        b"xxx",
    ),
    "bytes after the end": header(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"xx"),
    "a shape that lies": header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', b"xxxx"),
    "a negative shape": header(b'{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,-1]}}'),
    "a huge shape": header(b'{"a":{"dtype":"U8","shape":[1e999],"data_offsets":[0,0]}}'),
    "a true for a number": header(b'{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', b"x"),
    "an unknown type": header(b'{"a":{"dtype":"OBJ","shape":[1],"data_offsets":[0,1]}}', b"x"),
    "a key twice": header(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{}}'),
    "deep nesting": header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_what_is_only_called_safetensors_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(BAD_WEIGHTS[name])
    with pytest.raises(UnsafeWeightsError, match="not a safetensors file"):
        count_parameters(path)


@given(st.binary(max_size=200))
def test_random_bytes_are_never_weights(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data)
        with pytest.raises(UnsafeWeightsError):
            count_parameters(path)


def test_parameters_are_counted_over_all_types_and_shards(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", tensors={"a": np.zeros((3, 4), np.float16), "b": np.zeros((), np.int64)})
    assert count_parameters(folder / "model.safetensors") == 13
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    save_file({"c": np.zeros(5, np.float32)}, folder / "model-00002-of-00002.safetensors")
    save_file({"d": np.zeros(9, np.float32)}, folder / "consolidated.safetensors")
    index = {
        "weight_map": {
            name: f"model-0000{shard}-of-00002.safetensors" for name, shard in zip("abc", "112", strict=True)
        }
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found = inspect_folder(scan_folder(folder))
    assert found.num_parameters == 18
    assert len(found.weights) == 2
    assert found.ignored == ("consolidated.safetensors",)


@pytest.mark.parametrize("shard", ["../x.safetensors", "absent.safetensors", "tokenizer.json", 3, None])
def test_an_index_names_only_weights_of_its_folder(tmp_path: Path, shard: object) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises((ModelError, UnsafePathError)):
        inspect_folder(scan_folder(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "m")
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name.split(".")[0]):
        inspect_folder(scan_folder(folder))


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", '{"architectures": [3]}', "[" * 100_000])
def test_a_config_that_says_nothing_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        inspect_folder(scan_folder(folder))


def test_the_template_is_found_wherever_it_is_kept(tmp_path: Path) -> None:
    for number, (name, value) in enumerate(
        [
            ("chat_template.jinja", None),
            ("tokenizer_config.json", TEMPLATE),
            ("tokenizer_config.json", [{"name": "tool", "template": "x"}, {"name": "default", "template": TEMPLATE}]),
            ("chat_template.json", TEMPLATE),
        ]
    ):
        folder = write_model(tmp_path / str(number))
        (folder / name).write_text(TEMPLATE if value is None else json.dumps({"chat_template": value}))
        assert inspect_folder(scan_folder(folder)).template_digest == sha256_text(TEMPLATE)


# -- export and garbage -----------------------------------------------------------------------------------------------


def test_an_export_is_an_ordinary_folder_with_a_card(world: World, tmp_path: Path) -> None:
    import yaml

    with world.store.read() as tx:
        base = get_version(tx, P, "base@1")
    version = world.candidate(base)
    world.gate(version)
    world.promote(version)
    target = tmp_path / "export"
    num_bytes = export(world.store, P, "bot@production", target)
    found = scan_folder(target)
    assert num_bytes == sum(path.stat().st_size for path in found.values())
    with world.store.read() as tx:
        digests = versions.checked_manifest(tx, version).digests
    assert sorted(found) == sorted([*digests, "README.md"])
    assert all(path.stat().st_mode & 0o200 for path in found.values())  # an owner may edit the copy
    assert found["model.safetensors"].stat().st_nlink == 1  # and the store does not feel it
    card = (target / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["base_model"], front["base_model_relation"]) == ("base@1", "finetune")
    assert front["datasets"] == ["data"]
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == 1.0
    for part in (version.digest, version.job, "data@1", "PASS", "production"):
        assert part is not None
        assert part in card
    for inside in (found["model.safetensors"], found["config.json"]):
        inside.write_bytes(b"edited")
    assert verify_home(world.store) == []


def test_an_export_never_overwrites_and_never_stays_half(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    for target, error in (
        (tmp_path / "there", AlreadyExistsError),
        (tmp_path / "no" / "where", NotFoundError),
        (world.store.home / "blobs" / "x", InvalidArgumentError),
        (tmp_path / ("x" * 300), InvalidArgumentError),
    ):
        with pytest.raises(error):
            export(world.store, P, "base@1", target)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr("posttrain.registry.cards.os.rename", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(world.store, P, "base@1", tmp_path / "new")
    assert sorted(tmp_path.iterdir()) == before


def test_only_what_nothing_reaches_is_collected(world: World) -> None:
    version = world.trained()
    world.evaluated(version)
    versions.model_input(world.store, P, version.ref)
    orphan = world.store.artifacts.add_bytes(b"nobody refers to this")
    assert collect(world.store).blobs == ()  # it is young
    planned = collect(world.store, grace_s=-10)
    assert (planned.blobs, planned.dry_run) == ((orphan.sha256,), True)
    assert world.store.artifacts.read(orphan.sha256)
    assert collect(world.store, dry_run=False, grace_s=-10).blobs == (orphan.sha256,)
    assert not world.store.artifacts.path(orphan.sha256).exists()
    assert verify_home(world.store) == []
    assert collect(world.store, grace_s=-10).blobs == ()
    versions.model_input(world.store, P, version.ref)


def test_a_blob_that_is_added_again_is_young_again(world: World) -> None:
    import os

    orphan = world.store.artifacts.add_bytes(b"x")
    os.utime(world.store.artifacts.path(orphan.sha256), (0, 0))
    assert collect(world.store).blobs == (orphan.sha256,)
    world.store.artifacts.add_bytes(b"x")
    assert collect(world.store).blobs == ()


def test_a_job_that_an_older_version_accepted_is_registered(world: World) -> None:
    """A newer version has options of which the stored spec says nothing; read now it has their defaults."""
    job, task = world.train_job("base@1")
    plain = json.loads(job.spec_json)
    del plain["trackers"], plain["memory"]
    older = canonical_json(plain)
    drop_triggers(world)
    world.sql(f"UPDATE jobs SET spec_json = '{older}', spec_sha256 = '{sha256_text(older)}' WHERE id = '{job.id}'")
    folder = write_model(world.fresh("output"), 1.0, TEMPLATE)
    version = versions.register_trained(world.store, P, task, folder)
    assert json.loads(version.manifest_json)["spec_sha256"] == sha256_text(older)
    _, second = world.train_job("base@1", output="other")
    with pytest.raises(InvalidArgumentError, match="another spec"):
        versions.register_trained(world.store, P, second.model_copy(update={"spec": task.spec}), folder)
