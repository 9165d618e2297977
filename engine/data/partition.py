"""Which rows of a dataset are the same, and which are held out: pure functions of a row's content.

Neither depends on the order of rows, on their number or on columns that nobody reads. Imports no torch.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

from posttrain.engine.data.examples import AnyExample, Example, Message

_EMPTY = bytes(16)
_SIZE = 16  # bytes of a digest: among 10^9 rows two different ones meet with a probability of 10^-21
_FIRST_SLOTS = 1024
_FULL = 0.75
_GROWTH = 1.5


def content_digest(example: AnyExample) -> bytes:
    """16 bytes that are equal for rows that mean the same: messages, tools, margin or label, whatever their format or
    spacing."""
    return blake2b(_canonical(vars(example)), digest_size=_SIZE).digest()


def is_held_out(example: AnyExample, fraction: float, seed: int) -> bool:
    """Whether a row belongs to the held-out part of that fraction.

    Decided by (seed, prompt) alone, the prompt being what stands before the first answer. So rows that share a prompt
    are on one side, and a row stays on its side when others are added. The held-out part has about `fraction` of the
    prompts, not exactly.
    """
    key = _canonical([seed, _prompt(example)])
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big") < fraction * 2**64


def _prompt(example: AnyExample) -> list[Message]:
    messages = example.messages if isinstance(example, Example) else example.prompt
    first = next((index for index, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    return messages[:first] or messages


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class SeenDigests:
    """A set of 16-byte digests in 21 to 32 bytes each (a Python set takes about 90): open addressing, linear
    probing. A digest of zeros marks an empty slot, so that one digest of 2^128 would never be found again.
    """

    def __init__(self) -> None:
        self._slots = _FIRST_SLOTS
        self._table = bytearray(self._slots * _SIZE)
        self._num = 0

    def __len__(self) -> int:
        return self._num

    @property
    def num_bytes(self) -> int:
        return len(self._table)

    def add(self, digest: bytes) -> bool:
        """Adds a digest; False if it was there."""
        if self._num >= self._slots * _FULL:
            self._grow()
        if not self._put(digest):
            return False
        self._num += 1
        return True

    def _put(self, digest: bytes) -> bool:
        table, slot = self._table, int.from_bytes(digest[:8], "big") % self._slots
        while True:
            found = table[slot * _SIZE : (slot + 1) * _SIZE]
            if found == digest:
                return False
            if found == _EMPTY:
                table[slot * _SIZE : (slot + 1) * _SIZE] = digest
                return True
            slot = (slot + 1) % self._slots

    def _grow(self) -> None:
        before = self._table
        self._slots = int(self._slots * _GROWTH)
        self._table = bytearray(self._slots * _SIZE)
        for start in range(0, len(before), _SIZE):
            digest = before[start : start + _SIZE]
            if digest != _EMPTY:
                self._put(bytes(digest))
