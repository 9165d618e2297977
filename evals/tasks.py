"""A suite's task as an lm-eval task object: it can be run by this package's loop, by `lm_eval.evaluate`, or by anything
else that takes one. Documents are the suite's examples, in memory: no dataset builder and no cache of prompts between
them and the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task
from lm_eval.config.task import TaskConfig
from lm_eval.filters import build_filter_ensemble

from posttrain.engine.spec import sha256_text
from posttrain.evals.lm import Answer
from posttrain.evals.prompts import Prompter, RenderedPrompt
from posttrain.evals.rows import ResultRow, messages_digest
from posttrain.evals.scorers import Scored, score
from posttrain.evals.suites.load import SuiteTask
from posttrain.evals.suites.sources import Example


class SuiteLmTask(Task):  # type: ignore[misc]  # lm-eval has no types
    """Generates one answer per example and scores it."""

    VERSION = 1
    OUTPUT_TYPE = "generate_until"

    def __init__(self, task: SuiteTask, examples: Sequence[Example], prompter: Prompter, max_new_tokens: int) -> None:
        self.suite = task.suite
        self.task_manifest = task.manifest
        self._examples = list(examples)
        self._prompter = prompter
        self._stops = prompter.stops(task.manifest.shots)
        self.max_new_tokens = max_new_tokens
        # Without Task.__init__, as ConfigurableTask does: it puts a whole config into the field `task`.
        self._config = TaskConfig(
            task=f"{task.suite}/{task.name}",
            output_type=self.OUTPUT_TYPE,
            num_fewshot=0,
            repeats=1,
            generation_kwargs=self._arguments(),
        )
        self._instances: list[Instance] | None = None
        self._filters = [build_filter_ensemble("none", [["take_first", None]])]

    def download(self, data_dir: Any = None, cache_dir: Any = None, download_mode: Any = None) -> None:
        """Nothing to fetch: the examples are here."""

    def has_training_docs(self) -> bool:
        return False

    def has_validation_docs(self) -> bool:
        return False

    def has_test_docs(self) -> bool:
        return True

    def test_docs(self) -> list[Example]:
        return self._examples

    def doc_to_text(self, doc: Example) -> str:
        return self._prompter.render(doc.messages, doc.tools, self.task_manifest.shots)

    def doc_to_target(self, doc: Example) -> str:
        return str(doc.target)

    def fewshot_context(self, doc: Example, num_fewshot: int = 0, **_: Any) -> str:
        """The whole prompt; the template is the prompter's business, not the harness's."""
        return self.doc_to_text(doc)

    def construct_requests(self, doc: Example, ctx: str, **options: Any) -> Instance:
        return Instance(
            request_type=self.OUTPUT_TYPE,
            doc=doc,
            arguments=(ctx, self._arguments()),
            idx=0,
            metadata=options["metadata"],
        )

    def _arguments(self) -> dict[str, Any]:
        return {
            "until": list(self._stops.strings),
            "stop_token_ids": list(self._stops.token_ids),
            "max_gen_toks": self.max_new_tokens,
            "do_sample": False,
        }

    def judge(self, doc: Example, answer: str) -> Scored:
        """Scores an answer; never raises."""
        return score(self.task_manifest.scorer_name, answer, doc.checker, doc.target)

    def process_results(self, doc: Example, results: Sequence[str]) -> dict[str, float]:
        return {doc.metric: self.judge(doc, str(results[0])).score}

    def aggregation(self) -> dict[str, Callable[..., float]]:
        return dict.fromkeys(self._metrics(), mean)

    def higher_is_better(self) -> dict[str, bool]:
        return dict.fromkeys(self._metrics(), True)

    def _metrics(self) -> list[str]:
        return sorted({example.metric for example in self._examples})

    def row(self, doc: Example, prompt: RenderedPrompt, answer: Answer) -> ResultRow:
        """Scores one answer into a row. A prompt that left no room in the context is wrong, and says so."""
        text = answer.encode("utf-8", "replace").decode()
        if self._prompter.info.type == "plain":
            text = text.strip()  # the space after "Answer:" is the prompt's, not the answer's
        if answer.stop_reason == "context" and not answer.num_tokens:
            scored = Scored(0.0, f"the prompt's {len(prompt.ids)} tokens leave no room in the model's context")
        else:
            scored = self.judge(doc, text)
        return ResultRow(
            example_id=doc.id,
            suite=self.suite,
            task=self.task_manifest.name,
            metric=doc.metric,
            shard=doc.shard,
            wording_id=doc.wording_id,
            cluster_id=doc.cluster_id,
            messages_digest=asked(doc),
            prompt_digest=sha256_text(prompt),
            score=scored.score,
            reason=scored.reason,
            scorer_error=scored.error,
            answer=text,
            stop_reason=answer.stop_reason,
            num_tokens=answer.num_tokens,
        )


def asked(doc: Example) -> str:
    """The digest of what an example asks, however it is rendered."""
    return messages_digest(doc.messages, doc.tools)
