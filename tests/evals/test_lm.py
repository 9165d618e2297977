"""Our model under lm-eval's tasks against lm-eval's own transformers model, on the same tiny weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.engine.models import load
from posttrain.engine.task import ModelInput
from posttrain.evals.lm import Answer, Likelihood, PosttrainLM
from posttrain.evals.loop import build_requests, run_requests
from posttrain.evals.prompts import PlainPrompter, RenderedPrompt
from posttrain.evals.suites import load_suite
from posttrain.evals.tasks import SuiteLmTask

CONTEXTS = ["the quick brown", "what is two plus three?", "user assistant", "a", "the lazy dog jumps over the fox "]


@pytest.fixture(scope="module")
def ours(models: dict[str, ModelInput]) -> PosttrainLM:
    return PosttrainLM(load(models["base"], "float32"), name="base@1", batch_rows=3)


@pytest.fixture(scope="module")
def theirs(models: dict[str, ModelInput]) -> Iterator[Any]:
    import transformers
    from lm_eval.models.huggingface import HFLM

    folder = models["base"].path
    module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32", attn_implementation="eager")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # HFLM's own, about how it was handed the model
        yield HFLM(pretrained=module, tokenizer=tokenizer, batch_size=2)


def instance(kind: str, *arguments: Any, idx: int = 0) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=idx)


def test_greedy_generation_is_the_same_text(ours: PosttrainLM, theirs: Any) -> None:
    for settings in (
        {"until": [], "max_gen_toks": 12},
        {"until": ["e"], "max_gen_toks": 12, "do_sample": False},
        {"until": ["ox", " "], "max_gen_toks": 20, "temperature": 0.0},
    ):
        requests = [instance("generate_until", context, dict(settings)) for context in CONTEXTS]
        expected = theirs.generate_until(
            [instance("generate_until", c, dict(settings)) for c in CONTEXTS], disable_tqdm=True
        )
        found = ours.generate_until(requests)
        assert list(map(str, found)) == expected
        assert all(isinstance(answer, Answer) and answer.num_tokens > 0 for answer in found)


def test_loglikelihoods_are_the_same_numbers(ours: PosttrainLM, theirs: Any) -> None:
    pairs = [
        (context, rest)
        for context in ["", *CONTEXTS]
        for rest in (" fox", " five.", "dog jumps over the lazy dog", "x")
    ]
    found = ours.loglikelihood([instance("loglikelihood", *pair) for pair in pairs])
    expected = theirs.loglikelihood([instance("loglikelihood", *pair) for pair in pairs], disable_tqdm=True)
    for (logprob, is_greedy), (their_logprob, their_greedy) in zip(found, expected, strict=True):
        assert logprob == pytest.approx(their_logprob, abs=1e-4)
        assert is_greedy == their_greedy


def test_rolling_loglikelihoods_are_the_same_numbers(ours: PosttrainLM, theirs: Any) -> None:
    texts = ["the quick brown fox", "a", "what is two plus three? it is five. " * 3]
    found = ours.loglikelihood_rolling([instance("loglikelihood_rolling", text) for text in texts])
    expected = theirs.loglikelihood_rolling(
        [instance("loglikelihood_rolling", text) for text in texts], disable_tqdm=True
    )
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_text_longer_than_the_context_is_scored_in_windows(ours: PosttrainLM) -> None:
    text = "the quick brown fox jumps over the lazy dog " * 60
    tokens = len(ours._text_ids(text))
    assert tokens > 2 * ours.max_length
    whole = ours.loglikelihood_rolling([instance("loglikelihood_rolling", text)])[0]
    short = ours.loglikelihood_rolling([instance("loglikelihood_rolling", text[:44])])[0]
    assert math.isfinite(whole)
    assert whole < 20 * short < 0


def test_what_does_not_fit_is_flagged_and_not_cut(ours: PosttrainLM) -> None:
    long = "fox " * 400
    answer, fine = ours.generate_until(
        [instance("generate_until", text, {"max_gen_toks": 4}) for text in (long, "fox")]
    )
    assert isinstance(answer, Answer)
    assert (answer, answer.stop_reason, answer.num_tokens) == ("", "context", 0)
    assert isinstance(fine, Answer)
    assert fine.stop_reason == "length"
    room = 2  # what the context leaves after this prompt: an answer that it cuts is flagged too, and kept
    ids = list(range(3, 3 + ours.max_length - room))
    cut = ours.generate_until([instance("generate_until", RenderedPrompt("fox", ids), {"max_gen_toks": 9})])[0]
    assert isinstance(cut, Answer)
    assert (cut.stop_reason, cut.num_tokens) == ("context", room)
    flagged = ours.loglikelihood([instance("loglikelihood", long, " dog")])[0]
    assert isinstance(flagged, Likelihood)
    assert (flagged[0], flagged[1], flagged.stop_reason) == (-math.inf, False, "context")


def test_an_unknown_generation_argument_is_refused(ours: PosttrainLM) -> None:
    with pytest.raises(ValueError, match="num_beams"):
        ours.generate_until([instance("generate_until", "a", {"num_beams": 4})])


def test_chat_templates(models: dict[str, ModelInput], ours: PosttrainLM) -> None:
    from posttrain.engine.errors import TemplateError

    chat = PosttrainLM(load(models["chat"], "float32"), name="bot@1")
    text = chat.apply_chat_template([{"role": "user", "content": "hello"}])
    assert text == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert chat.chat_template(True) is not None
    assert chat.chat_template(False) is None
    assert chat.tokenizer_name.endswith("chat")
    with pytest.raises(TemplateError, match="base@1 has no chat template"):
        ours.apply_chat_template([{"role": "user", "content": "hello"}])


DOCS = [
    {"question": f"what is {word}?", "choices": ["fox", "dog", "five."], "answer": number % 3}
    for number, word in enumerate(["two", "three", "the quick", "lazy", "name", "x"])
]


def make_lm_eval_task(kind: str) -> Any:
    """An lm-eval task as its YAML would make it, over rows in memory."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    config: dict[str, Any] = {
        "task": f"tiny_{kind}",
        "output_type": kind,
        "custom_dataset": lambda **_: {"test": Dataset.from_list(DOCS)},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "metadata": {"version": 1},
    }
    if kind == "multiple_choice":
        config |= {"doc_to_choice": "choices", "doc_to_target": "answer", "metric_list": [{"metric": "acc"}]}
    else:
        config |= {
            "doc_to_target": "fox",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 10, "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
        }
    return ConfigurableTask(config=config)


