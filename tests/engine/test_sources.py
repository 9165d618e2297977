"""JSON, CSV, Parquet, folders and hub names become JSONL; a row keeps its number whatever is wrong with others."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from posttrain.engine.data import hub, json_list, sources, tables
from posttrain.engine.data.examples import LabelledExample, PairExample
from posttrain.engine.data.rows import SourceFile
from posttrain.engine.data.sources import HubSource, prepared
from posttrain.engine.data.validate import DatasetReport, RowChecker, lines_of
from posttrain.engine.errors import DataError, EmptyDatasetError

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
ROW = {"prompt": "q", "completion": "a"}


def lines(path: Path) -> list[Any]:
    with prepared(path) as made:
        return [json.loads(line) for line in made.path.read_bytes().splitlines()]


def checked(path: Path) -> DatasetReport:
    with prepared(path) as made, open(made.path, "rb") as file:
        checker = RowChecker(made.files)
        for _ in checker.rows(lines_of(file)):
            pass
        return checker.report()


def write_csv(path: Path, records: list[list[str]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(records)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]], row_group_size: int | None = None) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=row_group_size)
    return path


# -- JSON -------------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@QUICK
@given(st.lists(VALUE, min_size=1, max_size=6), st.sampled_from([None, 0, 2]), st.booleans(), st.integers(1, 40))
def test_a_json_list_is_its_elements(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], indent: int | None, is_ascii: bool, chunk: int
) -> None:
    """Also where a piece that is read ends in the middle of a word, a number or an escape."""
    path = tmp_path_factory.getbasetemp() / "rows.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=is_ascii), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_list, "_CHUNK", chunk)
        assert [json.loads(line) for line in json_list.json_rows(path)] == rows


@QUICK
@given(st.lists(VALUE, min_size=1, max_size=6), st.integers(1, 40), st.data())
def test_a_json_list_that_is_cut_names_the_row(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], chunk: int, data: st.DataObject
) -> None:
    texts = [json.dumps(row) for row in rows]
    whole = "[" + ", ".join(texts) + "]"
    cut = data.draw(st.integers(1, len(whole) - 1))
    ends = [1 + len(", ".join(texts[: number + 1])) for number in range(len(rows))]
    row = 1 + sum(end < cut for end in ends)  # past the comma the next row has begun
    path = tmp_path_factory.getbasetemp() / "cut.json"
    path.write_text(whole[:cut])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_list, "_CHUNK", chunk)
        # Of a number cut to "1." only "1" is JSON: what follows is no comma then.
        said = rf"cut\.json: row {row} \(line 1\): (the file ends|not JSON|there is no ',')"
        with pytest.raises(DataError, match=said):
            list(json_list.json_rows(path))


# -- CSV --------------------------------------------------------------------------------------------------------------

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12).filter(
    str.strip
)


@QUICK
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8), st.data())
def test_a_bad_csv_record_is_named_by_its_place_under_the_header(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]], data: st.DataObject
) -> None:
    """Cells with line breaks, quotes and commas move no number."""
    bad = data.draw(st.integers(0, len(cells) - 1))
    records = [list(pair) for pair in cells]
    records[bad] = data.draw(st.sampled_from([["only one"], ["one", "two", "three"], ["no answer", ""]]))
    path = write_csv(tmp_path_factory.getbasetemp() / "rows.csv", [["prompt", "completion"], *records])
    report = checked(path)
    assert [problem.row for problem in report.problems] == [bad + 1]
    assert report.num_rows == len(cells)


def test_csv_cells_become_what_the_formats_read(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    records = [
        ["prompt", "completion", "label", "margin", "tools", "messages"],
        ["[1, 2]", '{"a": 1}', "True", "x", "", ""],  # text that is JSON, but no messages
        [json.dumps(turns[:1]), json.dumps(turns[1]), "yes", "1.5", "[]", json.dumps(turns)],
    ]
    assert lines(write_csv(tmp_path / "rows.csv", records)) == [
        {"prompt": "[1, 2]", "completion": '{"a": 1}', "label": True, "margin": "x"},
        {
            "prompt": turns[:1],
            "completion": turns[1],
            "label": "yes",
            "margin": 1.5,
            "tools": [],
            "messages": turns,
        },
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "\ufeffprompt;completion\nq;a, b\n"),
        ("a.tsv", "prompt\tcompletion\nq\ta, b\n"),
        ("a.csv", "prompt\tcompletion\r\n\r\nq\ta, b\r\n"),
        ("A.CSV", '"prompt","completion"\n"q","a, b"'),
    ],
)
def test_csv_as_spreadsheets_write_it(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert lines(tmp_path / name) == [{"prompt": "q", "completion": "a, b"}]


# -- Parquet ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(CELL, min_size=1, max_size=700), st.data(), st.sampled_from([None, 3, 100]))
def test_a_bad_parquet_row_is_named_across_row_groups_and_batches(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str], data: st.DataObject, group: int | None
) -> None:
    rows: list[dict[str, Any]] = [{"prompt": prompt, "completion": "a"} for prompt in prompts]
    bad = data.draw(st.integers(0, len(rows) - 1))
    rows[bad] = {"prompt": "q", "completion": None}
    rows.append(ROW)  # a column of nulls alone would have no type
    report = checked(write_parquet(tmp_path_factory.getbasetemp() / "rows.parquet", rows, group))
    assert [str(problem) for problem in report.problems] == [f"row {bad + 1}, field completion: is missing"]


def test_parquet_nulls_inside_a_struct_are_no_fields(tmp_path: Path) -> None:
    """A column has one type: each message has all fields of all messages, and each tool those of all tools."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}
    rows = [
        {"messages": [{"role": "user", "content": "q"}, call]},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    ]
    path = write_parquet(tmp_path / "rows.parquet", rows)
    kept = [{key: value for key, value in message.items() if value is not None} for message in rows[0]["messages"]]
    assert lines(path) == [{"messages": kept}, rows[1]]
    assert checked(path).is_valid


