"""What a row of a dataset is once its format was read: one conversation, a pair of answers, an answer with a label, or
a prompt with what its answers are judged by.

Imports no torch and no transformers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """A conversation; its assistant turns are trained."""

    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)

    def all_messages(self) -> list[Message]:
        return self.messages

    def as_dict(self) -> dict[str, Any]:
        return {"messages": self.messages, "tools": self.tools} if self.tools else {"messages": self.messages}


@dataclass(frozen=True)
class PairExample:
    """A prompt and two ways to go on, of which people (or a judge) chose one.

    `margin` is by how much it is better, in units of reward; 0 where nobody said.
    """

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)
    margin: float = 0.0

    def all_messages(self) -> list[Message]:
        """The prompt once, and both answers."""
        return [*self.prompt, *self.chosen, *self.rejected]


@dataclass(frozen=True)
class LabelledExample:
    """A prompt, one way to go on, and whether that was desirable."""

    prompt: list[Message]
    completion: list[Message]
    is_desirable: bool
    tools: list[dict[str, Any]] = field(default_factory=list)

    def all_messages(self) -> list[Message]:
        return [*self.prompt, *self.completion]


@dataclass(frozen=True)
class PromptExample:
    """A prompt, and by which of engine/checkers, with which target, an answer to it is judged."""

    prompt: list[Message]
    checker: str
    target: dict[str, Any]
    tools: list[dict[str, Any]] = field(default_factory=list)

    def all_messages(self) -> list[Message]:
        return self.prompt


AnyExample = Example | PairExample | LabelledExample | PromptExample
