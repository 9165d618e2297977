"""All tables, one metadata. The schema is made by `migrations/`; a test compares the two.

Times are seconds since the epoch (UTC), 0.0 meaning "not yet". `""` means "none" except in foreign keys, which are NULL
then. What must never change is refused by triggers (`triggers.py`): versions, files, edges, evidence, promotions, alias
moves and the audit are insert-only; a sealed dataset is closed; an alias follows a recorded move.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, MetaData, UniqueConstraint
from sqlmodel import Field, SQLModel

NAMING = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
}

AUTOINCREMENT = {"sqlite_autoincrement": True}  # a number is never reused, even after the newest row is gone


class Table(SQLModel):
    """Base of all tables of this package; its metadata is this package's own."""

    metadata: ClassVar[MetaData] = MetaData(naming_convention=NAMING)


# -- jobs -------------------------------------------------------------------------------------------------------------


class JobRecord(Table, table=True):
    """A job as it is now. `version` counts its state changes: the compare-and-swap counter and the etag."""

    __tablename__ = "jobs"
    __table_args__ = (AUTOINCREMENT,)

    seq: int | None = Field(default=None, primary_key=True)  # order of creation
    id: str = Field(unique=True)
    project: str = Field(index=True)
    kind: str
    spec_json: str  # canonical, defaults included
    spec_sha256: str
    display_name: str = ""
    parent_job: str | None = Field(default=None, foreign_key="jobs.id")
    state: str = Field(index=True)  # a name of the protocol's JobState
    version: int = 1
    attempt: int = 0
    termination_reason: str = ""
    error: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)  # code, message, hint, retryable
    progress: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)  # phase, done, total, eta_s, values
    cancel_requested: bool = False
    resume_from: str = ""  # a checkpoint folder
    created: float
    updated: float
    started: float = 0.0
    ended: float = 0.0


class JobEventRecord(Table, table=True):
    """A state change or a worker's event. `id` orders all jobs' events, `sequence` one job's. Insert-only."""

    __tablename__ = "job_events"
    __table_args__ = (
        UniqueConstraint("job", "sequence"),
        UniqueConstraint("job", "transition_id"),
        AUTOINCREMENT,
    )

    id: int | None = Field(default=None, primary_key=True)
    job: str = Field(foreign_key="jobs.id")
    project: str
    sequence: int
    transition_id: str  # the same one again is the same event; a worker's: "worker:ATTEMPT:SEQ"
    attempt: int
    type: str = Field(index=True)  # "state", or the type of a worker's event
    from_state: str = ""
    to_state: str = ""
    message: str = ""
    body: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    time: float


class AttemptRecord(Table, table=True):
    """One run of a job by one worker process. `events_offset` is how far its events file was read."""

    __tablename__ = "attempts"

    job: str = Field(primary_key=True, foreign_key="jobs.id")
    number: int = Field(primary_key=True)
    state: str = "STARTING"  # STARTING, RUNNING, ENDED
    pid: int = 0
    process_start_time: float = 0.0
    folder: str
    events_offset: int = Field(default=0, sa_type=BigInteger)
    exit: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    created: float
    started: float = 0.0
    ended: float = 0.0


class ChainRecord(Table, table=True):
    """What the server still has to do after a training job. `step` is a name of the protocol's ChainStep."""

    __tablename__ = "chains"

    job: str = Field(primary_key=True, foreign_key="jobs.id")
    project: str
    step: str = Field(default="TRAIN", index=True)
    message: str = ""
    version: int = 1  # compare-and-swap counter
    model_version: str = ""  # NAME@NUMBER, once registered
    eval_jobs: dict[str, str] = Field(default_factory=dict, sa_type=JSON)  # side -> job
    eval_runs: list[str] = Field(default_factory=list, sa_type=JSON)
    gate_run: str = ""
    promotion: str = ""
    created: float
    updated: float


# -- data -------------------------------------------------------------------------------------------------------------


class DatasetVersionRecord(Table, table=True):
    """A dataset's version: unsealed after the upload, closed for ever when sealed."""

    __tablename__ = "dataset_versions"
    __table_args__ = (UniqueConstraint("project", "name", "number"), AUTOINCREMENT)

    id: int | None = Field(default=None, primary_key=True)
    project: str
    name: str
    number: int
    sealed: bool = False
    format: str = ""
    num_rows: int = 0
    num_bytes: int = Field(sa_type=BigInteger)
    sha256: str
    notes: list[str] = Field(default_factory=list, sa_type=JSON)
    source: str = ""
    created: float
    sealed_time: float = 0.0
    # What sealing left out: uploaded_sha256, num_skipped, skipped, num_duplicates, seed, held_out, held_out_of.
    sealing: dict[str, Any] = Field(default_factory=dict, sa_type=JSON, sa_column_kwargs={"server_default": "{}"})

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.number}"


