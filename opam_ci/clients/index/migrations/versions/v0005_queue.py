"""What the list of jobs needs to be a queue: an order, and which job must pass first."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_RANKS = {
    "analysis": 0,
    "lint": 1,
    "build": 2,
    "test": 3,
    "lower-bounds": 4,
    "list-revdeps": 4,
    "revdep": 5,
    "revdep-test": 5,
}
_NEEDS = {
    "test": "'build ' || platform || ' ' || package",
    "lower-bounds": "'build ' || platform || ' ' || package",
    "list-revdeps": "'build ' || platform || ' ' || package",
    "revdep-test": "'revdep ' || platform || ' ' || package || ' ' || revdep",
}


def upgrade() -> None:
    """Adds the columns, fills them for the jobs that are there, and makes the queue's indexes.

    The index of workers leaves out jobs that none has run: each plan would write all of them.
    On PostgreSQL a reverse dependency is sorted by characters from now on, as its package is.
    """
    postgres = op.get_context().dialect.name == "postgresql"
    op.add_column("jobs", sa.Column("rank", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("needs", sa.Text))
    op.add_column(
        "jobs", sa.Column("follows", sa.Boolean, nullable=False, server_default=sa.false())
    )
    ranks = " ".join(f"WHEN '{kind}' THEN {rank}" for kind, rank in _RANKS.items())
    needs = " ".join(f"WHEN '{kind}' THEN {name}" for kind, name in _NEEDS.items())
    rule = "outcome #>> '{evidence,rule}'" if postgres else "outcome ->> '$.evidence.rule'"
    op.execute(
        f"UPDATE jobs SET rank = CASE kind {ranks} ELSE 0 END, "  # noqa: S608 - our own names
        f"needs = CASE kind {needs} END, "
        f"follows = coalesce({rule} IN ('build-errored', 'build-not-passed'), false)"
    )
    where = sa.text("standing = 'queued'")
    op.create_index(
        "jobs_queued",
        "jobs",
        ["revision_id", "platform", "rank", "id"],
        sqlite_where=where,
        postgresql_where=where,
    )
    op.create_index(
        "jobs_following",
        "jobs",
        ["revision_id", "needs"],
        sqlite_where=sa.text("follows = 1"),
        postgresql_where=sa.text("follows"),
    )
    op.drop_index("jobs_by_worker", "jobs")
    named = sa.text("worker IS NOT NULL")
    op.create_index(
        "jobs_by_worker",
        "jobs",
        ["worker", "updated_at", "id", "standing", "platform"],
        sqlite_where=named,
        postgresql_where=named,
    )
    if postgres:
        op.execute('ALTER TABLE jobs ALTER COLUMN revdep TYPE text COLLATE "C"')
