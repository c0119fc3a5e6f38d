"""What restarts of jobs that nobody asked for have cost."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column: all budgets of jobs begin anew."""
    op.add_column("jobs", sa.Column("automatic", sa.Integer, nullable=False, server_default="0"))
