"""Answers that share one computed prompt equal answers computed apart by the model's own padded forward, in
log-probabilities and gradients, for every architecture that is named as supported."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from posttrain.engine import ops
from posttrain.engine.attention import Segments
from posttrain.engine.data.encoded import Group
from posttrain.engine.data.packing import collate
from posttrain.engine.methods.reference import sequence_logps
from posttrain.engine.models import LanguageModel
from tests.engine.pairs import make_groups, padded_logps
from tests.engine.tiny import CONFIGS, tiny_model

WEIGHTS = torch.tensor([1.0, -0.5, 2.0, 0.25, -1.5, 1.0, 0.5, 3.0])  # each answer its own, so that mix-ups show


def gradients(model: LanguageModel, logp_S: Tensor) -> dict[str, Tensor]:
    model.module.zero_grad()
    (logp_S * WEIGHTS[: len(logp_S)]).sum().backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.trainable() if p.grad is not None}


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_shared_prompt_equals_separate_rows(name: str) -> None:
    model, groups = tiny_model(name), make_groups()
    expected, found = padded_logps(model, groups), sequence_logps(collate(groups), model)
    assert expected.shape == (8,)
    assert float(expected.detach().std()) > 0.5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    reference, ours = gradients(model, padded_logps(model, groups)), gradients(model, found)
    assert reference.keys() == ours.keys()
    for key, gradient in reference.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(ours[key], gradient, rtol=1e-4, atol=max(2e-5 * scale, 1e-9), msg=key)


@pytest.mark.parametrize("num_branches", [1, 3])
def test_a_prompt_is_shared_by_any_number_of_answers(num_branches: int) -> None:
    model, groups = tiny_model("qwen3"), make_groups(1, num_branches)
    torch.testing.assert_close(
        sequence_logps(collate(groups), model), padded_logps(model, groups), rtol=1e-5, atol=1e-4
    )


def test_a_prompt_is_computed_once() -> None:
    groups = make_groups()
    batch = collate(groups)
    assert batch.num_tokens == sum(len(g.prefix) + sum(map(len, g.branches)) for g in groups)
    assert batch.num_sequences == 8
    runs = list(zip(pairwise(batch.segments.bounds), batch.segments.prefixes, strict=True))
    first, second = groups[0].branches
    assert runs[0] == ((0, 7 + len(first)), (0, 0))
    assert runs[1] == ((7 + len(first), 7 + len(first) + len(second)), (0, 7))
    assert batch.position_ids_T[runs[1][0][0]] == 7
    assert batch.ends_S.tolist()[:2] == [6 + len(first), 6 + len(first) + len(second)]


def test_a_group_packs_like_the_rows_it_stands_for() -> None:
    """The same predictions of the same tokens, wherever they stand."""
    group = make_groups()[2]
    batch = collate([group])
    for sequence, branch in enumerate(group.branches):
        mine = batch.sequences_N == sequence
        wanted = [token for token, is_target in zip(branch.ids, branch.is_target, strict=True) if is_target]
        assert batch.targets_N[mine].tolist() == wanted
        places = [len(group.prefix) + i - 1 for i, is_target in enumerate(branch.is_target) if is_target]
        assert batch.position_ids_T[batch.loss_positions_N[mine]].tolist() == places


@pytest.mark.parametrize("mistake", ["no prefix", "wrong positions", "other prefix"])
def test_a_wrong_prefix_is_noticed(mistake: str) -> None:
    model, groups = tiny_model("llama"), make_groups()
    batch, expected = collate(groups), padded_logps(model, groups)
    segments, positions = batch.segments, batch.position_ids_T
    if mistake == "no prefix":
        segments = Segments(segments.bounds, ((0, 0),) * len(segments.prefixes))
    elif mistake == "other prefix":
        segments = Segments(segments.bounds, tuple((0, 7) if end else (0, 0) for _, end in segments.prefixes))
    else:
        positions = torch.arange(batch.num_tokens)
    wrong = sequence_logps(replace(batch, segments=segments, position_ids_T=positions), model)
    assert float((wrong - expected).detach().abs().max()) > 1e-2


@pytest.mark.parametrize("number", [ops.token_logps, ops.token_entropies])
@pytest.mark.parametrize("is_head_trained", [True, False])
def test_log_probabilities_and_entropies_in_chunks_equal_those_at_once(
    is_head_trained: bool, number: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(13, 6, generator=generator, requires_grad=True)
    head = torch.randn(11, 6, generator=generator).requires_grad_(is_head_trained)
    targets = torch.randint(11, (13,), generator=generator)
    weights = torch.randn(13, generator=generator)
    inputs = [hidden, head] if is_head_trained else [hidden]

    def run() -> tuple[Tensor, ...]:
        parameters: Any = [head] if is_head_trained else []
        logp = number(hidden, targets, lambda rows: rows @ head.T, parameters, 11)
        return logp.detach(), *torch.autograd.grad((logp * weights).sum(), inputs)

    whole = run()
    monkeypatch.setattr(ops, "chunk_rows", lambda vocabulary: 4)
    for part, expected in zip(run(), whole, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-6)


def test_entropies_by_hand() -> None:
    """Of (1/2, 1/4, 1/4): 1.5 bits."""
    logits = torch.tensor([[0.5, 0.25, 0.25], [1 / 3] * 3]).log()
    found = ops.token_entropies(logits, torch.tensor([0, 2]), lambda rows: rows, [], 3)
    torch.testing.assert_close(found, torch.tensor([1.5 * math.log(2), math.log(3)]))


def test_no_position_gives_no_log_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "chunk_rows", lambda vocabulary: -1)
    logp = ops.token_logps(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), lambda rows: rows, [], 4)
    assert logp.shape == (0,)


def test_a_group_without_a_trained_branch_is_refused() -> None:
    group = make_groups()[0]
    blank = replace(group.branches[1], is_target=bytes(len(group.branches[1])))
    bad: Group = replace(group, branches=(group.branches[0], blank))
    with pytest.raises(ValueError, match=r"pairs@1 row 0: all labels are masked"):
        collate([bad])
