"""Generation for evaluations and on-policy methods, and scoring of given continuations.

Prompts are sorted by length and filled into slots packed, without padding; each step decodes one token in every
active row; a finished row leaves at once and the next prompt takes its place. Several completions of a prompt that
start together share one computation of it. Sampling draws from a generator of the row's own, so what a row gets does
not depend on its neighbours, up to float32 near-ties: products of few rows round differently than the same rows in a
larger one.

Shape suffixes: A active rows, N positions, V vocabulary, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor, nn

from posttrain.engine.attention import Segments
from posttrain.engine.errors import CancelledError, DataError, NonFiniteError, SpecError
from posttrain.engine.kv_cache import Decode, KvCache, Prefill
from posttrain.engine.losses import chunk_rows
from posttrain.engine.models import LanguageModel
from posttrain.engine.spec import MIN_TEMPERATURE

StopReason = Literal["stop", "length", "context"]
PREFILL_TOKENS = 4096
SCORE_TOKENS = 4096
_NON_FINITE_HINT = "the weights are damaged or overflow in this dtype: check the training's loss, or use dtype float32"
# `(W @ x.T).T` shares the weights among threads where `x @ W.T` shares the few rows. With one thread there is nothing
# to share.
SKINNY_ROWS = range(2, 65)


@dataclass(frozen=True)
class GenerationSettings:
    """How to generate. Temperature 0 is greedy, else it is at least MIN_TEMPERATURE. `stop_strings` need `decode`.

    Tokens are ruled out in this order: all but the `top_k` most likely (0: none), the nucleus of `top_p`, those less
    likely than `min_p` times the most likely one (arXiv:2407.01082).

    Raises:
        SpecError: a value out of its range.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    seed: int = 0
    top_k: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise SpecError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.temperature != 0 and not MIN_TEMPERATURE <= self.temperature < math.inf:
            raise SpecError(
                f"temperature must be 0 (greedy) or a number of at least {MIN_TEMPERATURE}, not {self.temperature}"
            )
        if not 0 < self.top_p <= 1:
            raise SpecError(f"top_p must be in (0, 1], not {self.top_p}")
        if self.top_k < 0:
            raise SpecError(f"top_k must be at least 0, not {self.top_k}")
        if not 0 <= self.min_p < 1:
            raise SpecError(f"min_p must be in [0, 1), not {self.min_p}")


@dataclass(frozen=True)
class Completion:
    """What a prompt got.

    `token_ids` are all generated tokens, the stop token included; `answer_ids` leaves that one out. `stop_reason`: a
    stop token or string (stop), `max_new_tokens` (length), or the model's context (context) ended it. `logps[i]` is
    the log-probability of `token_ids[i]` under the model itself (temperature 1, no top_p), `tempered_logps[i]` that
    under softmax(logits / temperature), from which it was drawn but for what top_p and the like ruled out.
    """

    token_ids: tuple[int, ...]
    stop_reason: StopReason
    logps: tuple[float, ...]
    has_stop_token: bool = False
    tempered_logps: tuple[float, ...] = ()

    @property
    def answer_ids(self) -> tuple[int, ...]:
        return self.token_ids[:-1] if self.has_stop_token else self.token_ids


