"""Packed attention for any transformers model: one function behind `AttentionInterface`, and a layout that says who
sees whom.

A model loaded with `attn_implementation=NAME` calls `attend` in each layer with its own scaling, sliding window, soft
cap and sinks. What the tokens of the pass are (packed rows, or rows with a cache) is not among those arguments, so it
is set around the call:

    with layout(segments):
        hidden = backbone(input_ids=..., position_ids=..., use_cache=False).last_hidden_state

An argument that is not known here would change the result silently, so it raises UnsupportedModelError instead. The
mask function that is registered beside returns None: nobody builds a [tokens, tokens] mask.

Shape suffixes: B rows of the pass (1 when packed), H query heads, K key/value heads, T tokens, S tokens of one
segment, D head width. Sinks: arXiv:2309.17453 in the form of gpt-oss (one more logit in the softmax, whose
probability is dropped); soft cap: arXiv:2408.00118.
"""

# ruff: noqa: N815 - fields carry shape suffixes
from __future__ import annotations

import contextvars
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
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

    `bounds` are the starts of the segments and T; `cu_seqlens` the same as int32 on the device.
    """

    bounds: tuple[int, ...]
    cu_seqlens: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> Segments:
        bounds = [0]
        for length in lengths:
            bounds.append(bounds[-1] + length)
        return cls(tuple(bounds), torch.tensor(bounds, dtype=torch.int32, device=device))

    @property
    def longest(self) -> int:
        return max(end - start for start, end in pairwise(self.bounds))

    def attend(self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, call: Call) -> Tensor:
        if query_BHTD.shape[0] != 1 or query_BHTD.shape[2] != self.bounds[-1] or key_BKTD.shape[2] != self.bounds[-1]:
            raise UnsupportedModelError(
                f"{type(call.layer).__name__} attends over {tuple(query_BHTD.shape)} x {tuple(key_BKTD.shape)}, "
                f"but one row of {self.bounds[-1]} tokens is packed"
            )
        if _can_use_varlen(query_BHTD, value_BKTD, call):
            return self._varlen(query_BHTD, key_BKTD, value_BKTD, call)
        # Per sequence, not with a block-diagonal mask: on a CPU the mask costs 1.1-1.8 times.
        parts = [
            causal_attention(query_BHTD[:, :, a:b], key_BKTD[:, :, a:b], value_BKTD[:, :, a:b], call)
            for a, b in pairwise(self.bounds)
        ]
        return torch.cat([part.transpose(1, 2) for part in parts], dim=1)

    def _varlen(self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, call: Call) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn  # CUDA only, so it is imported where it runs

        out_THD = varlen_attn(
            query_BHTD[0].transpose(0, 1),
            key_BKTD[0].transpose(0, 1),
            value_BKTD[0].transpose(0, 1),
            self.cu_seqlens,
            self.cu_seqlens,
            self.longest,
            self.longest,
            scale=call.scale,
            # (left, right): a window of w tokens holds the token itself and w - 1 before it.
            window_size=(call.window - 1 if call.window else -1, 0),
            enable_gqa=query_BHTD.shape[1] != key_BKTD.shape[1],
        )
        assert isinstance(out_THD, Tensor)
        return out_THD.unsqueeze(0)


def _can_use_varlen(query_BHTD: Tensor, value_BKTD: Tensor, call: Call) -> bool:
    return (
        query_BHTD.is_cuda
        and query_BHTD.dtype in (torch.bfloat16, torch.float16)
        and query_BHTD.shape[-1] == value_BKTD.shape[-1] <= 256
        and call.is_plain
        and call.dropout == 0
    )


def causal_attention(query_BHSD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor, call: Call) -> Tensor:
    """Causal attention of whole sequences, [B, H, S, D] -> [B, H, S, D]."""
    length = query_BHSD.shape[2]
    window_SS = None
    if 0 < call.window < length:
        distance_SS = torch.arange(length, device=query_BHSD.device)[:, None] - torch.arange(
            length, device=query_BHSD.device
        )
        window_SS = (distance_SS >= 0) & (distance_SS < call.window)
    if call.is_plain:
        return nn.functional.scaled_dot_product_attention(
            query_BHSD,
            key_BKSD,
            value_BKSD,
            attn_mask=window_SS,
            dropout_p=call.dropout,
            is_causal=window_SS is None,
            scale=call.scale,
            enable_gqa=query_BHSD.shape[1] != key_BKSD.shape[1],
        )
    if window_SS is None:
        window_SS = torch.ones(length, length, dtype=torch.bool, device=query_BHSD.device).tril()
    return masked_attention(query_BHSD, key_BKSD, value_BKSD, window_SS[None, None], call)


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
