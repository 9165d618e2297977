"""The next token of each row, from its logits and its own draws.

Shape suffixes: A active rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from posttrain.engine.errors import NonFiniteError
from posttrain.engine.rollout.completions import GenerationSettings
from posttrain.engine.rollout.rows import Row

NON_FINITE_HINT = "the weights are damaged or overflow in this dtype: check the training's loss, or use dtype float32"


def choose(rows: Sequence[Row], logits_AV: Tensor, settings: GenerationSettings) -> None:
    """Appends each row's next token and its log-probability.

    Raises:
        NonFiniteError: a row's logits hold NaN or +inf, or nothing but -inf.
    """
    total_A = logits_AV.logsumexp(dim=-1)
    for row, total in zip(rows, total_A.tolist(), strict=True):
        if not math.isfinite(total):
            name, length = row.name or f"prompt {row.index}", len(row.prompt) + len(row.token_ids)
            raise NonFiniteError(
                f"{name}: the logits after {length} tokens are not finite",
                hint=NON_FINITE_HINT,
            )
    if settings.temperature == 0:
        tokens_A = logits_AV.argmax(dim=-1)
    else:
        draws = [row.uniforms[len(row.logps)] for row in rows if row.uniforms is not None]
        uniform_A = torch.stack(draws).to(logits_AV.device)
        tokens_A = sample(
            logits_AV, uniform_A, settings.temperature, settings.top_p, top_k=settings.top_k, min_p=settings.min_p
        )
    scores_A = logits_AV.gather(1, tokens_A[:, None])[:, 0]
    chosen_A = tempered_A = scores_A - total_A
    if settings.temperature not in (0, 1):
        tempered_A = scores_A / settings.temperature - (logits_AV / settings.temperature).logsumexp(dim=-1)
    chosen = zip(rows, tokens_A.tolist(), chosen_A.tolist(), tempered_A.tolist(), strict=True)
    for row, token, logp, tempered in chosen:
        row.token_ids.append(token)
        row.logps.append(logp)
        row.tempered_logps.append(tempered)


def sample(
    logits_AV: Tensor, uniform_A: Tensor, temperature: float, top_p: float, *, top_k: int = 0, min_p: float = 0.0
) -> Tensor:
    """One token a row by inverting the cumulative distribution at `uniform_A`, of the tokens that are not ruled out;
    see GenerationSettings.

    Nucleus (arXiv:1904.09751): the smallest set of most likely tokens whose probability reaches `top_p`.
    """
    probabilities_AV = torch.softmax(logits_AV.double() / temperature, dim=-1)
    if top_p == 1 and not top_k and not min_p:
        # In the vocabulary's order: sorting 64 rows of 49k logits takes 40 times as long as all the rest (one core).
        cumulative_AV = probabilities_AV.cumsum(dim=-1)
        total_A = cumulative_AV[:, -1]
        # Below the total whatever the product is rounded to, so that it falls on a token with a probability.
        drawn_A = torch.minimum(uniform_A * total_A, torch.nextafter(total_A, torch.zeros_like(total_A)))
        return torch.searchsorted(cumulative_AV, drawn_A[:, None], right=True)[:, 0]
    probabilities_AV, order_AV = probabilities_AV.sort(dim=-1, descending=True, stable=True)
    if 0 < top_k < probabilities_AV.shape[-1]:
        probabilities_AV[:, top_k:] = 0
        probabilities_AV /= probabilities_AV.sum(dim=-1, keepdim=True)
    cumulative_AV = probabilities_AV.cumsum(dim=-1)
    # Both rule out a tail of the sorted tokens, and so does top_k, whose tail has probability 0.
    kept_AV = (cumulative_AV - probabilities_AV < top_p) & (probabilities_AV >= min_p * probabilities_AV[:, :1])
    kept_AV &= probabilities_AV > 0
    total_A1 = torch.where(kept_AV, probabilities_AV, 0.0).sum(dim=-1, keepdim=True)
    rank_A1 = torch.searchsorted(cumulative_AV, uniform_A[:, None] * total_A1, right=True)
    rank_A1 = torch.minimum(rank_A1, kept_AV.sum(dim=-1, keepdim=True) - 1)
    return order_AV.gather(1, rank_A1)[:, 0]
