"""The loop around lm-eval's task objects. Ours, because lm-eval's own cannot resume, isolate a scorer or report as it
goes.

It drives any `lm_eval.api.task.Task`: requests of all tasks are taken together, sorted by kind, cap and length, and run
in chunks; a chunk that is done is handed over at once. Nothing is cached by lm-eval, and no default task index is
built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import Task


def build_requests(task: Task) -> list[Instance]:
    """The task's requests. `repeats` of a request are separate entries of its `resps`."""
    task.build_all_requests()
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
