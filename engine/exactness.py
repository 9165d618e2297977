"""Whether a model's packed path computes what its own padded forward computes: a few random tokens at loading, one row
of them longer than the config's windows. An architecture that does something else is refused by name.

Shape suffixes: T packed tokens, N positions, D model width, V vocabulary, B rows, L padded length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posttrain.engine import attention
from posttrain.engine.attention import Segments
from posttrain.engine.errors import EngineError, UnsupportedModelError, first_line

if TYPE_CHECKING:
    from posttrain.engine.models import LanguageModel

# Where configs say that a token sees a limited number of tokens before it.
WINDOW_NAMES = (
    "sliding_window", "sliding_window_size", "attention_chunk_size", "window_size", "attention_window_size",
    "local_attention", "local_attention_window_len", "keep_window_size", "index_topk",
)  # fmt: skip
MAX_CHECKED_WINDOW = 2048  # a row of a quarter more is the longest that is computed at loading
_CHECKED_TAIL = 64  # last positions of that row whose logits are compared


def windows_of(config: Any, context: int) -> dict[str, int]:
    """What the config names of `WINDOW_NAMES`, in tokens, where it is below the context: the others limit nothing."""
    named = {name: getattr(config, name, None) for name in WINDOW_NAMES}
    return {name: size for name, size in named.items() if isinstance(size, int) and 0 < size < context}


@torch.no_grad()
def check_exactness(
    model: LanguageModel, lengths: Sequence[int] = (4, 9, 6), seed: int = 0, *, by_backbone: bool = False
) -> float:
    """Compares packed logits with the model's own padded forward on random tokens; returns the largest difference.

    The difference is measured against the spread of the logits: 1e-3 of it in float32, 8e-2 in bfloat16. Where the
    config names windows (`windows_of`), another row is longer than those of at most MAX_CHECKED_WINDOW tokens, and its
    last positions are compared. A window that is longer, or that bfloat16 would blur, has to be handed over by an
    attention layer: one that is only in the mask is lost in a packed pass. `by_backbone`: the head on the model's own
    backbone is the other side, for reward models, whose own forward returns one score of a row.

    Raises:
        UnsupportedModelError: the two differ, one of them cannot be run, or a window cannot be told from none; names
            the architecture.
    """
    was_training = model.module.training
    model.module.eval()
    generator = torch.Generator().manual_seed(seed)
    try:
        with _unsupported_if_it_fails(model.name):
            rows = [torch.randint(model.vocabulary, (n,), generator=generator) for n in lengths]
            packed_TV = model.logits(_packed_hidden(model, rows, Segments.of(lengths)))
            own = (
                [model.logits(_own_hidden(model, row)) for row in rows] if by_backbone else _padded_logits(model, rows)
            )
            difference = _compare(model, packed_TV, torch.cat(own))
            windows = windows_of(model.module.config, model.context)
            if windows:
                difference = max(difference, _check_windows(model, windows, rows, generator))
    finally:
        model.module.train(was_training)
    return difference


def _check_windows(
    model: LanguageModel, windows: Mapping[str, int], rows: Sequence[Tensor], generator: torch.Generator
) -> float:
    """One row that is longer than the windows, behind `rows`; returns the largest difference in its last logits."""
    measured = [size for size in windows.values() if size <= MAX_CHECKED_WINDOW]
    longest = max(measured, default=1)
    length = min(longest + max(8, longest // 4), model.context)
    row = torch.randint(model.vocabulary, (length,), generator=generator)
    watched = _Watched(Segments.of([*map(len, rows), length]))
    tail = slice(-min(_CHECKED_TAIL, length - min(measured, default=1)), None)
    packed_TD = _packed_hidden(model, [*rows, row], watched)
    named = " and ".join(f"{name} {size}" for name, size in windows.items())
    difference = _compare(
        model,
        model.logits(packed_TD[tail]),
        model.logits(_own_hidden(model, row)[tail]),
        f" on a row of {length} tokens (its config has {named})",
    )
    if set(getattr(model.module.config, "layer_types", None) or ["unknown"]) == {"full_attention"}:
        return difference  # the config names a window that no layer has
    is_exact = model.module.dtype == torch.float32
    for name, size in windows.items():
        if size not in watched.windows and not (is_exact and size in measured):
            raise UnsupportedModelError(
                f"{model.name}: its config has {name} {size}, below the context of {model.context}, but no attention "
                "layer hands over a window of that size, so packed rows would see further back than they should"
            )
    return difference


def _compare(model: LanguageModel, packed_NV: Tensor, own_NV: Tensor, where: str = "") -> float:
    """The largest difference; UnsupportedModelError if it is more than rounding."""
    spread = float(own_NV.float().std())
    difference = float((packed_NV.float() - own_NV.float()).abs().max())
    tolerance = 1e-3 if model.module.dtype == torch.float32 else 8e-2
    if not difference <= tolerance * max(spread, 1e-6):
        raise UnsupportedModelError(
            f"{model.name}: packed logits differ from its own padded forward by {difference:.2g}{where} "
            f"(their spread is {spread:.2g}), so it cannot be trained without padding"
        )
    return difference


@dataclass
class _Watched:
    """A layout that notes which windows the layers hand over."""

    layout: attention.Layout
    windows: set[int] = field(default_factory=set)

    def attend(self, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, call: attention.Call) -> Tensor:
        self.windows.add(call.window)
        return self.layout.attend(query_BHTD, key_BKTD, value_BKTD, call)


@contextmanager
def _unsupported_if_it_fails(name: str) -> Iterator[None]:
    """Whatever an unknown architecture stumbles over is told by its name; running out of memory is told as it is."""
    try:
        yield
    except (EngineError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:  # forward passes of any architecture: attribute, type, key, index, shape errors
        if "can't allocate memory" in str(error):  # how torch says it on a CPU, as a RuntimeError
            raise
        raise UnsupportedModelError(
            f"{name} cannot be run on packed rows: {type(error).__name__}: {first_line(error)}"
        ) from error


@contextmanager
def _own_attention(model: LanguageModel) -> Iterator[None]:
    """The model as transformers runs it, with eager attention and a mask that it builds itself."""
    model.module.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.module.set_attn_implementation(attention.NAME)


def _packed_hidden(model: LanguageModel, rows: Sequence[Tensor], layout: attention.Layout) -> Tensor:
    """Last hidden states [T, D] of rows laid end to end."""
    positions_T = torch.cat([torch.arange(len(row)) for row in rows])
    return model.hidden(torch.cat(list(rows)).to(model.device), positions_T.to(model.device), layout)


def _own_hidden(model: LanguageModel, row: Tensor) -> Tensor:
    """Last hidden states [n, D] of one row by the model's own backbone."""
    ids_1L = row[None].to(model.device)
    with _own_attention(model):
        output = model.module.base_model(input_ids=ids_1L, attention_mask=torch.ones_like(ids_1L), use_cache=False)
    hidden_1LD: Tensor = output.last_hidden_state
    return hidden_1LD[0]


def _padded_logits(model: LanguageModel, rows: Sequence[Tensor]) -> list[Tensor]:
    """Logits [n, V] of each row by the model's own forward, padded on the right."""
    longest = max(map(len, rows))
    ids_BL = torch.zeros(len(rows), longest, dtype=torch.long)
    mask_BL = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        ids_BL[index, : len(row)] = row
        mask_BL[index, : len(row)] = 1
    with _own_attention(model):
        logits_BLV = model.module(
            input_ids=ids_BL.to(model.device), attention_mask=mask_BL.to(model.device), use_cache=False
        ).logits
    return [logits_BLV[index, : len(row)] for index, row in enumerate(rows)]
