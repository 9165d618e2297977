"""What a worker is handed, and what is taken from it: from a job to `assignment.json`, and from `output/` into the
store.
"""

from __future__ import annotations

import json
from pathlib import Path

from posttrain.engine.events import ExitRecord, write_atomic
from posttrain.engine.spec import (
    EvaluateSpec,
    HeldOutData,
    TrainSpec,
    VersionEvalTemplate,
    parse_spec,
    reward_models_of,
)
from posttrain.engine.task import ASSIGNMENT_FILE, OUTPUT_FOLDER, EvaluateTask, TrainTask, read_assignment
from posttrain.evals.rows import ROWS_FILE
from posttrain.registry import datasets, suites, versions
from posttrain.registry.artifacts import full_disk_named
from posttrain.registry.evaluations import record_eval_run
from posttrain.registry.tables import JobRecord
from posttrain.service.core import Core

CACHE_FOLDER = "answers"
TOKENS_FOLDER = "tokens"


def prepare(core: Core, job: JobRecord, folder: Path) -> None:
    """Writes the assignment of a job's attempt; every byte that it refers to is hashed again on the way.

    Raises:
        TamperedError, NotFoundError, DiskFullError: the job cannot be run.
    """
    spec = parse_spec(json.loads(job.spec_json))
    task = _evaluate_task(core, job, spec) if isinstance(spec, EvaluateSpec) else _train_task(core, job, spec)
    with full_disk_named("writing the assignment"):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / ASSIGNMENT_FILE, task.model_dump_json(indent=1).encode())


def _train_task(core: Core, job: JobRecord, spec: TrainSpec) -> TrainTask:
    store = core.store
    held_out = spec.held_out.datasets if isinstance(spec.held_out, HeldOutData) else []
    return TrainTask(
        job=job.id,
        attempt=job.attempt,
        spec_sha256=job.spec_sha256,
        spec=spec,
        base=versions.model_input(store, job.project, spec.base),
        datasets=[datasets.dataset_input(store, job.project, item.dataset, item.weight) for item in spec.data],
        held_out=[datasets.dataset_input(store, job.project, ref, 1.0) for ref in held_out],
        reward_models=[versions.model_input(store, job.project, ref) for ref in reward_models_of(spec)],
        reward_modules=list(core.settings.reward_modules),
        python_tool=core.settings.python_tool,
        cache=str(core.home / TOKENS_FOLDER),
        resume_from=job.resume_from,
    )


def _evaluate_task(core: Core, job: JobRecord, spec: EvaluateSpec) -> EvaluateTask:
    store, template = core.store, spec.template
    folder = ""
    if isinstance(template, VersionEvalTemplate):
        source = versions.model_input(store, job.project, template.version)
        folder = source.adapters[-1] if source.adapters else source.path
    return EvaluateTask(
        job=job.id,
        attempt=job.attempt,
        spec=spec,
        model=versions.model_input(store, job.project, spec.version),
        template_from=folder,
        suites=[suites.suite_input(store, job.project, name) for name in spec.suites],
        cache=str(core.home / CACHE_FOLDER),
        resume_from=job.resume_from,
    )


def store_results(core: Core, job: JobRecord, folder: Path, record: ExitRecord) -> None:
    """Keeps what a succeeded attempt made, before the job counts as succeeded; once per job.

    An evaluation's rows become an evaluation run. A training's output is registered by its chain.

    Raises:
        RowsError, InvalidArgumentError, DiskFullError: the results cannot be kept.
    """
    if job.kind != "evaluate":
        return
    task = read_assignment(folder)
    assert isinstance(task, EvaluateTask)
    record_eval_run(core.store, job.project, task, folder / (record.output or OUTPUT_FOLDER) / ROWS_FILE)
