"""Blobs and folders: what went in comes out, and nothing else does."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.engine.errors import DiskFullError
from posttrain.engine.spec import parse_spec
from posttrain.registry import artifacts
from posttrain.registry.artifacts import Artifacts, scan_folder
from posttrain.registry.errors import (
    BadRefError,
    InvalidArgumentError,
    NotFoundError,
    TamperedError,
    TooLargeError,
    UnsafePathError,
)
from posttrain.registry.refs import check_alias, check_digest, check_name, check_path, parse_ref
from posttrain.registry.store import open_store
from posttrain.registry.verify import verify_home


@pytest.fixture
def files(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "home")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def leftovers(files: Artifacts) -> list[Path]:
    return list(files.temporary.iterdir())


# -- blobs ------------------------------------------------------------------------------------------------------------


def test_a_file_is_stored_under_its_digest_read_only(files: Artifacts, tmp_path: Path) -> None:
    blob = files.add_file(write(tmp_path / "a", b"content"))
    assert blob.sha256 == hashlib.sha256(b"content").hexdigest()
    assert blob.num_bytes == 7
    assert files.read(blob.sha256) == b"content"
    assert files.path(blob.sha256).stat().st_mode & 0o777 == 0o444
    assert leftovers(files) == []


def test_equal_content_is_stored_once(files: Artifacts) -> None:
    first = files.add_bytes(b"x")
    inode = files.path(first.sha256).stat().st_ino
    assert files.add_bytes(b"x") == first
    assert files.path(first.sha256).stat().st_ino == inode


def test_a_changed_blob_is_found_on_every_way(files: Artifacts, tmp_path: Path) -> None:
    blob = files.add_bytes(b"good")
    path = files.path(blob.sha256)
    path.chmod(0o644)
    path.write_bytes(b"evil")
    ways: list[Any] = [
        lambda: files.verify(blob.sha256),
        lambda: files.read(blob.sha256),
        lambda: files.materialise({"a": blob.sha256}),
        lambda: files.lay_out(tmp_path / "copy", {"a": blob.sha256}, link=False),
        lambda: files.add_bytes(b"good"),
    ]
    for way in ways:
        with pytest.raises(TamperedError):
            way()


@pytest.mark.parametrize("kind", ["gone", "link", "folder"])
def test_a_blob_that_is_no_file_is_tampered_with(files: Artifacts, tmp_path: Path, kind: str) -> None:
    blob = files.add_bytes(b"good")
    path = files.path(blob.sha256)
    path.unlink()
    if kind == "link":
        path.symlink_to(write(tmp_path / "same", b"good"))
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(TamperedError):
        files.verify(blob.sha256)
    with pytest.raises(TamperedError):
        files.read(blob.sha256)


def test_a_link_a_pipe_a_folder_or_nothing_is_not_stored(files: Artifacts, tmp_path: Path) -> None:
    secret = write(tmp_path / "secret", b"secret")
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(UnsafePathError):
            files.add_file(tmp_path / name)
    with pytest.raises(NotFoundError):
        files.add_file(tmp_path / "absent")
    assert list(files.blobs.iterdir()) == []


def test_an_upload_over_its_limit_leaves_nothing(files: Artifacts) -> None:
    files.add_stream([b"ab", b"cd"], max_bytes=4)
    with pytest.raises(TooLargeError):
        files.add_stream([b"ab", b"cd", b"e"], max_bytes=4)
    assert leftovers(files) == []


def test_an_upload_that_breaks_off_leaves_nothing(files: Artifacts) -> None:
    def chunks() -> Any:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        files.add_stream(chunks())
    assert leftovers(files) == []
    assert list(files.blobs.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_leaves_nothing(files: Artifacts, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(_: int) -> None:
        raise OSError(code, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="storing a file"):
        files.add_bytes(b"x")
    assert leftovers(files) == []


def test_another_write_error_is_not_called_a_full_disk(files: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken") as caught:
        files.add_bytes(b"x")
    assert not isinstance(caught.value, DiskFullError)


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A tmpfs of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    mounted = shutil.which("mount") and subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not mounted:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_truly_full_disk(small_disk: Path) -> None:
    files = Artifacts(small_disk / "home")
    with pytest.raises(DiskFullError):
        files.add_stream(os.urandom(2**16) for _ in range(8))
    assert leftovers(files) == []
    assert files.read(files.add_bytes(b"there is room again").sha256) == b"there is room again"


def test_a_full_disk_under_the_database_loses_nothing(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    spec = parse_spec({"kind": "evaluate", "version": "bot@1", "suites": ["toy"]})
    with open_store(small_disk / "home") as store:
        with store.transaction() as tx:
            tx.create_job("default", spec)
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(2**22))

        def submit() -> None:
            with store.transaction() as tx:
                for number in range(200):
                    tx.create_job("default", spec.model_copy(update={"seed": number}))

        with pytest.raises(DiskFullError):
            submit()
        with store.read() as tx:
            assert len(tx.list_jobs("default").items) == 1
        filler.unlink()
        submit()
        assert verify_home(store) == []


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_materialised_folder_holds_exactly_its_files(files: Artifacts) -> None:
    wanted = {"a.json": files.add_bytes(b"a").sha256, "sub/b": files.add_bytes(b"b").sha256}
    folder = files.materialise(wanted)
    assert {name: path.read_bytes() for name, path in scan_folder(folder).items()} == {"a.json": b"a", "sub/b": b"b"}
    assert files.materialise(dict(reversed(wanted.items()))) == folder
    shutil.rmtree(files.materialised)
    assert files.materialise(wanted) == folder, "made anew after somebody removed all of it"
    assert files.materialise({"a.json": wanted["a.json"]}) != folder


def test_what_somebody_added_or_changed_there_is_gone_again(files: Artifacts, tmp_path: Path) -> None:
    wanted = {"a": files.add_bytes(b"a").sha256}
    folder = files.materialise(wanted)
    write(folder / "modeling.py", b"evil")
    assert sorted(scan_folder(files.materialise(wanted))) == ["a"]
    (folder / "a").unlink()
    write(folder / "a", b"evil")
    assert (files.materialise(wanted) / "a").read_bytes() == b"a"
    (folder / "a").unlink()
    (folder / "a").symlink_to(write(tmp_path / "x", b"a"))
    assert not (files.materialise(wanted) / "a").is_symlink()


def test_a_disk_that_cannot_link_gets_copies(files: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EXDEV, "cross-device")

    monkeypatch.setattr(os, "link", no_links)
    blob = files.add_bytes(b"a")
    copy = files.materialise({"a": blob.sha256}) / "a"
    assert copy.read_bytes() == b"a"
    assert copy.stat().st_ino != files.path(blob.sha256).stat().st_ino


def test_no_name_leads_out_of_a_folder(files: Artifacts, tmp_path: Path) -> None:
    blob = files.add_bytes(b"a")
    for name in ("../a", "/a", "a/../../b", "a\\b", "a\0", "", ".", "a//b", "a/", "\x1b[31m", "x" * 256):
        with pytest.raises(UnsafePathError):
            files.materialise({name: blob.sha256})
        with pytest.raises(UnsafePathError):
            files.lay_out(tmp_path / f"out-{len(name)}-{abs(hash(name))}", {name: blob.sha256})


def test_scanning_refuses_links_and_devices(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    write(folder / "sub" / "a", b"")
    assert list(scan_folder(folder)) == ["sub/a"]
    (folder / "sub" / "inside").symlink_to(folder / "sub" / "a")
    with pytest.raises(UnsafePathError, match="sub/inside"):
        scan_folder(folder)
    (folder / "sub" / "inside").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(UnsafePathError, match="pipe"):
        scan_folder(folder)
    with pytest.raises(NotFoundError):
        scan_folder(tmp_path / "absent")
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(NotFoundError):
        scan_folder(tmp_path / "link")


# -- names ------------------------------------------------------------------------------------------------------------

SEGMENT = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@given(st.lists(SEGMENT, min_size=1, max_size=5))
def test_plain_paths_are_accepted(parts: list[str]) -> None:
    assert check_path("/".join(parts)) == "/".join(parts)


@given(st.text(max_size=40))
def test_an_accepted_path_stays_in_its_folder(text: str) -> None:
    try:
        check_path(text)
    except UnsafePathError:
        return
    root = Path("/root/folder")
    joined = Path(os.path.normpath(root / text))
    assert joined.is_relative_to(root)
    assert joined != root
    assert joined == root / text
    assert text.isprintable() or any(ord(char) > 0x9F for char in text)


NAME = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?", fullmatch=True)


@given(NAME, st.integers(1, 999_999_999))
def test_a_number_reference_comes_back(name: str, number: int) -> None:
    ref = parse_ref(f"{name}@{number}")
    assert (ref.name, ref.number, str(ref)) == (name, number, f"{name}@{number}")


@given(NAME, st.from_regex(r"[a-z][a-z0-9_-]{0,30}", fullmatch=True))
def test_a_word_reference_has_no_number(name: str, word: str) -> None:
    assert (parse_ref(f"{name}@{word}").number, parse_ref(f"{name}@{word}").selector) == (0, word)


@pytest.mark.parametrize(
    "text", ["", "a", "a@", "@1", "a@0", "a@01", "a@1\n", "a@1@2", "A@1", "../a@1", "a@-1", "a@1.5", "a b@1", "a@١"]
)
def test_anything_else_is_no_reference(text: str) -> None:
    with pytest.raises(BadRefError):
        parse_ref(text)


@given(st.text(max_size=30))
def test_a_name_is_safe_wherever_it_is_put(text: str) -> None:
    for check in (lambda: check_name(text, "name"), lambda: check_alias(text), lambda: check_digest(text)):
        message = ""
        try:
            check()
        except InvalidArgumentError as error:
            message = str(error)
        assert message or not set(text) & set("/\\@ \n\0")
        assert message or text.isascii()
        assert message.isascii()
        assert message.isprintable()  # it may end in a log or on a terminal


def test_a_temporary_name_is_on_the_same_disk_as_the_blobs(files: Artifacts) -> None:
    assert files.temporary_path().parent == files.temporary
    assert files.temporary.stat().st_dev == files.blobs.stat().st_dev
    assert artifacts.CHUNK_BYTES >= 2**16
