"""The first tables: pull requests, revisions, jobs, attempts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _instant() -> sa.DateTime:
    return sa.DateTime(timezone=True)


def _json() -> sa.JSON:
    return sa.JSON().with_variant(JSONB(), "postgresql")


def _outcome_columns() -> tuple[sa.Column[str], ...]:
    return (
        sa.Column("standing", sa.Text, nullable=False),
        sa.Column("failure_reason", sa.Text),
        sa.Column("skip_reason", sa.Text),
        sa.Column("cause", sa.Text),
        sa.Column("phase", sa.Text),
        sa.Column("worker", sa.Text),
    )


def upgrade() -> None:
    """Makes the tables and what they are searched by."""
    op.create_table(
        "pull_requests",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("repository", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("number", sa.Integer),
        sa.Column("branch", sa.Text),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("is_open", sa.Boolean, nullable=False),
        sa.Column("latest_opened_at", _instant(), nullable=False),
        sa.Column("latest_sequence", sa.Integer, nullable=False),
        sa.UniqueConstraint("repository", "target", name="pull_requests_key"),
    )
    op.create_table(
        "revisions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "pull_request_id",
            sa.Integer,
            sa.ForeignKey("pull_requests.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("head", sa.Text, nullable=False),
        sa.Column("opened_at", _instant(), nullable=False),
        sa.Column("base", sa.Text, nullable=False),
        sa.Column("merge_tree", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("planned", sa.Boolean, nullable=False),
        sa.Column("updated_at", _instant(), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.UniqueConstraint("pull_request_id", "opened_at", "head", name="revisions_key"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "revision_id",
            sa.Integer,
            sa.ForeignKey("revisions.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("package", sa.Text, nullable=False),
        sa.Column("revdep", sa.Text),
        *_outcome_columns(),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("started_at", _instant()),
        sa.Column("decided_at", _instant()),
        sa.Column("next_attempt_at", _instant()),
        sa.Column("updated_at", _instant(), nullable=False),
        sa.Column("log_key", sa.Text),
        sa.Column("outcome", _json()),
        sa.Column("faults", _json(), nullable=False),
        sa.UniqueConstraint("revision_id", "name", name="jobs_key"),
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "job_id", sa.Integer, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        *_outcome_columns(),
        sa.Column("started_at", _instant(), nullable=False),
        sa.Column("ended_at", _instant()),
        sa.Column("log_key", sa.Text),
        sa.Column("outcome", _json()),
        sa.UniqueConstraint("job_id", "round", "number", name="attempts_key"),
    )
    _create_indexes()


def _create_indexes() -> None:
    op.create_index("revisions_by_time", "revisions", ["updated_at", "id"])
    op.create_index("revisions_by_state", "revisions", ["state", "updated_at", "id"])
    op.create_index("revisions_by_head", "revisions", ["head"])
    op.create_index("jobs_by_time", "jobs", ["updated_at", "id"])
    op.create_index("jobs_by_standing", "jobs", ["standing", "updated_at", "id"])
    for column in ("cause", "platform", "package", "worker"):
        op.create_index(f"jobs_by_{column}", "jobs", [column, "updated_at", "id", "standing"])
    op.create_index(
        "jobs_counted", "jobs", ["standing", "platform", "kind", "cause", "failure_reason"]
    )
    op.create_index("attempts_by_time", "attempts", ["started_at", "id"])
    for column in ("standing", "cause", "worker"):
        op.create_index(f"attempts_by_{column}", "attempts", [column, "started_at", "id"])
