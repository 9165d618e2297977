"""Rows of new tokens in embedding and head.

Shape suffixes: V vocabulary rows, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

NEW_ROW_NOISE = 0.02  # of the rows' own spread: tells new tokens apart, and leaves them near the mean


def resize_rows(module: Any, num_tokens: int, seed: int) -> None:
    """Gives embedding and head at least `num_tokens` rows; new ones start near the mean of the old (`init_rows`)."""
    old = module.get_input_embeddings().weight.shape[0]
    if num_tokens > old:
        module.resize_token_embeddings(num_tokens, mean_resizing=False)
        init_rows(module, list(range(old, num_tokens)), seed)


@torch.no_grad()
def init_rows(module: Any, token_ids: Sequence[int], seed: int) -> None:
    """Sets the rows of tokens that were never trained to the mean of all others, plus a little seeded noise.

    At the mean a new token is as likely as an average one at first (Hewitt 2021, "Initializing new word embeddings");
    a random row can dominate the softmax.
    """
    if not token_ids:
        return
    generator = torch.Generator().manual_seed(seed)
    seen: list[Tensor] = []
    for layer in (module.get_input_embeddings(), module.get_output_embeddings()):
        weight_VD = layer.weight
        if any(weight_VD is other for other in seen):  # tied
            continue
        seen.append(weight_VD)
        others = torch.ones(weight_VD.shape[0], dtype=torch.bool)
        others[list(token_ids)] = False
        old_VD = weight_VD[others.to(weight_VD.device)].float()
        noise = torch.randn(len(token_ids), weight_VD.shape[1], generator=generator).to(weight_VD.device)
        rows = old_VD.mean(dim=0) + NEW_ROW_NOISE * old_VD.std(dim=0) * noise
        weight_VD[list(token_ids)] = rows.to(weight_VD.dtype)
