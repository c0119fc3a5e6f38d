"""The tables of the job index, as the newest migration leaves them.

Failed and errored are apart in every column: `standing` says which, `failure_reason` is
set for package failures only, `cause` for infrastructure faults only.
"""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA_VERSION = "0001"
"""Id of the newest migration."""

VERSION_TABLE = "opam_ci_schema"
"""Where the database says which migrations it has had; named so that it can share a
PostgreSQL database with another user of the same migration library."""


class Instant(TypeDecorator[datetime]):
    """An aware datetime in UTC, also on SQLite, which stores none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuses what names no instant."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone ({dialect.name})")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Makes what is stored aware again."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


def _json() -> JSON:
    return JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


METADATA = MetaData()

PULL_REQUESTS = Table(
    "pull_requests",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("repository", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("number", Integer),
    Column("branch", Text),
    Column("title", Text, nullable=False),
    Column("is_open", Boolean, nullable=False),
    # Which testing is the newest, and which of its records wrote this row.
    Column("latest_opened_at", Instant, nullable=False),
    Column("latest_sequence", Integer, nullable=False),
    UniqueConstraint("repository", "target", name="pull_requests_key"),
)

REVISIONS = Table(
    "revisions",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("pull_request_id", ForeignKey("pull_requests.id", ondelete="CASCADE"), nullable=False),
    Column("head", Text, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("base", Text, nullable=False),
    Column("merge_tree", Text),
    Column("state", Text, nullable=False),
    Column("planned", Boolean, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("sequence", Integer, nullable=False),
    UniqueConstraint("pull_request_id", "opened_at", "head", name="revisions_key"),
    Index("revisions_by_time", "updated_at", "id"),
    Index("revisions_by_state", "state", "updated_at", "id"),
    Index("revisions_by_head", "head"),
)

JOBS = Table(
    "jobs",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("revision_id", ForeignKey("revisions.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("platform", Text, nullable=False),
    Column("package", Text, nullable=False),
    Column("revdep", Text),
    Column("standing", Text, nullable=False),
    Column("failure_reason", Text),
    Column("skip_reason", Text),
    Column("cause", Text),
    Column("phase", Text),
    Column("worker", Text),
    Column("round", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("started_at", Instant),
    Column("decided_at", Instant),
    Column("next_attempt_at", Instant),
    Column("updated_at", Instant, nullable=False),
    Column("log_key", Text),
    Column("outcome", _json()),
    Column("faults", _json(), nullable=False),
    UniqueConstraint("revision_id", "name", name="jobs_key"),
    Index("jobs_by_time", "updated_at", "id"),
    Index("jobs_by_standing", "standing", "updated_at", "id"),
    Index("jobs_by_cause", "cause", "updated_at", "id", "standing"),
    Index("jobs_by_platform", "platform", "updated_at", "id", "standing"),
    Index("jobs_by_package", "package", "updated_at", "id", "standing"),
    Index("jobs_by_worker", "worker", "updated_at", "id", "standing"),
    # Counts by several columns are answered from this one alone, without the rows, and
    # those of one package or worker from the ones above, which is why they end that way.
    Index("jobs_counted", "standing", "platform", "kind", "cause", "failure_reason"),
)

ATTEMPTS = Table(
    "attempts",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("round", Integer, nullable=False),
    Column("number", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("standing", Text, nullable=False),
    Column("failure_reason", Text),
    Column("skip_reason", Text),
    Column("cause", Text),
    Column("phase", Text),
    Column("worker", Text),
    Column("started_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("log_key", Text),
    Column("outcome", _json()),
    UniqueConstraint("job_id", "round", "number", name="attempts_key"),
    Index("attempts_by_time", "started_at", "id"),
    Index("attempts_by_standing", "standing", "started_at", "id"),
    Index("attempts_by_cause", "cause", "started_at", "id"),
    Index("attempts_by_worker", "worker", "started_at", "id"),
)
