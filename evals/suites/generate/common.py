"""What all generators share: kinds with their wordings, rows made from drawn slots, and shards that share nothing.

A wording is a text with `{slots}`; lines that open with `U: ` and `A: ` make it a conversation. Rows of different
shards, and training rows, share no normalised prompt and no tuple of slot values: the builder draws again until that
holds.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.engine.base.words import Draw

Slots = dict[str, str]
Message = dict[str, str]
_TURN = re.compile(r"^(U|A): ", re.MULTILINE)
_GAPS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Filled:
    """What one draw yields: the values in the prompt, the reference answer, what a checker needs, tools on offer."""

    slots: Slots
    answer: str
    target: dict[str, Any]
    tools: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """Wordings that ask for the same thing. `make` draws the slots; wordings may use any of them."""

    name: str
    metric: str
    checker: str
    seen: Sequence[str]
    unseen: Sequence[str]
    make: Callable[[Draw], Filled]

    def wordings(self, is_unseen: bool) -> list[tuple[str, str]]:
        """(wording id, text) of one side."""
        texts, mark = (self.unseen, "u") if is_unseen else (self.seen, "s")
        return [(f"{self.metric}.{self.name}.{mark}{i}", text) for i, text in enumerate(texts)]


@dataclass(frozen=True)
class Row:
    wording_id: str
    kind: Kind
    messages: list[Message]
    filled: Filled

    @property
    def prompt_key(self) -> str:
        return normalised("\n".join(m["content"] for m in self.messages))

    @property
    def slot_key(self) -> tuple[str, ...]:
        return slot_tuple(self.filled.slots)

    def example(self, shard: str, number: int) -> dict[str, Any]:
        """The row as an evaluation example; its id holds a digest of the prompt, so an edit never keeps an id."""
        digest = hashlib.sha256((self.prompt_key + repr(self.filled.tools)).encode()).hexdigest()[:8]
        out: dict[str, Any] = {
            "id": f"{self.kind.metric}/{shard}/{number:04d}-{digest}",
            "metric": self.kind.metric,
            "shard": shard,
            "messages": self.messages,
        }
        if self.filled.tools:
            out["tools"] = self.filled.tools
        return out | {
            "checker": self.kind.checker,
            "target": self.filled.target,
            "reference": self.filled.answer,
            "wording_id": self.wording_id,
            "cluster_id": self.wording_id,
            "slots": self.filled.slots,
        }

    def training(self) -> dict[str, Any]:
        out: dict[str, Any] = {"messages": [*self.messages, {"role": "assistant", "content": self.filled.answer}]}
        if self.filled.tools:
            out["tools"] = self.filled.tools
        meta = {"family": self.kind.metric, "wording_id": self.wording_id, "slots": self.filled.slots}
        return out | {"meta": meta}


def normalised(text: str) -> str:
    """NFKC, casefolded, each run of spaces and punctuation one space."""
    return _GAPS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def slot_tuple(slots: Mapping[str, str]) -> tuple[str, ...]:
    """The values in the order of their slots' names, normalised."""
    return tuple(normalised(slots[k]) for k in sorted(slots))


def conversation(text: str) -> list[Message]:
    """`U: ...` and `A: ...` lines as messages; a text without them is one user turn."""
    if not _TURN.match(text):
        return [{"role": "user", "content": text}]
    parts = _TURN.split(text)[1:]
    roles = {"U": "user", "A": "assistant"}
    return [
        {"role": roles[mark], "content": content.strip("\n")}
        for mark, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def two_values(d: Draw, first: Callable[[Draw], str], second: Callable[[Draw], str]) -> tuple[str, str]:
    """A draw of each, not the same."""
    a, b = first(d), second(d)
    while b.casefold() == a.casefold():
        b = second(d)
    return a, b


def fill(wording_id: str, text: str, kind: Kind, d: Draw) -> Row:
    filled = kind.make(d)
    return Row(wording_id, kind, conversation(text.format(**filled.slots)), filled)


class Taken:
    """Prompts and slot tuples that are used up, over all suites and shards."""

    def __init__(self) -> None:
        self.prompts: set[str] = set()
        self.slots: set[tuple[str, ...]] = set()

    def take(self, row: Row) -> bool:
        """Claims the row's prompt and slots; False if either is taken."""
        if row.prompt_key in self.prompts or row.slot_key in self.slots:
            return False
        self.prompts.add(row.prompt_key)
        self.slots.add(row.slot_key)
        return True


def draw_rows(kinds: Sequence[Kind], num: int, is_unseen: bool, taken: Taken, d: Draw) -> list[Row]:
    """`num` rows, the wordings in turn.

    Raises:
        RuntimeError: a wording's slots have too few values.
    """
    wordings = [(i, text, kind) for kind in kinds for i, text in kind.wordings(is_unseen)]
    rows: list[Row] = []
    while len(rows) < num:
        for wording_id, text, kind in wordings[: num - len(rows)]:
            for _ in range(500):
                row = fill(wording_id, text, kind, d)
                if taken.take(row):
                    rows.append(row)
                    break
            else:
                raise RuntimeError(f"{wording_id}: no unused slot values found")
    return rows
