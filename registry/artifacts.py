"""Files by their sha256, and folders made of them.

    HOME/blobs/sha256/ab/abcd...     one file per content, read-only
    HOME/materialised/KEY/           files as a folder: hard links to blobs (copies where the disk cannot link)
    HOME/tmp/                        unfinished writes; emptied when a server starts

A blob appears by a rename after its bytes were hashed and synced, so a crash leaves a whole blob or none. Bytes are
hashed again before every use that matters: a blob that changed is `TamperedError`, never an input.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from posttrain.engine.errors import DiskFullError
from posttrain.engine.events import fsync_folder
from posttrain.engine.spec import canonical_json, sha256_text
from posttrain.registry.errors import NotFoundError, TamperedError, TooLargeError, UnsafePathError
from posttrain.registry.refs import check_digest, check_path, shown

CHUNK_BYTES = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Blob:
    sha256: str
    num_bytes: int


@contextmanager
def full_disk_named(what: str) -> Iterator[None]:
    """Turns "no space left" into DiskFullError that says what was being written."""
    try:
        yield
    except DiskFullError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(f"no space left while {what}") from error
        raise


def open_regular(path: Path) -> BinaryIO:
    """Opens an ordinary file for reading, never through a link.

    Raises:
        NotFoundError: there is none.
        UnsafePathError: a link, a folder, a device or a pipe.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file", "check the path") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise UnsafePathError(f"{path}: not an ordinary file") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsafePathError(f"{path}: not an ordinary file")
    return os.fdopen(descriptor, "rb")


def hash_file(path: Path) -> Blob:
    """Digest and size of an ordinary file."""
    digest, num_bytes = hashlib.sha256(), 0
    with open_regular(path) as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            digest.update(chunk)
            num_bytes += len(chunk)
    return Blob(digest.hexdigest(), num_bytes)


