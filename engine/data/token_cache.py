"""Encoded datasets on disk, so that a second job over the same rows starts at once and no job holds them in memory.

    tokens/secret            signs manifests (posttrain.engine.signing)
    tokens/KEY/              KEY covers all that an encoding depends on, see `entry_key`
        manifest.json        counts, sizes, the digest of digests.bin, a signature; written last
        rows.bin             one record after another
        index.bin            where each record begins, and the end: int64
        digests.bin          sha256 of each block of index.bin, then of rows.bin

Opening reads manifest and digests only. Every block is compared with its digest when it is read, and a row is made of
the bytes that were compared: a changed file stops the job and never changes what is trained. An entry is written into
a hidden folder, fsynced and renamed; a whole entry is never replaced. A job that reads one keeps its files open, so an
entry that is removed costs no more than that its rows are encoded again.

A record is that of `records.py`. Imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import struct
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, overload

from pydantic import BaseModel, ConfigDict, ValidationError

from posttrain.engine.checkpoint import disk_errors
from posttrain.engine.data.encoded import AnyRow
from posttrain.engine.data.records import record_of, row_of
from posttrain.engine.errors import DataError
from posttrain.engine.events import Note, fsync_folder
from posttrain.engine.signing import is_signed, secret_of, sign
from posttrain.engine.spec import canonical_json, sha256_text

FORMAT_VERSION = 3
BLOCK_BYTES = 16 * 2**10
DIGEST_BYTES = 32
KEPT_BLOCKS = 1024  # 16 MiB of them
MAX_BYTES = 64 * 2**30
ABANDONED_S = 86400.0
MANIFEST_FILE, ROWS_FILE, INDEX_FILE, DIGESTS_FILE = "manifest.json", "rows.bin", "index.bin", "digests.bin"
_ASIDE = ".old"  # behind a hidden name: a damaged entry that another one replaced
_INDEX = struct.Struct("<qq")


class Sizes(NamedTuple):
    """Tokens of all rows, of the longest sequence among them, and of the row of which most are computed."""

    num_tokens: int
    longest: int
    largest: int


class Manifest(BaseModel):
    """What an entry holds. `notes` are what was said about its rows; the longest sequence has `longest` tokens,
    and the row of which most are computed, a pair with both its answers, `largest`. `signature` is that of the other
    fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    key: str
    num_rows: int
    notes: list[Note]
    num_tokens: int
    longest: int
    largest: int
    index_bytes: int
    rows_bytes: int
    digests_sha256: str
    signature: str = ""


def entry_key(parts: dict[str, Any]) -> str:
    """Hex sha256 of everything that an encoding depends on, and of the code that makes it."""
    return sha256_text(canonical_json({**parts, "code": _code_digest(), "format": FORMAT_VERSION}))


class EncodedRows(Sequence[AnyRow]):
    """The rows of an entry, made when they are asked for.

    Raises (when a row is asked for):
        DataError: its bytes are not those that were written.
    """

    def __init__(self, folder: Path, manifest: Manifest, digests: bytes, source: str) -> None:
        self.notes = manifest.notes
        self.sizes = Sizes(manifest.num_tokens, manifest.longest, manifest.largest)
        self._folder, self._source = folder, source
        self._num_rows = manifest.num_rows
        self._digests = digests
        self._sizes = (manifest.index_bytes, manifest.rows_bytes)
        self._first = (0, _num_blocks(manifest.index_bytes))  # of each file's blocks among all
        self._files = tuple(os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC) for name in (INDEX_FILE, ROWS_FILE))
        for descriptor in self._files:
            weakref.finalize(self, os.close, descriptor)
        self._block = lru_cache(maxsize=KEPT_BLOCKS)(self._read_block)

    def __len__(self) -> int:
        return self._num_rows

    @overload
    def __getitem__(self, index: int) -> AnyRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[AnyRow]: ...
    def __getitem__(self, index: int | slice) -> AnyRow | list[AnyRow]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._num_rows))]
        place = range(self._num_rows)[index]
        start, end = _INDEX.unpack(self._bytes(0, 8 * place, 8 * place + 16))
        return row_of(self._bytes(1, start, end), self._source)

    def _bytes(self, file: int, start: int, end: int) -> bytes:
        first, last = start // BLOCK_BYTES, max(end - 1, start) // BLOCK_BYTES
        whole = b"".join(self._block(file, number) for number in range(first, last + 1))
        return whole[start - first * BLOCK_BYTES : end - first * BLOCK_BYTES]

    def _read_block(self, file: int, number: int) -> bytes:
        start = number * BLOCK_BYTES
        block = os.pread(self._files[file], min(BLOCK_BYTES, self._sizes[file] - start), start)
        place = (self._first[file] + number) * DIGEST_BYTES
        if hashlib.sha256(block).digest() != self._digests[place : place + DIGEST_BYTES]:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise DataError(
                f"{self._source}: its encoded rows on disk were changed while the job ran",
                hint="they were removed and will be made anew: submit the job again",
            )
        return block


class Writer:
    """Collects the rows of one entry, on disk."""

    def __init__(self, rows: BinaryIO, index: BinaryIO) -> None:
        self._rows, self._index = _Blocks(rows), _Blocks(index)
        self._index.write(struct.pack("<q", 0))
        self.num_rows = self.num_tokens = self.longest = self.largest = 0
        self.notes: list[Note] = []

    def add(self, row: AnyRow) -> None:
        self._rows.write(record_of(row))
        self._index.write(struct.pack("<q", self._rows.num_bytes))
        self.num_rows += 1
        self.num_tokens += len(row)
        self.longest = max(self.longest, row.longest)
        self.largest = max(self.largest, len(row))

    def finish(self) -> tuple[int, int, bytes]:
        """Sizes of index and rows, and the digests of their blocks."""
        digests = self._index.finish() + self._rows.finish()
        return self._index.num_bytes, self._rows.num_bytes, digests


