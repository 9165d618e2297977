"""What the training loop knows of a technique."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.examples import Example
from posttrain.engine.data.packing import Batch
from posttrain.engine.data.rows import Row
from posttrain.engine.data.template import ChatTemplate
from posttrain.engine.models import LanguageModel
from posttrain.engine.spec import TrainSpec

Metrics = dict[str, float]


@dataclass(frozen=True)
class Window:
    """Denominators of the whole optimiser step, whatever its micro-batches: without them 8 x 1 cannot equal 1 x 8."""

    num_targets: int
    num_rows: int


@dataclass
class Models:
    """The models of a technique; `policy` is the one that is trained."""

    policy: LanguageModel


class Method(Protocol):
    """One technique. Heavy objects are arguments; a method reads no file, environment or command line."""

    def __init__(self, spec: TrainSpec) -> None: ...

    def prepare_tokenizer(self, tokenizer: Any) -> tuple[ChatTemplate, list[int]]:
        """The chat template that is trained and saved, and ids of tokens whose rows the base has not learnt."""
        ...

    def encode(self, example: Example, encoder: Encoder, source: str, number: int) -> Row: ...

    def collate(self, rows: Sequence[Row], device: torch.device) -> Batch: ...

    def window(self, rows: Sequence[Row]) -> Window: ...

    def loss(self, batch: Batch, models: Models, window: Window) -> tuple[Tensor, Metrics]:
        """The micro-batch's share of the step's loss, and sums to be logged (divided by the window already)."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
