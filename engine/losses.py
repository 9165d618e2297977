"""Losses as pure functions of tensors. Never a [tokens, vocabulary] tensor: head and loss run in chunks over
positions with a loss.

Shape suffixes: N positions with a loss, C positions of one chunk, D model width, V vocabulary, S sequences, P pairs.
"""

# ruff: noqa: N802, N815 - fields and properties carry shape suffixes
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
        grads: list[Tensor] = []
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, hidden_ND.shape[0], chunk):
            part = slice(start, start + chunk)
            with torch.enable_grad():
                hidden_CD = hidden_ND[part].detach().requires_grad_(needs_hidden)
                logits_CV = project(hidden_CD)
            nll, grad_CV = _nll_and_gradient(logits_CV.detach(), targets_N[part])
            total += nll
            inputs = [*([hidden_CD] if needs_hidden else []), *trained]
            found = list(torch.autograd.grad(logits_CV, inputs, grad_CV)) if inputs else []
            if grad_ND is not None:
                grad_ND[part] = found.pop(0)
            if start == 0:
                grads = [new.float() for new in found]
            else:
                for grad, new in zip(grads, found, strict=True):
                    grad += new
        grads = grads or [torch.zeros_like(p, dtype=torch.float32) for p in trained]  # of no positions at all
        ctx.grad_hidden = grad_ND
        ctx.grads = [grad.to(p.dtype) for grad, p in zip(grads, trained, strict=True)]
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_total,) = grad_outputs
        if ctx.grads is None:
            raise RuntimeError("the gradient of a summed log-likelihood can be taken once")
        # Scaled in place: that of a head with a large vocabulary is not held twice.
        remaining = iter(ctx.grads)
        to_parameters = [next(remaining).mul_(grad_total) if needed else None for needed in ctx.needs_input_grad[4:]]
        to_hidden = None if ctx.grad_hidden is None else ctx.grad_hidden.mul_(grad_total.to(ctx.grad_hidden.dtype))
        ctx.grads = ctx.grad_hidden = None
        return (to_hidden, None, None, None, *to_parameters)


