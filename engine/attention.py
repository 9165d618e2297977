"""Packed attention for any transformers model: one function behind `AttentionInterface`, and a layout that says who
sees whom.

A model loaded with `attn_implementation=NAME` calls `attend` in each layer with its own scaling, sliding window, soft
cap and sinks. What the tokens of the pass are (packed rows, or rows with a cache) is not among those arguments, so it
is set around the call:

    with layout(segments):
        hidden = backbone(input_ids=..., position_ids=..., use_cache=False).last_hidden_state

An argument that is not known here would change the result silently, so it raises UnsupportedModelError instead. The
mask function that is registered beside returns None: nobody builds a [tokens, tokens] mask.

Shape suffixes: B rows of the pass (1 when packed), H query heads, K key/value heads, T tokens, S tokens that are
seen, D head width. Sinks: arXiv:2309.17453 in the form of gpt-oss (one more logit in the softmax, whose
probability is dropped); soft cap: arXiv:2408.00118.
"""

# ruff: noqa: N815 - fields carry shape suffixes
from __future__ import annotations

import contextvars
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from posttrain.engine.errors import UnsupportedModelError

NAME = "posttrain_packed"


@dataclass(frozen=True)
class Call:
    """What one layer asks for, beside its queries, keys and values. `window` 0: none; `soft_cap` 0: none."""

    layer: nn.Module
    scale: float
    window: int
    soft_cap: float
    sinks_H: Tensor | None
    dropout: float

    @property
    def is_plain(self) -> bool:
        """True if scaled-dot-product attention needs nothing beside a causal mask (and a window)."""
        return self.soft_cap == 0 and self.sinks_H is None


class Layout(Protocol):
    """Who sees whom in a pass."""

    def attend(self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, call: Call) -> Tensor:
        """Returns [B, T, H, D]."""


_layout: contextvars.ContextVar[Layout | None] = contextvars.ContextVar("posttrain_layout", default=None)


@contextmanager
def layout(current: Layout) -> Iterator[None]:
    """Sets the layout of the forward passes inside."""
    token = _layout.set(current)
    try:
        yield
    finally:
        _layout.reset(token)


