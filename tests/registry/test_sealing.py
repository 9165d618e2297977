"""Rows that sealing leaves out: skipped, duplicates, held out; counted, recorded, and gone from what is sealed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import text

from posttrain.engine.data.rows import SourceFile
from posttrain.registry import datasets, migrations, sealing
from posttrain.registry.errors import InvalidArgumentError, InvalidDatasetError, TamperedError
from posttrain.registry.sealing import SealOptions
from posttrain.registry.store import DATABASE_FILE, Store, make_engine, open_store
from posttrain.registry.tables import DatasetVersionRecord

from .world import P


def line(prompt: str, answer: str = "a") -> bytes:
    return json.dumps({"prompt": prompt, "completion": answer}).encode() + b"\n"


BAD = b'{"prompt": "q"}\n'
SKIP = SealOptions(on_bad_row="skip")


def seal(store: Store, lines: list[bytes], **options: Any) -> DatasetVersionRecord:
    ref = datasets.upload(store, P, "data", lines, source="here").ref
    return sealing.seal(store, P, ref, SealOptions(**options))


def content(store: Store, ref: str) -> bytes:
    return Path(datasets.dataset_input(store, P, ref, 1.0).path).read_bytes()


def test_skipped_rows_are_counted_recorded_and_gone(store: Store) -> None:
    made = seal(store, [BAD, line("1"), b"\n", b"{\n", *[BAD] * 30, line("2").rstrip()], on_bad_row="skip")
    assert (made.ref, made.sealed, made.num_rows, made.format) == ("data@1", True, 2, "prompt_completion")
    assert content(store, "data@1") == line("1") + line("2")
    assert made.num_bytes == len(line("1") + line("2"))
    assert made.sealing["num_skipped"] == 32
    assert made.sealing["skipped"][:3] == [
        "row 1, field completion: is missing",
        "row 4: not JSON: Expecting property name enclosed in double quotes (column 2)",
        "row 5, field completion: is missing",
    ]
    assert len(made.sealing["skipped"]) == 20, "the report is bounded"
    assert sealing.seal(store, P, "data@1").sha256 == made.sha256, "sealing again changes nothing"


def test_with_nothing_to_skip_the_bytes_are_the_uploads(store: Store) -> None:
    made = seal(store, [line("1"), line("2")], on_bad_row="skip")
    assert made.sha256 == made.sealing["uploaded_sha256"]
    assert made.sealing["num_skipped"] == 0


def test_without_a_good_row_nothing_is_sealed(store: Store) -> None:
    for lines, said in (([BAD, b"{}\n"], r"row 1, .* \(and 1 more\)"), ([b"\n"], "is empty"), ([], "is empty")):
        with pytest.raises(InvalidDatasetError, match=said):
            seal(store, lines, on_bad_row="skip", deduplicate=True)
    with store.read() as tx:
        assert [record.sealed for record in datasets.list_versions(tx, P, "data").items] == [False] * 3
    assert not list(store.artifacts.temporary.iterdir())


def test_duplicates_by_meaning_are_left_out_and_the_first_stays(store: Store) -> None:
    spaced = b'{ "completion" : "a", "prompt": "1", "id": 9}\n'
    made = seal(store, [line("1"), line("2"), spaced, line("1", "b"), line("1")], deduplicate=True)
    assert content(store, made.ref) == line("1") + line("2") + line("1", "b")
    assert (made.num_rows, made.sealing["num_duplicates"], made.sealing["num_skipped"]) == (3, 2, 0)
    with pytest.raises(InvalidDatasetError, match="row 2"):
        seal(store, [line("1"), BAD, line("1")], deduplicate=True)


def test_held_out_rows_are_a_dataset_of_their_own(store: Store) -> None:
    lines = [line(str(number // 2), f"answer {number % 2}") for number in range(200)]
    made = seal(store, lines, held_out=0.2, seed=7)
    assert made.sealing["held_out"] == "data-held-out@1"
    with store.read() as tx:
        other = datasets.get_sealed(tx, P, "data-held-out@latest")
    assert (other.sealing["held_out_of"], other.source, other.format) == ("data@1", "here", "prompt_completion")
    kept, held = (content(store, ref).splitlines(keepends=True) for ref in ("data@1", "data-held-out@1"))
    assert (made.num_rows, other.num_rows) == (len(kept), len(held))
    assert sorted(kept + held) == sorted(lines)
    assert 20 < len(held) < 60
    prompts = [{json.loads(row)["prompt"] for row in side} for side in (kept, held)]
    assert not prompts[0] & prompts[1], "rows of one prompt are on one side"
    again = seal(store, lines[::-1], held_out=0.2, seed=7)
    assert sorted(content(store, "data-held-out@2").splitlines(keepends=True)) == sorted(held), "whatever the order"
    assert again.sealing["held_out"] == "data-held-out@2"


def test_a_side_without_rows_is_refused(store: Store) -> None:
    with pytest.raises(InvalidArgumentError, match="of 3 rows none would be"):
        seal(store, [line("same", str(number)) for number in range(3)], held_out=0.5)
    with store.read() as tx:
        assert not [record for record in datasets.list_versions(tx, P).items if record.sealed]
    datasets.upload(store, P, "d" * 60, [line("1")])
    with pytest.raises(InvalidArgumentError, match="not a name"):
        sealing.seal(store, P, f"{'d' * 60}@1", SealOptions(held_out=0.5))


def test_problems_name_the_file_that_a_row_came_from(store: Store) -> None:
    lines = [line("1"), BAD, line("2"), BAD, BAD]
    files = (SourceFile("a.csv", 2), SourceFile("none.json", 0), SourceFile("b.parquet", 3))
    made = seal(store, lines, on_bad_row="skip", files=files)
    said = [problem.partition(", field")[0] for problem in made.sealing["skipped"]]
    assert said == ["a.csv, row 2", "b.parquet, row 2", "b.parquet, row 3"]
    with pytest.raises(InvalidDatasetError) as caught:
        seal(store, lines, files=files)
    assert [(p.file, p.row) for p in caught.value.problems] == [("a.csv", 2), ("b.parquet", 2), ("b.parquet", 3)]
    with pytest.raises(InvalidArgumentError, match="has 5 rows, and its files are said to have 3"):
        seal(store, lines, on_bad_row="skip", files=files[2:])


def test_changed_bytes_are_not_sealed_with_options_either(store: Store) -> None:
    ref = datasets.upload(store, P, "data", [line("1")]).ref
    with store.read() as tx:
        path = store.artifacts.path(datasets.get_version(tx, P, ref).sha256)
    path.chmod(0o644)
    path.write_bytes(line("2"))
    with pytest.raises(TamperedError):
        sealing.seal(store, P, ref, SKIP)
    assert not list(store.artifacts.temporary.iterdir())


def test_the_database_lets_bytes_change_in_sealing_only(store: Store) -> None:
    datasets.upload(store, P, "data", [line("1")])
    for change in ("sha256 = 'x'", "num_bytes = 1", "name = 'y', sealed = 1", "number = 9, sealed = 1"):
        with pytest.raises(sqlalchemy.exc.IntegrityError, match="keeps its name"), store.engine.begin() as connection:
            connection.execute(text(f"UPDATE dataset_versions SET {change}"))
    sealing.seal(store, P, "data@1", SKIP)
    with pytest.raises(sqlalchemy.exc.IntegrityError, match="immutable"), store.engine.begin() as connection:
        connection.execute(text("UPDATE dataset_versions SET sha256 = 'x', sealed = 1"))


def test_datasets_sealed_before_this_was_recorded_stay_as_they_are(tmp_path: Path) -> None:
    engine = make_engine(tmp_path / DATABASE_FILE)
    migrations.upgrade(engine, "0001")
    with engine.begin() as connection:
        columns = "project, name, number, sealed, format, num_rows, num_bytes, sha256, notes, source, created"
        values = "'default', 'old', 1, 1, 'messages', 3, 9, 'abc', '[]', '', 1.0"
        connection.execute(text(f"INSERT INTO dataset_versions ({columns}, sealed_time) VALUES ({values}, 2.0)"))
    engine.dispose()
    with open_store(tmp_path) as opened, opened.read() as tx:
        record = datasets.get_sealed(tx, P, "old@latest")
        assert (record.num_rows, record.sha256, record.sealing) == (3, "abc", {})


LINES = st.lists(
    st.one_of(st.builds(line, st.sampled_from("abcdef")), st.sampled_from([BAD, b"\n", b"{\n", b"\xff\n"])), max_size=12
)


@given(LINES, st.booleans())
@settings(max_examples=30, deadline=None)
def test_what_is_sealed_is_exactly_the_good_rows(shared_store: Store, lines: list[bytes], deduplicate: bool) -> None:
    good = [row for row in lines if row.startswith(b'{"prompt": ') and row != BAD]
    ref = datasets.upload(shared_store, P, "data", lines).ref
    options = SealOptions(on_bad_row="skip", deduplicate=deduplicate)
    if not good:
        with pytest.raises(InvalidDatasetError):
            sealing.seal(shared_store, P, ref, options)
        return
    made = sealing.seal(shared_store, P, ref, options)
    kept = list(dict.fromkeys(good)) if deduplicate else good
    assert content(shared_store, ref) == b"".join(kept)
    num_bad = sum(1 for row in lines if row.strip()) - len(good)
    facts = made.sealing
    assert (facts["num_skipped"], facts["num_duplicates"]) == (num_bad, len(good) - len(kept))
    bad = [number for number, row in enumerate(lines, start=1) if row.strip() and row not in good]
    assert [int(said.split()[1].rstrip(",:")) for said in facts["skipped"]] == bad
