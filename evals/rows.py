"""Per-example results of an evaluation: the only input of a gate. Imports no torch.

A file `rows.jsonl` is a header line, then one row a line, UTF-8. `write_rows` writes the canonical form (rows in the
order of suite and example id, sorted keys), whose sha256 is the evidence digest: `EvalRun.digest` is the same whatever
order the rows came in. A runner appends rows as they come while it works (`read_partial` reads those); only a finished
file is canonical.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from posttrain.engine.events import write_atomic
from posttrain.engine.spec import canonical_json, sha256_text
from posttrain.evals.errors import RowsError

ROWS_FILE = "rows.jsonl"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(min_length=1)]
Shard = Literal["gate", "dev", "unseen"]
StopReason = Literal["stop", "length", "context", "none"]


class Record(BaseModel):
    """Base of all records of evidence: immutable, strict types, unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TemplateInfo(Record):
    """How the prompts were rendered.

    `digest` is the sha256 of the template's text (of the few-shot format for `plain`); `source` names whose template it
    is; `has_own` says whether the evaluated model ships a chat template, which an untrained base does not.
    """

    type: Literal["own", "version", "plain"]
    digest: Digest
    source: str
    has_own: bool


class SuiteInfo(Record):
    """A suite as it was run.

    `digest` covers the manifest and its sources, `num_rows` counts the rows that a complete run has.
    """

    name: Text
    version: Text
    digest: Digest
    num_rows: Annotated[int, Field(ge=0)]


class GenerationInfo(Record):
    """Settings that change an answer.

    `max_new_tokens` 0: only each task's own cap; `max_rows` 0: every row of the shard.
    """

    max_new_tokens: Annotated[int, Field(ge=0)]
    max_rows: Annotated[int, Field(ge=0)]
    seed: Annotated[int, Field(ge=0)]
    temperature: Annotated[float, Field(ge=0)] = 0.0


def _missing(value: object) -> bool:
    return value is None


class RepeatInfo(Record):
    """What makes a run a second one: the job that ran it, how many prompts it generated at a time, and how many answers
    it took from a cache.
    """

    job: Text
    batch_rows: Annotated[int, Field(ge=1)]
    num_cached: Annotated[int, Field(ge=0)] = 0


class RowsHeader(Record):
    type: Literal["header"] = "header"
    format: Literal[1] = 1
    version: Text = Field(description="NAME@NUMBER of the evaluated version")
    manifest_digest: Text
    weights_digest: Text
    template: TemplateInfo
    shard: Literal["gate", "dev"]
    suites: list[SuiteInfo]
    scorer_digest: Digest
    generation: GenerationInfo
    dtype: Text
    packages: dict[str, str] = Field(description="versions of the packages that take part")
    repeat: RepeatInfo | None = Field(
        default=None, exclude_if=_missing, description="None, and left out: not a second run"
    )


class ResultRow(Record):
    """One example's result.

    `score` is 1 for right, 0 for wrong. `messages_digest` covers what was asked (canonical messages and tools),
    `prompt_digest` the text that the model saw. A row with a `scorer_error` has score 0 and keeps every gate from
    passing. `stop_reason`: `stop` (a stop token or string), `length` (the cap), `context` (the end of the model's
    context cut the answer; with `num_tokens` 0 the prompt itself left no room), `none` (log-likelihood).
    """

    type: Literal["row"] = "row"
    example_id: Text
    suite: Text
    task: Text
    metric: Text
    shard: Shard
    wording_id: Text
    cluster_id: Text
    messages_digest: Digest
    prompt_digest: Digest
    score: Annotated[float, Field(ge=0, le=1, multiple_of=1)]
    reason: str = ""
    scorer_error: str = ""
    answer: str = ""
    stop_reason: StopReason
    num_tokens: Annotated[int, Field(ge=0)]

    @property
    def key(self) -> tuple[str, str]:
        return (self.suite, self.example_id)


class EvalRun(Record):
    """A header and its rows.

    Duplicate rows are representable, so that a gate can refuse them by name; a file with them is an error.
    """

    header: RowsHeader
    rows: tuple[ResultRow, ...]

    def canonical_bytes(self) -> bytes:
        """The canonical file: equal runs have equal bytes."""
        ordered = sorted(self.rows, key=lambda row: (row.suite, row.example_id, canonical_json(row)))
        lines = [canonical_json(self.header), *(canonical_json(row) for row in ordered)]
        return ("\n".join(lines) + "\n").encode()

    @property
    def digest(self) -> str:
        """The evidence digest: sha256 of the canonical file."""
        return hashlib.sha256(self.canonical_bytes()).hexdigest()


def messages_digest(messages: list[dict[str, object]], tools: list[dict[str, object]] | None = None) -> str:
    """Hex sha256 of what is asked, however it is rendered: the canonical JSON of messages and tools."""
    return sha256_text(canonical_json({"messages": messages, "tools": tools or []}))


def write_rows(path: Path, run: EvalRun) -> str:
    """Writes the canonical file atomically and returns its digest.

    Raises:
        RowsError: two rows have the same suite and example id.
    """
    _refuse_duplicates(path, [(number, row) for number, row in enumerate(run.rows, start=2)])
    data = run.canonical_bytes()
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def read_rows(path: Path) -> EvalRun:
    """Reads a finished file, strictly.

    Raises: FileNotFoundError: there is no file. RowsError: not UTF-8, not JSON, a wrong type, NaN, an unknown field, a
    missing header, a torn last line, a duplicate id.
    """
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        raise RowsError(f"{path}: the last line is not complete")
    header, rows = _parse(path, data)
    if header is None:
        raise RowsError(f"{path}: the file is empty")
    return EvalRun(header=header, rows=tuple(row for _, row in rows))


def read_header(path: Path) -> RowsHeader:
    """The header of a file, without its rows.

    Raises: FileNotFoundError: there is no file. RowsError: it does not begin with a header.
    """
    with open(path, "rb") as file:
        header, _ = _parse(path, file.readline())
    if header is None:
        raise RowsError(f"{path}: the file is empty")
    return header


def read_partial(path: Path) -> tuple[RowsHeader | None, list[ResultRow], int]:
    """Reads a file that a killed runner may have left: a torn last line is dropped, everything else is strict.

    Returns (header, rows, length in bytes of the complete lines).

    Raises:
        RowsError: as `read_rows`, the torn last line excepted.
    """
    if not path.exists():
        return None, [], 0
    data = path.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    if not complete:
        return None, [], 0
    header, rows = _parse(path, complete)
    return header, [row for _, row in rows], len(complete)


def _parse(path: Path, data: bytes) -> tuple[RowsHeader | None, list[tuple[int, ResultRow]]]:
    header: RowsHeader | None = None
    rows: list[tuple[int, ResultRow]] = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            if header is None:
                header = RowsHeader.model_validate_json(line)
            else:
                rows.append((number, ResultRow.model_validate_json(line)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise RowsError(f"{path}: line {number}{': ' + place if place else ''}: {first['msg']}") from error
    _refuse_duplicates(path, rows)
    return header, rows


def _refuse_duplicates(path: Path, rows: list[tuple[int, ResultRow]]) -> None:
    seen: dict[tuple[str, str], int] = {}
    for number, row in rows:
        if row.key in seen:
            raise RowsError(f"{path}: lines {seen[row.key]} and {number} both hold {row.suite}/{row.example_id}")
        seen[row.key] = number
