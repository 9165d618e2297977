"""Attempts of a lineage at a shard are counted, and a gate run knows which one it is.

Revision ID: 0003
Revises: 0002
"""

# ruff: noqa: E501 - statements stand as they are executed
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TRIGGERS = (
    "CREATE TRIGGER shard_looks_no_update BEFORE UPDATE ON shard_looks BEGIN SELECT RAISE(ABORT, 'shard_looks is insert-only'); END",
    "CREATE TRIGGER shard_looks_no_delete BEFORE DELETE ON shard_looks BEGIN SELECT RAISE(ABORT, 'shard_looks keeps its rows'); END",
    "CREATE TRIGGER shard_looks_no_replace BEFORE INSERT ON shard_looks WHEN EXISTS (SELECT 1 FROM shard_looks t WHERE t.id = NEW.id) BEGIN SELECT RAISE(ABORT, 'shard_looks has this key'); END",
)


def upgrade() -> None:
    op.add_column("gate_runs", sa.Column("attempt", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "shard_looks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("shard", sa.String(), nullable=False),
        sa.Column("suites", sa.JSON(), nullable=False),
        sa.Column("numbers", sa.JSON(), nullable=False),
        sa.Column("rows_digest", sa.String(), nullable=False),
        sa.Column("eval_run", sa.String(), nullable=False),
        sa.Column("gate_run", sa.String(), nullable=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["eval_run"], ["eval_runs.id"], name=op.f("fk_shard_looks_eval_run_eval_runs")),
        sa.ForeignKeyConstraint(["gate_run"], ["gate_runs.id"], name=op.f("fk_shard_looks_gate_run_gate_runs")),
        sa.ForeignKeyConstraint(["version"], ["model_versions.id"], name=op.f("fk_shard_looks_version_model_versions")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shard_looks")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_shard_looks_rows_digest"), "shard_looks", ["rows_digest"], unique=False)
    op.create_index(op.f("ix_shard_looks_version"), "shard_looks", ["version"], unique=False)
    for statement in TRIGGERS:
        op.execute(sa.DDL(statement))


def downgrade() -> None:
    op.drop_table("shard_looks")
    op.drop_column("gate_runs", "attempt")