def _nll_and_gradient(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy, and its gradient softmax(logits) - 1[target] in the logits' type, with one [C, V] tensor
    beside the logits where autograd would hold three."""
    logp_CV = torch.log_softmax(logits_CV, dim=-1, dtype=torch.float32)
    places_C = torch.arange(len(targets_C), device=targets_C.device)
    nll = -logp_CV[places_C, targets_C].sum()
    grad_CV = logp_CV.exp_()
    grad_CV[places_C, targets_C] -= 1
    return nll, grad_CV.to(logits_CV.dtype)


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


# -- preferences -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairLogps:
    """Log-probabilities of P pairs, summed over the trained tokens of each answer, and how many these are.

    `reference_*` are those of the model before training; 0 where a loss needs none.
    """

    chosen_P: Tensor
    rejected_P: Tensor
    reference_chosen_P: Tensor
    reference_rejected_P: Tensor
    num_chosen_P: Tensor
    num_rejected_P: Tensor

    @property
    def chosen_ratio_P(self) -> Tensor:
        """log pi(chosen) / pi_ref(chosen)."""
        return self.chosen_P - self.reference_chosen_P

    @property
    def rejected_ratio_P(self) -> Tensor:
        return self.rejected_P - self.reference_rejected_P

    @property
    def ratio_P(self) -> Tensor:
        """By how much more than the reference the policy prefers chosen."""
        return self.chosen_ratio_P - self.rejected_ratio_P

    @property
    def mean_ratio_P(self) -> Tensor:
        """The same with each answer's ratio divided by its tokens."""
        return self.chosen_ratio_P / self.num_chosen_P - self.rejected_ratio_P / self.num_rejected_P

    @property
    def mean_chosen_P(self) -> Tensor:
        return self.chosen_P / self.num_chosen_P

    @property
    def mean_rejected_P(self) -> Tensor:
        return self.rejected_P / self.num_rejected_P


def dpo_sigmoid(pairs: PairLogps, beta: float) -> Tensor:
    """DPO, arXiv:2305.18290 eq. 7; [P]."""
    return -nn.functional.logsigmoid(beta * pairs.ratio_P)


def dpo_hinge(pairs: PairLogps, beta: float) -> Tensor:
    """The hinge of SLiC (arXiv:2305.10425) on DPO's ratio, as in arXiv:2309.06657; [P]."""
    return torch.relu(1 - beta * pairs.ratio_P)


def dpo_ipo(pairs: PairLogps, beta: float) -> Tensor:
    """IPO, arXiv:2310.12036 eq. 17, beta for its tau, with ratios per token as its authors and TRL have it; [P]."""
    return (pairs.mean_ratio_P - 1 / (2 * beta)) ** 2


def dpo_robust(pairs: PairLogps, beta: float, label_smoothing: float) -> Tensor:
    """Robust DPO, arXiv:2403.00409: unbiased when a share `label_smoothing` of the labels is flipped; [P]."""
    kept = nn.functional.logsigmoid(beta * pairs.ratio_P)
    flipped = nn.functional.logsigmoid(-beta * pairs.ratio_P)
    return (label_smoothing * flipped - (1 - label_smoothing) * kept) / (1 - 2 * label_smoothing)


def dpo_sigmoid_norm(pairs: PairLogps, beta: float) -> Tensor:
    """Length-normalised DPO, as in Tulu 3 (arXiv:2411.15124); [P]."""
    return -nn.functional.logsigmoid(beta * pairs.mean_ratio_P)


def simpo(pairs: PairLogps, beta: float, margin: float) -> Tensor:
    """SimPO, arXiv:2405.14734 eq. 6, margin for its gamma; needs no reference; [P]."""
    return -nn.functional.logsigmoid(beta * (pairs.mean_chosen_P - pairs.mean_rejected_P) - margin)


def orpo(pairs: PairLogps, weight: float) -> Tensor:
    """ORPO, arXiv:2403.07691 eqs. 6 and 7: mean NLL of chosen plus `weight` times the odds-ratio term; needs no
    reference; [P].
    """
    # A short answer that is learnt well has probability 1 in float32, and odds of infinity.
    chosen_P, rejected_P = (logp_P.clamp(max=-1e-7) for logp_P in (pairs.mean_chosen_P, pairs.mean_rejected_P))
    log_odds_P = chosen_P - rejected_P - (log1mexp(chosen_P) - log1mexp(rejected_P))
    return -pairs.mean_chosen_P - weight * nn.functional.logsigmoid(log_odds_P)


def kto(
    ratio_S: Tensor, is_desirable_S: Tensor, divergence: float, beta: float, desirable: float, undesirable: float
) -> Tensor:
    """KTO, arXiv:2402.01306 section 4.1: lambda * (1 - sigmoid(+-beta * (ratio - z0))); [S].

    `ratio_S` is log pi / pi_ref of each answer, `divergence` its z0, `desirable` and `undesirable` its lambdas.
    """
    sign_S = torch.where(is_desirable_S, 1.0, -1.0)
    weight_S = torch.where(is_desirable_S, desirable, undesirable)
    return weight_S * torch.sigmoid(-sign_S * beta * (ratio_S - divergence))


def bradley_terry(chosen_P: Tensor, rejected_P: Tensor, margin_P: Tensor, centring: float) -> Tensor:
    """Loss of a reward model on pairs of scores: arXiv:2203.02155 eq. 1, with margins as in arXiv:2307.09288 eq. 2,
    and `centring` times the squared sum of both scores, which keeps them around 0 (arXiv:2312.09244 eq. 2); [P].
    """
    return -nn.functional.logsigmoid(chosen_P - rejected_P - margin_P) + centring * (chosen_P + rejected_P) ** 2


def log1mexp(logp: Tensor) -> Tensor:
    """log(1 - exp(logp)) for logp < 0, by whichever of two forms is exact there (Maechler 2012, "Accurately computing
    log(1 - exp(-|a|))")."""
    is_near_zero = logp > -math.log(2)
    near = torch.log(-torch.expm1(torch.where(is_near_zero, logp, -1.0)))
    far = torch.log1p(-torch.exp(torch.where(is_near_zero, -1.0, logp)))
    return torch.where(is_near_zero, near, far)
