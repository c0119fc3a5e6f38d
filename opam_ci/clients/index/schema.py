"""The tables of the job index: those of a new index, and the result of migrations.

Failed and errored are separate in every column: `standing` says which, `failure_reason` is
set for package failures only, `cause` for infrastructure faults only.

`job_counts` and `attempt_counts` are kept by triggers of the database: each change of a row adds
a row with +1 or -1, so that writers never wait for each other, and `counters.py` folds these
into one row for each day and group from time to time; see `triggers.py`.
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
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import SchemaItem
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeEngine

from opam_ci.core.jobs.hold import Hold
from opam_ci.core.jobs.outcome import Evidence, Outcome
from opam_ci.core.jobs.records import AttemptRecord
from opam_ci.core.jobs.summary import Fault
from opam_ci.core.submission.effect import Effect
from opam_ci.core.submission.result import ChangeKind

SCHEMA_VERSION = "0015"
"""Of these tables; `migrations.py` leads here from older ones."""


class Instant(TypeDecorator[datetime]):
    """An aware datetime in UTC, also on SQLite, which stores none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuses a time without a time zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone ({dialect.name})")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Makes a stored time aware again."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class Model(TypeDecorator[Any]):
    """One of our values as JSON; a listing may search in it."""

    impl = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
    cache_ok = True

    def __init__(self, of: Any) -> None:
        super().__init__()
        self.of = TypeAdapter(of)

    def coerce_compared_value(self, op: OperatorType | None, value: Any) -> TypeEngine[Any]:
        """A lookup in it compares a path, not one of our values."""
        return self.impl_instance.coerce_compared_value(op, value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002  the base's name
        """Reads it."""
        return None if value is None else self.of.validate_python(value)


def _required(of: type[TypeEngine[Any]], *names: str) -> list[Column[Any]]:
    return [Column(name, of, nullable=False) for name in names]


def _optional(of: type[TypeEngine[Any]], *names: str) -> list[Column[Any]]:
    return [Column(name, of) for name in names]


def _outcome() -> list[Column[Any]]:
    """Standing and outcome of a job or an attempt: whole, and in columns that are searched."""
    searched = ("failure_reason", "skip_reason", "cause", "phase", "worker", "log_key")
    return [
        *_required(Text, "standing"),
        *_optional(Text, *searched),
        Column("outcome", Model(Outcome)),
    ]


def _in(parent: str) -> ForeignKey:
    """A reference to the row that a row belongs to, and is deleted with."""
    return ForeignKey(f"{parent}.id", ondelete="CASCADE")


def _partial(name: str, *columns: str, where: str) -> Index:
    """A partial index: of the rows that meet a condition."""
    condition = text(where)
    return Index(name, *columns, sqlite_where=condition, postgresql_where=condition)


def _with(name: str, *columns: str) -> Index:
    """A partial index: of the rows that have a value in its first column."""
    return _partial(name, *columns, where=f"{columns[0]} IS NOT NULL")


def _where_true(name: str, *columns: str, column: str) -> Index:
    """A partial index: of the rows in which a column is true."""
    sqlite, postgresql = text(f"{column} = 1"), text(column)
    return Index(name, *columns, sqlite_where=sqlite, postgresql_where=postgresql)


def _plain_order() -> Text:
    """Text in the order of its characters, so that a prefix is a range in an index."""
    return Text().with_variant(Text(collation="C"), "postgresql")


METADATA = MetaData()


def _table(name: str, *parts: SchemaItem, **options: Any) -> Table:
    return Table(name, METADATA, Column("id", Integer, primary_key=True), *parts, **options)


VERSION = Table(
    # Named so that the index can share a PostgreSQL database with something else.
    "opam_ci_schema",
    METADATA,
    Column("version_num", String(32)),
    PrimaryKeyConstraint("version_num", name="opam_ci_schema_pkc"),
)
"""One row: the schema of the database."""

PULL_REQUESTS = _table(
    "pull_requests",
    *_required(Text, "repository", "target", "title"),
    Column("number", Integer),
    Column("branch", Text),
    Column("author", Text),
    *_required(Boolean, "is_open"),
    # Which testing is the newest, and which of its records wrote this row.
    *_required(Instant, "latest_opened_at"),
    *_required(Integer, "latest_sequence"),
    UniqueConstraint("repository", "target", name="pull_requests_key"),
)

REVISIONS = _table(
    "revisions",
    Column("pull_request_id", _in("pull_requests"), nullable=False),
    *_required(Text, "head", "base", "state"),
    Column("merge_tree", Text),
    *_required(Boolean, "planned"),
    Column("concluded", Boolean, nullable=False, server_default=true()),
    Column("changes", Model(tuple[ChangeKind, ...]), nullable=False, server_default="[]"),
    Column("hold", Model(Hold)),
    Column("effect", Model(Effect)),
    *_required(Instant, "opened_at", "updated_at"),
    *_required(Integer, "sequence"),
    # The end of the first estimate; and when the head was decided first, or the estimate dropped,
    # see `estimates.py`.
    *_optional(Instant, "estimated_until", "estimate_ended_at"),
    UniqueConstraint("pull_request_id", "opened_at", "head", name="revisions_key"),
    Index("revisions_by_time", "updated_at", "id"),
    Index("revisions_by_state", "state", "updated_at", "id"),
    Index("revisions_by_head", "head"),
    _with("revisions_estimated", "estimated_until", "estimate_ended_at"),
)

JOBS = _table(
    "jobs",
    Column("revision_id", _in("revisions"), nullable=False),
    *_required(Text, "name", "kind", "platform"),
    Column("package", _plain_order(), nullable=False),
    Column("revdep", _plain_order()),
    # The order in which jobs run, and the name of the one that must pass first.
    Column("rank", Integer, nullable=False, server_default="0"),
    Column("needs", Text),
    *_outcome(),
    # Whether it has that outcome only because of the job that it needs.
    Column("follows", Boolean, nullable=False, server_default=false()),
    # Whether it passed, and is known to fail without the change.
    Column("fixed", Boolean, nullable=False, server_default=false()),
    # With what it is grouped if it did not pass, see `core/pages/causes.py`; and the package that
    # failed, if it is not its own.
    *_optional(Text, "cause_group", "blame"),
    # What its verdict depends on, see `core/reuse`; and for a job that runs although its verdict
    # was known, that verdict.
    *_optional(Text, "plan_key", "audits"),
    *_required(Integer, "round", "attempt", "sequence"),
    Column("automatic", Integer, key="restart_budget_used", nullable=False, server_default="0"),
    *_optional(Instant, "started_at", "decided_at", "next_attempt_at"),
    *_required(Instant, "updated_at"),
    Column("faults", Model(tuple[Fault, ...]), nullable=False),
    UniqueConstraint("revision_id", "name", name="jobs_key"),
    # The index by time also serves counts of a part of a day without the rows.
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
        *("revision_id", "standing", "updated_at", "id", "platform", "kind", "worker", "name"),
    ),
    _partial("jobs_queued", "revision_id", "platform", "rank", "id", where="standing = 'queued'"),
    _partial(
        "jobs_grouped",
        *("revision_id", "cause_group", "standing", "platform", "blame", "kind", "revdep"),
        *("package", "id", "failure_reason", "skip_reason", "cause"),
        where="cause_group IS NOT NULL",
    ),
    # Of a package, or of a reverse dependency: each job is in one of them.
    _partial(
        "jobs_of_packages",
        *("revision_id", "package", "standing", "platform", "kind", "id"),
        where="revdep IS NULL",
    ),
    _partial(
        "jobs_of_revdeps",
        *("revision_id", "revdep", "standing", "platform", "kind", "id"),
        where="revdep IS NOT NULL",
    ),
    _with("jobs_by_cause_group", "cause_group", "decided_at"),
    _with("jobs_by_plan_key", "plan_key"),
    _with("jobs_audited", "audits", "decided_at"),
    # Those that may have a verdict key: they are looked up by name, since it is not known yet.
    _partial("jobs_by_name", "name", where="plan_key IS NOT NULL"),
    _where_true("jobs_following", "revision_id", "needs", column="follows"),
    _where_true("jobs_fixed", "revision_id", "platform", "kind", column="fixed"),
    # A head is a small part of a large table, by which the server would wait for many of them:
    # meanwhile its plans take the new ones for small, and its indexes have to look into the rows.
    postgresql_with={
        "autovacuum_analyze_scale_factor": "0.01",
        "autovacuum_vacuum_scale_factor": "0.05",
        "autovacuum_vacuum_insert_scale_factor": "0.05",
    },
)

