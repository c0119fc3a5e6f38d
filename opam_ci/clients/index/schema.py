"""The tables of the job index, as the newest migration leaves them.

Failed and errored are apart in every column: `standing` says which, `failure_reason` is
set for package failures only, `cause` for infrastructure faults only.

`job_counts` and `attempt_counts` are kept by triggers of the database, whoever writes: each
change of a row adds a row with +1 or -1, so that writers never wait for each other, and
`counters.py` folds these into one row a day and group from time to time.
"""

from datetime import UTC, datetime
from typing import Any

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
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA_VERSION = "0004"
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


def _where(column: str) -> dict[str, Any]:
    """Leaves rows without a value out of an index."""
    condition = text(f"{column} IS NOT NULL")
    return {"sqlite_where": condition, "postgresql_where": condition}


def _where_unfolded() -> dict[str, Any]:
    return {"sqlite_where": text("NOT folded"), "postgresql_where": text("NOT folded")}


def _plain_order() -> Text:
    """Text in the order of its characters, so that a prefix is a range in an index."""
    return Text().with_variant(Text(collation="C"), "postgresql")


_OF_REVISION = ("revision_id", "standing", "updated_at", "id", "platform", "kind", "worker")

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
    Column("package", _plain_order(), nullable=False),
    Column("revdep", Text),
    Column("standing", Text, nullable=False),
    Column("failure_reason", Text),
    Column("skip_reason", Text),
    Column("cause", Text),
    Column("phase", Text),
    Column("worker", Text),
    Column("round", Integer, nullable=False),
    Column("automatic", Integer, nullable=False, server_default="0"),
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
    # The one of time also answers counts of a part of a day without the rows.
    Index("jobs_by_time", "updated_at", "id", "standing", "platform", "kind", "cause"),
    Index("jobs_by_standing", "standing", "updated_at", "id"),
    Index("jobs_by_cause", "cause", "updated_at", "id", "standing", **_where("cause")),
    Index("jobs_by_reason", "failure_reason", "updated_at", "id", **_where("failure_reason")),
    Index("jobs_by_skip", "skip_reason", "updated_at", "id", **_where("skip_reason")),
    Index("jobs_by_kind", "kind", "updated_at", "id", "standing"),
    Index("jobs_by_platform", "platform", "updated_at", "id", "standing", "kind"),
    Index("jobs_by_package", "package", "updated_at", "id", "standing"),
    Index("jobs_by_revdep", "revdep", "updated_at", "id", "standing", **_where("revdep")),
    Index("jobs_by_worker", "worker", "updated_at", "id", "standing", "platform"),
    Index("jobs_of_revision", *_OF_REVISION),
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
    Column("pool", Text),
    Column("started_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("log_key", Text),
    Column("outcome", _json()),
    Column("incident_id", ForeignKey("incidents.id")),
    # How it failed, hashed: see `core/incidents/signature.py`.
    Column("signature", Text),
    UniqueConstraint("job_id", "round", "number", name="attempts_key"),
    Index("attempts_by_time", "started_at", "id"),
    Index("attempts_by_standing", "standing", "started_at", "id"),
    Index("attempts_by_cause", "cause", "started_at", "id", **_where("cause")),
    Index("attempts_by_worker", "worker", "started_at", "id"),
    Index("attempts_by_incident", "incident_id", "job_id", **_where("incident_id")),
    Index("attempts_by_signature", "signature", "ended_at", **_where("signature")),
    Index("attempts_by_fault", "worker", "cause", "ended_at", **_where("cause")),
)

INCIDENTS = Table(
    "incidents",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("cause", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("pool", Text),
    Column("worker", Text),
    Column("first_seen_at", Instant, nullable=False),
    Column("last_seen_at", Instant, nullable=False),
    Column("resolved_at", Instant),
    Column("resolved_by", Text),
    # Of its faults; kept so that a listing need not count them.
    Column("faults", Integer, nullable=False),
    Column("jobs", Integer, nullable=False),
    Column("pull_requests", Integer, nullable=False),
    Column("evidence", _json(), nullable=False),
    Index("incidents_by_time", "last_seen_at", "id"),
    Index("incidents_by_cause", "cause", "first_seen_at"),
)

JOB_COUNTS = Table(
    "job_counts",
    METADATA,
    Column("id", Integer, primary_key=True),
    # In UTC, such as 2026-05-04: of the job's last change.
    Column("day", Text, nullable=False),
    Column("standing", Text, nullable=False),
    Column("platform", Text, nullable=False),
    Column("kind", Text, nullable=False),
    # The reason or cause; the standing says which of them it is. Empty for none.
    Column("why", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("folded", Boolean, nullable=False),
    Index("job_counts_by_day", "day"),
    Index("job_counts_unfolded", "day", **_where_unfolded()),
)

ATTEMPT_COUNTS = Table(
    "attempt_counts",
    METADATA,
    Column("id", Integer, primary_key=True),
    # In UTC: of the attempt's beginning.
    Column("day", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("pool", Text, nullable=False),
    Column("standing", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("count", Integer, nullable=False),
    Column("folded", Boolean, nullable=False),
    Index("attempt_counts_by_day", "day"),
    Index("attempt_counts_unfolded", "day", **_where_unfolded()),
)
