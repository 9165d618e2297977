"""One encoded row as bytes: number, margin, is_desirable, kind (0: Row, 1: Group, 2: PromptRow), number of segments;
then the segments' lengths (uint32), all ids (int32), and a byte per token of the mask. A Group's first segment is its
prefix, whose mask is not stored. A PromptRow has no mask, but its checker, target and talk as a list in JSON.
Little-endian; imports no torch.
"""

from __future__ import annotations

import json
import struct
import sys
from array import array

from posttrain.engine.data.encoded import AnyRow, Branch, Group, PromptRow, Row

_HEAD = struct.Struct("<qdBBH")
_IS_BIG = sys.byteorder == "big"


def record_of(row: AnyRow) -> bytes:
    """The row without the name of its dataset."""
    if isinstance(row, Group):
        segments = [row.prefix, *(branch.ids for branch in row.branches)]
        masks = [branch.is_target for branch in row.branches]
        head = _HEAD.pack(row.number, row.margin, row.is_desirable, 1, len(segments))
    elif isinstance(row, PromptRow):
        segments, masks = [row.ids], [json.dumps([row.checker, row.target, row.talk]).encode()]
        head = _HEAD.pack(row.number, 0.0, 1, 2, 1)
    else:
        segments, masks = [row.ids], [row.is_target]
        head = _HEAD.pack(row.number, 0.0, 1, 0, 1)
    lengths = struct.pack(f"<{len(segments)}I", *map(len, segments))
    return b"".join([head, lengths, *map(_packed, segments), *masks])


def row_of(record: bytes, source: str) -> AnyRow:
    """The row, under the name of a dataset. The bytes are what `record_of` made: nothing is checked."""
    number, margin, is_desirable, kind, num_segments = _HEAD.unpack_from(record)
    lengths = struct.unpack_from(f"<{num_segments}I", record, _HEAD.size)
    at = _HEAD.size + 4 * num_segments
    segments = []
    for length in lengths:
        segments.append(_unpacked(record[at : at + 4 * length]))
        at += 4 * length
    if kind == 2:
        checker, target, talk = json.loads(record[at:])
        return PromptRow(segments[0], checker, target, source, number, talk)
    if kind == 0:
        return Row(segments[0], record[at:], source, number)
    branches = []
    for ids in segments[1:]:
        branches.append(Branch(ids, record[at : at + len(ids)]))
        at += len(ids)
    return Group(segments[0], tuple(branches), source, number, margin, bool(is_desirable))


def _packed(ids: array[int]) -> bytes:
    if _IS_BIG:
        ids = array("i", ids)
        ids.byteswap()
    return ids.tobytes()


def _unpacked(data: bytes) -> array[int]:
    ids = array("i")
    ids.frombytes(data)
    if _IS_BIG:
        ids.byteswap()
    return ids