def test_parquet_pairs_and_labels(tmp_path: Path) -> None:
    pair = {"prompt": "q", "chosen": "a", "rejected": "b", "margin": 0.5}
    label = {"prompt": "q", "completion": "a", "label": False}
    for row, expected in ((pair, PairExample), (label, LabelledExample)):
        path = write_parquet(tmp_path / "rows.parquet", [row] * 3)
        with prepared(path) as made, open(made.path, "rb") as file:
            assert [type(good.example) for good in RowChecker().rows(lines_of(file))] == [expected] * 3


def test_texts_of_a_parquet_dictionary_are_decoded_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 kB of a file that are 600 MB of rows: half a megabyte of text, once in each column's dictionary."""
    big = "x" * 2**19
    table = pyarrow.table(
        {"prompt": [big] * 600, "messages": [[{"role": "user", "content": big}]] * 600, "number": range(600)}
    )
    path = tmp_path / "rows.parquet"
    parquet.write_table(table, path, row_group_size=250, compression="zstd")
    assert path.stat().st_size < 200_000
    started = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    numbers = []
    for line in tables.parquet_rows(path, print):
        numbers.append(int(line.rsplit(b":", 1)[1][:-2]))
        assert len(line) > 2 * len(big)
        assert pyarrow.total_allocated_bytes() - started < 32 * 10**6
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert numbers == list(range(600))
    assert peak < 60 * 10**6
    # One row that is too large keeps its place; the disk is not filled.
    large = [{"role": "user", "content": big}] * 40
    parquet.write_table(pyarrow.table({"messages": [large, large[:1]]}), path)
    first, second = tables.parquet_rows(path, print)
    assert b"is larger than" in first
    assert json.loads(second) == {"messages": large[:1]}
    parquet.write_table(table, path)
    monkeypatch.setattr(sources, "MAX_CONVERTED_BYTES", 10 * 2**20)
    with pytest.raises(DataError, match="row 10: with it the rows take more than 10485760 bytes"), prepared(path):
        pass


