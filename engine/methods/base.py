"""What the training loop knows of a technique."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from posttrain.engine.attempt import ShouldStop
from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import AnyRow, PromptRow
from posttrain.engine.data.examples import AnyExample
from posttrain.engine.data.packing import Batch
from posttrain.engine.data.template import ChatTemplate
from posttrain.engine.events import Note
from posttrain.engine.experience import Rollout
from posttrain.engine.models import LanguageModel
from posttrain.engine.rewards.model import RewardModels
from posttrain.engine.spec import TrainSpec
from posttrain.engine.value import ValueModel

Metrics = dict[str, float]
Told = Callable[[int, int], None]
Losses = Generator[tuple[Tensor, Metrics], None, None]


def never() -> bool:
    """For whoever is not to be stopped."""
    return False


@dataclass(frozen=True)
class Window:
    """Denominators of the whole optimiser step, whatever its micro-batches: without them 8 x 1 cannot equal 1 x 8.
    A method that needs more of the whole step adds it in a subclass.
    """

    num_targets: int
    num_rows: int


@dataclass
class Models:
    """The models of a technique; `policy` is the one that is trained, `peft` what holds its adapter, if it has one,
    `frozen` the policy as it was before training, where a method without an adapter asks for it in every step, `value`
    what is trained beside the policy, where a method asks for it, `reward_models` the parts of a reward that are
    models."""

    policy: LanguageModel
    peft: Any = None
    frozen: LanguageModel | None = None
    value: ValueModel | None = None
    reward_models: RewardModels | None = None

    def trained_modules(self) -> list[Any]:
        """The transformers models that are trained: one, or two where the value model has a backbone of its own."""
        modules = [self.policy.module]
        if self.value is not None and self.value.model.module is not self.policy.module:
            modules.append(self.value.model.module)
        return modules

    @contextmanager
    def reference(self) -> Iterator[LanguageModel]:
        """The policy as it was before training, without gradients: its adapter switched off, or the frozen copy. With
        neither the caller asks before training begins."""
        if self.frozen is not None:
            with torch.no_grad():
                yield self.frozen
            return
        was_training = self.policy.module.training
        self.policy.module.eval()
        try:
            with torch.no_grad():
                if self.peft is None:
                    yield self.policy
                else:
                    with self.peft.disable_adapter():
                        yield self.policy
        finally:
            self.policy.module.train(was_training)


class Method(Protocol):
    """One technique. Heavy objects are arguments; a method reads no file, environment or command line."""

    makes: ClassVar[Literal["language_model", "reward_model"]]

    def __init__(self, spec: TrainSpec) -> None: ...

    def prepare_tokenizer(self, tokenizer: Any) -> tuple[ChatTemplate, list[int]]:
        """The chat template that is trained and saved, and ids of tokens whose rows the base has not learnt."""
        ...

    def encode(self, example: AnyExample, encoder: Encoder, source: str, number: int) -> AnyRow | None:
        """The row, or None if it is left out; `report` says how many were, or refuses the source for them."""
        ...

    def report(self, source: str) -> list[Note]:
        """What is to be said of a source once its last row was given to `encode`.

        Raises:
            DataError: rows of it cannot be used; names the first ones.
        """
        ...

    def arrange(self, rows: Sequence[AnyRow], max_tokens: int) -> Sequence[AnyRow]:
        """What becomes of one source's rows once all of them are known; as many, in the same order."""
        ...

    @property
    def caches_reference(self) -> bool:
        """Whether `prepare` has something to do."""
        ...

    def prepare(self, sources: Sequence[Sequence[AnyRow]], models: Models, tell: Told) -> None:
        """Called once with the untrained models, on resuming too; `tell(done, total)` shows progress."""
        ...

    @property
    def keeps_reference(self) -> bool:
        """Whether `Models.reference` is asked during training, so that full fine-tuning needs a frozen copy."""
        ...

    @property
    def keeps_value(self) -> bool:
        """Whether a value model is trained beside the policy."""
        ...

    def computed(self, rows: Sequence[AnyRow]) -> Sequence[AnyRow]:
        """Which of a step's rows are computed, in which pieces. What is left out adds exactly nothing to the loss."""
        ...

    def notes(self) -> list[Note]:
        """What is to be said since the last call."""
        ...

    def collate(self, rows: Sequence[AnyRow], device: torch.device) -> Batch: ...

    def window(self, rows: Sequence[AnyRow], models: Models, should_stop: ShouldStop = never) -> Window:
        """What is to be known of the whole step, or of all held-out rows, before the first micro-batch.

        Raises:
            CancelledError: `should_stop`, asked before each pass that this takes, said so.
        """
        ...

    def loss(self, batch: Batch, models: Models, window: Window) -> tuple[Tensor, Metrics]:
        """The micro-batch's share of the policy's loss, and sums to be logged (divided by the window already)."""
        ...

    def losses(self, batch: Batch, models: Models, window: Window) -> Losses:
        """`loss`, then that of each other model that is trained. Each is to be differentiated before the next is asked
        for, so that the activations of one model at a time are held, and under the adapter that made them.
        """
        ...

    def accepts(self, sums: Metrics) -> bool:
        """Whether the step whose metrics came out as `sums` is taken, or its gradient dropped. Asked once a step."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class OnPolicyMethod(Method, Protocol):
    """A technique that learns from what its own policy writes."""

    def rollout(
        self, prompts: Sequence[PromptRow], models: Models, number: tuple[int, int], should_stop: Callable[[], bool]
    ) -> Rollout:
        """Lets the policy answer, and judges the answers; a group of experience for each prompt, in their order. A
        function of the weights, the seed and `number`: that of the rollout, and how often prompts were drawn again for
        it.

        Raises:
            RewardError: too many answers could not be judged. CancelledError: `should_stop` said so.
        """
        ...

    def evaluate(self, prompts: Sequence[PromptRow], models: Models, should_stop: Callable[[], bool]) -> Metrics | None:
        """Held-out loss, lower being better, and other numbers, under the names of a `HeldOutMetrics`; None if
        `should_stop` said so."""
        ...

    def close(self) -> None:
        """Ends the processes that it has started; a later rollout would start them again."""
        ...
