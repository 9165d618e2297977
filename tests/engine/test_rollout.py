"""Generation equals transformers' own; rows do not depend on their neighbours; every ending has its reason."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
import torch

from posttrain.engine import attention
from posttrain.engine.errors import CancelledError, DataError, NonFiniteError, SpecError
from posttrain.engine.kv_cache import KvCache, Prefill
from posttrain.engine.models import LanguageModel
from posttrain.engine.rollout import (
    Completion,
    GenerationSettings,
    generate,
    generate_groups,
    passes,
    sample,
    sampling,
    score,
)
from posttrain.engine.rollout.rows import Row
from posttrain.engine.spec import MIN_TEMPERATURE
from tests.engine.tiny import CONFIGS, tiny_model, tiny_tokenizer

STOP = 7


def make_prompts(count: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(320) for _ in range(rng.randint(1, 20))] for _ in range(count)]


def by_transformers(model: LanguageModel, prompt: list[int], max_new_tokens: int) -> list[int]:
    module: Any = model.module
    module.set_attn_implementation("eager")
    ids = torch.tensor([prompt])
    out = module.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=STOP,
        pad_token_id=STOP,
    )
    module.set_attn_implementation(attention.NAME)
    return list(out[0, len(prompt) :].tolist())


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_equals_transformers(name: str) -> None:
    """More prompts than slots, so rows leave and others take their place; windows of 5 are passed by all."""
    model, prompts = tiny_model(name), make_prompts(11)
    settings = GenerationSettings(max_new_tokens=14, stop_token_ids=(STOP,))
    for prompt, completion in zip(prompts, generate(model, prompts, settings, batch_rows=4), strict=True):
        assert list(completion.token_ids) == by_transformers(model, prompt, 14)
        assert completion.stop_reason == ("stop" if completion.token_ids[-1] == STOP else "length")
        assert completion.has_stop_token == (completion.stop_reason == "stop")


def test_a_wrong_slot_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = tiny_model("llama"), make_prompts(11)
    settings = GenerationSettings(max_new_tokens=14, stop_token_ids=tuple(range(0, 320, 5)))
    right = generate(model, prompts, settings, batch_rows=4)
    monkeypatch.setattr(KvCache, "drop", lambda self, slot: self.lengths.pop())
    assert generate(model, prompts, settings, batch_rows=4) != right


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_does_not_depend_on_its_neighbours(temperature: float) -> None:
    model, prompts = tiny_model("qwen3"), make_prompts(9)
    settings = GenerationSettings(
        max_new_tokens=12, temperature=temperature, top_p=0.9, stop_token_ids=(STOP, 11, 13), seed=5
    )
    together = generate(model, prompts, settings, batch_rows=9)
    assert [c.token_ids for c in generate(model, prompts, settings, batch_rows=2)] == [c.token_ids for c in together]
    assert generate(model, prompts, settings, batch_rows=9) == together
    other = GenerationSettings(max_new_tokens=12, temperature=1.0, seed=6)
    if temperature:
        assert generate(model, prompts, other) != together
        # Equal prompts in different rows draw differently: a group needs variety.
        same = generate(model, [prompts[0]] * 6, settings)
        assert len({c.token_ids for c in same}) > 1


def test_log_probabilities_are_the_models_own() -> None:
    model, prompts = tiny_model("gemma2"), make_prompts(5)
    completions = generate(model, prompts, GenerationSettings(max_new_tokens=9, temperature=0.7, top_p=0.8, seed=1))
    pairs = [(prompt, completion.token_ids) for prompt, completion in zip(prompts, completions, strict=True)]
    for (logp, _), completion in zip(score(model, pairs), completions, strict=True):
        assert logp == pytest.approx(sum(completion.logps), rel=1e-4)


def test_scores_equal_the_padded_forward() -> None:
    model, prompts = tiny_model("llama"), make_prompts(6)
    pairs = [(prompt, prompt[::-1][:4]) for prompt in prompts]
    greedy = generate(model, prompts, GenerationSettings(max_new_tokens=3))
    pairs += [(prompt, list(c.token_ids)) for prompt, c in zip(prompts, greedy, strict=True)]
    found = score(model, pairs, batch_tokens=40)
    model.module.set_attn_implementation("eager")
    for (prompt, continuation), (logp, is_greedy) in zip(pairs, found, strict=True):
        logits = model.module(torch.tensor([[*prompt, *continuation]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(continuation)[:, None]).sum()
        assert logp == pytest.approx(expected.item(), rel=1e-5)
        assert is_greedy == (logits.argmax(-1).tolist() == list(continuation))
    assert all(is_greedy for _, is_greedy in found[6:])


def test_the_context_ends_a_row_and_a_prompt_without_room_is_named() -> None:
    model = tiny_model("llama")
    near = [[1] * 250, [2] * 3]
    first, second = generate(model, near, GenerationSettings(max_new_tokens=20))
    assert (len(first.token_ids), first.stop_reason) == (6, "context")
    assert (len(second.token_ids), second.stop_reason) == (20, "length")
    with pytest.raises(DataError, match=r"prompt 1 \(256 tokens\)"):
        generate(model, [[1], [1] * 256], GenerationSettings(max_new_tokens=1))
    skipped = generate(model, [[1], [1] * 256], GenerationSettings(max_new_tokens=1), overlong="skip")
    assert skipped[1] == Completion((), "context", ())
    assert len(skipped[0].token_ids) == 1
    with pytest.raises(DataError, match="prompt 0 is empty"):
        generate(model, [[]], GenerationSettings(max_new_tokens=1))
    with pytest.raises(DataError, match="pair 1 has 257 tokens"):
        score(model, [([1], [1]), ([1] * 256, [1])])
    with pytest.raises(DataError, match="pair 0 has an empty continuation"):
        score(model, [([1], [])])


def test_stop_strings_end_a_row_at_the_token_that_completes_them() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    decode = tokenizer.decode
    prompts = make_prompts(4)
    free = generate(model, prompts, GenerationSettings(max_new_tokens=16))
    texts = [str(decode(completion.token_ids)) for completion in free]
    stop = texts[0][6:8]
    settings = GenerationSettings(max_new_tokens=16, stop_strings=(stop,))
    for text, completion in zip(texts, generate(model, prompts, settings, decode=decode), strict=True):
        found = str(decode(completion.token_ids))
        assert text.startswith(found)
        assert (stop in found) == (stop in text) == (completion.stop_reason == "stop")
        assert stop not in str(decode(completion.token_ids[:-1]))
        assert not completion.has_stop_token
    with pytest.raises(SpecError, match="decode"):
        generate(model, prompts, settings)


def test_progress_and_stopping() -> None:
    model, prompts, seen = tiny_model("llama"), make_prompts(7), []
    settings = GenerationSettings(max_new_tokens=4)
    generate(model, prompts, settings, batch_rows=2, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (7, 7)
    with pytest.raises(CancelledError):
        generate(model, prompts, settings, should_stop=lambda: True)
    assert generate(model, [], settings) == []


def test_answers_leave_the_stop_token_out() -> None:
    assert Completion((1, 2, 7), "stop", (0.0, 0.0, 0.0), has_stop_token=True).answer_ids == (1, 2)
    assert Completion((1, 2), "length", (0.0, 0.0)).answer_ids == (1, 2)


def test_sampling_follows_the_distribution() -> None:
    """By hand: .3, .5, .2 in the vocabulary's order; the nucleus of .7 is the first two of .5, .3, .2, with .625 and
    .375."""
    logits = torch.log(torch.tensor([[0.3, 0.5, 0.2]])).repeat(8, 1)
    draws = torch.tensor([0.0, 0.49, 0.51, 0.79, 0.81, 0.999, 0.29, 0.6], dtype=torch.float64)
    assert sample(logits, draws, 1.0, 1.0).tolist() == [0, 1, 1, 1, 2, 2, 0, 1]
    ruled_out = torch.cat([torch.full((8, 1), -math.inf), logits, torch.full((8, 1), -math.inf)], dim=1)
    ends = torch.tensor([0.0, 1 - 2**-53] * 4, dtype=torch.float64)
    assert sample(ruled_out, ends, 1.0, 1.0).tolist() == [1, 3] * 4
    assert sample(logits, draws, 1.0, 0.7).tolist() == [1, 1, 1, 0, 0, 0, 1, 1]
    assert sample(logits, draws, 1e-4, 1.0).tolist() == [1] * 8
    many = torch.rand(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = Counter(sample(logits[:1].repeat(4000, 1), many, 1.0, 1.0).tolist())
    assert counts[1] / 4000 == pytest.approx(0.5, abs=0.03)


def test_tokens_are_ruled_out_in_order() -> None:
    """By hand: .5, .3, .15, .05. The two most likely are .625 and .375; within these the nucleus of .6 is the first
    alone, where of all four it would be two; min_p .5 keeps what has half of .5."""
    logits = torch.log(torch.tensor([[0.3, 0.5, 0.05, 0.15]])).repeat(5, 1)
    draws = torch.tensor([0.0, 0.62, 0.63, 0.9, 0.999], dtype=torch.float64)
    assert sample(logits, draws, 1.0, 1.0, top_k=2).tolist() == [1, 1, 0, 0, 0]
    assert sample(logits, draws, 1.0, 0.6, top_k=2).tolist() == [1] * 5
    assert sample(logits, draws, 1.0, 0.6).tolist() == [1, 1, 0, 0, 0]
    assert sample(logits, draws, 1.0, 1.0, min_p=0.5).tolist() == [1, 1, 0, 0, 0]
    assert sample(logits, draws, 1.0, 1.0, min_p=0.25).tolist() == [1, 0, 0, 3, 3]
    assert sample(logits, draws, 1.0, 1.0, top_k=9).tolist() == [1, 0, 0, 3, 2]
    assert sample(logits, draws, 1.0, 1.0).tolist() == [0, 1, 1, 3, 3]
    assert sample(logits, draws, 1.0, 1.0, top_k=1).tolist() == [1] * 5


# -- groups -----------------------------------------------------------------------------------------------------------


def streams_of(num_prompts: int, num: int) -> list[list[int]]:
    return [[1000 * prompt + index for index in range(num)] for prompt in range(num_prompts)]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gptoss"])
def test_a_completion_depends_on_its_prompt_and_its_stream_alone(name: str) -> None:
    """Whatever is generated beside it, in which order, and with which of them it shares the prompt's computation."""
    model, prompts = tiny_model(name), make_prompts(5)
    settings = GenerationSettings(max_new_tokens=8, temperature=1.0, stop_token_ids=(STOP, 11, 13))
    streams = streams_of(5, 4)
    found = generate_groups(model, prompts, settings, streams, batch_rows=20)
    assert len({completion.token_ids for completion in found[0]}) > 1, "a group needs variety"
    for rows in (3, 7):
        others = generate_groups(model, prompts, settings, streams, batch_rows=rows)
        assert [[c.token_ids for c in group] for group in others] == [[c.token_ids for c in group] for group in found]
    turned = generate_groups(model, prompts[::-1], settings, [group[::-1] for group in streams[::-1]])
    assert [[c.token_ids for c in group[::-1]] for group in turned[::-1]] == [
        [c.token_ids for c in group] for group in found
    ]
    for prompt, group, own in zip(prompts, found, streams, strict=True):
        for completion, stream in zip(group, own, strict=True):
            ((alone,),) = generate_groups(model, [prompt], settings, [[stream]])
            assert alone.token_ids == completion.token_ids
            assert alone.logps == pytest.approx(completion.logps, abs=1e-4)


