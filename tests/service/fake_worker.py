"""A worker whose engine is scripted by the job's display name; all else is the real worker.

steps=20 delay=0.05 every=5      training steps, seconds for each, steps between checkpoints
fail=CODE, die=STEP, hang=STEP   ends badly: an exit record, a kill at that step (in attempt 1), or no end at all
stubborn                         does not listen to SIGTERM
"""

import json
import os
import shutil
import signal
import time
from pathlib import Path

from posttrain.engine.errors import CancelledError
from posttrain.engine.events import (
    EVENTS_FILE,
    CheckpointSaved,
    EventWriter,
    ExitRecord,
    HeldOutMetrics,
    Phase,
    Resumed,
    StepMetrics,
    write_atomic,
)
from posttrain.engine.task import CHECKPOINTS_FOLDER, OUTPUT_FOLDER, EvaluateTask, TrainTask
from posttrain.service import worker


def script_of(task: TrainTask | EvaluateTask) -> dict[str, str]:
    words = [word.partition("=") for word in task.spec.display_name.split()]
    return {name: value for name, _, value in words}


def run(task: TrainTask | EvaluateTask, folder: Path) -> ExitRecord:
    script = script_of(task)
    if "stubborn" in script:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "importerror" in script:
        import no_such_engine  # noqa: F401  # type: ignore[import-not-found]
    if "mute" in script:
        time.sleep(float(script["mute"] or 0))
        os.kill(os.getpid(), signal.SIGKILL)
    with EventWriter(folder / EVENTS_FILE, task.attempt) as events:
        if isinstance(task, EvaluateTask):
            from fake_evaluation import evaluate

            return evaluate(task, folder, events)
        return train(task, folder, events, script)


def train(task: TrainTask, folder: Path, events: EventWriter, script: dict[str, str]) -> ExitRecord:
    for number in range(int(script.get("print", 0))):
        print(f"line {number}", flush=True)  # noqa: T201 - to the attempt's log
    events.write(Phase(phase="training"))
    total, first = int(script.get("steps", 3)), 0
    if task.resume_from:
        first = int(Path(task.resume_from).name.removeprefix("step-"))
        events.write(Resumed(step=first, path=task.resume_from))
    for step in range(first + 1, total + 1):
        time.sleep(float(script.get("delay", 0)))
        events.write(StepMetrics(step=step, total_steps=total, values={"loss": 1 / step, "tokens_per_s": 100.0}))
        if step % int(script.get("heldout", total + 1)) == 0:
            values = {"held_out_loss": 2 / step}
            events.write(HeldOutMetrics(step=step, total_steps=total, values=values, num_rows=3, is_best=True))
        if step % int(script.get("every", 5)) == 0:
            save(folder / CHECKPOINTS_FOLDER / f"step-{step:08d}", step, task)
            events.write(CheckpointSaved(step=step, path=f"checkpoints/step-{step:08d}"))
        if str(step) == script.get("die") and (task.attempt == 1 or "always" in script):
            os.kill(os.getpid(), signal.SIGKILL)
        if "dienext" in script and step == first + int(script["dienext"]) < total:
            os.kill(os.getpid(), signal.SIGKILL)
        if str(step) == script.get("hang") and task.attempt == 1:
            time.sleep(600)
    if "fail" in script:
        return ExitRecord(status="failed", attempt=task.attempt, code=script["fail"], message="as the script says")
    output = folder / OUTPUT_FOLDER
    shutil.copytree(task.base.path, output, copy_function=shutil.copyfile)
    output.chmod(0o755)
    from safetensors.numpy import load_file, save_file

    tensors = {
        name: value + 0.001 * (task.spec.seed + 1) for name, value in load_file(output / "model.safetensors").items()
    }
    (output / "model.safetensors").unlink()
    save_file(tensors, output / "model.safetensors", {"format": "pt"})
    (output / "chat_template.jinja").write_text("{{ messages }}")
    summary = {"loss": 1 / total, "steps": total, "tokens": 10 * total}
    return ExitRecord(status="succeeded", attempt=task.attempt, output=OUTPUT_FOLDER, summary=summary, time=time.time())


def save(folder: Path, step: int, task: TrainTask) -> None:
    from posttrain.engine.checkpoint import FORMAT_VERSION
    from posttrain.engine.spec import spec_digest

    temporary = folder.with_name(f".{folder.name}.tmp")
    temporary.mkdir(parents=True)
    (temporary / "state.json").write_text("{}")
    manifest = {"format": FORMAT_VERSION, "step": step, "spec_digest": spec_digest(task.spec), "files": {}}
    write_atomic(temporary / "manifest.json", json.dumps(manifest).encode())
    temporary.rename(folder)


if __name__ == "__main__":
    worker._run, worker.preload = run, lambda: None
    try:
        raise SystemExit(worker.main())
    except CancelledError:
        raise SystemExit(1) from None
