"""The loop around lm-eval's task objects. Ours, because lm-eval's own cannot resume, isolate a scorer or report as it
goes.

It drives any `lm_eval.api.task.Task`: requests of all tasks are taken together, sorted by kind, cap and length, and run
in chunks; a chunk that is done is handed over at once. Nothing is cached by lm-eval, and no default task index is
built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import Task


@dataclass(frozen=True)
class DocResult:
    """One document's metrics under one filter, from lm-eval's own scoring; `error` instead where the scoring raised."""

    task: str
    doc_id: int
    filter: str
    metrics: dict[str, Any]
    error: str = ""


def build_requests(task: Task, lm: LM, *, apply_chat_template: bool = False) -> list[Instance]:
    """The task's requests. `repeats` of a request are separate entries of its `resps`."""
    task.build_all_requests(
        apply_chat_template=apply_chat_template,
        chat_template=lm.apply_chat_template if apply_chat_template else None,
        tokenizer_name=lm.tokenizer_name if apply_chat_template else "",
    )
    return list(task.instances)


def run_requests(
    lm: LM,
    requests: Sequence[Instance],
    *,
    chunk_rows: int,
    on_done: Callable[[Sequence[Instance]], None] | None = None,
) -> None:
    """Runs requests and fills their `resps`; `on_done` gets each chunk when it is done.

    Requests of one kind and cap run together, longest first, so that time estimates err on the long side and memory
    peaks early.
    """
    pending = sorted(requests, key=_order)
    start = 0
    while start < len(pending):
        kind = _kind(pending[start])
        end = start
        while end < len(pending) and end - start < chunk_rows and _kind(pending[end]) == kind:
            end += 1
        chunk = pending[start:end]
        wanted = [instance for instance in chunk for _ in range(instance.repeats or 1)]
        for instance, response in zip(wanted, getattr(lm, kind[0])(wanted), strict=True):
            instance.resps.append(response)
        if on_done is not None:
            on_done(chunk)
        start = end


def _kind(instance: Instance) -> tuple[str, str]:
    """What decides which requests run together: the method of the model and the settings."""
    method = "loglikelihood" if instance.request_type == "multiple_choice" else instance.request_type
    settings = instance.args[1] if method == "generate_until" else {}
    return method, repr(sorted(settings.items()))


def _order(instance: Instance) -> tuple[tuple[str, str], int]:
    prompt = instance.args[0]
    return _kind(instance), -len(getattr(prompt, "ids", prompt))


def score_task(task: Task) -> list[DocResult]:
    """Applies the task's filters and its own scoring to requests that have been run.

    A document whose scoring raises is marked, and the others are scored.
    """
    task.apply_filters()
    docs: dict[int, list[Instance]] = {}
    for instance in task.instances:
        docs.setdefault(instance.doc_id, []).append(instance)
    results = []
    for doc_id, instances in sorted(docs.items()):
        instances.sort(key=lambda instance: instance.idx)
        for name in instances[0].filtered_resps:
            try:
                metrics = task.process_results(
                    instances[0].doc, [instance.filtered_resps[name] for instance in instances]
                )
            except Exception as error:
                # A scorer's failure is that document's result; the others are scored all the same.
                results.append(DocResult(task.task_name, doc_id, name, {}, f"{type(error).__name__}: {error}"))
            else:
                results.append(DocResult(task.task_name, doc_id, name, dict(metrics)))
    return results