def test_as_many_columns_as_there_is_room_for(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(200_000)]
    (tmp_path / "a.csv").write_text(",".join([*names, "c7"]) + "\n")
    started = time.process_time()
    with pytest.raises(DataError, match="two columns 'c7'"), prepared(tmp_path / "a.csv"):
        pass
    assert time.process_time() - started < 3


# -- any file, any folder ---------------------------------------------------------------------------------------------

HEADS = st.sampled_from([b"", b"[", b"[{", b"{", b"PAR1", b"prompt,completion\n", b"\xef\xbb\xbf", b'[{"prompt": "'])
KINDS = st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet"])


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(KINDS, HEADS, st.binary(max_size=120), st.sampled_from([b"", b"]", b"PAR1"]))
def test_any_bytes_are_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, kind: str, head: bytes, body: bytes, tail: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{kind}"
    path.write_bytes(head + body + tail)
    try:
        said = [str(problem) for problem in checked(path).problems]
    except DataError as error:
        said = [str(error)] if path.name in str(error) and error.hint else []
        assert said
    assert all("\n" not in text for text in said)


def test_a_folder_is_its_files_in_order_and_rows_are_named_by_file(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.jsonl").write_bytes(b'{"prompt": "2", "completion": "a"}\n\n{"prompt": "3"}')
    (tmp_path / "a.json").write_text(json.dumps([ROW, ROW]))
    write_csv(tmp_path / "c.csv", [["prompt", "completion"], ["4", "a"], ["5"]])
    write_parquet(tmp_path / "d.parquet", [ROW])
    (tmp_path / "README.md").write_text("about")
    (tmp_path / ".hidden.json").write_text("broken")
    (tmp_path / "link").symlink_to(tmp_path)  # to a folder: not followed
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/e\xff.json"))).write_text(json.dumps([ROW]))
    with prepared(tmp_path) as made:
        assert made.files == [
            *(SourceFile("a.json", 2), SourceFile("b/two.jsonl", 3)),
            *(SourceFile("c.csv", 2), SourceFile("d.parquet", 1), SourceFile("e?.json", 1)),
        ]
        assert made.notes == [
            "1 files of the folder are no data and left out: README.md",
            "1 links to folders are not followed: link",
        ]
    assert [str(problem) for problem in checked(tmp_path).problems] == [
        "b/two.jsonl, row 3, field completion: is missing",
        "c.csv, row 2: has 1 cells, and the header has 2",
    ]
    assert not made.path.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("b\x1b[2J.json", r"b\\x1b\[2J\.json: a file's name with a control character \(U\+001B\) at position 2"),
        ("b\n.json", r"U\+000A"),
        ("b\u202e.json", r"U\+202E"),
        ("/".join(["folder" * 30] * 6) + "/b.json", "1092 characters; at most 1000"),
    ],
    ids=["escape", "line break", "reordering", "long"],
)
def test_a_files_name_that_a_server_refuses_is_refused_before_a_row_is_read(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "a.json").write_text("no rows at all: it would be told first, if it were read")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(json.dumps([ROW]))
    with pytest.raises(DataError, match=message) as caught, prepared(tmp_path):
        pass
    assert caught.value.hint == "rename the file"