ATTEMPTS = _table(
    "attempts",
    Column("job_id", _in("jobs"), nullable=False),
    *_required(Integer, "round", "number", "sequence"),
    *_outcome(),
    Column("pool", Text),
    *_required(Instant, "started_at"),
    Column("ended_at", Instant),
    # Processor time, unknown where no control group counts it.
    Column("cpu_seconds", Float),
    Column("incident_id", ForeignKey("incidents.id")),
    # How it failed, hashed: see `core/incidents/fingerprint.py`.
    Column("signature", Text),
    # Fingerprint of the image that it ran in.
    Column("image", Text),
    # What its outcome depends on, see `core/reuse/verdict_key.py`.
    Column("verdict_key", Text),
    UniqueConstraint("job_id", "round", "number", name="attempts_key"),
    Index("attempts_by_time", "started_at", "id"),
    Index("attempts_by_standing", "standing", "started_at", "id"),
    _with("attempts_by_cause", "cause", "started_at", "id"),
    Index("attempts_by_worker", "worker", "started_at", "id"),
    _with("attempts_by_incident", "incident_id", "job_id"),
    _with("attempts_by_signature", "signature", "ended_at"),
    _partial("attempts_by_fault", "worker", "cause", "ended_at", where="cause IS NOT NULL"),
)

