"""A dataset's rows against the questions of suites, a batch of rows at a time: memory does not grow with the rows."""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from posttrain.engine.data.formats import detect, extra_columns
from posttrain.engine.data.rows import RowError, parse_row
from posttrain.evals.contamination.index import LEAST, LONG, SHARE, Gram, QuestionIndex, rolling
from posttrain.evals.contamination.words import words_of
from posttrain.evals.overlaps import KINDS, Kind, Overlap

MAX_MATCHES: Final = 10_000  # that are kept to be read; all are counted
MAX_EXCERPT: Final = 40  # words
_BATCH_WORDS: Final = 200_000


@dataclass(frozen=True)
class Match:
    """A question of a suite in a row of the dataset.

    `kind`: the whole question stands there; or 13 of its words in a row; or at least 70% of its runs of 8 words, of
    which `share` were found. `words` is what was found, in folded case without marks. `row` counts from 1.
    """

    row: int
    suite: str
    metric: str
    shard: str
    question: str
    kind: Kind
    share: float
    words: str


@dataclass
class Report:
    """What a scan found. `matches` are the first MAX_MATCHES in the order of rows; the numbers count all of them."""

    num_rows: int = 0
    num_questions: int = 0
    num_matches: int = 0
    rows: list[int] = field(default_factory=list)  # every row with a match, ascending
    questions: dict[str, int] = field(default_factory=dict)  # SUITE/ID of each question found -> rows
    surest: dict[str, Kind] = field(default_factory=dict)  # SUITE/ID of each -> the surest of its matches
    metrics: dict[str, int] = field(default_factory=dict)  # SUITE/METRIC -> questions found
    matches: list[Match] = field(default_factory=list)
    unsearchable: list[str] = field(default_factory=list)
    unread: list[int] = field(default_factory=list)  # rows that are no JSON objects of a known format


def scan(lines: Iterable[bytes], index: QuestionIndex, on_rows: Callable[[int], None] | None = None) -> Report:
    """Searches every row for every question.

    All texts that a row's format reads count, whoever says them, in the row's order and as one text: a question may be
    split over an instruction and its input. Columns that no job reads do not count.

    Args:
        lines: a dataset's rows, a JSON object each.
        on_rows: called after each batch with the number of rows so far.
    """
    report = Report(num_questions=len(index.questions), unsearchable=list(index.unsearchable))
    metrics: dict[str, set[str]] = defaultdict(set)
    found_in: Counter[str] = Counter()
    for batch in _batches(lines, index, report):
        for match in _search(batch, index):
            report.num_matches += 1
            if not report.rows or report.rows[-1] != match.row:
                report.rows.append(match.row)
            name = f"{match.suite}/{match.question}"
            found_in[name] += 1
            report.surest[name] = min(match.kind, report.surest.get(name, match.kind), key=KINDS.index)
            metrics[f"{match.suite}/{match.metric}"].add(name)
            if len(report.matches) < MAX_MATCHES:
                report.matches.append(match)
        if on_rows:
            on_rows(report.num_rows)
    report.questions = dict(sorted(found_in.items()))
    report.surest = dict(sorted(report.surest.items()))
    report.metrics = {name: len(questions) for name, questions in sorted(metrics.items())}
    return report


def overlap(report: Report, index: QuestionIndex, dataset: str, dataset_digest: str) -> list[Overlap]:
    """A scan's evidence for a gate: one record for each suite of the index."""
    return [
        Overlap(
            dataset=dataset,
            dataset_digest=dataset_digest,
            suite=suite,
            suite_digest=digest,
            num_rows=report.num_rows,
            num_unread=len(report.unread),
            num_questions=sum(question.suite == suite for question in index.questions),
            questions={
                name.removeprefix(f"{suite}/"): kind
                for name, kind in report.surest.items()
                if name.startswith(f"{suite}/")
            },
        )
        for suite, _, digest in index.suites
    ]


