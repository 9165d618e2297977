"""The engine's rollout as an lm-eval model: generation, log-likelihoods and rolling log-likelihoods of any lm-eval
task.

Text that comes out carries how it ended (`Answer`), and an over-length input is never cut silently: a prompt that
leaves no room gives an empty answer with stop reason `context`, a pair that does not fit a log-likelihood of -inf with
the same mark.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from posttrain.engine.models import Loaded
from posttrain.engine.rollout import Completion, GenerationSettings, generate, score
from posttrain.evals.prompts import RenderedPrompt, require_template
from posttrain.evals.rows import StopReason

DEFAULT_MAX_NEW_TOKENS = 256


class Answer(str):
    """Generated text with how it ended and how many tokens were generated."""

    stop_reason: StopReason
    num_tokens: int

    def __new__(cls, text: str, stop_reason: StopReason = "none", num_tokens: int = 0) -> Answer:
        answer = super().__new__(cls, text)
        answer.stop_reason = stop_reason
        answer.num_tokens = num_tokens
        return answer

    def __getnewargs__(self) -> tuple[str, StopReason, int]:  # type: ignore[override]
        return (str(self), self.stop_reason, self.num_tokens)  # copies keep what the text carries


class Likelihood(tuple[float, bool]):
    """(log-probability, is greedy) with a mark where the input did not fit the context."""

    stop_reason: StopReason

    def __new__(cls, logprob: float, is_greedy: bool, stop_reason: StopReason = "none") -> Likelihood:
        value = super().__new__(cls, (logprob, is_greedy))
        value.stop_reason = stop_reason
        return value


class PosttrainLM(LM):  # type: ignore[misc]  # lm-eval has no types
    """One loaded model. `on_progress(done, total)` counts within a call; `should_stop` ends it with CancelledError."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        name: str = "",
        batch_rows: int = 64,
        seed: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__()
        self._loaded = loaded
        self._name = name
        self._batch_rows = batch_rows
        self._seed = seed
        self._on_progress = on_progress
        self._should_stop = should_stop

    # -- what lm-eval asks of a model ----------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers in the order of the requests, each an `Answer`. Requests with equal settings run together."""
        groups: dict[str, list[int]] = defaultdict(list)
        settings: dict[str, GenerationSettings] = {}
        for index, request in enumerate(requests):
            wanted = self.settings_of(dict(request.args[1]))
            key = repr(wanted)
            groups[key].append(index)
            settings[key] = wanted
        answers: dict[int, str] = {}
        for key, indices in groups.items():
            prompts = [self._prompt_ids(requests[index].args[0]) for index in indices]
            before = len(answers)
            completions = generate(
                self._loaded.model,
                prompts,
                settings[key],
                batch_rows=self._batch_rows,
                overlong="skip",
                on_progress=lambda done, _, before=before: self._report(before + done, len(requests)),  # type: ignore[misc]
                should_stop=self._should_stop,
                decode=self._decode,
            )
            for index, completion in zip(indices, completions, strict=True):
                answers[index] = self._answer(completion, settings[key].stop_strings)
        return [answers[index] for index in range(len(requests))]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability, is greedy) of each (context, continuation), split as lm-eval's own models split them."""
        return self._score([self._encode_pair(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, in windows of the model's context."""
        pairs: list[tuple[list[int], list[int]]] = []
        counts = []
        for request in requests:
            windows = [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    token_list=self._text_ids(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    # A window's input and its last target together fill the context.
                    max_seq_len=self._loaded.model.context - 1,
                    context_len=1,
                )
            ]
            pairs += [(list(context), list(continuation)) for context, continuation in windows]
            counts.append(len(windows))
        scores = iter(self._score(pairs))
        return [sum(next(scores)[0] for _ in range(count)) for count in counts]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation under the model's own template.

        Raises:
            TemplateError: it has none, or refuses the messages.
        """
        template = require_template(self._loaded.template, self._name)
        return template.render(chat_history, add_generation_prompt=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The text of the model's own template; None where it is not wanted or there is none."""
        if chat_template is False or self._loaded.template is None:
            return None
        return self._loaded.template.text

    @property
    def tokenizer_name(self) -> str:
        return str(self._loaded.tokenizer.name_or_path).replace("/", "__")

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context: the first token, or the end token."""
        tokenizer = self._loaded.tokenizer
        found = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        return int(found if found is not None else self._loaded.stop_ids[0])

    @property
    def max_length(self) -> int:
        return self._loaded.model.context

    # -- settings, ids, text -------------------------------------------------------------------------------------------

    def settings_of(self, arguments: dict[str, Any]) -> GenerationSettings:
        """Generation settings from lm-eval's `gen_kwargs`. The model's own stop tokens always end an answer.

        Raises:
            ValueError: an argument that is not known, rather than ignored.
        """
        until = arguments.pop("until", None) or []
        caps = [arguments.pop(name) for name in ("max_gen_toks", "max_new_tokens", "max_tokens") if name in arguments]
        samples = arguments.pop("do_sample", None)
        temperature = float(arguments.pop("temperature", 1.0 if samples else 0.0))
        top_p = float(arguments.pop("top_p", 1.0))
        stop_ids = (*self._loaded.stop_ids, *arguments.pop("stop_token_ids", ()))
        if arguments:
            raise ValueError(f"unknown generation arguments: {json.dumps(sorted(arguments))}")
        return GenerationSettings(
            max_new_tokens=int(caps[0]) if caps else DEFAULT_MAX_NEW_TOKENS,
            temperature=0.0 if samples is False else temperature,
            top_p=top_p,
            stop_token_ids=tuple(sorted(set(stop_ids))),
            stop_strings=tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop),
            seed=self._seed,
        )

    def _prompt_ids(self, prompt: str) -> list[int]:
        return list(prompt.ids) if isinstance(prompt, RenderedPrompt) and prompt.ids else self._text_ids(prompt)

    def _text_ids(self, text: str) -> list[int]:
        """As lm-eval encodes: with the tokenizer's own first token, unless the text begins with its spelling."""
        tokenizer = self._loaded.tokenizer
        starts = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        ids: list[int] = tokenizer(text, add_special_tokens=not starts)["input_ids"]
        return ids or [self.prefix_token_id]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not context:
            ids: list[int] = self._loaded.tokenizer(continuation, add_special_tokens=False)["input_ids"]
            return ([self.prefix_token_id], ids) if ids[:1] != [self.prefix_token_id] else (ids[:1], ids[1:])
        spaces = len(context) - len(context.rstrip())
        if spaces:
            continuation = context[-spaces:] + continuation
            context = context[:-spaces]
        prompt, whole = self._text_ids(context), self._text_ids(context + continuation)
        return prompt, whole[len(prompt) :]

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        fitting = [i for i, (context, rest) in enumerate(pairs) if rest and len(context) + len(rest) <= self.max_length]
        found = dict(zip(fitting, score(self._loaded.model, [pairs[i] for i in fitting]), strict=True))
        results: list[tuple[float, bool]] = []
        for index, (_, continuation) in enumerate(pairs):
            if index in found:
                results.append(Likelihood(*found[index]))
            elif continuation:
                results.append(Likelihood(-math.inf, False, "context"))
            else:
                results.append(Likelihood(0.0, True))  # nothing to predict
        return results

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._loaded.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _answer(self, completion: Completion, stop_strings: Sequence[str]) -> Answer:
        text, reason = self._decode(completion.answer_ids), completion.stop_reason
        assert reason != "turns", "an evaluation runs no tools"
        assert reason != "bad_call"
        cuts = [text.index(stop) for stop in stop_strings if stop in text]
        return Answer(text[: min(cuts)] if cuts else text, reason, len(completion.token_ids))

    def _report(self, done: int, total: int) -> None:
        if self._on_progress is not None:
            self._on_progress(done, total)