@pytest.mark.parametrize(("kind", "num_requests"), [("multiple_choice", 3), ("generate_until", 1)])
def test_our_loop_answers_an_lm_eval_task_as_lm_evals_model_does(
    ours: PosttrainLM, theirs: Any, kind: str, num_requests: int
) -> None:
    answers = []
    for model in (ours, theirs):
        requests = build_requests(make_lm_eval_task(kind))
        done: list[str] = []
        run_requests(model, requests, chunk_rows=4, on_done=lambda chunk, done=done: done.extend(map(repr, chunk)))
        assert len(done) == len(set(done)) == len(requests) == num_requests * len(DOCS)
        assert all(len(request.resps) == 1 for request in requests)
        answers.append({(request.doc_id, request.idx): request.resps[0] for request in requests})
    mine, other = answers
    assert mine.keys() == other.keys()
    for key, answer in mine.items():
        if kind == "generate_until":
            assert str(answer) == other[key]
        else:
            assert answer[0] == pytest.approx(other[key][0], abs=1e-4)
            assert answer[1] == other[key][1]


def test_lm_evals_own_loop_runs_our_model_and_our_tasks(ours: PosttrainLM, suite: Path) -> None:
    from lm_eval.evaluator import evaluate

    loaded = load_suite(suite)
    examples = [example for example in loaded.tasks[0].examples if example.shard == "gate"]
    prompter = PlainPrompter(ours._loaded.tokenizer, ours._loaded.stop_ids, 1, has_own=False)
    task = SuiteLmTask(loaded.tasks[0], examples, prompter, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = evaluate(lm=ours, task_dict={"echo/echo": task}, bootstrap_iters=0, log_samples=True)
    assert len(found["samples"]["echo/echo"]) == 24
    task = SuiteLmTask(loaded.tasks[0], examples, prompter, 8)
    requests = build_requests(task)
    run_requests(ours, requests, chunk_rows=8)
    rows = [task.row(request.doc, request.args[0], request.resps[0]) for request in requests]
    theirs = {sample["doc"].id: sample["filtered_resps"][0] for sample in found["samples"]["echo/echo"]}
    assert {row.example_id: row.answer for row in rows} == {id: answer.strip() for id, answer in theirs.items()}
    assert found["results"]["echo/echo"]["echo,none"] == pytest.approx(sum(row.score for row in rows) / 24)
