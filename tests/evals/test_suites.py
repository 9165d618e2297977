"""Suites: what is read, what is refused and where, samples that are stable, and a suite that travels."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.evals.errors import SuiteError
from posttrain.evals.suites import builtin_suites, load_suite, pack_suite, sample
from posttrain.evals.suites.load import Source, read_manifest

from .conftest import suite_rows, write_suite

EXAMPLES = Path(__file__).parents[2] / "examples" / "suites"
DATA = Path(os.environ.get("POSTTRAIN_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def test_a_suite_is_read_with_all_its_examples(suite: Path) -> None:
    loaded = load_suite(suite)
    assert (loaded.name, loaded.version, len(loaded.tasks)) == ("echo", "1", 1)
    examples = loaded.tasks[0].examples
    assert Counter(example.shard for example in examples) == {"gate": 24, "dev": 6, "unseen": 6}
    assert examples[0].messages[0]["role"] == "user"


def test_the_digest_follows_content_and_nothing_else(suite: Path, tmp_path: Path) -> None:
    digest = load_suite(suite).digest
    suite.write_text("# a comment\n" + suite.read_text())
    assert load_suite(suite).digest == digest
    assert load_suite(write_suite(tmp_path / "b", rows=suite_rows()[:-1])).digest != digest
    assert load_suite(write_suite(tmp_path / "c", max_new_tokens=9)).digest != digest


def test_a_task_has_the_rows_of_its_metric(tmp_path: Path) -> None:
    rows = suite_rows()
    for row in rows[::2]:
        row["metric"] = "echo.loud"
    for row in rows[1::4]:
        row["metric"] = "echoes"
    loaded = load_suite(write_suite(tmp_path / "s", rows=rows))
    assert Counter(example.metric for example in loaded.tasks[0].examples) == {"echo.loud": 18, "echo": 9}
    loaded = load_suite(write_suite(tmp_path / "t", rows=rows, metric="echo.loud"))
    assert {example.metric for example in loaded.tasks[0].examples} == {"echo.loud"}


def test_a_row_of_two_tasks_is_refused(suite: Path) -> None:
    data = yaml.safe_load(suite.read_text())
    data["tasks"].append({**data["tasks"][0], "name": "again"})
    suite.write_text(yaml.safe_dump(data))
    with pytest.raises(SuiteError, match="echo and again both have a row 'gate/000'"):
        load_suite(suite)


def edit(rows: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    rows[4] = {key: value for key, value in {**rows[4], **changes}.items() if value is not ...}
    return rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ...}, r"row 5: no field 'id'"),
        ({"id": 7}, r"row 5: field id"),
        ({"id": "gate/000"}, r"rows 1 and 5 have the same id 'gate/000'"),
        ({"shard": "train"}, r"row 5: field shard must be gate, dev or unseen"),
        ({"checker": "vibes"}, r"row 5: no checker named 'vibes'"),
        ({"messages": []}, r"row 5: field messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, r"row 5: field messages must end with a user's"),
        ({"messages": [{"role": "user", "content": 5}]}, r"row 5.*content"),
        ({"tools": [{"name": 1}]}, r"row 5.*tools"),
        ({"colour": "red"}, r"row 5: unknown field colour"),
        ({"target": ...}, r"row 5: no field 'target'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SuiteError, match=message):
        load_suite(write_suite(tmp_path / "s", rows=edit(suite_rows(), **changes)))


def test_broken_lines_are_named(tmp_path: Path) -> None:
    for content, message in (
        (b"{}\n{", "row 1"),
        (b'{"id": NaN}\n', "NaN"),
        (b"\xff\n", "UTF-8"),
        (b"", "no rows of echo"),
    ):
        manifest = write_suite(tmp_path / "s")
        (tmp_path / "s" / "echo.jsonl").write_bytes(content)
        data = yaml.safe_load(manifest.read_text())
        data["tasks"][0]["source"]["sha256"] = hashlib.sha256(content).hexdigest()
        manifest.write_text(yaml.safe_dump(data))
        with pytest.raises(SuiteError, match=message):
            load_suite(manifest)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scorer": "magic"}, "no scorer named 'magic'"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"shards": []}, "shards"),
        ({"shards": ["train"]}, "shards"),
        ({"shots": [{"prompt": "x"}]}, "answer"),
        ({"colour": "red"}, "colour"),
        ({"source": {"format": "csv", "path": "a", "sha256": "0" * 64}}, "format"),
    ],
)
def test_a_bad_manifest_is_refused_with_the_place(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SuiteError, match=message):
        load_suite(write_suite(tmp_path / "s", **changes))


def test_names_and_files(tmp_path: Path, suite: Path) -> None:
    with pytest.raises(SuiteError, match="no suite named 'nothing'"):
        load_suite("nothing")
    renamed = suite.with_name("other.suite.yaml")
    suite.rename(renamed)
    with pytest.raises(SuiteError, match="the suite is named echo"):
        load_suite(renamed)
    with pytest.raises(SuiteError, match="No such file"):
        load_suite(tmp_path / "none.suite.yaml")
    renamed.write_text("a: 1\na: 2\n")
    with pytest.raises(SuiteError, match="given twice"):
        read_manifest(renamed)


def test_a_manifest_is_an_ordinary_file_of_bounded_size(tmp_path: Path, suite: Path) -> None:
    pipe, endless, large = (tmp_path / f"{name}.suite.yaml" for name in ("pipe", "endless", "large"))
    os.mkfifo(pipe)
    endless.symlink_to("/dev/zero")
    large.write_bytes(b"#" * (1 << 20) + b"\n")
    for path, why in ((pipe, "not an ordinary file"), (endless, "not an ordinary file"), (large, "larger than")):
        with pytest.raises(SuiteError, match=why):
            read_manifest(path)
    source = suite.with_name("echo.jsonl")
    source.unlink()
    os.mkfifo(source)
    with pytest.raises(SuiteError, match="is not there"):
        load_suite(suite)


def test_a_file_that_is_no_manifest_is_not_shown(tmp_path: Path) -> None:
    secret = "aws_secret_access_key = AKIA: [x\n"
    for name in ("secret.suite.yaml", "credentials"):
        (tmp_path / name).write_text("[default]\n" + secret)
        with pytest.raises(SuiteError) as caught:
            read_manifest(tmp_path / name)
        assert "AKIA" not in str(caught.value)
        assert "line" in str(caught.value) or "NAME.suite.yaml" in str(caught.value)


@pytest.mark.parametrize("path", ["../echo.jsonl", "/etc/passwd", "a/../../b", "", "..\\echo.jsonl"])
def test_a_source_outside_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="inside the suite's folder"):
        Source(format="posttrain", path=path, sha256="0" * 64)


def test_a_link_that_leads_out_is_refused(tmp_path: Path, suite: Path) -> None:
    source = suite.parent / "echo.jsonl"
    source.rename(tmp_path / "secret.jsonl")
    source.symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(SuiteError, match="leads out of"):
        load_suite(suite)


def test_an_edited_source_is_refused(suite: Path) -> None:
    source = suite.parent / "echo.jsonl"
    source.write_bytes(source.read_bytes().replace(b"fox", b"cat", 1))
    with pytest.raises(SuiteError, match="the manifest pins"):
        load_suite(suite)


def test_a_mirrored_suite_travels(tmp_path: Path) -> None:
    manifest = write_suite(tmp_path / "here")
    data = yaml.safe_load(manifest.read_text())
    data["root_variable"] = "MIRROR"
    manifest.write_text(yaml.safe_dump(data))
    (tmp_path / "mirror").mkdir()
    (tmp_path / "here" / "echo.jsonl").rename(tmp_path / "mirror" / "echo.jsonl")
    with pytest.raises(SuiteError, match="set MIRROR to the folder"):
        load_suite(manifest, {})
    loaded = load_suite(manifest, {"MIRROR": str(tmp_path / "mirror")})
    packed = pack_suite(loaded, tmp_path / "store" / loaded.digest)
    again = load_suite(packed, {})
    assert again.digest == loaded.digest
    assert again.tasks == loaded.tasks


# -- samples -----------------------------------------------------------------------------------------------------------


def test_a_sample_keeps_the_shares_and_is_stable() -> None:
    examples = list(load_suite("refusal").tasks[0].examples)
    first, again = sample(examples, 100, 3), sample(examples[::-1], 100, 3)
    assert len(first) == 100
    assert {e.id for e in first} == {e.id for e in again}, "the order of the source does not decide"
    assert {e.id for e in sample(examples, 100, 4)} != {e.id for e in first}
    whole, part = Counter(e.wording_id for e in examples), Counter(e.wording_id for e in first)
    assert all(abs(part[key] - 100 * whole[key] / len(examples)) <= 1 for key in whole)
    assert sample(examples, 0, 3) == examples
    assert sample(examples, 10**6, 3) == examples


# -- the suites that there are -----------------------------------------------------------------------------------------


def test_the_built_in_suites_are_sound() -> None:
    assert set(builtin_suites()) == {
        "abstention",
        "conversation",
        "instruction_following",
        "reasoning",
        "refusal",
        "tool_use",
    }
    for name in builtin_suites():
        for task in load_suite(name).tasks:
            for shard, rows, wordings in (("gate", 500, 40), ("dev", 300, 40)):
                own = [example for example in task.examples if example.shard == shard]
                assert len(own) >= rows
                assert len({example.wording_id for example in own}) >= wordings
            assert len(task.manifest.shots) >= 3


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("ifeval", {"instruction_following": 541}),
        ("xstest", {"refusal.harmless": 250, "refusal.harmful": 200}),
        ("gsm8k", {"reasoning": 1319}),
    ],
)
def test_mirrored_public_sets(name: str, metrics: dict[str, int]) -> None:
    manifest = read_manifest(EXAMPLES / f"{name}.suite.yaml")
    if not (DATA / manifest.tasks[0].source.path).is_file():
        pytest.skip(f"POSTTRAIN_DATA does not hold {manifest.tasks[0].source.path}")
    loaded = load_suite(EXAMPLES / f"{name}.suite.yaml", {"POSTTRAIN_DATA": str(DATA)})
    assert Counter(example.metric for example in loaded.tasks[0].examples) == metrics
    kept = Counter(example.metric for example in sample(list(loaded.tasks[0].examples), 200, 0))
    assert sum(kept.values()) == 200
    assert all(abs(kept[key] - 200 * count / sum(metrics.values())) <= 2 for key, count in metrics.items())


def test_public_formats_refuse_what_they_cannot_score(tmp_path: Path) -> None:
    good = {
        "ifeval": {"key": 1, "prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
        "xstest": {"id": "1", "prompt": "p", "type": "t", "label": "safe"},
        "gsm8k": {"question": "q", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"},
    }
    bad: dict[str, tuple[dict[str, Any], str]] = {
        "ifeval": ({"instruction_id_list": ["new:thing"]}, "unknown instruction new:thing"),
        "xstest": ({"label": "maybe"}, "safe or unsafe"),
        "gsm8k": ({"answer": "two"}, "no number after ####"),
    }
    for name, row in good.items():
        metric = "refusal" if name == "xstest" else "echo"
        for number, (changes, message) in enumerate([({}, ""), bad[name]]):
            folder = tmp_path / f"{name}{number}"
            content = (json.dumps({**row, **changes}) + "\n").encode()
            source = {"format": name, "path": "echo.jsonl", "sha256": hashlib.sha256(content).hexdigest()}
            manifest = write_suite(folder, source=source, metric=metric, scorer="refusal" if name == "xstest" else name)
            (folder / "echo.jsonl").write_bytes(content)
            if message:
                with pytest.raises(SuiteError, match=message):
                    load_suite(manifest)
            else:
                assert len(load_suite(manifest).tasks[0].examples) == 1
