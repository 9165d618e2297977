"""Maths that several techniques share: log-probabilities of given tokens, entropies, and sums over sequences.

Shape suffixes: N positions with a loss, C positions of one chunk, S sequences, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.engine.losses import Project, chunk_rows

Number = Callable[[Tensor, Tensor], Tensor]  # of logits [C, V] and targets [C], a number for each position [C]


class _OfLogits(torch.autograd.Function):
    """A number for each position, made of its logits, without ever holding more than a chunk's logits.

    The number depends on the position's own hidden state only, so with a frozen head its gradient is taken while the
    chunk's logits are there and scaled in the backward pass. A trained head needs the scale first: its logits are
    computed a second time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        targets_N: Tensor,
        project: Project,
        chunk: int,
        number: Number,
        *parameters: nn.Parameter,
    ) -> Tensor:
        is_head_trained = any(ctx.needs_input_grad[5:])
        needs_now = ctx.needs_input_grad[0] and not is_head_trained
        grad_ND = torch.empty_like(hidden_ND) if needs_now else None
        numbers: list[Tensor] = []
        for start in range(0, hidden_ND.shape[0], chunk):
            part = slice(start, start + chunk)
            with torch.set_grad_enabled(needs_now):
                hidden_CD = hidden_ND[part].detach().requires_grad_(needs_now)
                number_C = number(project(hidden_CD), targets_N[part])
                if grad_ND is not None:
                    (grad_ND[part],) = torch.autograd.grad(number_C.sum(), [hidden_CD])
            numbers.append(number_C.detach())
        ctx.project, ctx.chunk, ctx.number = project, chunk, number
        ctx.grad_hidden, ctx.parameters = grad_ND, parameters
        ctx.save_for_backward(hidden_ND, targets_N)
        return torch.cat(numbers) if numbers else hidden_ND.new_zeros(0, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_N,) = grad_outputs
        nothing = [None] * len(ctx.parameters)
        if ctx.grad_hidden is not None:
            grad_ND = (ctx.grad_hidden * grad_N[:, None]).to(ctx.grad_hidden.dtype)  # multiplied in float32
            return (grad_ND, None, None, None, None, *nothing)
        hidden_ND, targets_N = ctx.saved_tensors
        needs_hidden = ctx.needs_input_grad[0]
        needed = ctx.needs_input_grad[5:]
        trained = [p for p, is_needed in zip(ctx.parameters, needed, strict=True) if is_needed]
        grads = [torch.zeros_like(p, dtype=torch.float32) for p in trained]
        grad_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        for start in range(0, hidden_ND.shape[0], ctx.chunk):
            part = slice(start, start + ctx.chunk)
            with torch.enable_grad():
                hidden_CD = hidden_ND[part].detach().requires_grad_(needs_hidden)
                number_C = ctx.number(ctx.project(hidden_CD), targets_N[part])
                inputs = [*([hidden_CD] if needs_hidden else []), *trained]
                found = list(torch.autograd.grad(number_C, inputs, grad_N[part]))
            if grad_ND is not None:
                grad_ND[part] = found.pop(0)
            for grad, new in zip(grads, found, strict=True):
                grad += new
        remaining = iter(grad.to(p.dtype) for grad, p in zip(grads, trained, strict=True))
        return (grad_ND, None, None, None, None, *(next(remaining) if is_needed else None for is_needed in needed))


def _logps(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    return -nn.functional.cross_entropy(logits_CV.float(), targets_C, reduction="none")


def _entropies(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    logp_CV = torch.log_softmax(logits_CV.float(), dim=-1)
    return -(logp_CV.exp() * logp_CV).sum(-1)


def token_logps(
    hidden_ND: Tensor, targets_N: Tensor, project: Project, parameters: Sequence[nn.Parameter], vocabulary: int
) -> Tensor:
    """log softmax(project(hidden))[target] of each position, [N] in float32.

    `project` maps [C, D] to logits [C, V] and uses `parameters`; gradients flow to these and to `hidden_ND`.
    """
    return _of_logits(_logps, hidden_ND, targets_N, project, parameters, vocabulary)


def token_entropies(
    hidden_ND: Tensor, targets_N: Tensor, project: Project, parameters: Sequence[nn.Parameter], vocabulary: int
) -> Tensor:
    """Entropy of softmax(project(hidden)) at each position in nats, [N] in float32; otherwise as `token_logps`."""
    return _of_logits(_entropies, hidden_ND, targets_N, project, parameters, vocabulary)


def _of_logits(
    number: Number,
    hidden_ND: Tensor,
    targets_N: Tensor,
    project: Project,
    parameters: Sequence[nn.Parameter],
    vocabulary: int,
) -> Tensor:
    chunk = chunk_rows(vocabulary)
    if hidden_ND.shape[0] <= chunk:  # one chunk: autograd may keep its logits
        return number(project(hidden_ND), targets_N)
    numbers_N = _OfLogits.apply(hidden_ND, targets_N, project, chunk, number, *parameters)  # type: ignore[no-untyped-call]
    assert isinstance(numbers_N, Tensor)
    return numbers_N


def sum_by_sequence(values_N: Tensor, sequences_N: Tensor, num_sequences: int) -> Tensor:
    """Sums [S] of the values of each sequence."""
    return values_N.new_zeros(num_sequences).index_add(0, sequences_N, values_N)
