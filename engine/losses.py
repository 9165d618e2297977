"""Losses as pure functions of tensors. Never a [tokens, vocabulary] tensor: head and loss run in chunks over
positions with a loss.

Shape suffixes: N positions with a loss, C positions of one chunk, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

CHUNK_ELEMENTS = 2**24  # logits held at a time: 64 MB in float32

Project = Callable[[Tensor], Tensor]


def chunk_rows(vocabulary: int) -> int:
    """Positions whose logits are held at a time."""
    return max(16, CHUNK_ELEMENTS // vocabulary)


class _SummedNll(torch.autograd.Function):
    """Sum of negative log-likelihoods through a head, with gradients taken chunk by chunk while the chunk's logits
    are there."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, targets_N: Tensor, project: Project, chunk: int, *parameters: nn.Parameter
    ) -> Tensor:
        needs_hidden = ctx.needs_input_grad[0]
        trained = [p for p, needed in zip(parameters, ctx.needs_input_grad[4:], strict=True) if needed]
        grad_ND = torch.empty_like(hidden_ND) if needs_hidden else None
        grads = [torch.zeros_like(p, dtype=torch.float32) for p in trained]
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, hidden_ND.shape[0], chunk):
            part = slice(start, start + chunk)
            with torch.enable_grad():
                hidden_CD = hidden_ND[part].detach().requires_grad_(needs_hidden)
                nll = nn.functional.cross_entropy(project(hidden_CD).float(), targets_N[part], reduction="sum")
                inputs = [*([hidden_CD] if needs_hidden else []), *trained]
                found = list(torch.autograd.grad(nll, inputs)) if inputs else []
            total += nll.detach()
            if grad_ND is not None:
                grad_ND[part] = found.pop(0)
            for grad, new in zip(grads, found, strict=True):
                grad += new
        ctx.grad_hidden = grad_ND
        ctx.grads = [grad.to(p.dtype) for grad, p in zip(grads, trained, strict=True)]
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_total,) = grad_outputs
        remaining = iter(ctx.grads)
        to_parameters = [next(remaining) * grad_total if needed else None for needed in ctx.needs_input_grad[4:]]
        to_hidden = None if ctx.grad_hidden is None else ctx.grad_hidden * grad_total.to(ctx.grad_hidden.dtype)
        return (to_hidden, None, None, None, *to_parameters)


def summed_nll(
    hidden_ND: Tensor, targets_N: Tensor, project: Project, parameters: Sequence[nn.Parameter], vocabulary: int
) -> Tensor:
    """-sum over N of log softmax(project(hidden))[target], in float32; a scalar.

    `project` maps [C, D] to logits [C, V] and uses `parameters`; gradients flow to these and to `hidden_ND`. Divide
    by the tokens of the whole optimiser step, and the result does not depend on how the step was split.
    """
    total = _SummedNll.apply(hidden_ND, targets_N, project, chunk_rows(vocabulary), *parameters)  # type: ignore[no-untyped-call]
    assert isinstance(total, Tensor)
    return total
