"""Scoring of given continuations, packed.

Shape suffixes: T packed tokens, N positions with a score, C positions of a chunk, V vocabulary, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from posttrain.engine.attention import Segments
from posttrain.engine.errors import DataError, NonFiniteError
from posttrain.engine.losses import chunk_rows
from posttrain.engine.models import LanguageModel
from posttrain.engine.rollout.sampling import NON_FINITE_HINT

SCORE_TOKENS = 4096


@torch.no_grad()
def score(
    model: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch_tokens: int = SCORE_TOKENS
) -> list[tuple[float, bool]]:
    """For each (prompt, continuation): the continuation's summed log-probability, and whether greedy decoding would
    write it.

    Raises:
        DataError: an empty prompt or continuation, or a pair longer than the context; names it.
        NonFiniteError: a log-probability that is NaN or infinite; names the pair.
    """
    for index, (prompt, continuation) in enumerate(pairs):
        if not len(prompt) or not len(continuation):
            raise DataError(f"pair {index} has an empty {'continuation' if len(prompt) else 'prompt'}")
        if len(prompt) + len(continuation) > model.context:
            raise DataError(
                f"pair {index} has {len(prompt) + len(continuation)} tokens; the context is {model.context}"
            )
    results: dict[int, tuple[float, bool]] = {}
    was_training = model.module.training
    model.module.eval()
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    try:
        while order:
            group: list[int] = []
            tokens = 0
            while order and (not group or tokens + sum(map(len, pairs[order[-1]])) <= batch_tokens):
                group.append(order.pop())
                tokens += sum(map(len, pairs[group[-1]]))
            results.update(zip(group, _score_group(model, [pairs[i] for i in group]), strict=True))
    finally:
        model.module.train(was_training)
    for index, (logp, _) in sorted(results.items()):
        if not math.isfinite(logp):
            raise NonFiniteError(f"pair {index}: its log-probability is {logp}", hint=NON_FINITE_HINT)
    return [results[index] for index in range(len(pairs))]


def _score_group(
    model: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[tuple[float, bool]]:
    ids: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    for prompt, continuation in pairs:
        places.extend(range(len(ids) + len(prompt) - 1, len(ids) + len(prompt) + len(continuation) - 1))
        positions.extend(range(len(prompt) + len(continuation)))
        ids.extend([*prompt, *continuation])
    lengths = [len(prompt) + len(continuation) for prompt, continuation in pairs]
    ids_T = torch.tensor(ids, device=model.device)
    positions_T = torch.tensor(positions, device=model.device)
    hidden_TD = model.hidden(ids_T, positions_T, Segments.of(lengths))
    places_N = torch.tensor(places, device=model.device)
    targets_N = ids_T[places_N + 1]
    logps, greedy = [], []
    chunk = chunk_rows(model.vocabulary)
    for start in range(0, len(places), chunk):
        part = slice(start, start + chunk)
        logits_CV = model.logits(hidden_TD[places_N[part]]).float()
        logps.append(-nn.functional.cross_entropy(logits_CV, targets_N[part], reduction="none"))
        greedy.append(logits_CV.argmax(dim=-1) == targets_N[part])
    counts = [len(continuation) for _, continuation in pairs]
    return [
        (float(logp.double().sum()), bool(same.all()))
        for logp, same in zip(
            torch.split(torch.cat(logps), counts), torch.split(torch.cat(greedy), counts), strict=True
        )
    ]