INCIDENTS = _table(
    "incidents",
    *_required(Text, "cause", "scope"),
    *_optional(Text, "pool", "worker", "resolved_by"),
    *_required(Instant, "first_seen_at", "last_seen_at"),
    Column("resolved_at", Instant),
    # Of its faults; kept so that a listing need not count them.
    *_required(Integer, "faults", "jobs", "pull_requests"),
    Column("evidence", Model(Evidence), nullable=False),
    Index("incidents_by_time", "last_seen_at", "id"),
    Index("incidents_by_cause", "cause", "first_seen_at"),
)


AUDIT = _table(
    "audit",
    *_required(Instant, "at"),
    *_required(Text, "login", "role", "action", "repository", "target", "detail"),
    *_required(Integer, "taken"),
    Index("audit_by_time", "at", "id"),
)
"""Actions of those who are signed in."""

WRONG_VERDICTS = _table(
    "wrong_verdicts",
    *_required(Instant, "at"),
    *_required(Text, "login"),
    # Whole, since the job is deleted before the report is.
    Column("attempt", Model(AttemptRecord), nullable=False),
    *_required(Text, "expected", "comment"),
    Column("log_key", Text),
    Index("wrong_verdicts_by_time", "at", "id"),
)
"""Verdicts that are wrong by somebody's word."""

WAIVERS = _table(
    "waivers",
    *_required(Text, "package", "platform"),
    *_optional(Text, "kind", "reason", "cause_group"),
    *_required(Text, "because", "login"),
    *_required(Instant, "created_at", "expires_at"),
    Column("removed_at", Instant),
    Index("waivers_by_end", "expires_at", "id"),
)
"""Failures that do not count, by a decision of somebody."""


def _counts(name: str, *columns: str) -> Table:
    """A table of counters, kept by triggers: of each day, in UTC such as 2026-05-04, and group."""
    return _table(
        name,
        # The last is the reason or cause; the standing says which of them. Empty for none.
        *_required(Text, "day", *columns, "why"),
        *_required(Integer, "count"),
        *_required(Boolean, "folded"),
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
"""Testings, jobs and attempts, each joined with all that it belongs to."""

KEY_COLUMNS = (
    PULL_REQUESTS.c.repository,
    PULL_REQUESTS.c.number,
    PULL_REQUESTS.c.branch,
    REVISIONS.c.head,
    REVISIONS.c.opened_at,
)
"""The identity of a testing; `rows.revision_of` reads them."""

JOB_COLUMNS = (JOBS.c.platform, JOBS.c.package, JOBS.c.kind, JOBS.c.revdep)
"""The identity of a job; `rows.job_of` reads them."""
