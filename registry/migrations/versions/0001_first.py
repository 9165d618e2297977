"""The first schema.

Revision ID: 0001
Revises:
"""

# ruff: noqa: E501 - statements stand as they are executed
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# A frozen copy of posttrain.registry.triggers.TRIGGERS: history does not change with the code.
TRIGGERS = (
    "CREATE TRIGGER job_events_no_update BEFORE UPDATE ON job_events BEGIN SELECT RAISE(ABORT, 'job_events is insert-only'); END",
    "CREATE TRIGGER models_no_update BEFORE UPDATE ON models BEGIN SELECT RAISE(ABORT, 'models is insert-only'); END",
    "CREATE TRIGGER model_versions_no_update BEFORE UPDATE ON model_versions BEGIN SELECT RAISE(ABORT, 'model_versions is insert-only'); END",
    "CREATE TRIGGER version_files_no_update BEFORE UPDATE ON version_files BEGIN SELECT RAISE(ABORT, 'version_files is insert-only'); END",
    "CREATE TRIGGER lineage_no_update BEFORE UPDATE ON lineage BEGIN SELECT RAISE(ABORT, 'lineage is insert-only'); END",
    "CREATE TRIGGER alias_moves_no_update BEFORE UPDATE ON alias_moves BEGIN SELECT RAISE(ABORT, 'alias_moves is insert-only'); END",
    "CREATE TRIGGER suites_no_update BEFORE UPDATE ON suites BEGIN SELECT RAISE(ABORT, 'suites is insert-only'); END",
    "CREATE TRIGGER eval_runs_no_update BEFORE UPDATE ON eval_runs BEGIN SELECT RAISE(ABORT, 'eval_runs is insert-only'); END",
    "CREATE TRIGGER policies_no_update BEFORE UPDATE ON policies BEGIN SELECT RAISE(ABORT, 'policies is insert-only'); END",
    "CREATE TRIGGER gate_runs_no_update BEFORE UPDATE ON gate_runs BEGIN SELECT RAISE(ABORT, 'gate_runs is insert-only'); END",
    "CREATE TRIGGER promotions_no_update BEFORE UPDATE ON promotions BEGIN SELECT RAISE(ABORT, 'promotions is insert-only'); END",
    "CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'audit is insert-only'); END",
    "CREATE TRIGGER requests_no_update BEFORE UPDATE ON requests BEGIN SELECT RAISE(ABORT, 'requests is insert-only'); END",
    "CREATE TRIGGER job_events_no_delete BEFORE DELETE ON job_events BEGIN SELECT RAISE(ABORT, 'job_events keeps its rows'); END",
    "CREATE TRIGGER job_events_no_replace BEFORE INSERT ON job_events WHEN EXISTS (SELECT 1 FROM job_events t WHERE t.id = NEW.id) OR EXISTS (SELECT 1 FROM job_events t WHERE t.job = NEW.job AND t.sequence = NEW.sequence) OR EXISTS (SELECT 1 FROM job_events t WHERE t.job = NEW.job AND t.transition_id = NEW.transition_id) BEGIN SELECT RAISE(ABORT, 'job_events has this key'); END",
    "CREATE TRIGGER models_no_delete BEFORE DELETE ON models BEGIN SELECT RAISE(ABORT, 'models keeps its rows'); END",
    "CREATE TRIGGER models_no_replace BEFORE INSERT ON models WHEN EXISTS (SELECT 1 FROM models t WHERE t.id = NEW.id) OR EXISTS (SELECT 1 FROM models t WHERE t.project = NEW.project AND t.name = NEW.name) BEGIN SELECT RAISE(ABORT, 'models has this key'); END",
    "CREATE TRIGGER model_versions_no_delete BEFORE DELETE ON model_versions BEGIN SELECT RAISE(ABORT, 'model_versions keeps its rows'); END",
    "CREATE TRIGGER model_versions_no_replace BEFORE INSERT ON model_versions WHEN EXISTS (SELECT 1 FROM model_versions t WHERE t.id = NEW.id) OR EXISTS (SELECT 1 FROM model_versions t WHERE t.job = NEW.job) OR EXISTS (SELECT 1 FROM model_versions t WHERE t.project = NEW.project AND t.model = NEW.model AND t.digest = NEW.digest) OR EXISTS (SELECT 1 FROM model_versions t WHERE t.project = NEW.project AND t.model = NEW.model AND t.number = NEW.number) BEGIN SELECT RAISE(ABORT, 'model_versions has this key'); END",
    "CREATE TRIGGER version_files_no_delete BEFORE DELETE ON version_files BEGIN SELECT RAISE(ABORT, 'version_files keeps its rows'); END",
    "CREATE TRIGGER version_files_no_replace BEFORE INSERT ON version_files WHEN EXISTS (SELECT 1 FROM version_files t WHERE t.version = NEW.version AND t.path = NEW.path) BEGIN SELECT RAISE(ABORT, 'version_files has this key'); END",
    "CREATE TRIGGER lineage_no_delete BEFORE DELETE ON lineage BEGIN SELECT RAISE(ABORT, 'lineage keeps its rows'); END",
    "CREATE TRIGGER lineage_no_replace BEFORE INSERT ON lineage WHEN EXISTS (SELECT 1 FROM lineage t WHERE t.id = NEW.id) OR EXISTS (SELECT 1 FROM lineage t WHERE t.project = NEW.project AND t.parent = NEW.parent AND t.child = NEW.child AND t.kind = NEW.kind) BEGIN SELECT RAISE(ABORT, 'lineage has this key'); END",
    "CREATE TRIGGER alias_moves_no_delete BEFORE DELETE ON alias_moves BEGIN SELECT RAISE(ABORT, 'alias_moves keeps its rows'); END",
    "CREATE TRIGGER alias_moves_no_replace BEFORE INSERT ON alias_moves WHEN EXISTS (SELECT 1 FROM alias_moves t WHERE t.id = NEW.id) OR EXISTS (SELECT 1 FROM alias_moves t WHERE t.promotion = NEW.promotion) BEGIN SELECT RAISE(ABORT, 'alias_moves has this key'); END",
    "CREATE TRIGGER suites_no_delete BEFORE DELETE ON suites BEGIN SELECT RAISE(ABORT, 'suites keeps its rows'); END",
    "CREATE TRIGGER suites_no_replace BEFORE INSERT ON suites WHEN EXISTS (SELECT 1 FROM suites t WHERE t.id = NEW.id) OR EXISTS (SELECT 1 FROM suites t WHERE t.project = NEW.project AND t.name = NEW.name AND t.version = NEW.version) BEGIN SELECT RAISE(ABORT, 'suites has this key'); END",
    "CREATE TRIGGER eval_runs_no_delete BEFORE DELETE ON eval_runs BEGIN SELECT RAISE(ABORT, 'eval_runs keeps its rows'); END",
    "CREATE TRIGGER eval_runs_no_replace BEFORE INSERT ON eval_runs WHEN EXISTS (SELECT 1 FROM eval_runs t WHERE t.id = NEW.id) OR EXISTS (SELECT 1 FROM eval_runs t WHERE t.job = NEW.job) OR EXISTS (SELECT 1 FROM eval_runs t WHERE t.seq = NEW.seq) BEGIN SELECT RAISE(ABORT, 'eval_runs has this key'); END",
    "CREATE TRIGGER policies_no_delete BEFORE DELETE ON policies BEGIN SELECT RAISE(ABORT, 'policies keeps its rows'); END",
    "CREATE TRIGGER policies_no_replace BEFORE INSERT ON policies WHEN EXISTS (SELECT 1 FROM policies t WHERE t.project = NEW.project AND t.digest = NEW.digest) BEGIN SELECT RAISE(ABORT, 'policies has this key'); END",
    "CREATE TRIGGER gate_runs_no_delete BEFORE DELETE ON gate_runs BEGIN SELECT RAISE(ABORT, 'gate_runs keeps its rows'); END",
    "CREATE TRIGGER gate_runs_no_replace BEFORE INSERT ON gate_runs WHEN EXISTS (SELECT 1 FROM gate_runs t WHERE t.id = NEW.id) OR EXISTS (SELECT 1 FROM gate_runs t WHERE t.project = NEW.project AND t.input_digest = NEW.input_digest) OR EXISTS (SELECT 1 FROM gate_runs t WHERE t.seq = NEW.seq) BEGIN SELECT RAISE(ABORT, 'gate_runs has this key'); END",
    "CREATE TRIGGER promotions_no_delete BEFORE DELETE ON promotions BEGIN SELECT RAISE(ABORT, 'promotions keeps its rows'); END",
    "CREATE TRIGGER promotions_no_replace BEFORE INSERT ON promotions WHEN EXISTS (SELECT 1 FROM promotions t WHERE t.id = NEW.id) OR EXISTS (SELECT 1 FROM promotions t WHERE t.job = NEW.job) OR EXISTS (SELECT 1 FROM promotions t WHERE t.seq = NEW.seq) BEGIN SELECT RAISE(ABORT, 'promotions has this key'); END",
    "CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'audit keeps its rows'); END",
    "CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit t WHERE t.id = NEW.id) OR EXISTS (SELECT 1 FROM audit t WHERE t.sha256 = NEW.sha256) BEGIN SELECT RAISE(ABORT, 'audit has this key'); END",
    "CREATE TRIGGER requests_no_delete BEFORE DELETE ON requests BEGIN SELECT RAISE(ABORT, 'requests keeps its rows'); END",
    "CREATE TRIGGER requests_no_replace BEFORE INSERT ON requests WHEN EXISTS (SELECT 1 FROM requests t WHERE t.project = NEW.project AND t.method = NEW.method AND t.request_id = NEW.request_id) BEGIN SELECT RAISE(ABORT, 'requests has this key'); END",
    "CREATE TRIGGER jobs_no_delete BEFORE DELETE ON jobs BEGIN SELECT RAISE(ABORT, 'jobs keeps its rows'); END",
    "CREATE TRIGGER jobs_no_replace BEFORE INSERT ON jobs WHEN EXISTS (SELECT 1 FROM jobs t WHERE t.id = NEW.id) OR EXISTS (SELECT 1 FROM jobs t WHERE t.seq = NEW.seq) BEGIN SELECT RAISE(ABORT, 'jobs has this key'); END",
    "CREATE TRIGGER attempts_no_delete BEFORE DELETE ON attempts BEGIN SELECT RAISE(ABORT, 'attempts keeps its rows'); END",
    "CREATE TRIGGER attempts_no_replace BEFORE INSERT ON attempts WHEN EXISTS (SELECT 1 FROM attempts t WHERE t.job = NEW.job AND t.number = NEW.number) BEGIN SELECT RAISE(ABORT, 'attempts has this key'); END",
    "CREATE TRIGGER chains_no_delete BEFORE DELETE ON chains BEGIN SELECT RAISE(ABORT, 'chains keeps its rows'); END",
    "CREATE TRIGGER chains_no_replace BEFORE INSERT ON chains WHEN EXISTS (SELECT 1 FROM chains t WHERE t.job = NEW.job) BEGIN SELECT RAISE(ABORT, 'chains has this key'); END",
    "CREATE TRIGGER dataset_versions_no_delete BEFORE DELETE ON dataset_versions BEGIN SELECT RAISE(ABORT, 'dataset_versions keeps its rows'); END",
    "CREATE TRIGGER dataset_versions_no_replace BEFORE INSERT ON dataset_versions WHEN EXISTS (SELECT 1 FROM dataset_versions t WHERE t.id = NEW.id) OR EXISTS (SELECT 1 FROM dataset_versions t WHERE t.project = NEW.project AND t.name = NEW.name AND t.number = NEW.number) BEGIN SELECT RAISE(ABORT, 'dataset_versions has this key'); END",
    "CREATE TRIGGER aliases_no_delete BEFORE DELETE ON aliases BEGIN SELECT RAISE(ABORT, 'aliases keeps its rows'); END",
    "CREATE TRIGGER aliases_no_replace BEFORE INSERT ON aliases WHEN EXISTS (SELECT 1 FROM aliases t WHERE t.project = NEW.project AND t.model = NEW.model AND t.alias = NEW.alias) BEGIN SELECT RAISE(ABORT, 'aliases has this key'); END",
    "CREATE TRIGGER dataset_versions_sealed BEFORE UPDATE ON dataset_versions WHEN OLD.sealed BEGIN SELECT RAISE(ABORT, 'a sealed dataset version is immutable'); END",
    "CREATE TRIGGER dataset_versions_identity BEFORE UPDATE ON dataset_versions WHEN (NEW.id, NEW.project, NEW.name, NEW.number, NEW.sha256, NEW.num_bytes) IS NOT (OLD.id, OLD.project, OLD.name, OLD.number, OLD.sha256, OLD.num_bytes) BEGIN SELECT RAISE(ABORT, 'a dataset version keeps its name and bytes'); END",
    "CREATE TRIGGER jobs_identity BEFORE UPDATE ON jobs WHEN (NEW.seq, NEW.id, NEW.project, NEW.kind, NEW.spec_json, NEW.spec_sha256, NEW.parent_job) IS NOT (OLD.seq, OLD.id, OLD.project, OLD.kind, OLD.spec_json, OLD.spec_sha256, OLD.parent_job) BEGIN SELECT RAISE(ABORT, 'a job keeps its identity and spec'); END",
    "CREATE TRIGGER jobs_fencing BEFORE UPDATE ON jobs WHEN NEW.attempt < OLD.attempt OR NEW.version < OLD.version OR (NEW.version = OLD.version AND (NEW.state <> OLD.state OR NEW.attempt <> OLD.attempt)) BEGIN SELECT RAISE(ABORT, 'a state change counts the version up'); END",
    "CREATE TRIGGER aliases_update BEFORE UPDATE ON aliases WHEN NEW.move <= OLD.move OR (NEW.project, NEW.model, NEW.alias) IS NOT (OLD.project, OLD.model, OLD.alias) OR NOT EXISTS (SELECT 1 FROM alias_moves m WHERE m.id = NEW.move AND m.project = NEW.project AND m.model = NEW.model AND m.alias = NEW.alias AND m.to_version = NEW.version) BEGIN SELECT RAISE(ABORT, 'an alias follows a recorded move'); END",
    "CREATE TRIGGER alias_moves_evidence BEFORE INSERT ON alias_moves WHEN NOT (NEW.kind = 'promotion' AND EXISTS (SELECT 1 FROM promotions p JOIN gate_runs g ON g.id = p.gate_run WHERE p.id = NEW.promotion AND p.outcome = 'APPLIED' AND p.project = NEW.project AND p.model = NEW.model AND p.alias = NEW.alias AND p.version = NEW.to_version AND p.from_version IS NEW.from_version AND g.verdict = 'PASS' AND g.version = p.version AND g.version_digest = p.version_digest AND g.alias = p.alias) OR NEW.kind = 'rollback' AND NEW.promotion IS NULL AND EXISTS (SELECT 1 FROM alias_moves m WHERE m.project = NEW.project AND m.model = NEW.model AND m.alias = NEW.alias AND m.to_version = NEW.to_version)) BEGIN SELECT RAISE(ABORT, 'an alias moves only by an applied promotion or back to where it was'); END",
    "CREATE TRIGGER alias_moves_version BEFORE INSERT ON alias_moves WHEN NOT EXISTS (SELECT 1 FROM model_versions v WHERE v.id = NEW.to_version AND v.project = NEW.project AND v.model = NEW.model) BEGIN SELECT RAISE(ABORT, 'an alias names a version of its own model'); END",
    "CREATE TRIGGER aliases_insert BEFORE INSERT ON aliases WHEN NOT EXISTS (SELECT 1 FROM alias_moves m WHERE m.id = NEW.move AND m.project = NEW.project AND m.model = NEW.model AND m.alias = NEW.alias AND m.to_version = NEW.version) BEGIN SELECT RAISE(ABORT, 'an alias follows a recorded move'); END",
)

