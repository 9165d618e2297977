"""Sealing may leave rows out: what it left out is recorded, and the sealed bytes may differ from the uploaded ones.

Revision ID: 0002
Revises: 0001
"""

# ruff: noqa: E501 - statements stand as they are executed
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

IDENTITY = "CREATE TRIGGER dataset_versions_identity BEFORE UPDATE ON dataset_versions WHEN (NEW.id, NEW.project, NEW.name, NEW.number) IS NOT (OLD.id, OLD.project, OLD.name, OLD.number) OR NOT NEW.sealed AND (NEW.sha256, NEW.num_bytes) IS NOT (OLD.sha256, OLD.num_bytes) BEGIN SELECT RAISE(ABORT, 'a dataset version keeps its name, and its bytes until it is sealed'); END"
IDENTITY_BEFORE = "CREATE TRIGGER dataset_versions_identity BEFORE UPDATE ON dataset_versions WHEN (NEW.id, NEW.project, NEW.name, NEW.number, NEW.sha256, NEW.num_bytes) IS NOT (OLD.id, OLD.project, OLD.name, OLD.number, OLD.sha256, OLD.num_bytes) BEGIN SELECT RAISE(ABORT, 'a dataset version keeps its name and bytes'); END"


def upgrade() -> None:
    op.add_column("dataset_versions", sa.Column("sealing", sa.JSON(), server_default="{}", nullable=False))
    op.execute("DROP TRIGGER dataset_versions_identity")
    op.execute(sa.DDL(IDENTITY))


def downgrade() -> None:
    op.execute("DROP TRIGGER dataset_versions_identity")
    op.drop_column("dataset_versions", "sealing")
    op.execute(sa.DDL(IDENTITY_BEFORE))
