"""What a training job computes: floating-point operations from its spec and its model's shapes. Imports no torch.

A product of T x K by K x N is 2TKN operations. Counted are the products of linear layers, of the head and of
attention; norms, activations and the update rule are of a lower order.

- forward: 2 a weight and token; for the input's gradient the same again; for the weight's gradient the same again
  where it is trained. A reference pass is one forward.
- attention: scores and values over half a row on average, 2 * length * query width a token and layer forward, and
  five halves of it backward, which computes the scores again (arXiv:2205.14135). All rows of a source count as long as
  their mean: the cost grows with the square of the length, so of rows of various lengths the true one is higher.
- gradient checkpointing: one forward of the layers more.
- kto measures each row's prompt with another row's answer, without gradients, in every step. Those answers are taken to
  be as long as the row's own.

Checked against torch's own count of a step in tests/engine/test_cost.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from posttrain.engine.plan import Shapes, lora_parameters
from posttrain.engine.spec import DpoSpec, KtoLoss, LoraAdapter, RewardSpec, StepsDuration, TrainSpec

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


def epochs_of(spec: TrainSpec, num_rows: float) -> float:
    """How often a job goes through so many rows."""
    if isinstance(spec.duration, StepsDuration):
        return spec.duration.max_steps * spec.batch.num_rows / num_rows
    return float(spec.duration.num_epochs)


def job_flops(spec: TrainSpec, shapes: Shapes, sources: Sequence[tuple[Rows, float]]) -> float:
    """Operations of the whole job on the rows of these sources, each with its weight. Rows that are longer than
    `batch.max_tokens` count as they are.

    A cached reference is computed once for each row, whatever the weight.
    """
    epoch = sum(weight * epoch_flops(spec, shapes, rows) for rows, weight in sources)
    trained = epochs_of(spec, sum(weight * rows.num_rows for rows, weight in sources)) * epoch
    if _reference(spec) != "cached":
        return trained
    return trained + sum(forward_flops(spec, shapes, _prepared(spec, rows)) for rows, _ in sources)


def epoch_flops(spec: TrainSpec, shapes: Shapes, rows: Rows) -> float:
    """Operations of one pass over the rows with gradients, and of those without that each step needs: the reference's
    where it is not cached, and kto's of the other answers."""
    lora = spec.adapter if isinstance(spec.adapter, LoraAdapter) else None
    layers, attention, head = _forward(spec, shapes, rows)
    adapters = 2.0 * lora_parameters(lora, shapes) * rows.num_tokens if lora else 0.0
    products = 2 if lora else 3  # of each matrix of the base
    flops = products * (layers + head) + 3 * adapters + 3.5 * attention
    if spec.memory.gradient_checkpointing:
        flops += layers + adapters + attention
    forward = layers + attention + head
    if _is_kto(spec):
        flops += forward + adapters
    if _reference(spec) == "adapter_off":
        flops += (2 if _is_kto(spec) else 1) * forward
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


def _is_kto(spec: TrainSpec) -> bool:
    return isinstance(spec, DpoSpec) and isinstance(spec.loss, KtoLoss)


def _prepared(spec: TrainSpec, rows: Rows) -> Rows:
    """What a cached reference is computed on: with kto each row has another's answer as a second branch."""
    if not _is_kto(spec):
        return rows
    return replace(rows, num_tokens=rows.num_tokens + rows.num_trained, num_trained=2 * rows.num_trained)


def _reference(spec: TrainSpec) -> str:
    """How the reference is computed, or empty if the loss has none."""
    return spec.reference if isinstance(spec, DpoSpec) and spec.loss.needs_reference else ""


def seconds_of(flops: float, products_per_s: float) -> float:
    """About how long so many operations take where products alone reach `products_per_s` operations a second."""
    return flops / (products_per_s * SHARE_OF_PRODUCTS)