class TokenCache:
    """A folder of entries, the least recently opened of which go when there are more than `max_bytes`."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        """Raises OSError: the folder's secret can be neither read nor made."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._secret = secret_of(folder)

    def open(self, key: str, source: str) -> EncodedRows | None:
        """The rows, under the name of the dataset that they are asked for; None where there is no entry, or it is
        damaged or signed by somebody else.
        """
        folder = self._folder / key
        try:
            manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
            fields = manifest.model_dump(mode="json", exclude={"signature"})
            if not is_signed(self._secret, fields, manifest.signature):
                return None
            digests = (folder / DIGESTS_FILE).read_bytes()
            if manifest.key != key or hashlib.sha256(digests).hexdigest() != manifest.digests_sha256:
                return None
            sizes = ((INDEX_FILE, manifest.index_bytes), (ROWS_FILE, manifest.rows_bytes))
            if any((folder / name).stat().st_size != size for name, size in sizes):
                return None
            found = EncodedRows(folder, manifest, digests, source)
        except (OSError, ValidationError):
            return None
        with contextlib.suppress(OSError):  # somebody may be removing it
            os.utime(folder)
        return found

    @contextmanager
    def writer(self, key: str) -> Iterator[Writer]:
        """An entry for the block to fill; it is there when the block ends without an error, and not before.

        Raises:
            DiskFullError: no space left.
            OSError: the folder cannot be written, or somebody removed it.
        """
        temporary = self._folder / f".{key}.{secrets.token_hex(8)}.tmp"
        try:
            with disk_errors("keeping encoded rows"):
                temporary.mkdir()
                with open(temporary / ROWS_FILE, "wb") as rows, open(temporary / INDEX_FILE, "wb") as index:
                    made = Writer(rows, index)
                    yield made
                    self._describe(temporary, key, made)
                self._commit(temporary, self._folder / key)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._prune(key)

    def _describe(self, temporary: Path, key: str, made: Writer) -> None:
        index_bytes, rows_bytes, digests = made.finish()
        (temporary / DIGESTS_FILE).write_bytes(digests)
        plain = Manifest(
            format=FORMAT_VERSION, key=key, num_rows=made.num_rows, num_tokens=made.num_tokens, longest=made.longest,
            largest=made.largest, notes=made.notes,
            index_bytes=index_bytes, rows_bytes=rows_bytes, digests_sha256=hashlib.sha256(digests).hexdigest(),
        )  # fmt: skip
        signature = sign(self._secret, plain.model_dump(mode="json", exclude={"signature"}))
        (temporary / MANIFEST_FILE).write_text(plain.model_copy(update={"signature": signature}).model_dump_json())

    def _commit(self, temporary: Path, target: Path) -> None:
        for path in temporary.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        fsync_folder(temporary)
        if self.open(target.name, "") is not None:
            return  # another worker was quicker, with the same rows, and may have them open
        with contextlib.suppress(FileNotFoundError):  # what is there is damaged, a file or a link: it goes in one step
            os.rename(target, self._folder / f".{target.name}.{secrets.token_hex(8)}{_ASIDE}")
        try:
            os.rename(temporary, target)
        except OSError:
            if self.open(target.name, "") is None:
                raise  # else another worker was quicker after all
        fsync_folder(self._folder)

    def _prune(self, key: str) -> None:
        """Removes the entries that were not opened for longest, never the one just made; what was moved aside; and what
        writers that were killed have left. What cannot be looked at or removed stays.
        """
        found, entries = [], list[Path]()
        with contextlib.suppress(OSError):
            entries = list(self._folder.iterdir())
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.name.endswith(_ASIDE):
                    if entry.is_symlink() or not entry.is_dir():
                        entry.unlink()
                    else:
                        shutil.rmtree(entry, ignore_errors=True)
                elif entry.name.startswith(".") and entry.is_dir():
                    if time.time() - (entry / ROWS_FILE).stat().st_mtime > ABANDONED_S:
                        shutil.rmtree(entry, ignore_errors=True)
                elif entry.is_dir():
                    size = sum(path.stat().st_size for path in entry.iterdir())
                    found.append((entry.name == key, entry.stat().st_mtime, size, entry))
        used = 0
        for _, _, size, entry in sorted(found, reverse=True):
            used += size
            if used > self._max_bytes and entry.name != key:
                shutil.rmtree(entry, ignore_errors=True)


class _Blocks:
    """A file whose blocks are hashed while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._waiting = bytearray()
        self._digests = bytearray()
        self.num_bytes = 0

    def write(self, data: bytes) -> None:
        self._waiting += data
        self.num_bytes += len(data)
        while len(self._waiting) >= BLOCK_BYTES:
            self._put(bytes(self._waiting[:BLOCK_BYTES]))
            del self._waiting[:BLOCK_BYTES]

    def finish(self) -> bytes:
        if self._waiting:
            self._put(bytes(self._waiting))
            self._waiting.clear()
        self._file.flush()
        return bytes(self._digests)

    def _put(self, block: bytes) -> None:
        self._digests += hashlib.sha256(block).digest()
        self._file.write(block)


def _num_blocks(num_bytes: int) -> int:
    return -(-num_bytes // BLOCK_BYTES)


@lru_cache(maxsize=1)
def _code_digest() -> str:
    """Of the modules that encode, so that no entry outlives a change of them."""
    engine = Path(__file__).resolve().parent.parent
    found = hashlib.sha256()
    for path in sorted(path for name in ("data", "environments", "methods") for path in engine.glob(f"{name}/*.py")):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
