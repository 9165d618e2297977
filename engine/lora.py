"""A LoRA layer's pass as one function: peft's arithmetic with fewer passes over [tokens, width] tensors.

    y = x W^T + b + s (x A^T) B^T        (arXiv:2106.09685 eq. 3)

peft computes both terms apart, scales the second one and adds them; autograd then adds two gradients of x. Here the
second term is accumulated by the product that makes it, forward and backward. peft keeps everything else: names,
saving, merging, switching off. Importing peft takes seconds, so import this where it is used.

Shape suffixes: N tokens, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn


class _LoraProduct(torch.autograd.Function):
    """x W^T + b + s (x A^T) B^T with W and b frozen."""

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scale: float
    ) -> Tensor:
        out_NO = nn.functional.linear(x_NI, weight_OI, bias_O)
        low_NR = x_NI @ a_RI.t()
        out_NO.addmm_(low_NR, b_OR.t(), alpha=scale)
        ctx.save_for_backward(x_NI, weight_OI, a_RI, b_OR, low_NR)
        ctx.scale = scale
        return out_NO

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_NO,) = grad_outputs
        x_NI, weight_OI, a_RI, b_OR, low_NR = ctx.saved_tensors
        needs_x, _, _, needs_a, needs_b, _ = ctx.needs_input_grad
        grad_low_NR = (grad_NO @ b_OR).mul_(ctx.scale)
        grad_b_OR = (grad_NO.t() @ low_NR).mul_(ctx.scale) if needs_b else None
        grad_a_RI = grad_low_NR.t() @ x_NI if needs_a else None
        grad_x_NI = (grad_NO @ weight_OI).addmm_(grad_low_NR, a_RI) if needs_x else None
        return grad_x_NI, None, None, grad_a_RI, grad_b_OR, None


class LoraLinear(Linear):  # type: ignore[misc]
    """peft's layer, whose plain pass in training is one function. Whatever is not plain is peft's: an adapter switched
    off or merged, several of them, dropout, DoRA, a trained base, mixed types."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base, active = self.base_layer, self.active_adapters
        is_plain = not (args or kwargs or self.disable_adapters or self.merged) and len(active) == 1
        if not is_plain or active[0] not in self.lora_A or active[0] in self.lora_variant:
            return self._by_peft(x, *args, **kwargs)
        name = active[0]
        low, high = self.lora_A[name], self.lora_B[name]
        has_dropout = self.training and not isinstance(self.lora_dropout[name], nn.Identity)
        is_trained = base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad)
        is_mixed = torch.is_autocast_enabled(x.device.type) or not (
            x.dtype == base.weight.dtype == low.weight.dtype == high.weight.dtype
        )
        if type(base) is not nn.Linear or has_dropout or is_trained or is_mixed or high.bias is not None:
            return self._by_peft(x, *args, **kwargs)
        out_NO: Tensor = _LoraProduct.apply(  # type: ignore[no-untyped-call]
            x.reshape(-1, x.shape[-1]), base.weight, base.bias, low.weight, high.weight, float(self.scaling[name])
        )
        return out_NO.view(*x.shape[:-1], -1)

    def _by_peft(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = super().forward(x, *args, **kwargs)
        return out


def use_one_product(model: nn.Module) -> None:
    """Lets peft's linear LoRA layers in a model run as `LoraLinear`, in place."""
    for layer in model.modules():
        if type(layer) is Linear:
            layer.__class__ = LoraLinear
