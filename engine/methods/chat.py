"""What every technique on conversations does alike: the template, packing, and nothing to remember."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor

from posttrain.engine.attempt import ShouldStop
from posttrain.engine.data.builtin import BUILTIN
from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import AnyRow
from posttrain.engine.data.examples import AnyExample
from posttrain.engine.data.packing import Batch, collate
from posttrain.engine.data.template import ChatTemplate
from posttrain.engine.data.tool_calls import Speech, check_speaks
from posttrain.engine.errors import TemplateError
from posttrain.engine.events import Note
from posttrain.engine.methods.base import Losses, Metrics, Models, Told, Window, never
from posttrain.engine.models import own_template
from posttrain.engine.spec import BuiltinTemplate, TrainSpec

SPEECH_HINT = (
    "use kind: tool_use, whose call_format teaches the template to write them (dpo and reward start from its output), "
    "or leave tools and calls out of the rows"
)
Spec = TypeVar("Spec", bound=TrainSpec)


class ChatMethod(ABC, Generic[Spec]):
    """Base of techniques whose rows come from a chat template; a subclass says how it encodes and what its loss is."""

    makes: ClassVar[Literal["language_model", "reward_model"]] = "language_model"

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._spoken = {Speech(False, False, False)}

    def prepare_tokenizer(self, tokenizer: Any) -> tuple[ChatTemplate, list[int]]:
        """The template named by the spec. No tokens are added, that is IFT's business: a built-in template needs a base
        that has its own, and is saved with the tokenizer.

        Raises:
            TemplateError: the base has no template of its own, or lacks the built-in one's tokens.
        """
        if isinstance(self._spec.template, BuiltinTemplate):
            return install(tokenizer, self._spec.template.name), []
        template = own_template(tokenizer)
        if template is None:
            raise TemplateError(
                "the base has no chat template of its own",
                hint="train it with kind: ift first, or set template: {type: builtin, name: chatml}",
            )
        return template, []

    def _check_speaks(self, example: AnyExample, encoder: Encoder, source: str, number: int) -> None:
        """A call that the template drops would be trained as an empty answer, and one to tools that it drops as a
        guess. Each kind of row is asked for once.

        Raises:
            TemplateError: the row has tools, calls or tools' answers, and the template does not write them.
        """
        speech = Speech.of(example)
        if speech not in self._spoken:
            try:
                check_speaks(encoder.template, speech, SPEECH_HINT)
            except TemplateError as error:
                raise TemplateError(f"{source} row {number}: {error}", hint=error.hint) from None
            self._spoken.add(speech)

    def report(self, source: str) -> list[Note]:
        return []

    def arrange(self, rows: Sequence[AnyRow], max_tokens: int) -> Sequence[AnyRow]:
        return rows

    @property
    def caches_reference(self) -> bool:
        return False

    def prepare(self, sources: Sequence[Sequence[AnyRow]], models: Models, tell: Told) -> None:
        """Nothing to prepare."""

    @property
    def keeps_reference(self) -> bool:
        return False

    @property
    def keeps_value(self) -> bool:
        return False

    def computed(self, rows: Sequence[AnyRow]) -> Sequence[AnyRow]:
        return rows

    @abstractmethod
    def loss(self, batch: Batch, models: Models, window: Window) -> tuple[Tensor, Metrics]: ...

    def losses(self, batch: Batch, models: Models, window: Window) -> Losses:
        yield self.loss(batch, models, window)

    def accepts(self, sums: Metrics) -> bool:
        return True

    def notes(self) -> list[Note]:
        return []

    def collate(self, rows: Sequence[AnyRow], device: torch.device) -> Batch:
        return collate(rows, device)

    def window(self, rows: Sequence[AnyRow], models: Models, should_stop: ShouldStop = never) -> Window:
        return Window(num_targets=sum(row.num_targets for row in rows), num_rows=len(rows))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"{self._spec.kind} remembers nothing, but was given {sorted(state)}")


def install(tokenizer: Any, name: str) -> ChatTemplate:
    """Makes a built-in template and its stop token the tokenizer's own.

    Raises:
        TemplateError: the tokenizer lacks tokens of it.
    """
    builtin = BUILTIN[name]
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    missing = [token for token in builtin.tokens if token not in special]
    if missing:
        raise TemplateError(
            f"the base lacks tokens of the built-in template {name}: {', '.join(missing)}",
            hint="train it with kind: ift, which adds and trains them",
        )
    tokenizer.eos_token = builtin.stop_token
    tokenizer.chat_template = builtin.text
    template = own_template(tokenizer)
    assert template is not None
    return template
