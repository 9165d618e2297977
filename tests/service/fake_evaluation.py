"""Evaluation without a model: a version with a template answers right, a base wrong, unless HOME/fake_scores.json
says more.

HOME/hold names a version whose evaluation waits until the file is gone.
"""

import json
import time
from pathlib import Path

from posttrain.engine.events import EventWriter, ExitRecord, Phase, Progress
from posttrain.engine.spec import OwnEvalTemplate, VersionEvalTemplate, sha256_text
from posttrain.engine.task import OUTPUT_FOLDER, EvaluateTask
from posttrain.evals.rows import (
    ROWS_FILE,
    EvalRun,
    GenerationInfo,
    RepeatInfo,
    ResultRow,
    RowsHeader,
    SuiteInfo,
    TemplateInfo,
    messages_digest,
    write_rows,
)
from posttrain.evals.scorers import scorer_digest
from posttrain.evals.suites import load_suite


def evaluate(task: EvaluateTask, folder: Path, events: EventWriter) -> ExitRecord:
    home = folder.parents[3]
    control = home / "fake_scores.json"
    scores = json.loads(control.read_text()) if control.exists() else {}
    own = Path(task.model.path) / "chat_template.jinja"
    share = scores.get(task.model.ref, 1.0 if own.exists() else 0.0)
    if task.spec.repeat:
        share = scores.get(f"{task.model.ref} again", share)
    time.sleep(scores.get("delay", 0))
    hold = home / "hold"
    while hold.exists() and hold.read_text() == task.model.ref:
        time.sleep(0.05)
    if share == "fail":
        return ExitRecord(status="failed", attempt=task.attempt, code="BAD_MODEL", message="as the test says")
    events.write(Phase(phase="evaluating"))
    rows, infos = [], []
    for given in task.suites:
        suite = load_suite(given.manifest, environment={})
        examples = [e for one in suite.tasks for e in one.examples if e.shard in (task.spec.shard, "unseen")]
        infos.append(SuiteInfo(name=suite.name, version=suite.version, digest=suite.digest, num_rows=len(examples)))
        for number, example in enumerate(examples):
            rows.append(
                ResultRow(
                    example_id=example.id, suite=suite.name, task=suite.tasks[0].name, metric=example.metric,
                    shard=example.shard, wording_id=example.wording_id, cluster_id=example.cluster_id,
                    messages_digest=messages_digest(example.messages), prompt_digest=sha256_text(example.id),
                    score=float(number < share * len(examples)), answer="4", stop_reason="stop", num_tokens=1,
                )
            )  # fmt: skip
    events.write(Progress(phase="evaluating", done=len(rows), total=len(rows), eta_s=0.0))
    template = task.spec.template
    if isinstance(template, OwnEvalTemplate):
        text, source = own.read_text(), task.model.ref
    elif isinstance(template, VersionEvalTemplate):
        text, source = (Path(task.template_from) / "chat_template.jinja").read_text(), template.version
    else:
        text, source = "plain", ""
    header = RowsHeader(
        version=task.model.ref, manifest_digest=task.model.digest, weights_digest=task.model.weights_digest,
        template=TemplateInfo(type=template.type, digest=sha256_text(text), source=source, has_own=own.exists()),
        shard=task.spec.shard, suites=infos, scorer_digest=scorer_digest(),
        generation=GenerationInfo(max_new_tokens=0, max_rows=0, seed=0), dtype="float32", packages={"fake": "1"},
        repeat=RepeatInfo(job=task.job, batch_rows=7) if task.spec.repeat else None,
    )  # fmt: skip
    (folder / OUTPUT_FOLDER).mkdir(exist_ok=True)
    write_rows(folder / OUTPUT_FOLDER / ROWS_FILE, EvalRun(header=header, rows=tuple(rows)))
    return ExitRecord(status="succeeded", attempt=task.attempt, output=OUTPUT_FOLDER, time=time.time())
