"""Less memory for what the backward pass needs: compute it again, or keep it in the CPU's memory.

Recomputed layers (arXiv:1604.06174) run inside `backward`, after the block that set the attention's layout has ended,
and on CUDA in another thread. So each layer's call remembers the context variables it was made under, and its
recomputation runs under the same ones (`context_fn` of torch.utils.checkpoint).
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.engine.errors import SpecError
from posttrain.engine.spec import MemoryOptions

MIN_OFFLOADED_BYTES = 16 * 2**10  # below it a copy costs more than it frees


class _Remembered:
    """Sets the context variables as they were where this object was made. Can be entered again and again."""

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        self._tokens: list[tuple[contextvars.ContextVar[Any], contextvars.Token[Any]]] = []

    def __enter__(self) -> None:
        self._tokens = [(variable, variable.set(value)) for variable, value in self._context.items()]

    def __exit__(self, *_: object) -> None:
        for variable, token in self._tokens:
            variable.reset(token)


def _contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of a layer's forward pass, and of its recomputation."""
    return nullcontext(), _Remembered()


def checkpoint_layers(module: Any) -> None:
    """Makes the model, in train mode, keep each layer's input only.

    Raises:
        SpecError: its architecture has no layers that can be computed again.
    """
    if not getattr(module, "supports_gradient_checkpointing", False):
        raise SpecError(
            f"memory.gradient_checkpointing: {type(module).__name__} does not support it", hint="leave it out"
        )
    module.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False, "context_fn": _contexts}
    )
    module.disable_input_require_grads()  # for reentrant recomputation only; here it would be a gradient for nothing


class Offloaded(torch.autograd.graph.saved_tensors_hooks):
    """Within the block, what autograd saves on the GPU is kept on the CPU until the backward pass asks for it.

    Parameters and views of them stay where they are: they take no memory of their own. `devices` are the types of
    device that are moved from.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], devices: tuple[str, ...] = ("cuda",)) -> None:
        kept = {parameter.untyped_storage().data_ptr() for parameter in parameters}

        def pack(saved: Tensor) -> Tensor | tuple[torch.device, Tensor]:
            is_small = saved.nbytes < MIN_OFFLOADED_BYTES
            if is_small or saved.device.type not in devices or saved.untyped_storage().data_ptr() in kept:
                return saved
            copy = torch.empty_like(saved, device="cpu", pin_memory=saved.is_cuda)
            return saved.device, copy.copy_(saved)

        def unpack(packed: Tensor | tuple[torch.device, Tensor]) -> Tensor:
            return packed if isinstance(packed, Tensor) else packed[1].to(packed[0], non_blocking=True)

        super().__init__(pack, unpack)


def saving(options: MemoryOptions, modules: Iterable[nn.Module]) -> AbstractContextManager[Any]:
    """What to run a forward pass in that a backward pass follows; can be entered again and again."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    is_useful = options.offload_activations and parameters[0].is_cuda  # on a CPU they are there already
    return Offloaded(parameters) if is_useful else nullcontext()
