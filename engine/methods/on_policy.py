"""What techniques that learn from their own answers do alike: answer prompts, judge the answers, say what came of it.

A rollout is a function of the weights, the seed and its number: made again, it is the same.

Shape suffixes: N trained tokens of a batch, in its order.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import Any, TypeVar

from torch import Tensor

from posttrain.engine.checkers import CHECKERS
from posttrain.engine.checkers.judgement import MAX_ANSWER_CHARS
from posttrain.engine.data.encode import Encoder
from posttrain.engine.data.encoded import AnyRow, PromptRow
from posttrain.engine.data.examples import AnyExample, PromptExample
from posttrain.engine.data.packing import Batch, collate, split
from posttrain.engine.data.prompts import NO_CHECKER
from posttrain.engine.data.template import ChatTemplate
from posttrain.engine.environments.episodes import ToolEpisodes, with_tools
from posttrain.engine.environments.report import tool_numbers, turns_of
from posttrain.engine.environments.speech import calls_of
from posttrain.engine.environments.tools import Toolbox
from posttrain.engine.errors import CancelledError, DataError, RewardError
from posttrain.engine.events import HELD_OUT_PREFIX, Note
from posttrain.engine.experience import Experience, Values
from posttrain.engine.methods.base import Metrics, Models
from posttrain.engine.methods.chat import ChatMethod
from posttrain.engine.models import LanguageModel, stop_ids_of
from posttrain.engine.ops import token_logps
from posttrain.engine.rewards import Answer, RewardProcess, Scored, joined, names_of, total_of
from posttrain.engine.rollout import Completion, GenerationSettings, generate_groups
from posttrain.engine.spec import CheckerReward, GrpoSpec, PpoSpec, ToolEnvironment

MUCH_TRUNCATED = 0.5  # share of a rollout's completions from which on it is told


def policy_logps(batch: Batch, model: LanguageModel, temperature: float) -> Tensor:
    """log softmax(logits / temperature) of each trained token, [N] in float32."""
    (logp_N,) = policy_numbers(batch, model, temperature, [token_logps])
    return logp_N


def policy_numbers(
    batch: Batch, model: LanguageModel, temperature: float, numbers: Sequence[Callable[..., Tensor]]
) -> list[Tensor]:
    """What each of `numbers` (`token_logps`, `token_entropies`) says of softmax(logits / temperature) at each trained
    token, [N] in float32, all of one pass."""
    hidden_TD = model.hidden(batch.input_ids_T, batch.position_ids_T, batch.segments)

    def project(hidden_CD: Tensor) -> Tensor:
        logits_CV = model.logits(hidden_CD)
        return logits_CV if temperature == 1 else logits_CV.float() / temperature

    hidden_ND = hidden_TD[batch.loss_positions_N]
    parameters = model.head_parameters()
    return [number(hidden_ND, batch.targets_N, project, parameters, model.vocabulary) for number in numbers]


@dataclass(frozen=True)
class Judged:
    """A completion, what its reward's parts say, and their sum; NaN without one."""

    completion: Completion
    scored: Scored
    reward: float


OnPolicySpec = TypeVar("OnPolicySpec", bound=GrpoSpec | PpoSpec)