TABLES = (
    "aliases",
    "alias_moves",
    "promotions",
    "gate_runs",
    "version_files",
    "eval_runs",
    "model_versions",
    "job_events",
    "chains",
    "attempts",
    "suites",
    "requests",
    "policies",
    "models",
    "lineage",
    "jobs",
    "dataset_versions",
    "audit",
)  # children first


def upgrade() -> None:
    # ### commands auto generated by Alembic - please adjust! ###
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("time", sa.Float(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("previous", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sa.UniqueConstraint("sha256", name=op.f("uq_audit_sha256")),
    )
    op.create_table(
        "dataset_versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("sealed", sa.Boolean(), nullable=False),
        sa.Column("format", sa.String(), nullable=False),
        sa.Column("num_rows", sa.Integer(), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("sealed_time", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_versions")),
        sa.UniqueConstraint("project", "name", "number", name=op.f("uq_dataset_versions_project_name_number")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "jobs",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("spec_json", sa.String(), nullable=False),
        sa.Column("spec_sha256", sa.String(), nullable=False),
        sa.Column("display_name", sa.String(), nullable=False),
        sa.Column("parent_job", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("termination_reason", sa.String(), nullable=False),
        sa.Column("error", sa.JSON(), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("resume_from", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("updated", sa.Float(), nullable=False),
        sa.Column("started", sa.Float(), nullable=False),
        sa.Column("ended", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["parent_job"], ["jobs.id"], name=op.f("fk_jobs_parent_job_jobs")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_jobs")),
        sa.UniqueConstraint("id", name=op.f("uq_jobs_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_jobs_project"), "jobs", ["project"], unique=False)
    op.create_index(op.f("ix_jobs_state"), "jobs", ["state"], unique=False)
    op.create_table(
        "lineage",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("parent", sa.String(), nullable=False),
        sa.Column("child", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lineage")),
        sa.UniqueConstraint("project", "parent", "child", "kind", name=op.f("uq_lineage_project_parent_child_kind")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_lineage_child"), "lineage", ["child"], unique=False)
    op.create_index(op.f("ix_lineage_parent"), "lineage", ["parent"], unique=False)
    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("project", "name", name=op.f("uq_models_project_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "policies",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("project", "digest", name=op.f("pk_policies")),
    )
    op.create_table(
        "requests",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("payload_sha256", sa.String(), nullable=False),
        sa.Column("response", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("project", "method", "request_id", name=op.f("pk_requests")),
    )
    op.create_table(
        "suites",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("num_rows", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("manifest", sa.String(), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suites")),
        sa.UniqueConstraint("project", "name", "version", name=op.f("uq_suites_project_name_version")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "attempts",
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("process_start_time", sa.Float(), nullable=False),
        sa.Column("folder", sa.String(), nullable=False),
        sa.Column("events_offset", sa.BigInteger(), nullable=False),
        sa.Column("exit", sa.JSON(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("started", sa.Float(), nullable=False),
        sa.Column("ended", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_attempts_job_jobs")),
        sa.PrimaryKeyConstraint("job", "number", name=op.f("pk_attempts")),
    )
    op.create_table(
        "chains",
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("model_version", sa.String(), nullable=False),
        sa.Column("eval_jobs", sa.JSON(), nullable=False),
        sa.Column("eval_runs", sa.JSON(), nullable=False),
        sa.Column("gate_run", sa.String(), nullable=False),
        sa.Column("promotion", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("updated", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_chains_job_jobs")),
        sa.PrimaryKeyConstraint("job", name=op.f("pk_chains")),
    )
    op.create_index(op.f("ix_chains_step"), "chains", ["step"], unique=False)
    op.create_table(
        "job_events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("transition_id", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("from_state", sa.String(), nullable=False),
        sa.Column("to_state", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("time", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_job_events_job_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_events")),
        sa.UniqueConstraint("job", "sequence", name=op.f("uq_job_events_job_sequence")),
        sa.UniqueConstraint("job", "transition_id", name=op.f("uq_job_events_job_transition_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_job_events_type"), "job_events", ["type"], unique=False)
    op.create_table(
        "model_versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("form", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("weights_digest", sa.String(), nullable=False),
        sa.Column("template_digest", sa.String(), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.Column("parent_digest", sa.String(), nullable=False),
        sa.Column("relation", sa.String(), nullable=False),
        sa.Column("job", sa.String(), nullable=True),
        sa.Column("spec_sha256", sa.String(), nullable=False),
        sa.Column("manifest_json", sa.String(), nullable=False),
        sa.Column("architecture", sa.String(), nullable=False),
        sa.Column("num_parameters", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_model_versions_job_jobs")),
        sa.ForeignKeyConstraint(
            ["parent"], ["model_versions.id"], name=op.f("fk_model_versions_parent_model_versions")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("job", name=op.f("uq_model_versions_job")),
        sa.UniqueConstraint("project", "model", "digest", name=op.f("uq_model_versions_project_model_digest")),
        sa.UniqueConstraint("project", "model", "number", name=op.f("uq_model_versions_project_model_number")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "eval_runs",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("version_digest", sa.String(), nullable=False),
        sa.Column("suites", sa.JSON(), nullable=False),
        sa.Column("template", sa.String(), nullable=False),
        sa.Column("template_digest", sa.String(), nullable=False),
        sa.Column("shard", sa.String(), nullable=False),
        sa.Column("rows_digest", sa.String(), nullable=False),
        sa.Column("num_rows", sa.Integer(), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_eval_runs_job_jobs")),
        sa.ForeignKeyConstraint(["version"], ["model_versions.id"], name=op.f("fk_eval_runs_version_model_versions")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_eval_runs")),
        sa.UniqueConstraint("id", name=op.f("uq_eval_runs_id")),
        sa.UniqueConstraint("job", name=op.f("uq_eval_runs_job")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_eval_runs_project"), "eval_runs", ["project"], unique=False)
    op.create_index(op.f("ix_eval_runs_version"), "eval_runs", ["version"], unique=False)
    op.create_table(
        "version_files",
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version"], ["model_versions.id"], name=op.f("fk_version_files_version_model_versions")
        ),
        sa.PrimaryKeyConstraint("version", "path", name=op.f("pk_version_files")),
    )
    op.create_index(op.f("ix_version_files_sha256"), "version_files", ["sha256"], unique=False)
    op.create_table(
        "gate_runs",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("input_digest", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("version_digest", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("policy_digest", sa.String(), nullable=False),
        sa.Column("candidate_run", sa.String(), nullable=False),
        sa.Column("baselines", sa.JSON(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("improved", sa.Boolean(), nullable=False),
        sa.Column("report_json", sa.String(), nullable=False),
        sa.Column("report_digest", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["candidate_run"], ["eval_runs.id"], name=op.f("fk_gate_runs_candidate_run_eval_runs")),
        sa.ForeignKeyConstraint(["version"], ["model_versions.id"], name=op.f("fk_gate_runs_version_model_versions")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_gate_runs")),
        sa.UniqueConstraint("id", name=op.f("uq_gate_runs_id")),
        sa.UniqueConstraint("project", "input_digest", name=op.f("uq_gate_runs_project_input_digest")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_gate_runs_project"), "gate_runs", ["project"], unique=False)
    op.create_index(op.f("ix_gate_runs_version"), "gate_runs", ["version"], unique=False)
    op.create_table(
        "promotions",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("version_digest", sa.String(), nullable=False),
        sa.Column("gate_run", sa.String(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("missing", sa.JSON(), nullable=False),
        sa.Column("improved", sa.Boolean(), nullable=False),
        sa.Column("from_version", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("job", sa.String(), nullable=True),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["from_version"], ["model_versions.id"], name=op.f("fk_promotions_from_version_model_versions")
        ),
        sa.ForeignKeyConstraint(["gate_run"], ["gate_runs.id"], name=op.f("fk_promotions_gate_run_gate_runs")),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_promotions_job_jobs")),
        sa.ForeignKeyConstraint(["version"], ["model_versions.id"], name=op.f("fk_promotions_version_model_versions")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_promotions")),
        sa.UniqueConstraint("id", name=op.f("uq_promotions_id")),
        sa.UniqueConstraint("job", name=op.f("uq_promotions_job")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_promotions_project"), "promotions", ["project"], unique=False)
    op.create_table(
        "alias_moves",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("from_version", sa.Integer(), nullable=True),
        sa.Column("to_version", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("promotion", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("time", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["from_version"], ["model_versions.id"], name=op.f("fk_alias_moves_from_version_model_versions")
        ),
        sa.ForeignKeyConstraint(["promotion"], ["promotions.id"], name=op.f("fk_alias_moves_promotion_promotions")),
        sa.ForeignKeyConstraint(
            ["to_version"], ["model_versions.id"], name=op.f("fk_alias_moves_to_version_model_versions")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alias_moves")),
        sa.UniqueConstraint("promotion", name=op.f("uq_alias_moves_promotion")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "aliases",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("move", sa.Integer(), nullable=False),
        sa.Column("etag", sa.String(), nullable=False),
        sa.Column("promotion", sa.String(), nullable=False),
        sa.Column("updated", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["move"], ["alias_moves.id"], name=op.f("fk_aliases_move_alias_moves")),
        sa.ForeignKeyConstraint(["version"], ["model_versions.id"], name=op.f("fk_aliases_version_model_versions")),
        sa.PrimaryKeyConstraint("project", "model", "alias", name=op.f("pk_aliases")),
    )
    for trigger in TRIGGERS:
        op.execute(sa.text(trigger))


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