def test_a_prompt_is_computed_once_for_the_completions_that_start_together(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[list[int]] = []
    original = Prefill.of

    def of(cache: KvCache, given: list[int], copies: Any = ()) -> Prefill:
        lengths.append(list(given))
        return original(cache, given, copies)

    monkeypatch.setattr(Prefill, "of", of)
    model, prompts = tiny_model("llama"), [[1] * 9, [2] * 12]
    settings = GenerationSettings(max_new_tokens=3, temperature=1.0)
    generate_groups(model, prompts, settings, streams_of(2, 8), batch_rows=16)
    assert lengths == [[12, 9]]
    lengths.clear()
    generate_groups(model, prompts, settings, streams_of(2, 8), batch_rows=6)  # 6 of the first; its last 2 and 4; 4
    assert lengths == [[12], [12, 9], [9]]


def test_a_copy_in_a_wrong_slot_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = tiny_model("llama"), make_prompts(3)
    settings = GenerationSettings(max_new_tokens=6, temperature=1.0)
    right = generate_groups(model, prompts, settings, streams_of(3, 3))
    original = Prefill.of

    def of(cache: KvCache, lengths: list[int], copies: Any = ()) -> Prefill:
        made = original(cache, lengths, copies)
        return Prefill(made.cache, made.segments, (*copies[:-1], copies[-1] - 1))

    monkeypatch.setattr(Prefill, "of", of)
    assert generate_groups(model, prompts, settings, streams_of(3, 3)) != right


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tempered_log_probabilities_are_those_that_were_drawn_from(temperature: float) -> None:
    model, (prompt, *_) = tiny_model("llama"), make_prompts(1)
    settings = GenerationSettings(max_new_tokens=5, temperature=temperature)
    ((completion,),) = generate_groups(model, [prompt], settings, [[3]])
    model.module.set_attn_implementation("eager")
    ids = torch.tensor([[*prompt, *completion.token_ids]])
    logits = model.module(ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    chosen = torch.tensor(completion.token_ids)[:, None]
    expected = torch.log_softmax(logits / temperature, -1).gather(1, chosen)[:, 0]
    assert completion.tempered_logps == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)
    plain = torch.log_softmax(logits, -1).gather(1, chosen)[:, 0]
    assert completion.logps == pytest.approx(plain.tolist(), rel=1e-4, abs=1e-5)


def test_a_limit_below_the_context_ends_a_row_and_refuses_a_prompt() -> None:
    model = tiny_model("llama")
    settings = GenerationSettings(max_new_tokens=20, temperature=1.0)
    ((completion,),) = generate_groups(model, [[1] * 5], settings, [[0]], max_tokens=9)
    assert (len(completion.token_ids), completion.stop_reason) == (4, "context")
    with pytest.raises(DataError, match=r"prompt 0 \(9 tokens\)"):
        generate_groups(model, [[1] * 9], settings, [[0]], max_tokens=9)
    assert generate_groups(model, [], settings, []) == []


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_name_the_prompt(temperature: float, value: float) -> None:
    """Token 300 has a damaged row; prompt 2 is the only one that holds it. Prompt 1 is as long, and as well."""
    model = tiny_model("qwen3")
    with torch.no_grad():
        model.module.model.embed_tokens.weight[300] = value
    prompts, settings = [[1, 2], [3, 4, 5], [3, 300, 5]], GenerationSettings(max_new_tokens=3, temperature=temperature)
    model.module.train()
    with pytest.raises(NonFiniteError, match="prompt 2: the logits after 3 tokens are not finite") as caught:
        generate(model, prompts, settings)
    assert "float32" in caught.value.hint
    with pytest.raises(NonFiniteError, match="pair 2: its log-probability is nan"):
        score(model, [(prompt, [7]) for prompt in prompts])
    assert model.module.training


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_of_a_single_row_that_are_not_finite(temperature: float) -> None:
    settings = GenerationSettings(max_new_tokens=3, temperature=temperature)
    rows = [Row(4, [1, 2], torch.rand(3, dtype=torch.float64), [9]), Row(7, [1], None, [])]
    for logits in ([math.inf, 0.0], [math.nan, 0.0], [-math.inf, -math.inf]):
        with pytest.raises(NonFiniteError, match="prompt 4: the logits after 3 tokens"):
            sampling.choose(rows[:1], torch.tensor([logits]), settings)
    sampling.choose(rows[:1], torch.tensor([[-math.inf, 2.0]]), settings)  # a token that is ruled out is none
    assert (rows[0].token_ids, rows[0].logps) == ([9, 1], [0.0])


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        *(({"temperature": value}, "temperature") for value in (-1, math.nan, math.inf, -math.inf, 1e-310, 9e-4)),
        *(({"top_p": value}, "top_p") for value in (0, 1.1, math.nan, -math.inf)),
        ({"top_k": -1}, "top_k"),
        *(({"min_p": value}, "min_p") for value in (-0.1, 1.0, math.nan)),
    ],
)
def test_bad_settings_are_refused(bad: dict[str, Any], name: str) -> None:
    with pytest.raises(SpecError, match=f"^{name} must be"):
        GenerationSettings(**{"max_new_tokens": 1, **bad})


@pytest.mark.parametrize("temperature", [0.0, MIN_TEMPERATURE, 5.0])
def test_temperatures_that_can_be_computed_are_taken(temperature: float) -> None:
    settings = GenerationSettings(max_new_tokens=2, temperature=temperature)
    (completion,) = generate(tiny_model("llama"), [[1, 2]], settings)
    assert all(math.isfinite(logp) for logp in completion.logps)


def test_linears_of_few_rows_compute_the_same_and_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    model, x = tiny_model("llama"), torch.randn(5, 1, 32)
    layer = model.module.model.layers[0].self_attn.q_proj
    expected = layer(x)
    with passes.skinny_linears(model.module):
        assert "forward" in vars(layer)
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(layer(x[:1]), expected[:1])
    assert "forward" not in vars(layer)
