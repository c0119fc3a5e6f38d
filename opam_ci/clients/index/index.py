"""The job index as its users see it."""

from typing import Any, Literal, Self

from sqlalchemy import ColumnElement, Engine, FromClause, Select, and_, func, select, text

from opam_ci.clients.index.engine import create, reading, writing
from opam_ci.clients.index.filters import (
    AttemptFilter,
    JobFilter,
    RevisionFilter,
    attempt_condition,
    job_condition,
    revision_condition,
)
from opam_ci.clients.index.migrate import migrate
from opam_ci.clients.index.paging import Page, Place, page
from opam_ci.clients.index.rows import attempt_record, job_record, revision_record
from opam_ci.clients.index.schema import ATTEMPTS, JOBS, PULL_REQUESTS, REVISIONS
from opam_ci.clients.index.write import write
from opam_ci.core.records import AttemptRecord, JobRecord, RecordBatch, RevisionRecord
from opam_ci.core.summary import Counts

CountedBy = Literal["platform", "package", "kind", "worker", "cause", "failure_reason"]
"""What jobs can be counted by, apart from how they stand."""

_EVERY_REVISION = RevisionFilter()
_EVERY_JOB = JobFilter()
_EVERY_ATTEMPT = AttemptFilter()
_START = Place()

_KEY = (
    PULL_REQUESTS.c.repository,
    PULL_REQUESTS.c.number,
    PULL_REQUESTS.c.branch,
    REVISIONS.c.head,
    REVISIONS.c.opened_at,
)
_REVISIONS = REVISIONS.join(PULL_REQUESTS)
_JOBS = JOBS.join(REVISIONS).join(PULL_REQUESTS)
_ATTEMPTS = ATTEMPTS.join(JOBS).join(REVISIONS).join(PULL_REQUESTS)


class Index:
    """Pull requests, revisions, jobs and attempts, in SQLite or PostgreSQL.

    Every method blocks on the database (milliseconds, but up to half a minute when
    another process writes for long): call it on a thread. Methods may be called from
    several threads at once. Trouble with the database is an InfrastructureError with
    cause `storage`, or `disk_full`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Self:
        """Opens an index and brings its tables to the newest schema, making them first.

        Several processes may do so at once. Blocks while another one does.

        Args:
            url: `sqlite:///FILE` (a fourth slash for an absolute path) or
                `postgresql://USER@HOST/DATABASE`.

        Raises:
            UsageError: The URL names no index, or one of a newer opam-ci.
            InfrastructureError: The database is not reachable or damaged.
        """
        engine = create(url)
        try:
            migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine)

    def close(self) -> None:
        """Closes all connections; on SQLite it also refreshes the planner's statistics.

        Raises:
            InfrastructureError: The statistics could not be written.
        """
        try:
            if self._engine.dialect.name == "sqlite":
                with writing(self._engine) as connection:
                    # 400 rows of each index, as SQLite advises: some milliseconds.
                    connection.execute(text("PRAGMA analysis_limit = 400"))
                    connection.execute(text("PRAGMA optimize"))
        finally:
            self._engine.dispose()

    def record(self, batch: RecordBatch) -> None:
        """Writes records, all or none; what is already known is left as it is.

        Records may come twice and in any order: the newest stands, by round, attempt and
        sequence. Blocks while another process writes.

        Raises:
            InfrastructureError: The records could not be stored; try again.
        """
        with writing(self._engine) as connection:
            write(connection, batch)

    def revisions(
        self, wanted: RevisionFilter = _EVERY_REVISION, *, place: Place = _START
    ) -> Page[RevisionRecord]:
        """Lists testings of heads, last changed first.

        Raises:
            UsageError: The place is not one that a listing gave.
            InfrastructureError: The index cannot be read.
        """
        pull_request = (PULL_REQUESTS.c.title, PULL_REQUESTS.c.is_open)
        others = (each for each in REVISIONS.c if each not in _KEY)
        query = select(*_KEY, *pull_request, *others).select_from(_REVISIONS)
        query = query.where(revision_condition(wanted))
        with reading(self._engine) as connection:
            return page(
                connection, query, (REVISIONS.c.updated_at, REVISIONS.c.id), place, revision_record
            )

    def jobs(self, wanted: JobFilter = _EVERY_JOB, *, place: Place = _START) -> Page[JobRecord]:
        """Lists jobs, last changed first.

        Raises:
            UsageError: The place is not one that a listing gave.
            InfrastructureError: The index cannot be read.
        """
        query = select(*_KEY, *JOBS.c).select_from(_JOBS)
        query = query.where(job_condition(wanted), revision_condition(wanted.of))
        with reading(self._engine) as connection:
            return page(connection, query, (JOBS.c.updated_at, JOBS.c.id), place, job_record)

    def attempts(
        self, wanted: AttemptFilter = _EVERY_ATTEMPT, *, place: Place = _START
    ) -> Page[AttemptRecord]:
        """Lists attempts, last begun first.

        Raises:
            UsageError: The place is not one that a listing gave.
            InfrastructureError: The index cannot be read.
        """
        job = (JOBS.c.platform, JOBS.c.package, JOBS.c.kind, JOBS.c.revdep)
        own = (
            each.label("attempt_number") if each is ATTEMPTS.c.number else each
            for each in ATTEMPTS.c
        )
        query = select(*_KEY, *job, *own).select_from(_ATTEMPTS)
        query = query.where(attempt_condition(wanted), revision_condition(wanted.of))
        with reading(self._engine) as connection:
            return page(
                connection, query, (ATTEMPTS.c.started_at, ATTEMPTS.c.id), place, attempt_record
            )

    def counts(self, wanted: JobFilter = _EVERY_JOB) -> Counts:
        """Counts jobs by how they stand.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        query = _counting(wanted, JOBS.c.standing)
        with reading(self._engine) as connection:
            return Counts(**{row.standing: row.count for row in connection.execute(query)})

    def counts_by(self, column: CountedBy, wanted: JobFilter = _EVERY_JOB) -> dict[str, Counts]:
        """Counts jobs by a column and how they stand; jobs without a value are left out.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        value = JOBS.c[column]
        query = _counting(wanted, value, JOBS.c.standing).where(value.is_not(None))
        found: dict[str, dict[str, int]] = {}
        with reading(self._engine) as connection:
            for key, standing, count in connection.execute(query):
                found.setdefault(key, {})[standing] = count
        return {key: Counts(**found[key]) for key in sorted(found)}


def _counting(wanted: JobFilter, *columns: ColumnElement[Any]) -> Select[Any]:
    """Makes the query for counts; without a condition on revisions it reads an index alone."""
    source: FromClause = JOBS if wanted.of == _EVERY_REVISION else _JOBS
    condition = job_condition(wanted)
    if source is _JOBS:
        condition = and_(condition, revision_condition(wanted.of))
    counted = select(*columns, func.count().label("count")).select_from(source)
    return counted.where(condition).group_by(*columns)
