"""Key/value cache of a rollout: one slot a row, filled by packed prompts, read by one token a row. No padding anywhere.

Three attention layouts over it. `Prefill` attends like packed training and keeps what it saw; `Decode` appends a token
to each of the first A slots and lets it see its own row; `Extend` appends several to some of them. Rows have their own
positions, so nothing is padded on the left. Active slots are always the first ones: a finished row's slot is filled by
the last one, so each step works on a contiguous view.

Shape suffixes: A active rows, H query heads, K key/value heads, G = H / K, C capacity in tokens, L longest active
row, T packed tokens, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.engine.attention import Call, Segments, causal_attention, masked_attention

GROWTH_TOKENS = 64


@dataclass
class KvCache:
    """Buffers [slots, K, C, D] per layer, made when a layer first writes. `lengths[s]` tokens of slot s are held."""

    num_slots: int
    capacity: int
    lengths: list[int] = field(default_factory=list)
    _keys: dict[nn.Module, Tensor] = field(default_factory=dict)
    _values: dict[nn.Module, Tensor] = field(default_factory=dict)

    def buffers(self, layer: nn.Module, like_key: Tensor, like_value: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's key and value buffers, enlarged to the present capacity if they are smaller."""
        for buffers, like in ((self._keys, like_key), (self._values, like_value)):
            held = buffers.get(layer)
            if held is None or held.shape[2] < self.capacity:
                new = like.new_zeros(self.num_slots, like.shape[1], self.capacity, like.shape[3])
                if held is not None:
                    new[:, :, : held.shape[2]] = held
                buffers[layer] = new
        return self._keys[layer], self._values[layer]

    def reserve(self, length: int) -> None:
        """Makes room for rows of this many tokens."""
        if length > self.capacity:
            self.capacity = -(-length // GROWTH_TOKENS) * GROWTH_TOKENS

    def drop(self, slot: int) -> None:
        """Frees a slot by moving the last active row into it."""
        last = len(self.lengths) - 1
        length = self.lengths[last]
        if slot != last:
            for buffers in (self._keys, self._values):
                for buffer in buffers.values():
                    buffer[slot, :, :length] = buffer[last, :, :length]
            self.lengths[slot] = length
        self.lengths.pop()


@dataclass
class Prefill:
    """Packed prompts; their keys and values go to new slots behind the active ones, of prompt i to `copies[i]` of them:
    completions of one prompt go on from one computation of it."""

    cache: KvCache
    segments: Segments
    copies: tuple[int, ...]

    @classmethod
    def of(cls, cache: KvCache, lengths: Sequence[int], copies: Sequence[int] = ()) -> Prefill:
        copies = tuple(copies) or (1,) * len(lengths)
        cache.reserve(max(lengths) + 1)
        for length, count in zip(lengths, copies, strict=True):
            cache.lengths.extend([length] * count)
        return cls(cache, Segments.of(lengths), copies)

    def attend(self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, call: Call) -> Tensor:
        keys, values = self.cache.buffers(call.layer, key_BKTD, value_BKTD)
        slot = len(self.cache.lengths) - sum(self.copies)
        for (start, end), count in zip(pairwise(self.segments.bounds), self.copies, strict=True):
            keys[slot : slot + count, :, : end - start] = key_BKTD[0, :, start:end]
            values[slot : slot + count, :, : end - start] = value_BKTD[0, :, start:end]
            slot += count
        return self.segments.attend(query_BHTD, key_BKTD, value_BKTD, call)


class Extend:
    """Packed tokens that go on from rows that are held: `lengths[i]` of them in slot `slots[i]`. Each sees its row and
    those before it."""

    def __init__(self, cache: KvCache, slots: Sequence[int], lengths: Sequence[int]) -> None:
        self._cache, self._slots, self._lengths = cache, list(slots), list(lengths)
        self._starts = [cache.lengths[slot] for slot in slots]
        for slot, length in zip(slots, lengths, strict=True):
            cache.lengths[slot] += length
        cache.reserve(max(cache.lengths))
        self._masks: dict[Any, Tensor] = {}

    @property
    def positions(self) -> list[int]:
        """Of the packed tokens in their rows."""
        return [start + i for start, length in zip(self._starts, self._lengths, strict=True) for i in range(length)]

    def attend(self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, call: Call) -> Tensor:
        keys, values = self._cache.buffers(call.layer, key_BKTD, value_BKTD)
        parts = []
        pieces = (torch.split(states, self._lengths, dim=2) for states in (query_BHTD, key_BKTD, value_BKTD))
        for slot, start, query, key, value in zip(self._slots, self._starts, *pieces, strict=True):
            end = start + query.shape[2]
            keys[slot, :, start:end], values[slot, :, start:end] = key[0], value[0]
            seen = keys[slot : slot + 1, :, :end], values[slot : slot + 1, :, :end]
            parts.append(causal_attention(query, *seen, call, self._masks).transpose(1, 2))
        return torch.cat(parts, dim=1)


class Decode:
    """One new token in each active row."""

    def __init__(self, cache: KvCache, device: torch.device) -> None:
        self._cache = cache
        self.positions_A = torch.tensor(cache.lengths, device=device)
        cache.lengths[:] = [length + 1 for length in cache.lengths]
        self._longest = max(cache.lengths)
        cache.reserve(self._longest)
        self._rows_A = torch.arange(len(cache.lengths), device=device)
        self._sees: dict[int, Tensor] = {}

    def attend(self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, call: Call) -> Tensor:
        keys, values = self._cache.buffers(call.layer, key_BKTD, value_BKTD)
        num_rows, longest = len(self._cache.lengths), self._longest
        keys[self._rows_A, :, self.positions_A] = key_BKTD[:, :, 0]
        values[self._rows_A, :, self.positions_A] = value_BKTD[:, :, 0]
        key_AKLD, value_AKLD = keys[:num_rows, :, :longest], values[:num_rows, :, :longest]
        sees_A11L = self._visible(call.window)
        if not call.is_plain or not query_BHTD.is_cuda:
            return masked_attention(query_BHTD, key_AKLD, value_AKLD, sees_A11L, call).transpose(1, 2)
        # The G query heads of a key head become G query positions: keys and values are read once and never repeated.
        grouped_AKGD = query_BHTD.reshape(num_rows, key_AKLD.shape[1], -1, query_BHTD.shape[-1])
        out_AKGD = nn.functional.scaled_dot_product_attention(
            grouped_AKGD, key_AKLD, value_AKLD, attn_mask=sees_A11L, scale=call.scale
        )
        return out_AKGD.reshape(num_rows, 1, query_BHTD.shape[1], value_BKTD.shape[-1])

    def _visible(self, window: int) -> Tensor:
        """Boolean [A, 1, 1, L]; once a step and window width, not once a layer."""
        if window not in self._sees:
            places_L = torch.arange(self._longest, device=self.positions_A.device)
            distance_AL = self.positions_A[:, None] - places_L
            sees_AL = distance_AL >= 0
            if window:
                sees_AL &= distance_AL < window
            self._sees[window] = sees_AL[:, None, None, :]
        return self._sees[window]
