"""Encoded rows on disk: the same rows, or none; never other rows."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import threading
from array import array
from pathlib import Path
from typing import Any

import pytest

from posttrain.engine.data import reading, token_cache
from posttrain.engine.data.encoded import AnyRow, Branch, Group, Row
from posttrain.engine.data.mixing import Mix
from posttrain.engine.data.reading import key_parts
from posttrain.engine.data.token_cache import EncodedRows, TokenCache, entry_key
from posttrain.engine.errors import DataError, DiskFullError
from posttrain.engine.events import Note, Phase, StepMetrics
from posttrain.engine.methods import KtoMethod, SftMethod
from posttrain.engine.run import run_training
from posttrain.engine.signing import sign
from posttrain.engine.spec import parse_spec
from posttrain.engine.task import ModelInput, TrainTask

from .test_run import events_of, failed, losses_of, succeeded, with_task
from .tiny import make_task, rows_of

KEY = "a" * 64


def rows_like(count: int, seed: int = 0) -> list[AnyRow]:
    """Rows and groups of all shapes."""
    rng = random.Random(seed)

    def segment() -> tuple[array[int], bytes]:
        length = rng.choice([1, 2, 7, 40, 400])
        ids = array("i", (rng.choice([0, 1, 300, 2**31 - 1]) for _ in range(length)))
        return ids, bytes(rng.randrange(2) for _ in range(length))

    rows: list[AnyRow] = []
    for number in range(1, count + 1):
        if number % 3:
            rows.append(Row(*segment(), "data@1", 2 * number))
        else:
            branches = tuple(Branch(*segment()) for _ in range(rng.choice([1, 2, 5])))
            rows.append(Group(segment()[0], branches, "data@1", 2 * number, rng.random(), bool(number % 2)))
    return rows


def kept(cache: TokenCache, rows: list[AnyRow], key: str = KEY) -> None:
    with cache.writer(key) as made:
        for row in rows:
            made.add(row)
        made.notes = [Note(message="3 rows were cut")]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    cache, rows = TokenCache(tmp_path), rows_like(200)
    kept(cache, rows)
    found = cache.open(KEY, "data@1")
    assert isinstance(found, EncodedRows)
    assert (len(found), [note.message for note in found.notes]) == (200, ["3 rows were cut"])
    assert list(found) == rows
    assert found[-1] == rows[-1]
    assert found[150:20:-7] == rows[150:20:-7]
    with pytest.raises(IndexError):
        found[200]
    assert (tmp_path / KEY / "rows.bin").stat().st_size > 4 * token_cache.BLOCK_BYTES, "rows lie across blocks"
    other = cache.open(KEY, "copy@7")
    assert other is not None
    assert other[2].name == "copy@7 row 6"
    shutil.rmtree(tmp_path / KEY)
    assert found[0] == rows[0], "an open entry can be read to its end"
    assert found[120] == rows[120]
    assert cache.open(KEY, "data@1") is None


def test_no_changed_byte_changes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "BLOCK_BYTES", 64)
    cache, rows = TokenCache(tmp_path / "cache"), rows_like(6)
    kept(cache, rows)
    sound = tmp_path / "sound"
    shutil.copytree(tmp_path / "cache" / KEY, sound)
    outcomes = set()
    for name in ("manifest.json", "digests.bin", "index.bin", "rows.bin"):
        data = (sound / name).read_bytes()
        changed = [data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :] for i in range(0, len(data), 1 + len(data) // 150)]
        for text in [*changed, data[:-1], data + b"\0", b""]:
            shutil.rmtree(tmp_path / "cache" / KEY, ignore_errors=True)
            shutil.copytree(sound, tmp_path / "cache" / KEY)
            (tmp_path / "cache" / KEY / name).write_bytes(text)
            found = cache.open(KEY, "data@1")
            if found is None:
                outcomes.add((name, "missed"))
                continue
            with pytest.raises(DataError, match="were changed while the job ran"):
                list(found)
            outcomes.add((name, "refused"))
            assert not (tmp_path / "cache" / KEY).exists(), "the next attempt encodes again"
    assert outcomes >= {("manifest.json", "missed"), ("digests.bin", "missed"), ("rows.bin", "refused")}
    assert ("digests.bin", "refused") not in outcomes
    assert ("index.bin", "refused") in outcomes


def test_a_whole_entry_by_somebody_else_is_not_used(tmp_path: Path) -> None:
    ours, theirs = TokenCache(tmp_path / "ours"), TokenCache(tmp_path / "theirs")
    kept(theirs, rows_like(5, seed=9))
    shutil.copytree(tmp_path / "theirs" / KEY, tmp_path / "ours" / KEY)
    assert ours.open(KEY, "data@1") is None
    kept(ours, rows_like(5))
    other = "b" * 64
    shutil.copytree(tmp_path / "ours" / KEY, tmp_path / "ours" / other)
    assert ours.open(other, "data@1") is None, "an entry counts under its own key"
    assert (tmp_path / "ours" / "secret").stat().st_mode & 0o077 == 0


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)

    def fail() -> None:
        with cache.writer(KEY) as made:
            made.add(rows_like(1)[0])
            raise DataError("row 2 is bad")

    with pytest.raises(DataError, match="row 2"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    # One that was killed: its folder goes once it is a day old.
    dead, new = tmp_path / ".dead.tmp", tmp_path / ".new.tmp"
    for folder in (dead, new):
        folder.mkdir()
        (folder / "rows.bin").touch()
    os.utime(dead / "rows.bin", (0, 0))
    kept(cache, rows_like(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new.tmp", KEY, "secret"]


def test_the_entries_that_were_not_opened_for_longest_go(tmp_path: Path) -> None:
    cache, rows = TokenCache(tmp_path), rows_like(30)
    keys = [str(n) * 64 for n in range(4)]
    for n, key in enumerate(keys[:3]):
        kept(cache, rows, key)
        os.utime(tmp_path / key, (n, n))
    assert cache.open(keys[0], "data@1") is not None  # the newest use by far
    size = sum(path.stat().st_size for path in (tmp_path / keys[0]).iterdir())
    kept(TokenCache(tmp_path, max_bytes=2 * size), rows, keys[3])
    assert {path.name for path in tmp_path.iterdir()} == {"secret", keys[0], keys[3]}


def test_two_writers_of_one_entry(tmp_path: Path) -> None:
    cache, rows = TokenCache(tmp_path), rows_like(9)
    with cache.writer(KEY) as first, cache.writer(KEY) as second:
        for row in rows:
            first.add(row)
            second.add(row)
    found = cache.open(KEY, "data@1")
    assert found is not None
    assert list(found) == rows
    assert {path.name for path in tmp_path.iterdir()} == {"secret", KEY}


def test_a_whole_entry_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers race: the slower one does not take away what the quicker one has committed, nor a reader opened."""
    quick, slow, rows = TokenCache(tmp_path), TokenCache(tmp_path), rows_like(9)
    with slow.writer(KEY) as made:
        for row in rows:
            made.add(row)
        kept(quick, rows)
        inode = (tmp_path / KEY / "rows.bin").stat().st_ino
    assert (tmp_path / KEY / "rows.bin").stat().st_ino == inode
    # At all times, from the first commit on, the entry can be opened: 4 writers, 10 times each.
    gone: list[str] = []

    def write() -> None:
        for _ in range(10):
            kept(TokenCache(tmp_path), rows)
            if quick.open(KEY, "data@1") is None:
                gone.append("nothing to open after a commit")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not gone
    assert {path.name for path in tmp_path.iterdir()} == {"secret", KEY}