@dataclass
class _Batch:
    """Rows end to end, a 0 after each. `short`: whole messages too short to be searched for inside a text."""

    words: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    short: list[tuple[int, Gram]] = field(default_factory=list)  # place of the row in the batch, the message


@dataclass
class _Found:
    turns: set[int] = field(default_factory=set)
    runs: set[Gram] = field(default_factory=set)
    long: Gram = ()


def _batches(lines: Iterable[bytes], index: QuestionIndex, report: Report) -> Iterator[_Batch]:
    batch = _Batch()
    known = index.vocabulary.get
    for line in lines:
        report.num_rows += 1
        try:
            row = parse_row(line)
            unused = extra_columns(row, detect(row))
        except RowError:
            report.unread.append(report.num_rows)
            continue
        batch.starts.append(len(batch.words))
        batch.numbers.append(report.num_rows)
        for text in _texts([value for name, value in row.items() if name not in unused]):
            ids = [known(word, 0) for word in words_of(text)]
            batch.words += ids
            if len(ids) < LEAST and tuple(ids) in index.messages:
                batch.short.append((len(batch.numbers) - 1, tuple(ids)))
        batch.words.append(0)
        if len(batch.words) >= _BATCH_WORDS:
            yield batch
            batch = _Batch()
    if batch.numbers or not report.num_rows:
        yield batch


def _texts(value: Any) -> Iterator[str]:
    """All texts of a JSON value, in its order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)


def _search(batch: _Batch, index: QuestionIndex) -> Iterator[Match]:
    """Matches in the order of rows, then of questions."""
    found: dict[tuple[int, int], _Found] = defaultdict(_Found)  # (row's place in the batch, question's place)
    for row, message in batch.short:
        for place, turn in index.messages[message]:
            found[row, place].turns.add(turn)
    for size, position in _hits(batch, index):
        run = tuple(batch.words[position : position + size])
        row = bisect.bisect_right(batch.starts, position) - 1
        for place, turn in index.starts.get(size, {}).get(run, ()):
            whole = index.questions[place].turns[turn]
            if tuple(batch.words[position : position + len(whole)]) == whole:
                found[row, place].turns.add(turn)
        for place in index.runs.get(size, {}).get(run, ()):
            if size == LONG:
                found[row, place].long = found[row, place].long or run
            else:
                found[row, place].runs.add(run)
    spelled = {number: word for word, number in index.vocabulary.items()} if found else {}
    for (row, place), what in sorted(found.items()):
        question = index.questions[place]
        share = len(what.runs) / question.num_short if question.num_short else 0.0
        if len(what.turns) == len(question.turns):
            kind: Kind = "whole"
            shown = tuple(word for turn in question.turns for word in turn)
        elif what.long:
            kind, shown = "13 words", what.long
        elif share >= SHARE:
            kind, shown = "8 words", min(what.runs)
        else:
            continue
        words = " ".join(spelled[word] for word in shown[:MAX_EXCERPT])
        yield Match(
            row=batch.numbers[row],
            suite=question.suite,
            metric=question.metric,
            shard=question.shard,
            question=question.id,
            kind=kind,
            share=round(share, 4),
            words=words,
        )


def _hits(batch: _Batch, index: QuestionIndex) -> Iterator[tuple[int, int]]:
    """(size, position) of every run of words whose hash is searched for; equal hashes may still be of other words."""
    ids = np.array(batch.words, dtype=np.int64)
    unknown = np.concatenate([[0], np.cumsum(ids == 0)])
    codes = index.codes[ids]
    size, hashes = 1, codes
    for next_size, wanted in index.hashes.items():
        if len(ids) < next_size:
            return
        hashes = rolling(codes, next_size, (size, hashes))
        size = next_size
        if not len(wanted):
            continue
        positions = np.flatnonzero(unknown[size:] == unknown[:-size])  # runs without a word that no question has
        near = np.minimum(np.searchsorted(wanted, hashes[positions]), len(wanted) - 1)
        for position in positions[wanted[near] == hashes[positions]].tolist():
            yield size, position
