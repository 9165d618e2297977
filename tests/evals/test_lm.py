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
from posttrain.evals.loop import build_requests, run_requests, score_task
from posttrain.evals.prompts import PlainPrompter
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


@pytest.mark.parametrize("kind", ["multiple_choice", "generate_until"])
def test_our_loop_scores_an_lm_eval_task_as_lm_eval_does(ours: PosttrainLM, theirs: Any, kind: str) -> None:
    results = []
    for model in (ours, theirs):
        task = make_lm_eval_task(kind)
        requests = build_requests(task, model)
        done: list[int] = []
        run_requests(model, requests, chunk_rows=4, on_done=lambda chunk, done=done: done.append(len(chunk)))
        assert sum(done) == len(requests)
        results.append(score_task(task))
    metric = "acc" if kind == "multiple_choice" else "exact_match"
    assert [(r.doc_id, r.metrics[metric]) for r in results[0]] == [(r.doc_id, r.metrics[metric]) for r in results[1]]
    assert len(results[0]) == len(DOCS)
    assert not any(result.error for result in results[0])


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
    run_requests(ours, build_requests(task, ours), chunk_rows=8)
    mean = sum(result.metrics["echo"] for result in score_task(task)) / 24
    assert found["results"]["echo/echo"]["echo,none"] == pytest.approx(mean)


def test_a_document_whose_scoring_raises_is_marked(ours: PosttrainLM, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_lm_eval_task("generate_until")
    run_requests(ours, build_requests(task, ours), chunk_rows=8)
    process = task.process_results

    def fragile(doc: Any, results: Any) -> Any:
        if doc["question"] == "what is three?":
            raise RuntimeError("boom")
        return process(doc, results)

    monkeypatch.setattr(task, "process_results", fragile)
    found = score_task(task)
    assert [result.error for result in found if result.error] == ["RuntimeError: boom"]
    assert len(found) == len(DOCS)
