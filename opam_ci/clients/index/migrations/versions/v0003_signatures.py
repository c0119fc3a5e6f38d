"""How attempts failed, and faults by worker, so that verdicts can be judged again."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column, empty, and two partial indexes.

    Failures of before have no signature: for a day the index does not know what is usual,
    which costs some jobs another run.
    """
    op.add_column("attempts", sa.Column("signature", sa.Text))
    for name, columns in (
        ("signature", ["signature", "ended_at"]),
        ("fault", ["worker", "cause", "ended_at"]),
    ):
        where = sa.text(f"{'cause' if name == 'fault' else name} IS NOT NULL")
        op.create_index(
            f"attempts_by_{name}", "attempts", columns, sqlite_where=where, postgresql_where=where
        )