def scan_folder(folder: Path) -> dict[str, Path]:
    """All files under a folder by relative path, sorted.

    Raises:
        NotFoundError: no such folder.
        UnsafePathError: a link, a device or a name that is not plain; the message names it.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise NotFoundError(f"{folder}: no such folder", "check the path")
    found: dict[str, Path] = {}
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                name = check_path(path.relative_to(folder).as_posix())
                if entry.is_symlink():
                    raise UnsafePathError(f"{shown(name)} is a link")
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                elif entry.is_file(follow_symlinks=False):
                    found[name] = path
                else:
                    raise UnsafePathError(f"{shown(name)} is not an ordinary file")
    return dict(sorted(found.items()))


class Artifacts:
    """The blobs and materialised folders of one data folder. Safe to use from several threads."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.blobs = home / "blobs" / "sha256"
        self.materialised = home / "materialised"
        self.temporary = home / "tmp"
        self._folders = threading.Lock()
        for folder in (self.blobs, self.materialised, self.temporary):
            folder.mkdir(parents=True, exist_ok=True)

    def clean_temporary(self) -> int:
        """Removes what earlier, interrupted writes left; only for the holder of the server lock. Returns how many."""
        entries = list(self.temporary.iterdir())
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        return len(entries)

    def temporary_path(self) -> Path:
        """A new name in the temporary folder, on the same disk as the blobs; nothing is created."""
        return self.temporary / uuid.uuid4().hex

    # -- blobs --------------------------------------------------------------------------------------------------------

    def path(self, sha256: str) -> Path:
        """Where a blob lies or would lie."""
        check_digest(sha256)
        return self.blobs / sha256[:2] / sha256

    def add_file(self, source: Path) -> Blob:
        """Copies an ordinary file into the store, hashing while copying.

        Raises:
            NotFoundError, UnsafePathError: as `open_regular`.
            DiskFullError: no space; nothing is left behind.
            TamperedError: this content is stored already, and the stored bytes have changed.
        """
        with open_regular(source) as file:
            return self.add_stream(iter(lambda: file.read(CHUNK_BYTES), b""))

    def add_bytes(self, data: bytes) -> Blob:
        return self.add_stream([data])

    def add_stream(self, chunks: Iterable[bytes], max_bytes: int = 0) -> Blob:
        """Writes chunks as one blob. `max_bytes` 0: no limit.

        Raises:
            TooLargeError: more than `max_bytes`; nothing is left behind.
            DiskFullError, TamperedError: as `add_file`.
        """
        temporary = self.temporary_path()
        try:
            with full_disk_named("storing a file"):
                blob = self._write(temporary, chunks, max_bytes)
                self._settle(temporary, blob)
        finally:
            temporary.unlink(missing_ok=True)
        return blob

    def _write(self, temporary: Path, chunks: Iterable[bytes], max_bytes: int) -> Blob:
        digest, num_bytes = hashlib.sha256(), 0
        with open(temporary, "xb") as file:
            for chunk in chunks:
                num_bytes += len(chunk)
                if max_bytes and num_bytes > max_bytes:
                    raise TooLargeError(f"more than {max_bytes} bytes")
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fchmod(file.fileno(), 0o444)
            os.fsync(file.fileno())
        return Blob(digest.hexdigest(), num_bytes)

    def _settle(self, temporary: Path, blob: Blob) -> None:
        target = self.path(blob.sha256)
        if target.exists():
            self.verify(blob.sha256)
            os.utime(target)  # young again: garbage collection leaves it to whoever is about to refer to it
            return
        target.parent.mkdir(exist_ok=True)
        os.replace(temporary, target)
        fsync_folder(target.parent)
        fsync_folder(self.blobs)

    def verify(self, sha256: str) -> Blob:
        """Hashes a stored blob again.

        Raises:
            TamperedError: missing, a link, or other bytes.
        """
        try:
            found = hash_file(self.path(sha256))
        except (NotFoundError, UnsafePathError) as error:
            raise TamperedError(f"blob {sha256} is gone or is no ordinary file") from error
        if found.sha256 != sha256:
            raise TamperedError(f"blob {sha256} now holds other bytes ({found.sha256})")
        return found

    def read(self, sha256: str) -> bytes:
        """A blob's bytes; the bytes returned are the bytes that were hashed.

        Raises:
            TamperedError: as `verify`.
        """
        try:
            with open_regular(self.path(sha256)) as file:
                data = file.read()
        except (NotFoundError, UnsafePathError) as error:
            raise TamperedError(f"blob {sha256} is gone or is no ordinary file") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise TamperedError(f"blob {sha256} now holds other bytes")
        return data

    # -- folders ------------------------------------------------------------------------------------------------------

    def materialise(self, files: Mapping[str, str]) -> Path:
        """A read-only folder with these files (path -> sha256), each hashed on every call. Equal files, equal folder.

        Raises:
            TamperedError: a blob differs from its digest.
            DiskFullError: no space for copies, where the disk cannot link.
        """
        target = self.materialised / folder_key(files)
        for path, sha256 in files.items():
            check_path(path)
            self.verify(sha256)
        with self._folders:
            if target.exists() and self._matches(target, files):
                return target
            temporary = self.temporary_path()
            try:
                with full_disk_named("laying out files"):
                    self.materialised.mkdir(exist_ok=True)  # somebody in need of space may have removed it
                    self.lay_out(temporary, files)
                if os.path.lexists(target):  # damaged, or somebody added a file: only a view, so made anew
                    os.replace(target, self.temporary_path())
                os.replace(temporary, target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            fsync_folder(self.materialised)
            return target

    def lay_out(self, folder: Path, files: Mapping[str, str], link: bool = True) -> int:
        """Makes `folder` of blobs, linked (read-only) or copied (writable). Returns the bytes. It must not exist.

        Raises:
            TamperedError: a copy does not have its digest.
        """
        folder.mkdir()
        num_bytes = 0
        for path, sha256 in files.items():
            target = folder / check_path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            source = self.path(sha256)
            if not link or not _hard_link(source, target):
                shutil.copyfile(source, target, follow_symlinks=False)
                if hash_file(target).sha256 != sha256:
                    raise TamperedError(f"blob {sha256} changed while it was copied")
                target.chmod(0o444 if link else 0o644)
            num_bytes += target.stat().st_size
        return num_bytes

    def _matches(self, folder: Path, files: Mapping[str, str]) -> bool:
        try:
            found = scan_folder(folder)
        except (UnsafePathError, NotFoundError):
            return False
        if set(found) != set(files):
            return False
        return all(
            os.path.samefile(path, self.path(files[name])) or hash_file(path).sha256 == files[name]
            for name, path in found.items()
        )


def folder_key(files: Mapping[str, str]) -> str:
    """The name of the materialised folder that holds these files."""
    return sha256_text(canonical_json(dict(files)))


def _hard_link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            return False
        raise
    return True
