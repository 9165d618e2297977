"""What a training job computes: floating-point operations from its spec and its model's shapes. Imports no torch.

A product of T x K by K x N is 2TKN operations. Counted are the products of linear layers, of the head and of
attention; norms, activations and the update rule are of a lower order.

- forward: 2 a weight and token; for the input's gradient the same again; for the weight's gradient the same again
  where it is trained. A reference pass is one forward.
- attention: scores and values over half a row on average, 2 * length * query width a token and layer forward, and
  five halves of it backward, which computes the scores again (arXiv:2205.14135).
- gradient checkpointing: one forward of the layers more.

Checked against torch's own count of a step in tests/engine/test_cost.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.engine.plan import Shapes, lora_parameters
from posttrain.engine.spec import DpoSpec, LoraAdapter, RewardSpec, StepsDuration, TrainSpec

# Of the rate of products alone, what whole steps reach on a CPU: 0.42 to 0.53 on a model of 3M parameters, 0.65 to 0.74
# on one of 135M (docs/benchmarks.md).
SHARE_OF_PRODUCTS = 0.6


@dataclass(frozen=True)
class Rows:
    """Rows of one epoch: their number, their tokens (a pair's prompt once) and those with a loss, as `posttrain
    datasets stats` counts them."""

    num_rows: float
    num_tokens: float
    num_trained: float
    longest: int

    @property
    def mean(self) -> float:
        return self.num_tokens / self.num_rows


def epoch_rows(sources: Sequence[tuple[Rows, float]]) -> Rows:
    """One epoch of a mix: (rows, weight) of each source."""
    return Rows(
        sum(rows.num_rows * weight for rows, weight in sources),
        sum(rows.num_tokens * weight for rows, weight in sources),
        sum(rows.num_trained * weight for rows, weight in sources),
        max(rows.longest for rows, _ in sources),
    )


def epochs_of(spec: TrainSpec, num_rows: float) -> float:
    """How often a job goes through so many rows."""
    if isinstance(spec.duration, StepsDuration):
        return spec.duration.max_steps * spec.batch.num_rows / num_rows
    return float(spec.duration.num_epochs)


def job_flops(spec: TrainSpec, shapes: Shapes, rows: Rows) -> float:
    """Operations of the whole job on these rows. Rows that are longer than `batch.max_tokens` count as they are."""
    trained = epochs_of(spec, rows.num_rows) * epoch_flops(spec, shapes, rows)
    once = forward_flops(spec, shapes, rows) if _reference(spec) == "cached" else 0.0
    return trained + once


def epoch_flops(spec: TrainSpec, shapes: Shapes, rows: Rows) -> float:
    """Operations of one pass over the rows with gradients, and of the reference's where it is computed each time."""
    lora = spec.adapter if isinstance(spec.adapter, LoraAdapter) else None
    layers, attention, head = _forward(spec, shapes, rows)
    adapters = 2.0 * lora_parameters(lora, shapes) * rows.num_tokens if lora else 0.0
    products = 2 if lora else 3  # of each matrix of the base
    flops = products * (layers + head) + 3 * adapters + 3.5 * attention
    if spec.memory.gradient_checkpointing:
        flops += layers + adapters + attention
    if _reference(spec) == "adapter_off":
        flops += layers + attention + head
    return flops


def forward_flops(spec: TrainSpec, shapes: Shapes, rows: Rows) -> float:
    """Operations of one pass without gradients and without adapters."""
    return sum(_forward(spec, shapes, rows))


def _forward(spec: TrainSpec, shapes: Shapes, rows: Rows) -> tuple[float, float, float]:
    """Of linear layers, attention and the head. A reward model's head is one number a row: nothing."""
    weights = sum(outputs * inputs for outputs, inputs in shapes.matrices.values())
    attention = 2.0 * rows.mean * shapes.query_width * shapes.num_layers * rows.num_tokens
    head = 0.0 if isinstance(spec, RewardSpec) else 2.0 * shapes.vocabulary * shapes.width * rows.num_trained
    return 2.0 * weights * rows.num_tokens, attention, head


def _reference(spec: TrainSpec) -> str:
    """How the reference is computed, or empty if the loss has none."""
    return spec.reference if isinstance(spec, DpoSpec) and spec.loss.needs_reference else ""


def seconds_of(flops: float, products_per_s: float) -> float:
    """About how long so many operations take where products alone reach `products_per_s` operations a second."""
    return flops / (products_per_s * SHARE_OF_PRODUCTS)
