"""What a rollout leaves behind for the update, and how it is kept in a checkpoint.

Tokens are kept as they were sampled; nothing is encoded again from text.

Shape suffixes: N trained tokens of a batch, in its order.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from posttrain.engine.data.encoded import Branch, Group
from posttrain.engine.data.packing import Batch
from posttrain.engine.events import Note

Values = Literal["sampled", "advantages", "old", "reference", "values", "returns"]
VALUES: tuple[Values, ...] = ("sampled", "advantages", "old", "reference", "values", "returns")  # new ones at the end


@dataclass(frozen=True)
class Trained:
    """Of one completion, a number for each trained token.

    `sampled` are log-probabilities as the rollout computed them, `old` as the trainer did before the first update of
    the rollout, `reference` those of the base; `values` are those of the states as the value model had them before the
    first update, `returns` what they are fitted to. The last four are empty where the loss needs none.
    """

    sampled: array[float]
    advantages: array[float]
    old: array[float] = field(default_factory=lambda: array("d"))
    reference: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))
    returns: array[float] = field(default_factory=lambda: array("d"))


@dataclass(frozen=True)
class Experience(Group):
    """A prompt and those of its completions that have to be computed; `trained[i]` belongs to `branches[i]`.

    `num_completions` and `num_tokens` count all that are in the loss, also those whose share of it is exactly 0 and
    that are not among the branches.
    """

    trained: tuple[Trained, ...] = ()
    num_completions: int = 0
    num_tokens: int = 0

    @property
    def is_uniform(self) -> bool:
        """Nothing can be learnt from how its completions compare."""
        return not any(any(one.advantages) for one in self.trained)

    def pieces(self, max_tokens: int) -> Iterator[Experience]:
        """Itself, or several that share its branches among them, each of at most `max_tokens` with the prompt (or of
        one branch)."""
        start = 0
        while start < len(self.branches):
            end, tokens = start + 1, len(self.prefix) + len(self.branches[start])
            while end < len(self.branches) and tokens + len(self.branches[end]) <= max_tokens:
                tokens += len(self.branches[end])
                end += 1
            yield replace(self, branches=self.branches[start:end], trained=self.trained[start:end])
            start = end


@dataclass
class Rollout:
    """Everything of one rollout: what is trained on, its numbers, samples to read (JSON objects), and notes."""

    groups: list[Experience]
    metrics: dict[str, float] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def values_of(batch: Batch, name: Values) -> Tensor:
    """One of `VALUES` for each trained token of a batch of experience, [N] in float32."""
    joined = array("d")
    for row in batch.rows:
        assert isinstance(row, Experience)
        for trained in row.trained:
            joined.extend(getattr(trained, name))
    return torch.tensor(joined, dtype=torch.float32, device=batch.ends_S.device)


# -- in a checkpoint ---------------------------------------------------------------------------------------------------


def to_tensors(groups: Sequence[Experience]) -> dict[str, Tensor]:
    """All of it but names and counts, laid end to end."""
    ids, masks = array("i"), bytearray()
    values = {name: array("d") for name in VALUES}
    for group in groups:
        ids.extend(group.prefix)
        for branch, trained in zip(group.branches, group.trained, strict=True):
            ids.extend(branch.ids)
            masks.extend(branch.is_target)
            for name in VALUES:
                values[name].extend(getattr(trained, name))
    tensors: dict[str, Tensor] = {}
    for name, numbers in values.items():
        tensors[name] = torch.tensor(numbers, dtype=torch.float64)
    return {"ids": torch.tensor(ids, dtype=torch.int32), "is_target": torch.tensor(masks, dtype=torch.uint8), **tensors}


def to_plain(groups: Sequence[Experience]) -> list[dict[str, Any]]:
    """Names, counts and lengths, as JSON."""
    return [
        {
            "source": group.source,
            "number": group.number,
            "num_completions": group.num_completions,
            "num_tokens": group.num_tokens,
            "prefix": len(group.prefix),
            "branches": [
                [len(branch), *(len(getattr(trained, name)) for name in VALUES)]
                for branch, trained in zip(group.branches, group.trained, strict=True)
            ],
        }
        for group in groups
    ]


def from_checkpoint(plain: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> list[Experience]:
    """What `to_plain` and `to_tensors` were given; values that an older version did not know are empty."""
    ids = array("i", tensors["ids"].tolist())
    masks = bytes(tensors["is_target"].tolist())
    values = {name: array("d", tensors[name].tolist() if name in tensors else ()) for name in VALUES}
    at, mask_at, value_at = 0, 0, dict.fromkeys(VALUES, 0)
    groups = []
    for entry in plain:
        prefix, at = ids[at : at + entry["prefix"]], at + entry["prefix"]
        branches, trained = [], []
        for length, *counts in entry["branches"]:
            branches.append(Branch(ids[at : at + length], masks[mask_at : mask_at + length]))
            at, mask_at = at + length, mask_at + length
            found = {}
            for name, count in zip(VALUES, counts, strict=False):
                found[name] = values[name][value_at[name] : value_at[name] + count]
                value_at[name] += count
            trained.append(Trained(**found))
        groups.append(
            Experience(
                prefix, tuple(branches), entry["source"], entry["number"], trained=tuple(trained),
                num_completions=entry["num_completions"], num_tokens=entry["num_tokens"],
            )
        )  # fmt: skip
    return groups
