"""An evaluation may be a second run, and a gate run knows the one that its noise floor was measured by.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("eval_runs", sa.Column("repeat", sa.Boolean(), server_default="0", nullable=False))
    op.add_column("gate_runs", sa.Column("repeat_run", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("eval_runs", "repeat")
    op.drop_column("gate_runs", "repeat_run")