# -- models -----------------------------------------------------------------------------------------------------------


class ModelRecord(Table, table=True):
    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("project", "name"), AUTOINCREMENT)

    id: int | None = Field(default=None, primary_key=True)
    project: str
    name: str
    created: float


class VersionRecord(Table, table=True):
    """A model's version. Insert-only. `digest` is the sha256 of `manifest_json`; the columns repeat it for queries."""

    __tablename__ = "model_versions"
    __table_args__ = (
        UniqueConstraint("project", "model", "number"),
        UniqueConstraint("project", "model", "digest"),
        AUTOINCREMENT,
    )

    id: int | None = Field(default=None, primary_key=True)
    project: str
    model: str
    number: int
    role: str  # base, instruct, reward
    form: str  # full, adapter, merged, quantized
    digest: str
    weights_digest: str
    template_digest: str = ""
    parent: int | None = Field(default=None, foreign_key="model_versions.id")
    parent_digest: str = ""
    relation: str = ""  # finetune, adapter, merge, quantized; empty for an import
    job: str | None = Field(default=None, foreign_key="jobs.id", unique=True)
    spec_sha256: str = ""
    manifest_json: str
    architecture: str = ""
    num_parameters: int = Field(default=0, sa_type=BigInteger)
    source: str = ""
    created: float

    @property
    def ref(self) -> str:
        return f"{self.model}@{self.number}"


class VersionFileRecord(Table, table=True):
    __tablename__ = "version_files"

    version: int = Field(primary_key=True, foreign_key="model_versions.id")
    path: str = Field(primary_key=True)
    sha256: str = Field(index=True)
    num_bytes: int = Field(sa_type=BigInteger)


class EdgeRecord(Table, table=True):
    """Lineage. `parent` is a model version's ref (of a reward model: rewarded_by), a dataset's (trained_on) or a
    suite's NAME@VERSION (evaluated_on)."""

    __tablename__ = "lineage"
    __table_args__ = (UniqueConstraint("project", "parent", "child", "kind"), AUTOINCREMENT)

    id: int | None = Field(default=None, primary_key=True)
    project: str
    parent: str = Field(index=True)
    child: str = Field(index=True)
    kind: str
    digest: str  # of the parent


class AliasRecord(Table, table=True):
    """Where an alias points now. A trigger lets it change only to the target of a newer recorded move."""

    __tablename__ = "aliases"

    project: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    alias: str = Field(primary_key=True)
    version: int = Field(foreign_key="model_versions.id")
    move: int = Field(foreign_key="alias_moves.id")
    etag: str
    promotion: str = ""  # empty after a rollback
    updated: float


class AliasMoveRecord(Table, table=True):
    __tablename__ = "alias_moves"
    __table_args__ = (AUTOINCREMENT,)

    id: int | None = Field(default=None, primary_key=True)
    project: str
    model: str
    alias: str
    from_version: int | None = Field(default=None, foreign_key="model_versions.id")
    to_version: int = Field(foreign_key="model_versions.id")
    kind: str  # promotion, rollback
    promotion: str | None = Field(default=None, foreign_key="promotions.id", unique=True)
    reason: str = ""
    actor: str = ""
    time: float


# -- evidence ---------------------------------------------------------------------------------------------------------


class SuiteRecord(Table, table=True):
    """A suite's version: the manifest and its sources, each a blob. The same version with other content is refused."""

    __tablename__ = "suites"
    __table_args__ = (UniqueConstraint("project", "name", "version"), AUTOINCREMENT)

    id: int | None = Field(default=None, primary_key=True)
    project: str
    name: str
    version: str
    digest: str
    description: str = ""
    metrics: list[str] = Field(default_factory=list, sa_type=JSON)
    num_rows: int = 0
    source: str = "added"  # builtin: the package ships it; added: somebody copied it into the store
    manifest: str  # path of the manifest among the files
    files: dict[str, str] = Field(default_factory=dict, sa_type=JSON)  # path -> sha256
    created: float