class OnPolicyMethodBase(ChatMethod[OnPolicySpec]):
    """Base of techniques with rollouts; a subclass says what is learnt from the answers."""

    def __init__(self, spec: OnPolicySpec) -> None:
        super().__init__(spec)
        self._rewards = RewardProcess(spec.rewards)
        self._tools = spec.environment if isinstance(spec.environment, ToolEnvironment) else None
        self._toolbox = Toolbox(self._tools) if self._tools is not None else None
        self._tokenizer: Any = None
        self._template: ChatTemplate | None = None
        self._is_callable = False  # that tools can run with the template was found out
        self._notes: list[Note] = []
        self._told: set[str] = set()

    def prepare_tokenizer(self, tokenizer: Any) -> tuple[ChatTemplate, list[int]]:
        self._tokenizer = tokenizer
        self._template, row_ids = super().prepare_tokenizer(tokenizer)
        return self._template, row_ids

    def encode(self, example: AnyExample, encoder: Encoder, source: str, number: int) -> PromptRow:
        assert isinstance(example, PromptExample)
        if self._tools is not None:
            if not self._is_callable:
                calls_of(encoder, self._tokenizer)
                self._is_callable = True
            example = with_tools(example, self._tools, f"{source} row {number}")
        self._check_speaks(example, encoder, source, number)
        if example.checker == NO_CHECKER and any(isinstance(part, CheckerReward) for part in self._spec.rewards):
            raise DataError(
                f"{source} row {number}: it has no checker, and checker is a part of rewards",
                hint="give the row a checker and its target, or take the part out of rewards",
            )
        return encoder.question(example, source, number, keeps_talk=self._tools is not None)

    def computed(self, rows: Sequence[AnyRow]) -> Sequence[AnyRow]:
        return self._pieces(rows)

    def _pieces(self, rows: Sequence[AnyRow]) -> Sequence[AnyRow]:
        limit = self._spec.batch.micro_tokens
        return [piece for row in rows if isinstance(row, Experience) for piece in row.pieces(limit)]

    def notes(self) -> list[Note]:
        notes, self._notes = self._notes, []
        return notes

    def evaluate(self, prompts: Sequence[PromptRow], models: Models, should_stop: Callable[[], bool]) -> Metrics | None:
        """Held-out reward: of one greedy answer to each prompt; its negative is the held-out loss. None if
        `should_stop` said so.

        Raises:
            RewardError: as `rollout`; or no answer has a reward.
        """
        try:
            groups = self._answer(prompts, models, [[0]] * len(prompts), should_stop, temperature=0.0)
            judged = self._judge(prompts, groups, models, should_stop)
        except CancelledError:
            return None
        known = [one.reward for group in judged for one in group if not one.scored.failure]
        if not known:
            raise RewardError("no held-out answer has a reward")
        sums = self._numbers(judged)
        return {
            f"{HELD_OUT_PREFIX}loss": -fmean(known),
            **{HELD_OUT_PREFIX + name: value for name, value in sums.items()},
        }

    def close(self) -> None:
        self._rewards.close()

    # -- answers -------------------------------------------------------------------------------------------------------

    def _rolled_out(
        self, prompts: Sequence[PromptRow], models: Models, number: tuple[int, int], should_stop: Callable[[], bool]
    ) -> tuple[list[list[Judged]], Metrics]:
        """The judged completions of each prompt, and the numbers of all of them.

        Raises:
            RewardError: too many have no reward. CancelledError: `should_stop` said so.
        """
        started = time.monotonic()
        each = range(self._spec.rollout.num_completions)
        streams = [
            [stream_of(self._spec.seed, number, place, index) for index in each] for place in range(len(prompts))
        ]
        groups = self._answer(prompts, models, streams, should_stop, temperature=self._spec.rollout.temperature)
        seconds = time.monotonic() - started
        judged = self._judge(prompts, groups, models, should_stop)
        metrics = self._numbers(judged)
        if metrics["truncated_share"] > MUCH_TRUNCATED:
            self._tell(
                "truncated",
                f"{metrics['truncated_share']:.0%} of the completions ended without a stop token, at "
                "rollout.max_new_tokens or where there was no more room: what they would have said is not judged",
            )
        flat = [one.completion for group in judged for one in group]
        num_tokens = sum(completion.num_sampled for completion in flat)
        metrics |= {
            "entropy": -sum(math.fsum(completion.tempered_logps) for completion in flat) / num_tokens,
            "rollout_tokens_per_s": num_tokens / max(seconds, 1e-9),
        }
        return judged, metrics

    def _answer(
        self,
        prompts: Sequence[PromptRow],
        models: Models,
        streams: Sequence[Sequence[int]],
        should_stop: Callable[[], bool],
        temperature: float,
    ) -> list[list[Completion]]:
        options, module = self._spec.rollout, models.policy.module
        settings = GenerationSettings(
            max_new_tokens=options.max_new_tokens,
            temperature=temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            min_p=options.min_p,
            stop_token_ids=stop_ids_of(self._tokenizer, module.generation_config, module.config),
        )
        return generate_groups(
            models.policy,
            [row.ids for row in prompts],
            settings,
            streams,
            max_tokens=self._spec.batch.max_tokens,
            names=[row.name for row in prompts],
            batch_rows=options.batch_rows,
            should_stop=should_stop,
            environment=self._environment(prompts, settings.stop_token_ids),
        )

    def _environment(self, prompts: Sequence[PromptRow], stop_ids: Sequence[int]) -> ToolEpisodes | None:
        """The tools for these prompts, if any run."""
        if self._tools is None or self._toolbox is None:
            return None
        assert self._template is not None
        encoder = Encoder(self._tokenizer, self._template, stop_ids)
        speech = calls_of(encoder, self._tokenizer)
        return ToolEpisodes(prompts, encoder, self._tokenizer, speech, self._toolbox, self._tools)

    def _judge(
        self,
        prompts: Sequence[PromptRow],
        completions: Sequence[Sequence[Completion]],
        models: Models,
        should_stop: Callable[[], bool],
    ) -> list[list[Judged]]:
        spec, found, failures = self._spec, list[list[Judged]](), list[str]()
        num, num_long = sum(map(len, completions)), 0
        by_models = self._by_models(prompts, completions, models, should_stop)
        for row, group, by_model in zip(prompts, completions, by_models, strict=True):
            target, question = json.loads(row.target), self._question(row)
            found.append([])
            for completion, others in zip(group, by_model, strict=True):
                answer = Answer(
                    self._text(completion.final_ids),
                    completion.num_sampled,
                    spec.rollout.max_new_tokens,
                    completion.stop_reason != "stop",
                    row.checker,
                    target,
                    question,
                    "\n".join(map(self._text, completion.calling_ids)),
                )
                num_long += len(answer.text) > MAX_ANSWER_CHARS and row.checker in CHECKERS
                scored = joined(self._rewards.score(answer), others, spec.rewards)
                found[-1].append(Judged(completion, scored, total_of(scored, spec.rewards)))
                if scored.failure:
                    # What a reward raises may quote an answer: shown as it would be in Python's source.
                    failures.append(ascii(f"{row.name}: {scored.failure}"))
                if len(failures) > spec.max_failed_rewards * num:  # told at once: each may have taken its time
                    raise RewardError(
                        f"{len(failures)} of the first {sum(map(len, found))} completions have no reward; "
                        f"the first: {failures[0]}; at most {spec.max_failed_rewards:.0%} of {num} may be without"
                    )
        if num_long:
            self._tell(
                "long",
                f"{num_long} of {num} answers are longer than the {MAX_ANSWER_CHARS} characters that a checker reads, "
                "and so wrong unread; lower rollout.max_new_tokens, or reward what is short",
            )
        if failures:
            text = f"{len(failures)} of {num} completions have no reward; the first: {failures[0]}"
            self._tell("failed", f"{text}; they are left out of their groups and of the loss")
        return found

    def _by_models(
        self,
        prompts: Sequence[PromptRow],
        completions: Sequence[Sequence[Completion]],
        models: Models,
        should_stop: Callable[[], bool],
    ) -> list[list[Scored]]:
        """What the reward models say of each completion, by its tokens; nothing without any."""
        if models.reward_models is None:
            return [[Scored() for _ in group] for group in completions]
        answers = [[completion.answer_ids for completion in group] for group in completions]
        return models.reward_models.score([row.ids for row in prompts], answers, should_stop)

    # -- a number for each token ---------------------------------------------------------------------------------------

    def _with_logps(self, groups: Sequence[Experience], model: LanguageModel, name: Values) -> list[Experience]:
        """The groups with the log-probabilities that a model gives their tokens."""
        temperature = self._spec.rollout.temperature
        return self._with(groups, name, model, lambda batch: policy_logps(batch, model, temperature))

    def _with(
        self,
        groups: Sequence[Experience],
        name: Values,
        model: LanguageModel,
        numbers: Callable[[Batch], Tensor],
    ) -> list[Experience]:
        """The groups with what `numbers` says of their tokens, [N], by passes of the model in eval mode."""
        limit = self._spec.batch.micro_tokens
        found: dict[tuple[int, int], array[float]] = {}
        places = {id(branch): (i, j) for i, group in enumerate(groups) for j, branch in enumerate(group.branches)}
        was_training = model.module.training
        model.module.eval()
        for micro in split(self._pieces(groups), limit):
            batch = collate(micro, model.device)
            of_batch = numbers(batch).tolist()
            at = 0
            for row in micro:
                assert isinstance(row, Experience)
                for branch in row.branches:
                    found[places[id(branch)]] = array("d", of_batch[at : at + branch.num_targets])
                    at += branch.num_targets
        model.module.train(was_training)
        return [
            replace(group, trained=tuple(replace(one, **{name: found[i, j]}) for j, one in enumerate(group.trained)))
            for i, group in enumerate(groups)
        ]

    # -- for people ----------------------------------------------------------------------------------------------------

    def _numbers(self, judged: Sequence[Sequence[Judged]]) -> Metrics:
        """Of all completions; rewards of those that have one, and no such number if none has."""
        flat = [one for group in judged for one in group]
        known = [one for one in flat if not one.scored.failure]
        metrics = {
            "completion_tokens": fmean(one.completion.num_sampled for one in flat),
            "truncated_share": fmean(one.completion.stop_reason != "stop" for one in flat),
            "failed_reward_share": 1 - len(known) / len(flat),
        }
        if self._tools is not None:
            metrics |= tool_numbers([one.completion for one in flat])
        if known:
            totals = [one.reward for one in known]
            metrics |= {"reward": fmean(totals), "reward_std": pstdev(totals)}
            for name in names_of(self._spec.rewards):
                values = [one.scored.parts[name] for one in known]
                metrics |= {f"reward_{name}": fmean(values), f"reward_{name}_std": pstdev(values)}
        return metrics

    def _samples(
        self, prompts: Sequence[PromptRow], judged: Sequence[Sequence[Judged]], number: tuple[int, int]
    ) -> list[dict[str, Any]]:
        """The completions of the first prompts, to be read."""
        samples = []
        for row, group in list(zip(prompts, judged, strict=True))[: self._spec.rollout.num_samples]:
            question = self._question(row)
            for index, one in enumerate(group):
                failure = {"failure": one.scored.failure}
                samples.append(
                    {
                        "rollout": number[0],
                        "row": row.name,
                        "completion": index,
                        "prompt": question,
                        "answer": self._text(one.completion.final_ids),
                        "num_tokens": one.completion.num_sampled,
                        "stop_reason": one.completion.stop_reason,
                        **({"turns": turns_of(one.completion, self._tokenizer)} if one.completion.turns else {}),
                        "parts": one.scored.parts,
                        **(failure if one.scored.failure else {"reward": one.reward}),
                    }
                )
        return samples

    def _question(self, row: PromptRow) -> str:
        """What the model read, special tokens included."""
        text: str = self._tokenizer.decode(list(row.ids), clean_up_tokenization_spaces=False)
        return text

    def _text(self, ids: Sequence[int]) -> str:
        """What an evaluation would read of these tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _tell(self, about: str, text: str) -> None:
        """Once an attempt, and never again about the same."""
        if about not in self._told:
            self._told.add(about)
            self._notes.append(Note(level="warning", message=text))


def stream_of(seed: int, number: tuple[int, int], place: int, completion: int) -> int:
    """The seed of a completion's generator, below 2^63: its own whatever is generated beside it."""
    text = f"posttrain-rollout/{seed}/{number[0]}/{number[1]}/{place}/{completion}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
