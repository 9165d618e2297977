"""The event file survives a kill in mid-line and a disk that fills in mid-line; errors keep their contract."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest

import posttrain.engine
from posttrain.engine.attempt import record_of, run_attempt
from posttrain.engine.errors import CancelledError, DataError, EngineError
from posttrain.engine.events import EventWriter, Note, read_events


def test_a_line_cut_by_a_kill_is_not_glued_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path, 1) as writer:
        writer.write(Note(message="one"))
    with open(path, "ab") as file:
        file.write(b'{"type": "no')
    with EventWriter(path, 1) as writer:
        writer.write(Note(message="two"))
    assert [(event.seq, getattr(event, "message", "")) for event, _ in read_events(path)] == [(1, "one"), (2, "two")]


def test_a_line_that_does_not_fit_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    with EventWriter(path, 1) as writer:
        writer.write(Note(message="one"))

        class Short:
            """The file system takes ten bytes."""

            name = str(path)

            def __init__(self, file: object) -> None:
                self._file = file

            def write(self, data: bytes) -> int:
                return int(self._file.write(data[:10]))  # type: ignore[attr-defined]

            def fileno(self) -> int:
                return int(self._file.fileno())  # type: ignore[attr-defined]

            def close(self) -> None:
                self._file.close()  # type: ignore[attr-defined]

        monkeypatch.setattr(writer, "_file", Short(writer._file))
        with pytest.raises(OSError, match="No space left"):
            writer.write(Note(message="two"))
    assert [event.seq for event, _ in read_events(path)] == [1]


def subclasses(kind: type[EngineError]) -> list[type[EngineError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in subclasses(child))]


def test_every_error_has_a_code_of_its_own_and_a_hint() -> None:
    found = [kind for kind in subclasses(EngineError) if kind.__module__ == "posttrain.engine.errors"]
    assert len({kind.code for kind in found}) == len(found) > 12
    for kind in found[1:]:
        assert kind.hint
        record = record_of(kind("what happened"), 3)
        assert (record.code, record.message, record.hint) == (kind.code, "what happened", kind.hint)
        assert record.status == ("cancelled" if kind is CancelledError else "failed")


def test_any_work_ends_in_a_record(tmp_path: Path) -> None:
    def refused(*_: object) -> dict[str, object]:
        raise DataError("row 1 is bad", hint="look at it")

    assert run_attempt(tmp_path / "a", 1, lambda *_: {"n": 1}).summary == {"n": 1}
    assert run_attempt(tmp_path / "b", 1, refused).hint == "look at it"
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["events.jsonl", "exit.json"]


def test_every_module_imports() -> None:
    names = [module.name for module in pkgutil.walk_packages(posttrain.engine.__path__, "posttrain.engine.")]
    assert "posttrain.engine.methods.ift" in names
    for name in names:
        if not name.startswith("posttrain.engine.gguf"):  # an extra
            importlib.import_module(name)