@dataclass
class _Row:
    """One completion on its way. `uniforms` are its draws, made beforehand from its own generator. `index` is its place
    in the results, `shared` its prompt's among the prompts."""

    index: int
    prompt: Sequence[int]
    uniforms: Tensor | None
    token_ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    tempered_logps: list[float] = field(default_factory=list)
    shared: int = -1
    name: str = ""


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
) -> list[list[Completion]]:
    """Several completions of each prompt: one for each of `streams[i]`, the seed (below 2^63) of its generator,
    whatever `settings.seed` is. `names` are the prompts', for messages. `max_tokens`, prompt and completion together,
    takes the context's place if it is less (0: not).

    Raises:
        As `generate`.
    """
    if settings.stop_strings and decode is None:
        raise SpecError("stop_strings need a decode function")
    context = min(model.context, max_tokens or model.context)
    _check_prompts(context, prompts, overlong)
    places = [(shared, stream) for shared, group in enumerate(streams) for stream in group]
    done: dict[int, Completion] = {
        index: Completion((), "context", ())
        for index, (shared, _) in enumerate(places)
        if len(prompts[shared]) >= context
    }
    # Longest first: memory is at its largest at once, and rows that run together have about one length.
    waiting = sorted((i for i in range(len(places)) if i not in done), key=lambda i: len(prompts[places[i][0]]))
    active: list[_Row] = []
    cache = KvCache(min(batch_rows, max(1, len(waiting))), 0)
    was_training = model.module.training
    model.module.eval()
    try:
        with skinny_linears(model.module):
            while waiting or active:
                if should_stop is not None and should_stop():
                    raise CancelledError(f"stopped after {len(done)} of {len(places)} prompts")
                # A quarter of the slots at a time: prompts are cheaper packed than one by one.
                if waiting and len(active) <= cache.num_slots - min(len(waiting), max(1, cache.num_slots // 4)):
                    new = _take(waiting, places, prompts, names, cache.num_slots - len(active), settings)
                    logits_NV = _prefill(model, new, cache)
                    first = len(active)
                    active += new
                else:
                    logits_NV, first = _decode(model, active, cache), 0
                _choose(active[first:], logits_NV, settings)
                before = len(done)
                for slot in reversed(range(first, len(active))):
                    completion = _finished(active[slot], settings, context, decode)
                    if completion is not None:
                        done[active[slot].index] = completion
                        cache.drop(slot)
                        last = active.pop()
                        if slot < len(active):
                            active[slot] = last
                if on_progress is not None and len(done) != before:
                    on_progress(len(done), len(places))
    finally:
        model.module.train(was_training)
    results = (done[index] for index in range(len(places)))
    return [[next(results) for _ in group] for group in streams]


def _check_prompts(context: int, prompts: Sequence[Sequence[int]], overlong: str) -> None:
    empty = [index for index, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise DataError(f"prompt {empty[0]} is empty ({len(empty)} in all)", hint="a prompt needs at least one token")
    long = [index for index, prompt in enumerate(prompts) if len(prompt) >= context]
    if long and overlong == "refuse":
        shown = ", ".join(f"prompt {index} ({len(prompts[index])} tokens)" for index in long[:5])
        raise DataError(
            f"{len(long)} prompts leave no room in the model's context of {context}: {shown}",
            hint="shorten these prompts",
        )


def _take(
    waiting: list[int],
    places: Sequence[tuple[int, int]],
    prompts: Sequence[Sequence[int]],
    names: Sequence[str],
    free: int,
    settings: GenerationSettings,
) -> list[_Row]:
    """The next rows, those of one prompt side by side: as many as have slots, in at most PREFILL_TOKENS of prompts (one
    prompt at least)."""
    rows: list[_Row] = []
    tokens = 0
    while waiting and len(rows) < free:
        shared, stream = places[waiting[-1]]
        prompt = prompts[shared]
        if not rows or rows[-1].shared != shared:
            if rows and tokens + len(prompt) > PREFILL_TOKENS:
                break
            tokens += len(prompt)
        uniforms = None
        if settings.temperature > 0:
            generator = torch.Generator().manual_seed(stream)
            uniforms = torch.rand(settings.max_new_tokens, generator=generator, dtype=torch.float64)
        name = names[shared] if names else f"prompt {shared}"
        rows.append(_Row(waiting.pop(), prompt, uniforms, shared=shared, name=name))
    return rows


def _prefill(model: LanguageModel, rows: Sequence[_Row], cache: KvCache) -> Tensor:
    """Logits [N, V] after each new row's prompt; a prompt that neighbouring rows share is computed once."""
    runs = [list(run) for _, run in groupby(rows, key=lambda row: row.shared)]
    lengths, copies = [len(run[0].prompt) for run in runs], list(map(len, runs))
    layout = Prefill.of(cache, lengths, copies)
    ids_T = torch.tensor([token for run in runs for token in run[0].prompt], device=model.device)
    positions_T = torch.cat([torch.arange(length) for length in lengths]).to(model.device)
    hidden_TD = model.hidden(ids_T, positions_T, layout)
    last_P = torch.tensor(layout.segments.bounds[1:], device=model.device) - 1
    logits_PV = model.logits(hidden_TD[last_P]).float()
    return (
        logits_PV if len(runs) == len(rows) else logits_PV.repeat_interleave(torch.tensor(copies).to(model.device), 0)
    )


def _decode(model: LanguageModel, rows: Sequence[_Row], cache: KvCache) -> Tensor:
    """Logits [A, V] after each row's newest token."""
    layout = Decode(cache, model.device)
    ids_A1 = torch.tensor([[row.token_ids[-1]] for row in rows], device=model.device)
    hidden_A1D = model.hidden_rows(ids_A1, layout.positions_A[:, None], layout)
    return model.logits(hidden_A1D[:, 0]).float()


def _choose(rows: Sequence[_Row], logits_AV: Tensor, settings: GenerationSettings) -> None:
    """Appends each row's next token and its log-probability.

    Raises:
        NonFiniteError: a row's logits hold NaN or +inf, or nothing but -inf.
    """
    total_A = logits_AV.logsumexp(dim=-1)
    for row, total in zip(rows, total_A.tolist(), strict=True):
        if not math.isfinite(total):
            name, length = row.name or f"prompt {row.index}", len(row.prompt) + len(row.token_ids)
            raise NonFiniteError(
                f"{name}: the logits after {length} tokens are not finite",
                hint=_NON_FINITE_HINT,
            )
    if settings.temperature == 0:
        tokens_A = logits_AV.argmax(dim=-1)
    else:
        draws = [row.uniforms[len(row.token_ids)] for row in rows if row.uniforms is not None]
        uniform_A = torch.stack(draws).to(logits_AV.device)
        tokens_A = sample(
            logits_AV, uniform_A, settings.temperature, settings.top_p, top_k=settings.top_k, min_p=settings.min_p
        )
    scores_A = logits_AV.gather(1, tokens_A[:, None])[:, 0]
    chosen_A = tempered_A = scores_A - total_A
    if settings.temperature not in (0, 1):
        tempered_A = scores_A / settings.temperature - (logits_AV / settings.temperature).logsumexp(dim=-1)
    chosen = zip(rows, tokens_A.tolist(), chosen_A.tolist(), tempered_A.tolist(), strict=True)
    for row, token, logp, tempered in chosen:
        row.token_ids.append(token)
        row.logps.append(logp)
        row.tempered_logps.append(tempered)


def sample(
    logits_AV: Tensor, uniform_A: Tensor, temperature: float, top_p: float, *, top_k: int = 0, min_p: float = 0.0
) -> Tensor:
    """One token a row by inverting the cumulative distribution at `uniform_A`, of the tokens that are not ruled out;
    see GenerationSettings.

    Nucleus (arXiv:1904.09751): the smallest set of most likely tokens whose probability reaches `top_p`.
    """
    probabilities_AV = torch.softmax(logits_AV.double() / temperature, dim=-1)
    if top_p == 1 and not top_k and not min_p:
        # In the vocabulary's order: sorting 64 rows of 49k logits takes 40 times as long as all the rest (one core).
        cumulative_AV = probabilities_AV.cumsum(dim=-1)
        total_A = cumulative_AV[:, -1]
        # Below the total whatever the product is rounded to, so that it falls on a token with a probability.
        drawn_A = torch.minimum(uniform_A * total_A, torch.nextafter(total_A, torch.zeros_like(total_A)))
        return torch.searchsorted(cumulative_AV, drawn_A[:, None], right=True)[:, 0]
    probabilities_AV, order_AV = probabilities_AV.sort(dim=-1, descending=True, stable=True)
    if 0 < top_k < probabilities_AV.shape[-1]:
        probabilities_AV[:, top_k:] = 0
        probabilities_AV /= probabilities_AV.sum(dim=-1, keepdim=True)
    cumulative_AV = probabilities_AV.cumsum(dim=-1)
    # Both rule out a tail of the sorted tokens, and so does top_k, whose tail has probability 0.
    kept_AV = (cumulative_AV - probabilities_AV < top_p) & (probabilities_AV >= min_p * probabilities_AV[:, :1])
    kept_AV &= probabilities_AV > 0
    total_A1 = torch.where(kept_AV, probabilities_AV, 0.0).sum(dim=-1, keepdim=True)
    rank_A1 = torch.searchsorted(cumulative_AV, uniform_A[:, None] * total_A1, right=True)
    rank_A1 = torch.minimum(rank_A1, kept_AV.sum(dim=-1, keepdim=True) - 1)
    return order_AV.gather(1, rank_A1)[:, 0]


def _finished(
    row: _Row, settings: GenerationSettings, context: int, decode: Callable[[Sequence[int]], str] | None
) -> Completion | None:
    """The row's completion if its newest token ended it."""
    reason: StopReason
    has_stop_token = row.token_ids[-1] in settings.stop_token_ids
    if has_stop_token or (decode is not None and _has_stop_string(row.token_ids, settings.stop_strings, decode)):
        reason = "stop"
    elif len(row.token_ids) >= settings.max_new_tokens:
        reason = "length"
    elif len(row.prompt) + len(row.token_ids) >= context:
        reason = "context"
    else:
        return None
    return Completion(tuple(row.token_ids), reason, tuple(row.logps), has_stop_token, tuple(row.tempered_logps))


def _has_stop_string(token_ids: list[int], stops: Sequence[str], decode: Callable[[Sequence[int]], str]) -> bool:
    if not stops:
        return False
    # A token may hold less than a character, so as many tokens as the longest string has bytes, and a few more.
    tail = decode(token_ids[-(max(len(stop.encode()) for stop in stops) + 4) :])
    return any(stop in tail for stop in stops)


@contextmanager
def skinny_linears(module: nn.Module) -> Iterator[None]:
    """On a CPU with several threads, computes linear layers of few rows as `(W @ x.T).T`.

    Measured with 2 threads at 4-64 rows: 1.05-1.7 times as fast, a head of 49k rows up to 16 times; with one thread
    often slower.
    """
    is_worth_it = torch.get_num_threads() > 1
    layers = [
        layer
        for layer in module.modules()
        if type(layer) is nn.Linear and layer.weight.device.type == "cpu" and is_worth_it
    ]
    for layer in layers:
        layer.forward = _SkinnyForward(layer)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class _SkinnyForward:
    def __init__(self, layer: nn.Linear) -> None:
        self._weight, self._bias = layer.weight, layer.bias

    def __call__(self, inputs: Tensor) -> Tensor:
        rows = inputs.numel() // inputs.shape[-1]
        if rows not in SKINNY_ROWS:
            return nn.functional.linear(inputs, self._weight, self._bias)
        out = torch.mm(self._weight, inputs.reshape(rows, -1).t()).t()
        if self._bias is not None:
            out = out + self._bias
        return out.reshape(*inputs.shape[:-1], -1)


@torch.no_grad()
def score(
    model: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch_tokens: int = SCORE_TOKENS
) -> list[tuple[float, bool]]:
    """For each (prompt, continuation): the continuation's summed log-probability, and whether greedy decoding would
    write it.

    Raises:
        DataError: an empty prompt or continuation, or a pair longer than the context; names it.
        NonFiniteError: a log-probability that is NaN or infinite; names the pair.
    """
    for index, (prompt, continuation) in enumerate(pairs):
        if not len(prompt) or not len(continuation):
            raise DataError(f"pair {index} has an empty {'continuation' if len(prompt) else 'prompt'}")
        if len(prompt) + len(continuation) > model.context:
            raise DataError(
                f"pair {index} has {len(prompt) + len(continuation)} tokens; the context is {model.context}"
            )
    results: dict[int, tuple[float, bool]] = {}
    was_training = model.module.training
    model.module.eval()
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    try:
        while order:
            group: list[int] = []
            tokens = 0
            while order and (not group or tokens + sum(map(len, pairs[order[-1]])) <= batch_tokens):
                group.append(order.pop())
                tokens += sum(map(len, pairs[group[-1]]))
            results.update(zip(group, _score_group(model, [pairs[i] for i in group]), strict=True))
    finally:
        model.module.train(was_training)
    for index, (logp, _) in sorted(results.items()):
        if not math.isfinite(logp):
            raise NonFiniteError(f"pair {index}: its log-probability is {logp}", hint=_NON_FINITE_HINT)
    return [results[index] for index in range(len(pairs))]


def _score_group(
    model: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[tuple[float, bool]]:
    ids: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    for prompt, continuation in pairs:
        places.extend(range(len(ids) + len(prompt) - 1, len(ids) + len(prompt) + len(continuation) - 1))
        positions.extend(range(len(prompt) + len(continuation)))
        ids.extend([*prompt, *continuation])
    lengths = [len(prompt) + len(continuation) for prompt, continuation in pairs]
    ids_T = torch.tensor(ids, device=model.device)
    positions_T = torch.tensor(positions, device=model.device)
    hidden_TD = model.hidden(ids_T, positions_T, Segments.of(lengths))
    places_N = torch.tensor(places, device=model.device)
    targets_N = ids_T[places_N + 1]
    logps, greedy = [], []
    chunk = chunk_rows(model.vocabulary)
    for start in range(0, len(places), chunk):
        part = slice(start, start + chunk)
        logits_CV = model.logits(hidden_TD[places_N[part]]).float()
        logps.append(-nn.functional.cross_entropy(logits_CV, targets_N[part], reduction="none"))
        greedy.append(logits_CV.argmax(dim=-1) == targets_N[part])
    counts = [len(continuation) for _, continuation in pairs]
    return [
        (float(logp.double().sum()), bool(same.all()))
        for logp, same in zip(
            torch.split(torch.cat(logps), counts), torch.split(torch.cat(greedy), counts), strict=True
        )
    ]
