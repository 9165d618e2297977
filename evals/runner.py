"""Runs an evaluation attempt: a task and a folder in; events, rows, a summary and an exit record out.

Rows are appended as answers come, so that an attempt that was killed is resumed by the next one: example ids that are
there, with the same question and prompt, are not run again. At the end the file is rewritten in its canonical form,
whose sha256 is the evidence.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lm_eval.api.instance import Instance

from posttrain.engine.attempt import Events, ShouldStop, run_attempt
from posttrain.engine.checkpoint import disk_errors
from posttrain.engine.errors import CancelledError, ModelError, SpecError
from posttrain.engine.events import ExitRecord, Note, Phase, Progress, write_atomic
from posttrain.engine.models import Loaded, check_unchanged, load, resolve_dtype
from posttrain.engine.spec import EvaluateSpec, canonical_json, sha256_text
from posttrain.engine.task import OUTPUT_FOLDER, EvaluateTask
from posttrain.evals.cache import AnswerCache, AnswerKey
from posttrain.evals.errors import RowsError, SuiteError
from posttrain.evals.lm import Answer, PosttrainLM
from posttrain.evals.loop import build_requests, run_requests
from posttrain.evals.prompts import Prompter, make_prompter
from posttrain.evals.rows import (
    ROWS_FILE,
    EvalRun,
    GenerationInfo,
    RepeatInfo,
    ResultRow,
    RowsHeader,
    SuiteInfo,
    read_partial,
    write_rows,
)
from posttrain.evals.scorers import scorer_digest
from posttrain.evals.suites.load import Suite, load_suite, sample
from posttrain.evals.suites.sources import Example
from posttrain.evals.summary import summarise
from posttrain.evals.tasks import SuiteLmTask, asked

SUMMARY_FILE = "summary.json"
CHUNK_BATCHES = 4  # rows are written every so many batches: generation refills its slots within a chunk
PACKAGES = ("posttrain", "lm_eval", "tokenizers", "torch", "transformers")
PROGRESS_EVERY_S = 1.0


def run_evaluation(task: EvaluateTask, folder: Path) -> ExitRecord:
    """Runs an evaluation in its attempt folder and returns the exit record that it wrote there.

    Raises:
        OSError: not even the exit record could be written; the attempt then counts as interrupted.
    """

    def work(events: Events, should_stop: ShouldStop) -> dict[str, Any]:
        with disk_errors("writing rows"):
            return _Attempt(task, folder, events, should_stop).run()

    return run_attempt(folder, task.attempt, work)


@dataclass
class _Attempt:
    task: EvaluateTask
    folder: Path
    events: Events
    should_stop: ShouldStop
    rows: list[ResultRow] = field(default_factory=list)
    num_cached: int = 0
    num_resumed: int = 0
    num_generated: int = 0
    num_new_tokens: int = 0
    batch_rows: int = 0

    def run(self) -> dict[str, Any]:
        started = time.monotonic()
        spec = self.task.spec
        self._phase("data")
        names = [suite.name for suite in self.task.suites]
        if len(set(names)) < len(names):
            raise SpecError("suites names a suite twice", hint="name each suite once")
        suites = [self._load_suite(suite.name, Path(suite.manifest), suite.digest) for suite in self.task.suites]
        self._phase("loading")
        loaded = load(self.task.model, spec.dtype)
        prompter = make_prompter(self.task, loaded)
        self._phase("evaluating")
        tasks = [lm_task for suite in suites for lm_task in self._tasks(suite, prompter)]
        requests = [instance for lm_task in tasks for instance in build_requests(lm_task)]
        self.batch_rows = _batch_rows(spec, len(requests))
        lm = PosttrainLM(
            loaded,
            name=self.task.model.ref,
            batch_rows=self.batch_rows,
            seed=spec.seed,
            on_progress=self._within_chunk,
            should_stop=self.should_stop,
        )
        owners = {lm_task.task_name: lm_task for lm_task in tasks}
        header = self._header(suites, requests, owners, prompter, loaded)
        output = self.folder / OUTPUT_FOLDER
        output.mkdir(exist_ok=True)
        path = output / ROWS_FILE
        waiting = self._resume(header, requests, owners)
        key = self._answer_key(header)
        with open(path, "wb") as file:
            _append(file, header)
            for row in self.rows:
                _append(file, row)
            waiting = self._take_cached(lm, waiting, owners, key, file)
            self._generate(lm, waiting, owners, key, file)
        check_unchanged(self.task.model)  # weights may be read as they are needed, not only at loading
        self._phase("saving")
        run = EvalRun(header=header, rows=tuple(self.rows))
        digest = write_rows(path, run)
        summary: dict[str, Any] = {
            **summarise(run),
            "evidence_digest": digest,
            "generated": self.num_generated,
            "cached": self.num_cached,
            "resumed": self.num_resumed,
            "new_tokens": self.num_new_tokens,
            "seconds": round(time.monotonic() - started, 3),
        }
        write_atomic(output / SUMMARY_FILE, canonical_json(summary).encode() + b"\n")
        return summary

    # -- before --------------------------------------------------------------------------------------------------------

    def _load_suite(self, name: str, manifest: Path, digest: str) -> Suite:
        suite = load_suite(manifest)
        if suite.name != name or suite.digest != digest:
            raise SuiteError(f"{manifest}: this is {suite.name} {suite.digest[:12]}, not {name} {digest[:12]}")
        return suite

    def _tasks(self, suite: Suite, prompter: Prompter) -> list[SuiteLmTask]:
        """The suite's tasks with the wanted shard's examples and, beside the gate shard's, the unseen ones."""
        spec = self.task.spec
        shards = [spec.shard, "unseen"] if spec.shard == "gate" else [spec.shard]
        tasks = []
        for part in suite.tasks:
            examples: list[Example] = []
            for shard in shards:
                own = [example for example in part.examples if example.shard == shard]
                examples += sample(own, spec.max_rows, spec.seed)
            cap = part.manifest.max_new_tokens
            if examples:
                limit = min(cap, spec.max_new_tokens) if spec.max_new_tokens else cap
                tasks.append(SuiteLmTask(part, examples, prompter, limit))
        if not any(example.shard == spec.shard for lm_task in tasks for example in lm_task.test_docs()):
            raise SuiteError(f"{suite.name} has no rows of the {spec.shard} shard")
        return tasks

    def _header(
        self,
        suites: Sequence[Suite],
        requests: Sequence[Instance],
        owners: dict[str, SuiteLmTask],
        prompter: Prompter,
        loaded: Loaded,
    ) -> RowsHeader:
        spec, model = self.task.spec, self.task.model
        counts = {suite.name: 0 for suite in suites}
        for instance in requests:
            counts[owners[instance.task_name].suite] += 1
        return RowsHeader(
            version=model.ref,
            manifest_digest=model.digest,
            weights_digest=model.weights_digest,
            template=prompter.info,
            shard=spec.shard,
            suites=[
                SuiteInfo(name=suite.name, version=suite.version, digest=suite.digest, num_rows=counts[suite.name])
                for suite in suites
            ],
            scorer_digest=scorer_digest(),
            generation=GenerationInfo(max_new_tokens=spec.max_new_tokens, max_rows=spec.max_rows, seed=spec.seed),
            dtype=str(resolve_dtype(spec.dtype, loaded.model.device)).removeprefix("torch."),
            packages={**_versions(), "python": platform.python_version(), "device": loaded.model.device.type},
            repeat=RepeatInfo(job=self.task.job, batch_rows=self.batch_rows) if spec.repeat else None,
        )

    def _resume(
        self, header: RowsHeader, requests: Sequence[Instance], owners: dict[str, SuiteLmTask]
    ) -> list[Instance]:
        """Takes over what an earlier attempt has done; returns what is left to do."""
        if not self.task.resume_from:
            return list(requests)
        try:
            old, rows, _ = read_partial(Path(self.task.resume_from))
        except RowsError as error:
            self._note(f"the earlier attempt's rows are not used: {error}", "warning")
            return list(requests)
        if old != header:
            if old is not None:
                self._note("the earlier attempt's rows are not used: it ran with other settings or packages", "warning")
            return list(requests)
        done = {row.key: row for row in rows if not row.scorer_error}
        left = []
        for instance in requests:
            row = done.get((owners[instance.task_name].suite, instance.doc.id))
            if (
                row is not None
                and row.prompt_digest == sha256_text(instance.args[0])
                and row.messages_digest == asked(instance.doc)
            ):
                self.rows.append(row)
            else:
                left.append(instance)
        self.num_resumed = len(self.rows)
        self._note(f"{self.num_resumed} of {len(requests)} rows are taken over from the earlier attempt")
        return left

    # -- answers -------------------------------------------------------------------------------------------------------

    def _answer_key(self, header: RowsHeader) -> AnswerKey:
        return AnswerKey(
            manifest_digest=header.manifest_digest,
            template_digest=header.template.digest,
            dtype=header.dtype,
            packages=header.packages,
        )

    def _cache(self) -> AnswerCache | None:
        """None also for a second run: its answers are its own, and nobody else's."""
        return AnswerCache(Path(self.task.cache)) if self.task.cache and not self.task.spec.repeat else None

    def _take_cached(
        self, lm: PosttrainLM, waiting: list[Instance], owners: dict[str, SuiteLmTask], key: AnswerKey, file: BinaryIO
    ) -> list[Instance]:
        cache = self._cache()
        if cache is None:
            return waiting
        left = []
        for instance in waiting:
            found = cache.get(_key_of(key, lm, instance))
            if found is None:
                left.append(instance)
                continue
            instance.resps.append(Answer(found.text, found.stop_reason, found.num_tokens))
            self._keep(instance, owners[instance.task_name], file)
            self.num_cached += 1
        return left

    def _generate(
        self, lm: PosttrainLM, waiting: list[Instance], owners: dict[str, SuiteLmTask], key: AnswerKey, file: BinaryIO
    ) -> None:
        cache = self._cache()
        self._started, self._told = time.monotonic(), 0.0
        self._left, self._before = len(waiting), len(self.rows)
        self._total = len(self.rows) + len(waiting)

        def on_done(chunk: Sequence[Instance]) -> None:
            for instance in chunk:
                answer: Answer = instance.resps[0]
                self._keep(instance, owners[instance.task_name], file)
                self.num_generated += 1
                self.num_new_tokens += answer.num_tokens
                if cache is not None:
                    cache.put(_key_of(key, lm, instance), str(answer), answer.stop_reason, answer.num_tokens)
            self._progress(self.num_generated, force=True)
            if self.should_stop():
                raise CancelledError(f"stopped after {len(self.rows)} of {self._total} rows")

        self._progress(0, force=True)
        run_requests(lm, waiting, chunk_rows=CHUNK_BATCHES * self.batch_rows, on_done=on_done)

    def _keep(self, instance: Instance, owner: SuiteLmTask, file: BinaryIO) -> None:
        row = owner.row(instance.doc, instance.args[0], instance.resps[0])
        self.rows.append(row)
        _append(file, row)

    # -- events --------------------------------------------------------------------------------------------------------

    def _within_chunk(self, done: int, _: int) -> None:
        self._progress(self.num_generated + done)

    def _progress(self, generated: int, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._told < PROGRESS_EVERY_S:
            return
        self._told = now
        eta = (now - self._started) / generated * (self._left - generated) if generated else -1.0
        done = self._before + generated
        self.events(Progress(phase="evaluating", done=done, total=self._total, eta_s=round(eta, 1)))

    def _phase(self, phase: str) -> None:
        if self.should_stop():
            raise CancelledError("stopped before evaluation began")
        self.events(Phase(phase=phase))

    def _note(self, message: str, level: str = "info") -> None:
        self.events(Note.model_validate({"message": message, "level": level}))


def _batch_rows(spec: EvaluateSpec, num_requests: int) -> int:
    """Prompts at a time. A second run takes fewer, and never all at once: other batches round otherwise."""
    return max(1, min(spec.batch_rows, num_requests) * 3 // 5) if spec.repeat else spec.batch_rows


def _key_of(key: AnswerKey, lm: PosttrainLM, instance: Instance) -> str:
    prompt, arguments = instance.args
    settings = lm.settings_of(dict(arguments))
    return key.of(prompt, prompt.ids, vars(settings))


def _append(file: BinaryIO, record: RowsHeader | ResultRow) -> None:
    file.write(canonical_json(record).encode() + b"\n")
    file.flush()


def _versions() -> dict[str, str]:
    """Versions of the packages that take part.

    Raises:
        ModelError: one is not installed.
    """
    try:
        return {name: importlib.metadata.version(name) for name in PACKAGES}
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(f"the package {error} is not installed") from error