def test_a_link_out_of_a_folder_is_refused_and_one_within_is_followed(tmp_path: Path) -> None:
    """Also through a link in between, and where it leads nowhere; the folder itself may be a link."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "secret.json").write_text(json.dumps([ROW]))
    folder, given = tmp_path / "folder", tmp_path / "given"
    (folder / "below").mkdir(parents=True)
    given.symlink_to(folder)
    (folder / "a.json").write_text(json.dumps([ROW]))
    (folder / "below" / "b.json").symlink_to("../a.json")
    (folder / "notes.txt").symlink_to(tmp_path / "other" / "secret.json")  # no data: not read
    with prepared(given) as made:
        assert made.files == [SourceFile("a.json", 1), SourceFile("below/b.json", 1)]
    for target in ("../../other/secret.json", tmp_path / "other" / "secret.json", "/no/such.json", "../c.json"):
        if target == "../c.json":
            (folder / "c.json").symlink_to("../other/secret.json")
        (folder / "below" / "c.json").symlink_to(target)
        first = r"(below/)?c\.json: is a link to a file outside of the folder given"
        with pytest.raises(DataError, match=first) as caught, prepared(given):
            pass
        assert "give that file itself" in caught.value.hint
        (folder / "below" / "c.json").unlink()
    with prepared(folder / "c.json") as made:
        assert made.path.read_bytes().count(b"\n") == 1, "a link that is given by name is meant"


def test_a_folder_of_several_splits_is_not_mixed(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001.json", "test-00000-of-00001.json"):
        (tmp_path / name).write_text(json.dumps([ROW]))
    with pytest.raises(DataError, match="several splits"), prepared(tmp_path):
        pass
    (tmp_path / "test-00000-of-00001.json").unlink()
    with prepared(tmp_path) as made:
        assert len(made.files) == 1


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="is no plain file"), prepared(tmp_path / "pipe.jsonl"):
        pass
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no data file in it"), prepared(tmp_path / "empty"):
        pass
    with pytest.raises(DataError, match="is no plain file"), prepared(tmp_path):
        pass


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Eight megabytes of each kind, in rows of a kilobyte, are converted within three."""
    row = {"prompt": "q" * 1000, "completion": "a"}
    with open(tmp_path / "rows.json", "w") as file:
        file.write("[" + ",\n".join([json.dumps(row)] * 8_000) + "]")
    write_csv(tmp_path / "rows.csv", [["prompt", "completion"], *[[row["prompt"], "a"]] * 8_000])
    for name in ("rows.json", "rows.csv"):
        tracemalloc.start()
        with prepared(tmp_path / name) as made:
            assert made.path.stat().st_size > 8 * 10**6
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3 * 10**6, (name, peak)


# -- the hub ----------------------------------------------------------------------------------------------------------


def test_offline_no_name_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="a/b: is on the hub, and HF_HUB_OFFLINE is set"), prepared(HubSource("a/b")):
        pass


def test_hub_rows_are_streamed_and_their_errors_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the library's place taken: nothing is fetched here."""
    asked: list[Any] = []

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        asked.append((arguments, options))
        yield {"prompt": "q", "completion": "a", "image": io.BytesIO()}
        yield {"prompt": "r", "completion": None, "image": io.BytesIO()}
        raise ConnectionError("the line broke\nsecond line")

    for name in hub.OFFLINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", type("library", (), {"load_dataset": load_dataset}))
    notes: list[str] = []
    rows = hub.hub_rows(HubSource("a/b", "test", "main_config", "abc"), notes.append)
    assert [next(rows), next(rows)] == [b'{"prompt": "q", "completion": "a"}\n', b'{"prompt": "r"}\n']
    assert notes == ["column 'image' (BytesIO) is left out"]
    assert asked == [(("a/b", "main_config"), {"split": "test", "revision": "abc", "streaming": True})]
    with pytest.raises(DataError, match=r"a/b, split test: .* ConnectionError: the line broke$"):
        next(rows)


@pytest.mark.slow
def test_the_library_streams_as_expected_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder takes a hub dataset's place: the real library, and no network."""
    for name in hub.OFFLINE:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "train.jsonl").write_bytes(b'{"prompt": "q", "completion": "a"}\n' * 3)
    source = HubSource(str(tmp_path))
    assert [json.loads(row) for row in hub.hub_rows(source, print)] == [ROW] * 3
    with pytest.raises(DataError, match=r"split test: .* Bad split: test"):
        list(hub.hub_rows(HubSource(str(tmp_path), "test"), print))


def test_an_empty_source_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(" [ ] ")
    with pytest.raises(EmptyDatasetError, match=r"rows\.json: is empty"), prepared(tmp_path / "rows.json"):
        pass


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, posttrain.engine.data.sources, posttrain.engine.data.hub, posttrain.service.client\n"
        "import posttrain.service.cli.datasets, posttrain.registry.sealing\n"
        "bad = {'datasets', 'pyarrow', 'pandas', 'numpy', 'torch', 'transformers'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