# Arguments that models pass through and that say nothing about the result of a causal layer without cache.
_IGNORED = frozenset({
    "position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states", "return_dict",
    "num_items_in_batch", "position_embeddings", "past_key_values", "logits_to_keep", "layer_idx",
    "output_router_logits", "deterministic",
})  # fmt: skip


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in each layer; [B, H, T, D] in, [B, T, H, D] out.

    Raises:
        UnsupportedModelError: the layer asks for something that is not known here, or calls outside of a layout.
    """
    name = type(module).__name__
    current = _layout.get()
    unknown = sorted(key for key, given in others.items() if given is not None and key not in _IGNORED)
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    if current is None or unknown or attention_mask is not None or not causal:
        reason = (
            "runs attention outside of a packed pass" if current is None
            else f"asks attention for {', '.join(unknown)}" if unknown
            else "builds an attention mask of its own" if attention_mask is not None
            else "attends to later tokens"
        )  # fmt: skip
        raise UnsupportedModelError(f"{name} {reason}, which the packed path cannot reproduce")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    call = Call(module, float(scale), int(sliding_window or 0), float(softcap or 0.0), s_aux, dropout)
    return current.attend(query, key, value, call), None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _no_mask)


@dataclass(frozen=True)
class Segments:
    """Rows packed end to end in one row of T tokens; each sees itself only, causally.

    `bounds` are the starts of the segments and T. `prefixes[i]` is the run of packed tokens that segment i goes on
    from, (start, end), and sees as well: several answers then share one prompt. (0, 0) is none. A prefix and its
    segment are contiguous in their positions, wherever they stand in the pack.
    """

    bounds: tuple[int, ...]
    prefixes: tuple[tuple[int, int], ...]
    _masks: dict[torch.device, dict[Any, Tensor]] = field(default_factory=dict, compare=False, repr=False)
    _made: dict[torch.device, tuple[_Runs, _Runs]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Segments:
        """Rows of these lengths that share nothing."""
        return cls((0, *accumulate(lengths)), ((0, 0),) * len(lengths))

    @classmethod
    def trees(cls, groups: Sequence[tuple[int, Sequence[int]]]) -> Segments:
        """Groups of (prefix length, lengths of its branches), each laid out as prefix, branch, branch, ...

        The first branch follows its prefix and is one segment with it.
        """
        bounds, prefixes = [0], list[tuple[int, int]]()
        for length, branches in groups:
            start = bounds[-1]
            for index, branch in enumerate(branches):
                bounds.append(bounds[-1] + branch + (length if index == 0 else 0))
                prefixes.append((start, start + length) if index and length else (0, 0))
        return cls(tuple(bounds), tuple(prefixes))

    def attend(self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, call: Call) -> Tensor:
        if query_BHTD.shape[0] != 1 or query_BHTD.shape[2] != self.bounds[-1] or key_BKTD.shape[2] != self.bounds[-1]:
            raise UnsupportedModelError(
                f"{type(call.layer).__name__} attends over {tuple(query_BHTD.shape)} x {tuple(key_BKTD.shape)}, "
                f"but one row of {self.bounds[-1]} tokens is packed"
            )
        if _can_use_varlen(query_BHTD, value_BKTD, call):
            return self._varlen(query_BHTD, key_BKTD, value_BKTD, call)
        masks = self._masks.setdefault(query_BHTD.device, {})
        # Per sequence, not with a block-diagonal mask: on a CPU the mask costs 1.1-1.8 times. One split, not a slice
        # for each: the gradient of a slice is as long as the pass, so slices would cost tokens times segments.
        lengths = [b - a for a, b in pairwise(self.bounds)]
        queries, keys, values = (torch.split(states, lengths, dim=2) for states in (query_BHTD, key_BKTD, value_BKTD))
        parts = [
            causal_attention(queries[i], self._seen(keys, i), self._seen(values, i), call, masks).transpose(1, 2)
            for i in range(len(lengths))
        ]
        return torch.cat(parts, dim=1)

    def _seen(self, states_BKSD: Sequence[Tensor], index: int) -> Tensor:
        """Keys or values of a segment and of the prefix before it, which lies within one segment."""
        start, end = self.prefixes[index]
        if not end:
            return states_BKSD[index]
        holder = bisect_right(self.bounds, start) - 1
        first = self.bounds[holder]
        assert end <= self.bounds[holder + 1]
        return torch.cat([states_BKSD[holder][:, :, start - first : end - first], states_BKSD[index]], dim=2)

    def _varlen(self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, call: Call) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn  # CUDA only, so it is imported where it runs

        queries, keys = self._runs(query_BHTD.device)
        key_TKD, value_TKD = key_BKTD[0].transpose(0, 1), value_BKTD[0].transpose(0, 1)
        if keys.places is not None:
            key_TKD, value_TKD = key_TKD[keys.places], value_TKD[keys.places]
        out_THD = varlen_attn(
            query_BHTD[0].transpose(0, 1),
            key_TKD,
            value_TKD,
            queries.starts,
            keys.starts,
            queries.longest,
            keys.longest,
            scale=call.scale,
            # (left, right), aligned at the last query and the last key: a window of w tokens holds the token itself
            # and w - 1 before it.
            window_size=(call.window - 1 if call.window else -1, 0),
            enable_gqa=query_BHTD.shape[1] != key_BKTD.shape[1],
        )
        assert isinstance(out_THD, Tensor)
        return out_THD.unsqueeze(0)

    def _runs(self, device: torch.device) -> tuple[_Runs, _Runs]:
        """Queries and keys of each segment as the kernel wants them; made once per pass, not once per layer."""
        made = self._made.get(device)
        if made is None:
            lengths = [b - a for a, b in pairwise(self.bounds)]
            seen = [[*range(*prefix), *range(a, b)] for (a, b), prefix in self._segments()]
            places = None
            if any(end for _, end in self.prefixes):
                places = torch.tensor([place for run in seen for place in run], device=device)
            made = (_Runs.of(lengths, None, device), _Runs.of(list(map(len, seen)), places, device))
            self._made[device] = made
        return made

    def _segments(self) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        return zip(pairwise(self.bounds), self.prefixes, strict=True)


@dataclass(frozen=True)
class _Runs:
    """Runs of tokens end to end: starts and total as int32, the longest, and where they stand if not in order."""

    starts: Tensor
    longest: int
    places: Tensor | None

    @classmethod
    def of(cls, lengths: Sequence[int], places: Tensor | None, device: torch.device) -> _Runs:
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        return cls(starts, max(lengths), places)


def _can_use_varlen(query_BHTD: Tensor, value_BKTD: Tensor, call: Call) -> bool:
    return (
        query_BHTD.is_cuda
        and query_BHTD.dtype in (torch.bfloat16, torch.float16)
        and query_BHTD.shape[-1] == value_BKTD.shape[-1] <= 256
        and call.is_plain
        and call.dropout == 0
    )


def causal_attention(
    query_BHTD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor, call: Call, masks: dict[Any, Tensor] | None = None
) -> Tensor:
    """Causal attention of the last T of S tokens, [B, H, T, D] -> [B, H, T, D].

    `masks` keeps masks between the layers of a pass; they are equal in all layers with the same window.
    """
    num_queries, length = query_BHTD.shape[2], key_BKSD.shape[2]
    masks = {} if masks is None else masks
    key = (num_queries, length, call.window, call.is_plain)
    if call.is_plain and num_queries == length and not 0 < call.window < length:
        mask_TS = None
    elif key in masks:
        mask_TS = masks[key]
    else:
        places_S = torch.arange(length, device=query_BHTD.device)
        distance_TS = places_S[length - num_queries :, None] - places_S
        sees_TS = (distance_TS >= 0) & (distance_TS < (call.window or length))
        # Added to the scores; made of a boolean one it would be made again in each layer.
        mask_TS = torch.where(sees_TS, 0.0, -math.inf).to(query_BHTD.dtype) if call.is_plain else sees_TS
        masks[key] = mask_TS
    if not call.is_plain:
        assert mask_TS is not None
        return masked_attention(query_BHTD, key_BKSD, value_BKSD, mask_TS[None, None], call)
    return nn.functional.scaled_dot_product_attention(
        query_BHTD,
        key_BKSD,
        value_BKSD,
        attn_mask=mask_TS,
        dropout_p=call.dropout,
        is_causal=mask_TS is None,
        scale=call.scale,
        enable_gqa=query_BHTD.shape[1] != key_BKSD.shape[1],
    )


def masked_attention(query_BHTD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor, sees: Tensor, call: Call) -> Tensor:
    """Attention written out, [B, H, T, D] -> [B, H, T, D]; `sees` is boolean and broadcasts to [B, 1, T, S].

    For soft caps and sinks, which no fused kernel has; and for single tokens on a CPU, where it was measured 1.1-1.4
    times as fast as one. The query heads of a key head become more query positions, so keys and values are never
    repeated.
    """
    num_rows, num_heads, length, width = query_BHTD.shape
    num_keys, groups = key_BKSD.shape[1], num_heads // key_BKSD.shape[1]
    folded = query_BHTD.reshape(num_rows, num_keys, groups * length, width)
    scores = (folded @ key_BKSD.transpose(-1, -2) * call.scale).view(num_rows, num_keys, groups, length, -1)
    if call.soft_cap:
        scores = call.soft_cap * torch.tanh(scores / call.soft_cap)
    scores = scores.masked_fill(~sees.unsqueeze(2), torch.finfo(scores.dtype).min)
    if call.sinks_H is not None:
        sinks = call.sinks_H.to(scores.dtype).view(1, num_keys, groups, 1, 1).expand(*scores.shape[:-1], 1)
        weights = torch.softmax(torch.cat([scores, sinks], dim=-1), dim=-1, dtype=torch.float32)[..., :-1]
    else:
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
    weights = nn.functional.dropout(weights.to(query_BHTD.dtype), call.dropout, training=call.dropout > 0)
    out = weights.reshape(num_rows, num_keys, groups * length, -1) @ value_BKSD
    return out.view(num_rows, num_heads, length, value_BKSD.shape[-1])
