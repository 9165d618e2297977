"""What the service reads of an attempt's folder: its log, and which checkpoint is the furthest."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.service import attempts

LOG = b"one\ntwo\nTraceback: cut off in the mid"


@pytest.mark.parametrize("tail", [False, True])
def test_the_last_line_of_a_killed_worker_is_shown_once_it_is_over(tmp_path: Path, tail: bool) -> None:
    (tmp_path / attempts.LOG_FILE).write_bytes(LOG)
    assert attempts.read_log(tmp_path, 0, 9, tail, is_over=False) == (["one", "two"], 8)
    assert attempts.read_log(tmp_path, 8, 9, False, is_over=False) == ([], 8)
    whole = ["one", "two", "Traceback: cut off in the mid"]
    assert attempts.read_log(tmp_path, 0, 9, tail, is_over=True) == (whole, len(LOG))
    assert attempts.read_log(tmp_path, 8, 9, False, is_over=True) == (whole[2:], len(LOG))
    assert attempts.read_log(tmp_path, len(LOG), 9, False, is_over=True) == ([], len(LOG))


def test_a_line_is_not_taken_for_the_last_one_where_a_block_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "LOG_BLOCK_BYTES", 6)
    (tmp_path / attempts.LOG_FILE).write_bytes(LOG)
    assert attempts.read_log(tmp_path, 0, 9, False, is_over=True) == (["one"], 4)
    assert attempts.read_log(tmp_path, 4, 9, False, is_over=True) == (["two"], 8)
    assert attempts.read_log(tmp_path, 8, 9, False, is_over=True) == (["Traceb"], 14)


def test_the_furthest_checkpoint_is_found_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 99,999,999 steps names are longer, and the order of texts is another one."""
    for name in ("step-99999999", "step-100000000"):
        (tmp_path / attempts.CHECKPOINTS_FOLDER / name).mkdir(parents=True)
    tried: list[str] = []

    def read(path: Path, spec_sha256: str) -> None:
        tried.append(path.name)
        raise attempts.CheckpointError("damaged")

    monkeypatch.setattr(attempts, "read_checkpoint", read)
    assert attempts.newest_checkpoint([tmp_path], "") == ""
    assert tried == ["step-100000000", "step-99999999"]
    assert attempts.progress_of(tmp_path, is_training=True) == 100_000_000
