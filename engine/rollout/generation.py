"""The loop: prompts come into slots, every active row gets a token a step, finished rows leave.

Shape suffixes: A active rows, N positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch

from posttrain.engine.errors import CancelledError, SpecError
from posttrain.engine.kv_cache import KvCache
from posttrain.engine.models import LanguageModel
from posttrain.engine.rollout import passes, sampling
from posttrain.engine.rollout.completions import Completion, Environment, GenerationSettings
from posttrain.engine.rollout.rows import Row, check_prompts, ended, take
from posttrain.engine.rollout.turns import close_turns


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    *,
    batch_rows: int = 64,
    overlong: Literal["refuse", "skip"] = "refuse",
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    decode: Callable[[Sequence[int]], str] | None = None,
) -> list[Completion]:
    """Completes each prompt (token ids); results are in the order of the prompts.

    A prompt that fills the context is refused, or with `overlong="skip"` gets an empty completion with stop reason
    `context`. `on_progress(done, total)` is called as rows finish; `should_stop` is asked before each step.

    Raises:
        DataError: an empty prompt, or one that leaves no room in the context; names the rows.
        SpecError: stop strings without `decode`.
        NonFiniteError: logits from which nothing can be chosen; names the prompt.
        CancelledError: `should_stop` said so.
    """
    streams = [(settings.seed * 1_000_003 + index) % 2**63 for index in range(len(prompts))]
    found = generate_groups(
        model, prompts, settings, [[stream] for stream in streams], batch_rows=batch_rows, overlong=overlong,
        on_progress=on_progress, should_stop=should_stop, decode=decode,
    )  # fmt: skip
    return [completion for (completion,) in found]


@torch.no_grad()
def generate_groups(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    streams: Sequence[Sequence[int]],
    *,
    max_tokens: int = 0,
    names: Sequence[str] = (),
    batch_rows: int = 64,
    overlong: Literal["refuse", "skip"] = "refuse",
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    decode: Callable[[Sequence[int]], str] | None = None,
    environment: Environment | None = None,
) -> list[list[Completion]]:
    """Several completions of each prompt: one for each of `streams[i]`, the seed (below 2^63) of its generator,
    whatever `settings.seed` is. `names` are the prompts', for messages. `max_tokens`, prompt and completion together,
    takes the context's place if it is less (0: not). In an `environment` a turn with calls is not the end: tools run,
    and the model goes on; `settings.max_new_tokens` bounds what it samples itself, in all turns together.

    Raises:
        As `generate`, and whatever the environment raises.
    """
    if settings.stop_strings and decode is None:
        raise SpecError("stop_strings need a decode function")
    if settings.stop_strings and environment is not None:
        raise SpecError("stop_strings end a turn without a stop token, after which no tool can answer")
    context = min(model.context, max_tokens or model.context)
    check_prompts(context, prompts, overlong)
    places = [(shared, stream) for shared, group in enumerate(streams) for stream in group]
    done: dict[int, Completion] = {
        index: Completion((), "context", ())
        for index, (shared, _) in enumerate(places)
        if len(prompts[shared]) >= context
    }
    # Longest first: memory is at its largest at once, and rows that run together have about one length.
    waiting = sorted((i for i in range(len(places)) if i not in done), key=lambda i: len(prompts[places[i][0]]))
    active: list[Row] = []
    cache = KvCache(min(batch_rows, max(1, len(waiting))), 0)
    was_training = model.module.training
    model.module.eval()
    try:
        with passes.skinny_linears(model.module):
            while waiting or active:
                if should_stop is not None and should_stop():
                    raise CancelledError(f"stopped after {len(done)} of {len(places)} prompts")
                # A quarter of the slots at a time: prompts are cheaper packed than one by one.
                if waiting and len(active) <= cache.num_slots - min(len(waiting), max(1, cache.num_slots // 4)):
                    new = take(waiting, places, prompts, names, cache.num_slots - len(active), settings)
                    if environment is not None:
                        for row in new:
                            row.episode = environment.episode(row.shared)
                    logits_NV = passes.prefill(model, new, cache)
                    active += new
                else:
                    logits_NV, new = passes.decode(model, active, cache), active[:]
                before = len(done)
                while new:
                    sampling.choose(new, logits_NV, settings)
                    found = ((row, ended(row, settings, context, decode)) for row in new)
                    over, new = [(row, reason) for row, reason in found if reason is not None], []
                    if environment is not None:
                        over, new = close_turns(over, environment, settings, context)
                    for row, reason in over:
                        has_stop_token = row.token_ids[-1] in settings.stop_token_ids
                        done[row.index] = row.completion(reason, has_stop_token)
                    _drop(active, cache, {row for row, _ in over})
                    if new:  # tools have answered: their tokens go into the cache, and the model says what follows
                        slots = {row: slot for slot, row in enumerate(active)}
                        logits_NV = passes.extend(model, new, [slots[row] for row in new], cache)
                if on_progress is not None and len(done) != before:
                    on_progress(len(done), len(places))
    finally:
        model.module.train(was_training)
    results = (done[index] for index in range(len(places)))
    return [[next(results) for _ in group] for group in streams]


def _drop(active: list[Row], cache: KvCache, over: set[Row]) -> None:
    """Rows leave, and the last ones take their slots."""
    if not over:
        return
    for slot in reversed(range(len(active))):
        if active[slot] in over:
            cache.drop(slot)
            last = active.pop()
            if slot < len(active):
                active[slot] = last
