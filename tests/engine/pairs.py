"""Random preference pairs and rollouts as groups of tokens, and what a model's own padded forward makes of them."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from posttrain.engine import attention
from posttrain.engine.data.encoded import Branch, Group
from posttrain.engine.experience import Experience, Trained
from posttrain.engine.models import LanguageModel
from posttrain.engine.policy_losses import group_advantages
from posttrain.engine.spec import parse_spec

G = 4  # completions of a prompt


def make_groups(seed: int = 0, num_branches: int = 2, vocabulary: int = 320) -> list[Group]:
    """Prompts of 1 to 17 tokens and answers of 1 to 12: shorter and longer than the tiny models' windows of 5."""
    rng = random.Random(seed)
    groups = []
    for number, shared in enumerate([7, 1, 17, 4]):
        branches = []
        for _ in range(num_branches):
            length = rng.randint(1, 12)
            mask = [rng.randint(0, 1) for _ in range(length - 1)] + [1]
            branches.append(Branch(array("i", [rng.randrange(vocabulary) for _ in range(length)]), bytes(mask)))
        prefix = array("i", [rng.randrange(vocabulary) for _ in range(shared)])
        groups.append(
            Group(prefix, tuple(branches), "pairs@1", number, margin=0.25 * number, is_desirable=number % 2 == 0)
        )
    return groups


def make_experience(seed: int = 0) -> list[Experience]:
    """Groups of G completions, all of whose tokens are trained; `old` is set by `with_old`."""
    rng = random.Random(seed)
    groups = []
    for group in make_groups(seed, num_branches=G):
        branches = tuple(Branch(branch.ids, b"\1" * len(branch)) for branch in group.branches)
        advantages = group_advantages([rng.random() for _ in branches], "standardised")
        trained = tuple(
            Trained(*(array("d", [value] * len(branch)) for value in (0.0, advantage)))
            for branch, advantage in zip(branches, advantages, strict=True)
        )
        num_tokens = sum(map(len, branches))
        groups.append(
            Experience(
                group.prefix, branches, "p@1", group.number, trained=trained, num_completions=G, num_tokens=num_tokens
            )
        )
    return groups


def spec_of(kind: str, **options: Any) -> Any:
    return parse_spec({"kind": kind, "base": "b@1", "output": "o", "data": [{"dataset": "d@1"}], **options})


def sequences_of(groups: Sequence[Group]) -> list[tuple[list[int], list[int]]]:
    """Whole rows (ids, mask): each prefix repeated before each of its branches."""
    return [
        ([*group.prefix, *branch.ids], [0] * len(group.prefix) + list(branch.is_target))
        for group in groups
        for branch in group.branches
    ]


def padded(sequences: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """ids, attention mask and target mask, [S, L], padded on the right."""
    longest = max(len(ids) for ids, _ in sequences)
    shape = (len(sequences), longest)
    ids_SL, seen_SL, target_SL = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    for i, (ids, mask) in enumerate(sequences):
        ids_SL[i, : len(ids)] = torch.tensor(ids)
        seen_SL[i, : len(ids)] = 1
        target_SL[i, : len(ids)] = torch.tensor(mask)
    return ids_SL, seen_SL, target_SL


def padded_logps(model: LanguageModel, groups: Sequence[Group]) -> Tensor:
    """log p of each branch's trained tokens by the model's own forward, prompts repeated, eager attention; [S]."""
    ids_SL, seen_SL, target_SL = padded(sequences_of(groups))
    model.module.set_attn_implementation("eager")
    logits_SLV = model.module(input_ids=ids_SL, attention_mask=seen_SL, use_cache=False).logits
    model.module.set_attn_implementation(attention.NAME)
    logp_SLV = torch.log_softmax(logits_SLV[:, :-1].float(), dim=-1)
    logp_SL = logp_SLV.gather(-1, ids_SL[:, 1:, None]).squeeze(-1)
    return (logp_SL * target_SL[:, 1:]).sum(1)
