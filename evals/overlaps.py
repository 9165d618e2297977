"""What a search of training data for suites' questions found, as evidence for a gate. Imports no torch."""

from __future__ import annotations

import datetime
from typing import Annotated, Final, Literal, get_args

from pydantic import Field

from posttrain.engine.spec import canonical_json, sha256_text
from posttrain.evals.rows import Record

Kind = Literal["whole", "13 words", "8 words"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)  # the surest first

Count = Annotated[int, Field(ge=0)]


class Overlap(Record):
    """One dataset searched for one suite's questions: `questions` are the ids of those found, by their surest match."""

    dataset: str
    dataset_digest: str
    suite: str
    suite_digest: str
    num_rows: Count
    num_unread: Count
    num_questions: Count
    questions: dict[str, Kind]


class Searched(Record):
    """Everything that a version and its ancestors were trained on, and each of its searches.

    `datasets` maps NAME@NUMBER to the digest of its rows, and is complete; `date` is when it was put together, by which
    waivers expire.
    """

    type: Literal["searched"] = "searched"
    format: Literal[1] = 1
    date: datetime.date
    datasets: dict[str, str]
    overlaps: list[Overlap]

    @property
    def digest(self) -> str:
        """Hex sha256 of the canonical JSON."""
        return sha256_text(canonical_json(self))
