"""The questions of suites, as n-grams of words that a dataset is searched for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from posttrain.evals.contamination.words import words_of
from posttrain.evals.suites.load import Suite
from posttrain.evals.suites.sources import Example

LONG: Final = 13  # one such run of words is a match (arXiv:2005.14165, appendix C)
SHORT: Final = 8  # and so are this share of all runs of so many (arXiv:2204.02311, section 8)
SHARE: Final = 0.7
LEAST: Final = 5  # a shorter turn of a question is searched for as a whole message only
TEMPLATE_QUESTIONS: Final = (
    3  # a run of words that so many different questions have is the suite's form, not a question
)
ASKED_BY: Final = (
    "user",
    "assistant",
    "tool",
)  # a question's own words: not the system prompt and the tools, which many share

Gram = tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """One example of a suite. `turns`: the word ids of what is asked, turn by turn; `num_short` of its runs of SHORT
    words count.
    """

    suite: str
    version: str
    metric: str
    shard: str
    id: str
    turns: tuple[Gram, ...]
    num_short: int


class QuestionIndex:
    """All questions of some suites. Built once, read by `scan`.

    Args:
        suites: their examples of the shards below are searched for.
        shards: which shards; the gate's alone decides a promotion, but a dev shard that was trained on misleads too.
    """

    def __init__(self, suites: Iterable[Suite], shards: Sequence[str] = ("gate", "dev", "unseen")) -> None:
        self.vocabulary: dict[str, int] = {}  # ids from 1; 0 is any other word
        found = list(suites)
        self.suites = [(suite.name, suite.version, suite.digest) for suite in found]
        asked = [
            (suite, example, self._turns(example))
            for suite in found
            for task in suite.tasks
            for example in task.examples
            if example.shard in shards
        ]
        template = {size: self._template(size, (turns for _, _, turns in asked)) for size in (SHORT, LONG)}
        self.num_template_runs = sum(map(len, template.values()))
        self.questions: list[Question] = []
        self.unsearchable: list[str] = []  # ids of questions without a word
        # By run of words: which questions have it (by place in `questions`); of `starts`, which turns begin with it.
        self.runs: dict[int, dict[Gram, list[int]]] = {SHORT: defaultdict(list), LONG: defaultdict(list)}
        self.starts: dict[int, dict[Gram, list[tuple[int, int]]]] = {
            size: defaultdict(list) for size in range(LEAST, SHORT + 1)
        }
        self.messages: dict[Gram, list[tuple[int, int]]] = defaultdict(list)
        for suite, example, all_turns in asked:
            turns = tuple(turn for turn in all_turns if turn)
            if not turns:
                self.unsearchable.append(example.id)
                continue
            runs = {size: {run for turn in turns for run in _runs(turn, size)} - template[size] for size in self.runs}
            place = len(self.questions)
            self.questions.append(
                Question(suite.name, suite.version, example.metric, example.shard, example.id, turns, len(runs[SHORT]))
            )
            for size, own in runs.items():
                for run in sorted(own):
                    self.runs[size][run].append(place)
            for number, turn in enumerate(turns):
                if len(turn) < LEAST:
                    self.messages[turn].append((place, number))
                else:
                    self.starts[min(len(turn), SHORT)][turn[:SHORT]].append((place, number))
        # A word's number in a polynomial hash. Equal hashes are compared word by word, so they need be no secret.
        self.codes: NDArray[np.uint64] = np.random.default_rng(0).integers(
            1, 2**64, len(self.vocabulary) + 1, dtype=np.uint64
        )
        self.hashes: dict[int, NDArray[np.uint64]] = {
            size: self._hashes(size) for size in sorted({*self.starts, *self.runs})
        }

    def _turns(self, example: Example) -> tuple[Gram, ...]:
        asked = [message["content"] for message in example.messages if message.get("role") in ASKED_BY]
        return tuple(self._ids(text) for text in asked if isinstance(text, str))

    def _ids(self, text: str) -> Gram:
        return tuple(self.vocabulary.setdefault(word, len(self.vocabulary) + 1) for word in words_of(text))

    @staticmethod
    def _template(size: int, questions: Iterable[tuple[Gram, ...]]) -> set[Gram]:
        seen: dict[Gram, int] = defaultdict(int)
        for turns in set(questions):  # a question that stands twice is one
            for run in {run for turn in turns for run in _runs(turn, size)}:
                seen[run] += 1
        return {run for run, num_questions in seen.items() if num_questions >= TEMPLATE_QUESTIONS}

    def _hashes(self, size: int) -> NDArray[np.uint64]:
        """Sorted hashes of all runs of so many words that are searched for."""
        grams = [*self.runs.get(size, ()), *self.starts.get(size, ())]
        if not grams:
            return np.zeros(0, np.uint64)
        return np.unique(rolling(self.codes[np.array(grams)], size)[:, 0])


FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)  # odd: no word's share is lost


def rolling(
    codes: NDArray[np.uint64], size: int, before: tuple[int, NDArray[np.uint64]] | None = None
) -> NDArray[np.uint64]:
    """Polynomial hashes modulo 2^64 of all runs of `size` along the last axis: shape (..., length - size + 1).

    `before`: a smaller size and what this gave for it, to go on from.
    """
    done, found = before or (1, codes)
    for width in range(done, size):
        found = found[..., :-1] * FACTOR + codes[..., width:]
    return found


def _runs(turn: Gram, size: int) -> Iterable[Gram]:
    return (turn[start : start + size] for start in range(len(turn) - size + 1))