@pytest.mark.parametrize("what", ["a file", "a link to nothing", "a link to a file", "a damaged entry"])
def test_what_lies_in_an_entrys_place_is_replaced(what: str, tmp_path: Path) -> None:
    cache, rows, target, other = (
        TokenCache(tmp_path / "tokens"),
        rows_like(3),
        tmp_path / "tokens" / KEY,
        tmp_path / "x",
    )
    other.write_text("somebody's")
    if what == "a file":
        target.write_text("x")
    elif what == "a damaged entry":
        kept(cache, rows)
        (target / "digests.bin").write_bytes(b"")
    else:
        target.symlink_to(other if what == "a link to a file" else tmp_path / "nothing")
    kept(cache, rows)
    found = cache.open(KEY, "data@1")
    assert found is not None
    assert list(found) == rows
    assert {path.name for path in (tmp_path / "tokens").iterdir()} == {"secret", KEY}
    assert other.read_text() == "somebody's"


@pytest.mark.parametrize("secret", [b"", b"short"])
def test_what_is_too_short_for_a_secret_signs_nothing(secret: bytes, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(secret)
    cache = TokenCache(tmp_path)
    kept(cache, rows_like(2))
    assert len((tmp_path / "secret").read_bytes()) == 32
    again = TokenCache(tmp_path).open(KEY, "data@1")
    assert again is not None
    manifest = token_cache.Manifest.model_validate_json((tmp_path / KEY / "manifest.json").read_bytes())
    fields = manifest.model_dump(mode="json", exclude={"signature"})
    forged = manifest.model_copy(update={"signature": sign(secret, fields)})
    (tmp_path / KEY / "manifest.json").write_text(forged.model_dump_json())
    (tmp_path / "secret").write_bytes(secret)
    assert TokenCache(tmp_path).open(KEY, "data@1") is None


def test_an_entry_that_cannot_be_looked_at_does_not_stop_a_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = TokenCache(tmp_path)
    kept(cache, rows_like(2), "b" * 64)
    plain = Path.iterdir

    def refuse(path: Path) -> Any:
        if path.name == "b" * 64:
            raise PermissionError(13, "Permission denied")
        return plain(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    kept(cache, rows_like(2))
    assert cache.open(KEY, "data@1") is not None


def test_the_key_covers_what_is_encoded_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/m/tokenizer.json": "1" * 64, "/m/model.safetensors": "2" * 64, "/m/config.json": "3" * 64}
    options: dict[str, Any] = {"kind": "sft", "base": "a@1", "output": "b", "data": [{"dataset": "d@1"}]}

    def key(
        changed_files: dict[str, str] | None = None, template: str = "t", stops: tuple[int, ...] = (2,), **spec: Any
    ) -> str:
        base = ModelInput(ref="a@1", path="/m", digest="", weights_digest="", files=changed_files or files)
        parts = key_parts(
            parse_spec({**options, **spec}), base, template, {"eos_token": "</s>"}, stops, {"tokenizers": "1"}
        )
        assert parts is not None
        return entry_key(parts)

    same = key()
    assert (
        key(seed=9, dtype="float32", adapter={"type": "lora"}, optimizer={"learning_rate": 1.0}, display_name="x")
        == same
    )
    assert key({**files, "/m/model.safetensors": "9" * 64}) == same, "a new version with the same tokenizer"
    assert key({**files, "/m/tokenizer.json": "9" * 64}) != same
    assert key({**files, "/m/config.json": "9" * 64}) != same
    assert key(template="u") != same
    assert key(stops=(2, 3)) != same
    assert key(loss_on="last_turn") != same
    assert key(kind="ift") != same
    monkeypatch.setattr(token_cache, "_code_digest", lambda: "another version of this package")
    assert key() != same
    assert (
        key_parts(parse_spec(options), ModelInput(ref="a", path="", digest="", weights_digest=""), "", {}, (), {})
        is None
    )


def test_an_epoch_is_drawn_as_from_a_list_of_places() -> None:
    sizes, weights, seed = [7, 5, 30], [2.0, 1.4, 0.3], 11
    mix = Mix(sizes, weights, seed)
    for epoch in (0, 1):
        rng = random.Random(f"posttrain-mix/{seed}/{epoch}")
        order = [(0, row) for _ in range(2) for row in range(7)] + [(1, row) for row in range(5)]
        rng.sample(range(7), 0)
        order += [(1, row) for row in sorted(rng.sample(range(5), 2))]
        order += [(2, row) for row in sorted(rng.sample(range(30), 9))]
        rng.shuffle(order)
        drawn = [mix.at(epoch * mix.epoch_rows + i) for i in range(mix.epoch_rows)]
        assert drawn == order


# -- in an attempt ----------------------------------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainTask:
    monkeypatch.setattr(reading, "MIN_CACHED_BYTES", 0)
    long = {"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": "fox " * 200}]}
    batch = {"num_rows": 4, "max_tokens": 128, "overlong": "truncate"}
    return with_cache(make_task(tmp_path, rows=[*rows_of(12), long], batch=batch), tmp_path)


