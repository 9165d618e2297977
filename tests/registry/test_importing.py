"""Models and datasets from outside: what is copied, what is refused, and that nothing leads out of its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.engine.errors import ModelError, ModelNotFoundError, UnsafeWeightsError
from posttrain.engine.spec import EvaluateSpec, sha256_text
from posttrain.evals.errors import RowsError, SuiteError
from posttrain.evals.rows import EvalRun, write_rows
from posttrain.registry import datasets, importing, sealing, suites, versions
from posttrain.registry.errors import (
    AlreadyExistsError,
    HubError,
    InvalidArgumentError,
    InvalidDatasetError,
    NotFoundError,
    TamperedError,
    TooLargeError,
    UnsafePathError,
)
from posttrain.registry.evaluations import list_rows, list_runs, record_eval_run
from posttrain.registry.importing import import_model
from posttrain.registry.store import Store
from posttrain.registry.verify import verify_home

from .world import NUM_ROWS, TEMPLATE, P, World, write_model

PICKLE = b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93."


def stored_names(store: Store, ref: str) -> list[str]:
    with store.read() as tx:
        return sorted(versions.checked_manifest(tx, versions.get_version(tx, P, ref)).digests)


# -- folders ----------------------------------------------------------------------------------------------------------


def test_only_what_makes_the_model_is_copied(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", template=TEMPLATE)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("x")
    (folder / "LICENSE").write_text("Apache-2.0")
    for name in ("modeling_evil.py", "pytorch_model.bin", "training_args.bin", "README.md", "optimizer.pt", ".env"):
        (folder / name).write_bytes(PICKLE)
    (folder / "sub").mkdir()
    (folder / "sub" / "config.json").write_text("{}")
    record = import_model(store, P, "bot", str(folder))
    assert stored_names(store, "bot@1") == [
        "LICENSE",
        "additional_chat_templates/tool.jinja",
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (record.role, record.form, record.source) == ("instruct", "full", f"folder:{folder}")
    assert not any(PICKLE in path.read_bytes() for path in store.artifacts.blobs.glob("*/*"))


def test_pickle_only_weights_are_refused_with_the_way_out(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(PICKLE)
    with pytest.raises(UnsafeWeightsError, match=r"pytorch_model\.bin") as caught:
        import_model(store, P, "bot", str(folder))
    assert "convert the checkpoint to safetensors" in caught.value.hint
    assert list(store.artifacts.blobs.glob("*/*")) == []


def test_a_tokenizer_that_is_cut_off_is_refused_at_import(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    text = (folder / "tokenizer.json").read_bytes() or b"{}"
    (folder / "tokenizer.json").write_bytes(text[:-1])
    with pytest.raises(ModelError, match=r"tokenizer\.json is not JSON"):
        import_model(store, P, "bot", str(folder))


def test_a_pickle_called_safetensors_is_refused(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(PICKLE)
    with pytest.raises(UnsafeWeightsError, match="not a safetensors file"):
        import_model(store, P, "bot", str(folder))


def test_links_may_stay_inside_and_never_lead_out(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "real.json").write_text("{}")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("real.json")
    assert import_model(store, P, "bot", str(folder)).ref == "bot@1"
    (tmp_path / "secret").write_text("{}")
    for target in ("../secret", str(tmp_path / "secret"), "/etc/passwd", "../absent"):
        (folder / "vocab.json").unlink(missing_ok=True)
        (folder / "vocab.json").symlink_to(target)
        with pytest.raises(UnsafePathError, match=r"vocab\.json"):
            import_model(store, P, "other", str(folder))
    (folder / "vocab.json").unlink()
    (folder / "additional_chat_templates").symlink_to("/etc")
    with pytest.raises(UnsafePathError, match="additional_chat_templates"):
        import_model(store, P, "third", str(folder))
    with store.read() as tx:
        assert [version.ref for version in versions.list_versions(tx, P).items] == ["bot@1"]


def test_a_file_swapped_after_the_look_is_not_registered(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "m")
    real = store.artifacts.add_file

    def swapping(source: Path) -> Any:
        if source.name == "model.safetensors":
            source.write_bytes(PICKLE)
        return real(source)

    monkeypatch.setattr(store.artifacts, "add_file", swapping)
    with pytest.raises(UnsafeWeightsError):
        import_model(store, P, "bot", str(folder))
    with store.read() as tx:
        assert versions.list_versions(tx, P).items == []


def test_the_same_files_are_the_same_version_and_others_the_next(store: Store, tmp_path: Path) -> None:
    first = import_model(store, P, "bot", str(write_model(tmp_path / "a")), request_id="r")
    assert import_model(store, P, "bot", str(tmp_path / "a"), request_id="r").id == first.id
    assert import_model(store, P, "bot", str(write_model(tmp_path / "b"))).id == first.id
    assert import_model(store, P, "bot", str(write_model(tmp_path / "c", 1.0))).ref == "bot@2"
    other = import_model(store, P, "cat", str(tmp_path / "a"))
    assert (other.ref, other.weights_digest) == ("cat@1", first.weights_digest)
    assert other.digest != first.digest  # evidence for the one is not evidence for the other
    with pytest.raises(AlreadyExistsError):
        import_model(store, P, "bot", str(tmp_path / "c"), request_id="r")
    assert verify_home(store) == []


def test_looking_only_stores_nothing(store: Store, tmp_path: Path) -> None:
    found = import_model(store, P, "bot", str(write_model(tmp_path / "m")), validate_only=True)
    assert (found.number, found.role, found.num_parameters) == (0, "base", 32)
    assert list(store.artifacts.blobs.glob("*/*")) == []
    (tmp_path / "m" / "config.json").unlink()
    with pytest.raises(ModelError):
        import_model(store, P, "bot", str(tmp_path / "m"), validate_only=True)


@pytest.mark.parametrize("name", ["", "Bot", "../bot", "bot@1", "a" * 64, "bot\n", "bot/x", "\x1b[31m"])
def test_a_bad_model_name_is_refused_before_anything_is_read(store: Store, name: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        import_model(store, P, name, "/absent")
    assert caught.value.field == "model"


@pytest.mark.parametrize("source", ["/absent", "./absent", "absent", "absent.gguf", "a/b/c", "../x/y"])
def test_a_source_that_is_nowhere_is_named(store: Store, source: str) -> None:
    with pytest.raises(ModelNotFoundError, match=source.rsplit("/", 1)[-1]):
        import_model(store, P, "bot", source)


@pytest.mark.parametrize("source", ["", "  ", "a\0b"])
def test_an_empty_source_is_an_argument_error(store: Store, source: str) -> None:
    with pytest.raises(InvalidArgumentError):
        import_model(store, P, "bot", source)


def test_an_adapter_alone_is_refused(store: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ModelError, match="without its base"):
        import_model(store, P, "bot", str(folder))


def test_the_model_in_the_package_is_a_true_base(store: Store) -> None:
    from posttrain.engine.base import BASE_DIR

    if not (BASE_DIR / "model.safetensors").is_file():
        pytest.skip("this checkout has no base model yet")
    record = import_model(store, P, "base", "builtin:tiny-base")
    assert (record.role, record.template_digest, record.source) == ("base", "", "builtin:tiny-base")
    assert record.num_parameters > 100_000
    assert import_model(store, P, "base", "builtin:tiny-base").id == record.id


def test_an_unknown_built_in_model_is_named(store: Store) -> None:
    with pytest.raises(NotFoundError, match="huge-base"):
        import_model(store, P, "bot", "builtin:huge-base")


# -- GGUF and hub -----------------------------------------------------------------------------------------------------


def test_a_gguf_file_is_converted_in_another_process(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "m.gguf"
    source.write_bytes(b"GGUF")
    commands = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        write_model(Path(command[-1]), template=TEMPLATE)
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(importing.subprocess, "run", run)
    record = import_model(store, P, "bot", str(source))
    assert commands[0][1:4] == ["-m", "posttrain.engine.gguf", str(source)]
    assert (record.source, record.role) == (f"gguf:{source}", "instruct")
    assert list(store.artifacts.temporary.iterdir()) == []


def test_a_bad_gguf_file_is_refused_by_the_real_converter(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "m.gguf"
    source.write_bytes(b"not it at all")
    with pytest.raises(ModelError, match="not a GGUF file"):
        import_model(store, P, "bot", str(source))
    assert list(store.artifacts.temporary.iterdir()) == []


def test_the_hub_switched_off_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="switched off"):
        import_model(store, P, "bot", "somebody/something")


class _Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub that knows no model."""
    server = HTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def hub_import(home: Path, endpoint: str) -> str:
    """Imports in a process of its own, because the hub's address is read when its client is imported."""
    code = (
        "import sys, pathlib\n"
        "from posttrain.registry.store import open_store\n"
        "from posttrain.registry.importing import import_model\n"
        "with open_store(pathlib.Path(sys.argv[1])) as store:\n"
        "    try:\n"
        "        import_model(store, 'default', 'bot', 'somebody/something')\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error)\n"
        "    assert list(store.artifacts.temporary.iterdir()) == []\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "NO_PROXY": "*", "no_proxy": "*"}
    command = [sys.executable, "-c", code, str(home)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


def test_an_id_that_the_hub_does_not_have_is_named(tmp_path: Path, hub: str) -> None:
    assert hub_import(tmp_path / "h", hub).startswith("ModelNotFoundError somebody/something")


def test_a_hub_that_cannot_be_reached_is_said(tmp_path: Path) -> None:
    assert hub_import(tmp_path / "h", "http://127.0.0.1:9").startswith("HubError somebody/something cannot be fetched")


# -- datasets ---------------------------------------------------------------------------------------------------------

GOOD = json.dumps({"prompt": "a", "completion": "b"}).encode() + b"\n"


def test_an_upload_is_sealed_once_and_for_ever(store: Store) -> None:
    record = datasets.upload(store, P, "data", [GOOD[:5], GOOD[5:]], source="here")
    assert (record.ref, record.sealed, record.num_bytes) == ("data@1", False, len(GOOD))
    with pytest.raises(InvalidArgumentError, match="not sealed"):
        datasets.dataset_input(store, P, "data@1", 1.0)
    sealed = sealing.seal(store, P, "data@1")
    assert (sealed.sealed, sealed.format, sealed.num_rows) == (True, "prompt_completion", 1)
    assert sealing.seal(store, P, "data@1").sealed_time == sealed.sealed_time
    given_ = datasets.dataset_input(store, P, "data@latest", 0.5)
    assert (given_.ref, given_.weight, Path(given_.path).read_bytes()) == ("data@1", 0.5, GOOD)


def test_bad_rows_are_named_and_nothing_is_sealed(store: Store) -> None:
    bad = GOOD + b'{"prompt": "a"}\n' + b"\xff\xfe\n" + b'{"prompt": 1, "completion": "b"}\n'
    datasets.upload(store, P, "data", [bad])
    with pytest.raises(InvalidDatasetError) as caught:
        sealing.seal(store, P, "data@1")
    assert [problem.row for problem in caught.value.problems] == [2, 3, 4]
    assert "row 2" in str(caught.value)
    with store.read() as tx:
        assert not datasets.get_version(tx, P, "data@1").sealed
        with pytest.raises(NotFoundError):
            datasets.get_version(tx, P, "data@latest")
    datasets.upload(store, P, "data", [b""])
    with pytest.raises(InvalidDatasetError, match="empty"):
        sealing.seal(store, P, "data@2")


def test_uploads_are_numbered_idempotent_and_bounded(store: Store) -> None:
    first = datasets.upload(store, P, "data", [GOOD], request_id="r")
    assert datasets.upload(store, P, "data", [GOOD], request_id="r").id == first.id
    with pytest.raises(AlreadyExistsError):
        datasets.upload(store, P, "data", [GOOD, GOOD], request_id="r")
    assert datasets.upload(store, P, "data", [GOOD]).ref == "data@2"
    with pytest.raises(TooLargeError):
        datasets.upload(store, P, "data", [GOOD], max_bytes=3)
    with pytest.raises(InvalidArgumentError):
        datasets.upload(store, P, "../data", [GOOD])
    with store.read() as tx:
        assert [record.ref for record in datasets.list_versions(tx, P, "data").items] == ["data@2", "data@1"]
        with pytest.raises(NotFoundError):
            datasets.get_version(tx, P, "data@production")


def test_changed_dataset_bytes_are_neither_sealed_nor_used(store: Store) -> None:
    sealed = sealing.seal(store, P, datasets.upload(store, P, "a", [GOOD]).ref)
    datasets.upload(store, P, "b", [GOOD + GOOD])
    for sha256 in (sealed.sha256, sha256_text((GOOD + GOOD).decode())):
        path = store.artifacts.path(sha256)
        path.chmod(0o644)
        path.write_bytes(GOOD + GOOD + GOOD)
    with pytest.raises(TamperedError):
        datasets.dataset_input(store, P, "a@1", 1.0)
    with pytest.raises(TamperedError):
        sealing.seal(store, P, "b@1")


@given(st.lists(st.sampled_from([GOOD, b"\n", b"{}\n", b"\xff\n"]), max_size=6))
@settings(max_examples=30)
def test_a_dataset_is_sealed_exactly_if_every_row_is_good(shared_store: Store, lines: list[bytes]) -> None:
    ref = datasets.upload(shared_store, P, "data", lines).ref
    rows = [line for line in lines if line != b"\n"]
    if rows and all(line == GOOD for line in rows):
        assert sealing.seal(shared_store, P, ref).num_rows == len(rows)
    else:
        with pytest.raises(InvalidDatasetError):
            sealing.seal(shared_store, P, ref)


# -- suites and evaluations -------------------------------------------------------------------------------------------


def test_a_suite_is_laid_out_as_it_was_registered(world: World) -> None:
    from posttrain.evals.suites.load import load_suite

    given_ = suites.suite_input(world.store, P, "toy")
    loaded = load_suite(Path(given_.manifest), environment={})
    assert loaded.digest == given_.digest
    with world.store.read() as tx:
        (record,) = suites.list_suites(tx, P)
    assert (record.metrics, record.num_rows, record.source) == (["toy"], NUM_ROWS, "added")
    with pytest.raises(NotFoundError):
        suites.suite_input(world.store, P, "cat")


def test_a_mirrored_suite_is_found_under_its_root(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    row = {"id": "1", "question": "1 + 1?", "answer": "#### 2"}
    content = json.dumps(row).encode() + b"\n"
    (tmp_path / "mirror" / "rows.jsonl").write_bytes(content)
    source = {"format": "gsm8k", "path": "rows.jsonl", "sha256": sha256_text(content.decode())}
    task = {"name": "t", "metric": "m", "source": source, "scorer": "gsm8k", "max_new_tokens": 8, "shards": ["gate"]}
    manifest = {"name": "public", "version": "1", "root_variable": "SOME_MIRROR", "tasks": [task]}
    path = tmp_path / "public.suite.yaml"
    path.write_text(json.dumps(manifest))
    with pytest.raises(SuiteError, match="SOME_MIRROR"):
        suites.add_suite(store, P, path)
    record = suites.add_suite(store, P, path, root=str(tmp_path / "mirror"))
    assert sorted(record.files) == ["public.suite.yaml", "rows.jsonl"]
    path.write_text(json.dumps({**manifest, "root_variable": ""}))
    with pytest.raises(InvalidArgumentError) as caught:
        suites.add_suite(store, P, path, root=str(tmp_path / "mirror"))
    assert caught.value.field == "root"


def test_the_built_in_suites_are_registered_once_and_keep_their_names(store: Store, tmp_path: Path) -> None:
    first = suites.add_builtin_suites(store, P)
    again = suites.add_builtin_suites(store, P)
    assert [record.id for record in first] == [record.id for record in again]
    if not first:
        pytest.skip("this checkout has no built-in suites yet")
    with pytest.raises(AlreadyExistsError, match="ships a suite"):
        World(store, tmp_path).suite(name=first[0].name, version="999")


def test_an_evaluation_is_recorded_once_per_job(world: World) -> None:
    version = world.trained()
    record = world.evaluated(version, right=180)
    task = world.evaluate_job(version.ref, {"type": "own"})
    path = world.fresh("rows.jsonl")
    write_rows(path, world.make_rows(task, [1.0] * NUM_ROWS, version))
    first = record_eval_run(world.store, P, task, path)
    path.unlink()
    assert record_eval_run(world.store, P, task, path).id == first.id
    (score,) = record.scores
    assert (score["metric"], score["shard"], score["n"], score["score"]) == ("toy/toy", "gate", NUM_ROWS, 0.75)
    assert 0.6 < score["low"] < 0.75 < score["high"] < 0.9
    with world.store.read() as tx:
        assert [run.id for run in list_runs(tx, P, version.ref).items] == [first.id, record.id]
    seen, token = [], ""
    while True:
        page = list_rows(world.store, P, record.id, "toy", size=100, token=token)
        seen += [row.example_id for row in page.items]
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"toy-{number:04d}" for number in range(NUM_ROWS)]
    assert list_rows(world.store, P, record.id, "other").items == []


HEADER_LIES: dict[str, dict[str, Any]] = {
    "version": {"version": "base@1"},
    "manifest digest": {"manifest_digest": "0" * 64},
    "weights digest": {"weights_digest": "0" * 64},
    "shard": {"shard": "dev"},
    "suites": {"suites": []},
}


@pytest.mark.parametrize("lie", HEADER_LIES)
def test_rows_of_something_else_are_refused(world: World, lie: str) -> None:
    version = world.trained()
    task = world.evaluate_job(version.ref, {"type": "own"})
    run = world.make_rows(task, [1.0] * 10, version)
    lying = EvalRun(header=run.header.model_copy(update=HEADER_LIES[lie]), rows=run.rows)
    path = world.fresh("rows.jsonl")
    write_rows(path, lying)
    with pytest.raises(InvalidArgumentError, match=lie):
        record_eval_run(world.store, P, task, path)
    assert world.query("SELECT * FROM eval_runs") == []


def test_rows_under_another_template_are_refused(world: World) -> None:
    version = world.trained()
    task = world.evaluate_job(version.ref, {"type": "own"})
    run = world.make_rows(task, [1.0] * 10, version)
    path = world.fresh("rows.jsonl")
    for change in ({"digest": sha256_text("easier")}, {"type": "plain"}):
        template = run.header.template.model_copy(update=change)
        write_rows(path, EvalRun(header=run.header.model_copy(update={"template": template}), rows=run.rows))
        with pytest.raises(InvalidArgumentError, match="template"):
            record_eval_run(world.store, P, task, path)
    assert isinstance(task.spec, EvaluateSpec)


def test_damaged_rows_are_refused(world: World) -> None:
    version = world.trained()
    task = world.evaluate_job(version.ref, {"type": "own"})
    path = world.fresh("rows.jsonl")
    write_rows(path, world.make_rows(task, [1.0] * 10, version))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RowsError):
        record_eval_run(world.store, P, task, path)


def test_edited_rows_are_not_shown(world: World) -> None:
    record = world.evaluated(world.trained(), right=3)
    path = world.store.artifacts.path(record.rows_digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"score":0.0', b'"score":1.0'))
    with pytest.raises(TamperedError):
        list_rows(world.store, P, record.id)
