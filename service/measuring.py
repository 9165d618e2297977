"""Measuring a sealed dataset with a model's tokenizer and template, in a process of its own: the server loads neither
transformers nor torch.

The process gets one TrainTask as JSON on standard input and writes one `Measured` or `Failure`:

    python -m posttrain.service.measuring
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import Field, TypeAdapter

from posttrain.engine.data.statistics import Statistics
from posttrain.engine.errors import EngineError
from posttrain.engine.spec import Option, parse_spec
from posttrain.engine.task import TrainTask
from posttrain.registry import datasets, versions
from posttrain.service.core import Core
from posttrain.service.errors import BusyError, MeasuringError
from posttrain.service.executors.local import worker_environment
from posttrain.service.proto import datasets_pb2
from posttrain.service.sampling import Failure

COMMAND = (sys.executable, "-m", "posttrain.service.measuring")
MAX_CONTEXT = 2**31 - 1


class Measured(Option):
    type: Literal["measured"] = "measured"
    num_characters: int
    statistics: Statistics


_LINE: TypeAdapter[Measured | Failure] = TypeAdapter(Annotated[Measured | Failure, Field(discriminator="type")])


class Measurer:
    """Runs measuring processes for one server; as many at a time as conversations."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._running = 0

    async def measure(
        self, project: str, dataset: str, model: str, template: str, max_tokens: int
    ) -> datasets_pb2.DatasetStatistics:
        """Statistics of a sealed dataset.

        Args:
            template: a built-in template's name; empty: the model's own.
            max_tokens: longest row; 0: the model's context.

        Raises:
            BadRefError, NotFoundError, InvalidArgumentError: no such version, or it is not sealed.
            pydantic.ValidationError: an unknown template.
            BusyError: as many processes as allowed are running.
            MeasuringError: the process failed, or took too long; says why.
        """
        settings = self._core.settings
        if self._running >= settings.max_samples:
            raise BusyError(f"{self._running} datasets are being measured, as many as this server allows")
        self._running += 1
        try:
            task = await self._core.thread(self._task, project, dataset, model, template, max_tokens)
            async with asyncio.timeout(settings.sample_timeout_s):
                found = await self._run(task)
        except TimeoutError as error:
            raise MeasuringError(f"not measured within {settings.sample_timeout_s:g} seconds") from error
        finally:
            self._running -= 1
        return datasets_pb2.DatasetStatistics(
            dataset=task.datasets[0].ref,
            model=task.base.ref,
            num_characters=found.num_characters,
            **asdict(found.statistics),
        )

    def _task(self, project: str, dataset: str, model: str, template: str, max_tokens: int) -> TrainTask:
        """What a job of the kind that reads this dataset would be handed, before it starts."""
        rows = datasets.dataset_input(self._core.store, project, dataset, 1.0)
        base = versions.model_input(self._core.store, project, model)
        kind: dict[str, Any] = {"kind": "ift" if template else "sft"}
        if rows.format in ("preference", "unpaired"):
            kind = {"kind": "dpo", "loss": {"type": "kto" if rows.format == "unpaired" else "sigmoid"}}
        elif rows.format == "prompts":
            kind = {"kind": "grpo"}
        spec = parse_spec(
            {
                **kind,
                "base": base.ref,
                "output": "none",
                "data": [{"dataset": rows.ref}],
                "template": {"type": "builtin", "name": template} if template else {"type": "own"},
                "batch": {"max_tokens": max_tokens or MAX_CONTEXT},
            }
        )
        return TrainTask.model_validate({"job": "", "attempt": 0, "spec": spec, "base": base, "datasets": [rows]})

    async def _run(self, task: TrainTask) -> Measured:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=worker_environment(self._core.settings.threads_per_worker),
            start_new_session=True,
        )
        try:
            line, _ = await process.communicate(task.model_dump_json().encode() + b"\n")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if not line:
            raise MeasuringError("the measuring process ended without an answer")
        found = _LINE.validate_json(line)
        if isinstance(found, Failure):
            raise MeasuringError(f"{found.code}: {found.message}", found.hint)
        return found


# -- in the process ---------------------------------------------------------------------------------------------------


def serve_measuring(source: BinaryIO, target: BinaryIO) -> int:
    """Reads one task and writes one line; the process's exit code. Imports torch."""
    answer: Measured | Failure
    try:
        from posttrain.engine.measure import measure

        found, num_characters = measure(TrainTask.model_validate_json(source.readline()))
        answer = Measured(num_characters=num_characters, statistics=found)
    except EngineError as error:
        answer = Failure(code=error.code, message=str(error)[:2000], hint=error.hint)
    target.write(answer.model_dump_json().encode() + b"\n")
    target.flush()
    return 1 if isinstance(answer, Failure) else 0


if __name__ == "__main__":
    raise SystemExit(serve_measuring(sys.stdin.buffer, sys.stdout.buffer))
