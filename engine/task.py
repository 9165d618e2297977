"""What a worker is handed: a job's spec with every reference resolved to a local path and a digest. Imports no torch.

The service writes it as `assignment.json` into the attempt folder; the worker reads nothing else of the service. An
attempt folder:

    assignment.json   written by the service before the launch
    events.jsonl      appended by the worker (posttrain.engine.events)
    worker.log        standard output and error of the worker
    checkpoints/      step-00000100/ ... (training)
    output/           results: a Hugging Face folder (training) or rows.jsonl and summary.json (evaluation)
    exit.json         the exit record, written last
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from posttrain.engine.data.formats import Format
from posttrain.engine.spec import EvaluateSpec, Option, TrainSpec

ASSIGNMENT_FILE = "assignment.json"
CHECKPOINTS_FOLDER = "checkpoints"
OUTPUT_FOLDER = "output"
LOG_FILE = "worker.log"


class ModelInput(Option):
    """A model on disk: a Hugging Face folder of full weights, and adapters to lay over it, oldest first.

    `digest` is the version's manifest digest; `weights_digest` covers the weight files only, so equal weights have
    equal digests whatever job made them. `files` has the sha256 of every file by its path; a worker hashes them itself.
    """

    ref: str
    path: str
    adapters: list[str] = Field(default_factory=list)
    digest: str
    weights_digest: str
    files: dict[str, str] = Field(default_factory=dict)


class DatasetInput(Option):
    """A sealed dataset file (JSONL, UTF-8), its format as found at sealing, and its share in the mix."""

    ref: str
    path: str
    sha256: str
    format: Format
    weight: float


class SuiteInput(Option):
    """A suite's manifest (NAME.suite.yaml); its sources are files beside it."""

    name: str
    manifest: str
    digest: str


class TrainTask(Option):
    type: Literal["train"] = "train"
    job: str
    attempt: int
    spec_sha256: str = Field(
        default="", description="of the spec as it was accepted; empty: of the spec as it reads now"
    )
    spec: Annotated[TrainSpec, Field(discriminator="kind")]
    base: ModelInput
    datasets: list[DatasetInput]
    held_out: list[DatasetInput] = Field(
        default_factory=list, description="what spec.held_out names, if it names datasets"
    )
    reward_models: list[ModelInput] = Field(
        default_factory=list, description="what the parts of type model in spec.rewards name, in their order"
    )
    reward_modules: list[str] = Field(
        default_factory=list, description="modules whose functions may be parts of rewards, as the server allows them"
    )
    python_tool: bool = Field(
        default=False, description="whether the model may run Python snippets while it answers, as the server allows it"
    )
    cache: str = Field("", description="the folder of encoded rows; empty: they are held in memory")
    resume_from: str = Field(
        "", description="a checkpoint folder, of this job's earlier attempt; empty: start at step 0"
    )


class EvaluateTask(Option):
    type: Literal["evaluate"] = "evaluate"
    job: str
    attempt: int
    spec: EvaluateSpec
    model: ModelInput
    template_from: str = Field(
        "", description="the folder whose chat template renders the prompts; empty: the model's own, or plain"
    )
    suites: list[SuiteInput]
    cache: str = Field("", description="the folder of cached answers; empty: no cache")
    resume_from: str = Field(
        "", description="rows of an earlier attempt of this job; rows that are there are not run again"
    )


Task = Annotated[TrainTask | EvaluateTask, Field(discriminator="type")]
TASK: TypeAdapter[TrainTask | EvaluateTask] = TypeAdapter(Task)


def read_assignment(folder: Path) -> TrainTask | EvaluateTask:
    """The assignment in an attempt folder.

    Raises:
        FileNotFoundError: there is none.
        pydantic.ValidationError: it was written by another version of this package.
    """
    return TASK.validate_json((folder / ASSIGNMENT_FILE).read_bytes())
