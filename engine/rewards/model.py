"""Reward models as rewards: all answers of a rollout at once, in the trainer's process, in packed passes.

A reward model judges what it was trained on (`methods/reward.py`): the prompt's tokens as its chat template writes
them, the answer's, and the stop token that ends the assistant's turn. So the trained model's tokenizer and template
have to be its own, which is checked before any weights are loaded; then nothing is encoded again. A prompt is computed
once for all its answers. An answer that was cut off is scored as if it ended where it was cut: a reward model knows no
other, and for the cut there are `overlong` and the like.

Shape suffix: S sequences.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import Branch, Group
from posttrain.engine.data.examples import Example
from posttrain.engine.data.packing import collate, split_in_parts
from posttrain.engine.data.template import ChatTemplate
from posttrain.engine.errors import CancelledError, SpecError
from posttrain.engine.models import Dtype, load_tokenizer, own_template, resolve_dtype, stop_ids_of
from posttrain.engine.rewards.base import Scored, names_of, problem_of
from posttrain.engine.score import RewardModel, check_reward_model, load_reward_model, sequence_scores
from posttrain.engine.spec import ModelReward, RewardOptions
from posttrain.engine.task import ModelInput

_COMPARED = ("normalizer", "pre_tokenizer", "model")  # what of a tokenizer turns text into ids, beside added tokens


@dataclass(frozen=True)
class Judge:
    """A part of the reward: its name, the model, and the token that ends an assistant's turn in its data."""

    name: str
    model: RewardModel
    stop_id: int


class RewardModels:
    """Scores answers by their tokens. `micro_tokens` bounds a pass, and changes no score."""

    def __init__(self, judges: Sequence[Judge], micro_tokens: int) -> None:
        self._judges = judges
        self._micro_tokens = micro_tokens

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[Sequence[int]]],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[list[Scored]]:
        """Of each prompt's answers (token ids without a stop token), in their order. A score that is not finite, and an
        answer that is longer than the model's context with its prompt, is a failure and no number.

        Raises:
            CancelledError: `should_stop`, asked before each pass, said so.
        """
        found = [[Scored() for _ in group] for group in answers]
        for judge in self._judges:
            for place, index, said in _scores(judge, prompts, answers, self._micro_tokens, should_stop):
                before = found[place][index]
                if isinstance(said, str):
                    found[place][index] = replace(before, failure=before.failure or f"{judge.name}: {said}")
                else:
                    found[place][index] = replace(before, parts={**before.parts, judge.name: said})
        return found


def _scores(
    judge: Judge,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    micro_tokens: int,
    should_stop: Callable[[], bool],
) -> Iterator[tuple[int, int, float | str]]:
    """Places of prompt and answer with its score, or with why it has none."""
    groups: list[Group] = []
    places: dict[int, list[tuple[int, int]]] = {}
    for place, (prompt, group) in enumerate(zip(prompts, answers, strict=True)):
        fitting = list[tuple[int, Branch]]()
        for index, answer in enumerate(group):
            ids = array("i", [*answer, judge.stop_id])
            length, context = len(prompt) + len(ids), judge.model.context
            if length > context:
                yield place, index, f"{length} tokens with the prompt, above the reward model's context of {context}"
            else:
                fitting.append((index, Branch(ids, bytes(len(ids) - 1) + b"\1")))
        for piece in _pieces(fitting, len(prompt), micro_tokens):
            groups.append(Group(array("i", prompt), tuple(branch for _, branch in piece)))
            places[id(groups[-1])] = [(place, index) for index, _ in piece]
    for micro in split_in_parts(groups, micro_tokens):
        if should_stop():
            raise CancelledError("stopped while answers were scored")
        with torch.no_grad():
            score_S = sequence_scores(collate(micro, judge.model.device), judge.model).tolist()
        owners = [owner for row in micro for owner in places[id(row)]]
        for (place, index), score in zip(owners, score_S, strict=True):
            yield place, index, problem_of(score) or score


def _pieces(
    branches: Sequence[tuple[int, Branch]], num_prompt: int, max_tokens: int
) -> Iterator[list[tuple[int, Branch]]]:
    """The branches in order, as many at a time as a pass has room for beside the prompt, and one at least."""
    piece, size = list[tuple[int, Branch]](), num_prompt
    for entry in branches:
        if piece and size + len(entry[1]) > max_tokens:
            yield piece
            piece, size = [], num_prompt
        piece.append(entry)
        size += len(entry[1])
    if piece:
        yield piece


# -- before anything starts -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A part of the reward whose model was checked and not loaded yet."""

    name: str
    source: ModelInput
    stop_id: int

    def load(self, dtype: Dtype, device: torch.device) -> Judge:
        """Raises as `load_reward_model` does."""
        return Judge(self.name, load_reward_model(self.source, resolve_dtype(dtype, device), device), self.stop_id)


def check_judges(
    options: Sequence[RewardOptions],
    sources: Sequence[ModelInput],
    tokenizer: Any,
    template: ChatTemplate,
    stop_ids: Sequence[int],
) -> list[Candidate]:
    """The parts that are reward models; their folders are checked, and that they read what the trained model writes.

    `stop_ids` end a turn of the trained model.

    Raises:
        SpecError: a reward model has another tokenizer or chat template than the base, or the task lacks one; names the
            part. ModelError (and below): as `check_reward_model`.
    """
    named = [
        (index, name)
        for index, (name, option) in enumerate(zip(names_of(options), options, strict=True))
        if isinstance(option, ModelReward)
    ]
    if len(named) != len(sources):
        raise SpecError(f"rewards: {len(named)} parts of type model, but {len(sources)} reward models were given")
    found = []
    for (index, name), source in zip(named, sources, strict=True):
        check_reward_model(source)
        own = load_tokenizer(source)
        place, hint = f"rewards[{index}].model", "train the reward model from the base, or from its parent"
        if not same_tokens(tokenizer, own):
            raise SpecError(f"{place}: {source.ref} has another tokenizer than the base", hint=hint)
        its = own_template(own)
        if its is None or _identity(its) != _identity(template):
            said = "no chat template" if its is None else "another chat template than the job"
            raise SpecError(
                f"{place}: {source.ref} has {said}, so it would judge what it was not trained on", hint=hint
            )
        known = {*stop_ids, *stop_ids_of(own, None, None)}
        found.append(Candidate(name, source, _turn_end(Encoder(own, its, sorted(known)))))
    return found


def _identity(template: ChatTemplate) -> tuple[str, dict[str, str]]:
    """Text, and the special tokens that it can name; a reward model pads with another one."""
    return template.digest, {name: token for name, token in template.special_tokens.items() if name != "pad_token"}


def _turn_end(encoder: Encoder) -> int:
    """What ends an assistant's turn in training data."""
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "1"}]
    return encoder.row(Example(turns, []), "all_turns").ids[-1]


def same_tokens(tokenizer: Any, other: Any) -> bool:
    """Whether both give every text the same ids."""
    if tokenizer.get_vocab() != other.get_vocab():
        return False
    backends = [getattr(each, "backend_tokenizer", None) for each in (tokenizer, other)]
    if any(backend is None for backend in backends):
        return type(tokenizer) is type(other)
    first, second = (json.loads(backend.to_str()) for backend in backends)  # type: ignore[union-attr]
    return all(first[name] == second[name] for name in _COMPARED)
