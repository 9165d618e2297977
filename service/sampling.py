"""Talking to a version: a process of its own loads it and answers in JSON lines, so that the server never holds a
model.

The request goes to the process as one JSON object; each line that comes back is an `Answer` or a `Failure`. The
process is ended with the call, whoever ends it, and there are only so many at a time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Annotated, BinaryIO, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from posttrain.engine.errors import EngineError
from posttrain.engine.spec import MIN_TEMPERATURE, Option
from posttrain.engine.task import ModelInput
from posttrain.registry import versions
from posttrain.service import names
from posttrain.service.core import Core
from posttrain.service.errors import BusyError, SamplingError
from posttrain.service.executors.local import worker_environment
from posttrain.service.proto import models_pb2

COMMAND = (sys.executable, "-m", "posttrain.service.worker", "--sample")
MAX_LINE_BYTES = 2**20
DEFAULT_NEW_TOKENS = 256


class Turn(Option):
    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=100_000)]


class Asked(Option):
    turns: list[Turn] = Field(min_length=1, max_length=200)
    max_new_tokens: Annotated[int, Field(ge=1, le=8192)]
    temperature: Annotated[float, Field(ge=0, le=5, allow_inf_nan=False)]
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]

    @field_validator("temperature")
    @classmethod
    def _greedy_or_warm(cls, value: float) -> float:
        if 0 < value < MIN_TEMPERATURE:
            raise ValueError(f"must be 0 (the likeliest token) or at least {MIN_TEMPERATURE}")
        return value


class SampleTask(Option):
    """What the process is handed: versions in the order of their answers."""

    models: list[ModelInput]
    asked: Asked


class Answer(Option):
    type: Literal["answer"] = "answer"
    version: str
    text: str
    stop_reason: str
    num_tokens: int
    seconds: float


class Failure(Option):
    type: Literal["failure"] = "failure"
    code: str
    message: str
    hint: str = ""


_LINE: TypeAdapter[Answer | Failure] = TypeAdapter(Annotated[Answer | Failure, Field(discriminator="type")])


def check_request(request: models_pb2.SampleModelVersionRequest) -> Asked:
    """The conversation and settings of a request.

    Raises:
        InvalidFieldError: names the field.
    """
    plain = {
        "turns": [{"role": turn.role, "content": turn.content} for turn in request.turns],
        "max_new_tokens": request.max_new_tokens or DEFAULT_NEW_TOKENS,
        "temperature": request.temperature,
        "seed": request.seed,
    }
    try:
        asked = Asked.model_validate(plain)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        raise names.invalid(place.lstrip("."), first["msg"]) from error
    if asked.turns[-1].role != "user":
        raise names.invalid("turns", "the last turn is the user's")
    return asked


class Sampler:
    """Runs sampling processes for one server."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._running = 0

    async def answers(
        self, project: str, refs: list[str], asked: Asked
    ) -> AsyncIterator[models_pb2.SampleModelVersionResponse]:
        """One answer per version, as they come.

        Raises:
            BusyError: as many processes as allowed are running.
            SamplingError: the process failed, or took too long.
        """
        settings = self._core.settings
        if self._running >= settings.max_samples:
            raise BusyError(f"{self._running} conversations are running, as many as this server allows")
        self._running += 1
        try:
            models = [await self._core.thread(versions.model_input, self._core.store, project, ref) for ref in refs]
            task = SampleTask(models=models, asked=asked)
            async with asyncio.timeout(settings.sample_timeout_s):
                async for answer in self._run(task):
                    yield answer
        except TimeoutError as error:
            raise SamplingError(f"no answer within {settings.sample_timeout_s:g} seconds") from error
        finally:
            self._running -= 1

    async def _run(self, task: SampleTask) -> AsyncIterator[models_pb2.SampleModelVersionResponse]:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=worker_environment(self._core.settings.threads_per_worker),
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(task.model_dump_json().encode() + b"\n")
            process.stdin.close()
            for _ in task.models:
                try:
                    line = await process.stdout.readline()
                except ValueError as error:
                    raise SamplingError("the answer is too long") from error
                yield _read(line)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _read(line: bytes) -> models_pb2.SampleModelVersionResponse:
    if not line:
        raise SamplingError("the sampling process ended without an answer")
    found = _LINE.validate_json(line)
    if isinstance(found, Failure):
        raise SamplingError(f"{found.code}: {found.message}", found.hint)
    return models_pb2.SampleModelVersionResponse(
        version=found.version,
        text=found.text,
        stop_reason=found.stop_reason,
        num_tokens=found.num_tokens,
        seconds=found.seconds,
    )


# -- in the process ---------------------------------------------------------------------------------------------------


def serve_sample(source: BinaryIO, target: BinaryIO) -> int:
    """Reads one task and writes one line per version; the process's exit code. Imports torch."""
    try:
        for answer in _generate(SampleTask.model_validate_json(source.readline())):
            target.write(answer.model_dump_json().encode() + b"\n")
            target.flush()
    except EngineError as error:
        failure = Failure(code=error.code, message=str(error)[:2000], hint=error.hint)
        target.write(failure.model_dump_json().encode() + b"\n")
        target.flush()
        return 1
    return 0


def _generate(task: SampleTask) -> Iterator[Answer]:
    from posttrain.engine.models import load
    from posttrain.engine.rollout import GenerationSettings, generate
    from posttrain.evals.prompts import ChatPrompter, PlainPrompter
    from posttrain.evals.rows import TemplateInfo

    turns = [{"role": turn.role, "content": turn.content} for turn in task.asked.turns]
    loaded = [load(model) for model in task.models]
    shared = next((one.template for one in loaded if one.template is not None), None)
    for model, one in zip(task.models, loaded, strict=True):
        started = time.monotonic()
        # A base is asked under the template of the version beside it, as an evaluation does; alone, as plain text.
        template = one.template or shared
        prompter: ChatPrompter | PlainPrompter
        if template is None:
            prompter = PlainPrompter(one.tokenizer, one.stop_ids, num_shots=0, has_own=False)
        else:
            info = TemplateInfo(type="own", digest=template.digest, source=model.ref, has_own=one.template is not None)
            special = {k: str(v) for k, v in one.tokenizer.special_tokens_map.items() if isinstance(v, str)}
            prompter = ChatPrompter(one.tokenizer, template, one.stop_ids, info, special)
        stops = prompter.stops(())
        settings = GenerationSettings(
            max_new_tokens=task.asked.max_new_tokens, temperature=task.asked.temperature, seed=task.asked.seed,
            stop_token_ids=stops.token_ids, stop_strings=stops.strings,
        )  # fmt: skip
        prompt = prompter.render(turns, (), ())
        (done,) = generate(one.model, [prompt.ids], settings, decode=one.tokenizer.decode)
        text = one.tokenizer.decode(done.answer_ids, skip_special_tokens=True)
        yield Answer(
            version=model.ref, text=_until(text, stops.strings), stop_reason=done.stop_reason,
            num_tokens=len(done.token_ids), seconds=round(time.monotonic() - started, 3),
        )  # fmt: skip


def _until(text: str, stops: tuple[str, ...]) -> str:
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