class EvalRunRecord(Table, table=True):
    """Stored rows of one evaluation of one version; one per job."""

    __tablename__ = "eval_runs"
    __table_args__ = (AUTOINCREMENT,)

    seq: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    project: str = Field(index=True)
    job: str = Field(foreign_key="jobs.id", unique=True)
    version: int = Field(foreign_key="model_versions.id", index=True)
    version_digest: str
    suites: dict[str, str] = Field(default_factory=dict, sa_type=JSON)  # name -> digest
    template: str  # own, version:REF, plain
    template_digest: str
    shard: str
    rows_digest: str
    num_rows: int
    scores: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON)
    # A second run for a noise floor: evidence of nothing else.
    repeat: bool = Field(default=False, sa_column_kwargs={"server_default": "0"})
    created: float


class PolicyRecord(Table, table=True):
    """A policy's text as it was used; the digest is the policy's own."""

    __tablename__ = "policies"

    project: str = Field(primary_key=True)
    digest: str = Field(primary_key=True)
    name: str
    text: str
    created: float


class GateRunRecord(Table, table=True):
    """A verdict over stored rows. One per input digest: the same inputs give the same gate run."""

    __tablename__ = "gate_runs"
    __table_args__ = (UniqueConstraint("project", "input_digest"), AUTOINCREMENT)

    seq: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    project: str = Field(index=True)
    input_digest: str
    version: int = Field(foreign_key="model_versions.id", index=True)
    version_digest: str
    alias: str
    policy: str
    policy_digest: str
    candidate_run: str = Field(foreign_key="eval_runs.id")
    baselines: list[dict[str, str]] = Field(default_factory=list, sa_type=JSON)  # name, ref, digest, eval_run
    verdict: str
    improved: bool = False
    report_json: str
    report_digest: str
    # Which of the lineage's attempts at the shard it is (attempts.py); 0: the policy has no budget.
    attempt: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    repeat_run: str | None = None  # an evaluation: the second run of a noise floor
    created: float


class ShardLookRecord(Table, table=True):
    """An attempt of a lineage at a shard's questions: rows that were recorded, or one more verdict over them.

    `numbers` counts, suite by suite, the lineage's attempts at questions that the suite shares; see attempts.py.
    """

    __tablename__ = "shard_looks"
    __table_args__ = (AUTOINCREMENT,)

    id: int | None = Field(default=None, primary_key=True)
    project: str
    version: int = Field(foreign_key="model_versions.id", index=True)
    shard: str
    suites: dict[str, str] = Field(default_factory=dict, sa_type=JSON)  # name -> digest
    numbers: dict[str, int] = Field(default_factory=dict, sa_type=JSON)  # name -> from 1
    rows_digest: str = Field(index=True)
    eval_run: str = Field(foreign_key="eval_runs.id")
    gate_run: str | None = Field(default=None, foreign_key="gate_runs.id")  # NULL: drawn when the rows were recorded
    created: float


class PromotionRecord(Table, table=True):
    """A request to move an alias and its outcome, refused ones included."""

    __tablename__ = "promotions"
    __table_args__ = (AUTOINCREMENT,)

    seq: int | None = Field(default=None, primary_key=True)
    id: str = Field(unique=True)
    project: str = Field(index=True)
    model: str
    alias: str
    version: int = Field(foreign_key="model_versions.id")
    version_digest: str
    gate_run: str | None = Field(default=None, foreign_key="gate_runs.id")
    outcome: str  # APPLIED, REFUSED
    missing: list[dict[str, str]] = Field(default_factory=list, sa_type=JSON)  # fields of errors.Unmet
    improved: bool = False
    from_version: int | None = Field(default=None, foreign_key="model_versions.id")
    reason: str = ""
    job: str | None = Field(default=None, foreign_key="jobs.id", unique=True)
    actor: str = ""
    created: float


# -- bookkeeping ------------------------------------------------------------------------------------------------------


class AuditRecord(Table, table=True):
    """Who did what. Each row holds the digest of the row before; `id` is also the order for a later notifier."""

    __tablename__ = "audit"

    id: int = Field(primary_key=True)
    project: str
    time: float
    actor: str
    action: str
    target: str
    body: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    previous: str
    sha256: str = Field(unique=True)


class RequestRecord(Table, table=True):
    """An answered create: the same request id and payload get the first answer again."""

    __tablename__ = "requests"

    project: str = Field(primary_key=True)
    method: str = Field(primary_key=True)
    request_id: str = Field(primary_key=True)
    payload_sha256: str
    response: str
    created: float