def with_cache(task: TrainTask, tmp_path: Path) -> TrainTask:
    files = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(task.base.path).iterdir()}
    return with_task(task, cache=str(tmp_path / "tokens"), base={**task.base.model_dump(), "files": files})


def bytes_of(folder: Path) -> bytes:
    return (folder / "output" / "model.safetensors").read_bytes()


def test_a_second_job_encodes_nothing_and_ends_in_the_same_bytes(
    cached: TrainTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeeded(with_task(cached, cache=""), tmp_path / "without")
    succeeded(cached, tmp_path / "first")

    def never(*_: Any) -> Any:
        raise AssertionError("encoded again")

    monkeypatch.setattr(SftMethod, "encode", never)
    succeeded(cached, tmp_path / "second")
    assert bytes_of(tmp_path / "without") == bytes_of(tmp_path / "first") == bytes_of(tmp_path / "second")
    assert losses_of(tmp_path / "without") == losses_of(tmp_path / "second")
    notes = [[note.message for note in events_of(tmp_path / name, Note)] for name in ("without", "first", "second")]
    assert notes[0] == notes[1] == notes[2]
    assert "1 rows were cut to 128 tokens" in notes[2][0], "truncation is told each time"


def test_rows_that_are_left_out_are_told_each_time(cached: TrainTask, tmp_path: Path) -> None:
    spec = cached.spec.model_dump()
    spec["batch"]["overlong"] = "skip"
    for name in ("first", "second"):
        succeeded(with_task(cached, spec=spec), tmp_path / name)
        (note,) = [event.message for event in events_of(tmp_path / name, Note) if "left out" in event.message]
        assert note == "data@1: 1 rows are longer than 128 tokens and left out"
    assert bytes_of(tmp_path / "first") == bytes_of(tmp_path / "second")


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_preferences_come_from_the_cache_too(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MIN_CACHED_BYTES", 0)
    loss = {"loss": {"type": "kto"}} if kind == "kto" else {}
    task = with_cache(make_task(tmp_path, "dpo", duration={"type": "steps", "max_steps": 3}, **loss), tmp_path)
    succeeded(with_task(task, cache=""), tmp_path / "without")
    succeeded(task, tmp_path / "first")
    if kind == "kto":
        monkeypatch.delattr(KtoMethod, "encode")
    succeeded(task, tmp_path / "second")
    assert bytes_of(tmp_path / "without") == bytes_of(tmp_path / "first") == bytes_of(tmp_path / "second")


def test_a_damaged_entry_is_made_anew(cached: TrainTask, tmp_path: Path) -> None:
    succeeded(cached, tmp_path / "first")
    (entry,) = [path for path in (tmp_path / "tokens").iterdir() if path.is_dir()]
    rows = bytearray((entry / "rows.bin").read_bytes())
    rows[30] ^= 1
    (entry / "rows.bin").write_bytes(rows)
    record = failed(cached, tmp_path / "second")
    assert (record.code, record.message) == (
        "BAD_DATA",
        "data@1: its encoded rows on disk were changed while the job ran",
    )
    assert "submit the job again" in record.hint
    succeeded(cached, tmp_path / "third")
    assert bytes_of(tmp_path / "first") == bytes_of(tmp_path / "third")


def test_bad_data_leaves_no_entry(cached: TrainTask, tmp_path: Path) -> None:
    changed = with_task(cached, datasets=[{**cached.datasets[0].model_dump(), "sha256": "0" * 64}])
    assert failed(changed, tmp_path / "first").code == "BAD_DATA"
    short = cached.spec.model_copy(update={"batch": cached.spec.batch.model_copy(update={"overlong": "refuse"})})
    assert failed(with_task(cached, spec=short.model_dump()), tmp_path / "second").code == "ROW_TOO_LONG"
    assert not [path for path in (tmp_path / "tokens").iterdir() if path.is_dir()]


def test_a_disk_without_room_for_the_entry_costs_only_memory(
    cached: TrainTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise DiskFullError("no space left")

    monkeypatch.setattr(token_cache.Writer, "add", full)
    succeeded(cached, tmp_path / "first")
    assert any("into memory" in note.message for note in events_of(tmp_path / "first", Note))
    monkeypatch.undo()
    succeeded(with_task(cached, cache=""), tmp_path / "without")
    assert bytes_of(tmp_path / "without") == bytes_of(tmp_path / "first")


def test_a_folder_that_cannot_be_written_costs_only_memory(cached: TrainTask, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a file")
    assert run_training(cached, tmp_path / "first").status == "succeeded"
    assert len(events_of(tmp_path / "first", StepMetrics)) == 6
    assert events_of(tmp_path / "first", Phase)[1].phase == "data"


@pytest.mark.parametrize("when", ["while rows are encoded", "after the commit"])
def test_a_folder_that_is_removed_meanwhile_costs_only_memory(
    when: str, cached: TrainTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeeded(with_task(cached, cache=""), tmp_path / "without")
    if when == "while rows are encoded":
        plain = token_cache.Writer.add

        def add(self: token_cache.Writer, row: AnyRow) -> None:
            shutil.rmtree(tmp_path / "tokens", ignore_errors=True)
            plain(self, row)

        monkeypatch.setattr(token_cache.Writer, "add", add)
    else:
        monkeypatch.setattr(TokenCache, "_prune", lambda self, key: shutil.rmtree(tmp_path / "tokens"))
    succeeded(cached, tmp_path / "first")
    (note,) = [note for note in events_of(tmp_path / "first", Note) if "into memory" in note.message]
    assert note.level == "warning"
    assert str(tmp_path) not in note.message
    assert bytes_of(tmp_path / "without") == bytes_of(tmp_path / "first")
