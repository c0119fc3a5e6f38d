"""The tables of the job index, as the newest migration leaves them.

Failed and errored are apart in every column: `standing` says which, `failure_reason` is
set for package failures only, `cause` for infrastructure faults only.

`job_counts` and `attempt_counts` are kept by triggers of the database, whoever writes: each
change of a row adds a row with +1 or -1, so that writers never wait for each other, and
`counters.py` folds these into one row a day and group from time to time.
"""

from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter
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
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeEngine

from opam_ci.core.outcome import Evidence, Outcome
from opam_ci.core.summary import Fault

SCHEMA_VERSION = "0005"
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


class Model(TypeDecorator[Any]):
    """A value of ours as JSON; a listing may search in it."""

    impl = JSON
    cache_ok = True

    def __init__(self, of: Any) -> None:
        super().__init__(none_as_null=True)
        self.of = TypeAdapter(of)

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """PostgreSQL's binary form, where there is one."""
        binary = dialect.name == "postgresql"
        return JSONB(none_as_null=True) if binary else JSON(none_as_null=True)

    def coerce_compared_value(self, op: OperatorType | None, value: Any) -> TypeEngine[Any]:
        """What is looked up in it is a path and no value of ours."""
        return self.impl_instance.coerce_compared_value(op, value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002  the base's name
        """Reads it."""
        return None if value is None else self.of.validate_python(value)


def _partial(name: str, *columns: str, where: str) -> Index:
    """An index of those rows alone that meet a condition."""
    condition = text(where)
    return Index(name, *columns, sqlite_where=condition, postgresql_where=condition)


def _with(name: str, *columns: str) -> Index:
    """An index of those rows alone that have a value in its first column."""
    return _partial(name, *columns, where=f"{columns[0]} IS NOT NULL")


def _plain_order() -> Text:
    """Text in the order of its characters, so that a prefix is a range in an index."""
    return Text().with_variant(Text(collation="C"), "postgresql")


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
    Column("revdep", _plain_order()),
    # In which order jobs run, and the name of the one that must pass first.
    Column("rank", Integer, nullable=False, server_default="0"),
    Column("needs", Text),
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
    Column("outcome", Model(Outcome)),
    # Whether it has that outcome only because of the job that it needs.
    Column("follows", Boolean, nullable=False, server_default=false()),
    Column("faults", Model(tuple[Fault, ...]), nullable=False),
    UniqueConstraint("revision_id", "name", name="jobs_key"),
    # The one of time also answers counts of a part of a day without the rows.
    Index("jobs_by_time", "updated_at", "id", "standing", "platform", "kind", "cause"),
    Index("jobs_by_standing", "standing", "updated_at", "id"),
    _with("jobs_by_cause", "cause", "updated_at", "id", "standing"),
    _with("jobs_by_reason", "failure_reason", "updated_at", "id"),
    _with("jobs_by_skip", "skip_reason", "updated_at", "id"),
    Index("jobs_by_kind", "kind", "updated_at", "id", "standing"),
    Index("jobs_by_platform", "platform", "updated_at", "id", "standing", "kind"),
    Index("jobs_by_package", "package", "updated_at", "id", "standing"),
    _with("jobs_by_revdep", "revdep", "updated_at", "id", "standing"),
    _with("jobs_by_worker", "worker", "updated_at", "id", "standing", "platform"),
    Index(
        "jobs_of_revision",
        *("revision_id", "standing", "updated_at", "id", "platform", "kind", "worker"),
    ),
    _partial("jobs_queued", "revision_id", "platform", "rank", "id", where="standing = 'queued'"),
    Index(
        "jobs_following",
        "revision_id",
        "needs",
        sqlite_where=text("follows = 1"),
        postgresql_where=text("follows"),
    ),
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
    Column("outcome", Model(Outcome)),
    Column("incident_id", ForeignKey("incidents.id")),
    # How it failed, hashed: see `core/incidents/signature.py`.
    Column("signature", Text),
    UniqueConstraint("job_id", "round", "number", name="attempts_key"),
    Index("attempts_by_time", "started_at", "id"),
    Index("attempts_by_standing", "standing", "started_at", "id"),
    _with("attempts_by_cause", "cause", "started_at", "id"),
    Index("attempts_by_worker", "worker", "started_at", "id"),
    _with("attempts_by_incident", "incident_id", "job_id"),
    _with("attempts_by_signature", "signature", "ended_at"),
    _partial("attempts_by_fault", "worker", "cause", "ended_at", where="cause IS NOT NULL"),
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
    Column("evidence", Model(Evidence), nullable=False),
    Index("incidents_by_time", "last_seen_at", "id"),
    Index("incidents_by_cause", "cause", "first_seen_at"),
)


def _counts(name: str, *columns: str) -> Table:
    """A table of counters, kept by triggers: of each day, in UTC such as 2026-05-04, and group."""
    return Table(
        name,
        METADATA,
        Column("id", Integer, primary_key=True),
        Column("day", Text, nullable=False),
        *(Column(column, Text, nullable=False) for column in columns),
        # The reason or cause; the standing says which of them it is. Empty for none.
        Column("why", Text, nullable=False),
        Column("count", Integer, nullable=False),
        Column("folded", Boolean, nullable=False),
        Index(f"{name}_by_day", "day"),
        _partial(f"{name}_unfolded", "day", where="NOT folded"),
    )


JOB_COUNTS = _counts("job_counts", "standing", "platform", "kind")
"""By the day of the job's last change."""

ATTEMPT_COUNTS = _counts("attempt_counts", "worker", "pool", "standing")
"""By the day of the attempt's beginning."""

HEADS = REVISIONS.join(PULL_REQUESTS)
TESTED = JOBS.join(REVISIONS).join(PULL_REQUESTS)
ATTEMPTED = ATTEMPTS.join(JOBS).join(REVISIONS).join(PULL_REQUESTS)
"""Testings, jobs and attempts, each with all that it belongs to."""

KEY_COLUMNS = (
    PULL_REQUESTS.c.repository,
    PULL_REQUESTS.c.number,
    PULL_REQUESTS.c.branch,
    REVISIONS.c.head,
    REVISIONS.c.opened_at,
)
"""What a testing is known by; `rows.revision_of` reads them."""

JOB_COLUMNS = (JOBS.c.platform, JOBS.c.package, JOBS.c.kind, JOBS.c.revdep)
"""What a job is known by; `rows.job_of` reads them."""
