"""The job index as its users see it."""

import itertools
from datetime import datetime
from typing import Any, Self

from sqlalchemy import Connection, Engine, Select, and_, select, text

from opam_ci.clients.index import incidents as queries
from opam_ci.clients.index.counters import (
    FOLD_EVERY,
    CountedBy,
    counting,
    counting_rows,
    fold,
    is_counted,
)
from opam_ci.clients.index.engine import create, reading, writing
from opam_ci.clients.index.filters import (
    CURRENT,
    AttemptFilter,
    JobFilter,
    RevisionFilter,
    attempt_condition,
    job_condition,
    of_revisions,
    revision_condition,
)
from opam_ci.clients.index.incidents import IncidentFilter
from opam_ci.clients.index.migrate import migrate
from opam_ci.clients.index.overview import errors, workers
from opam_ci.clients.index.paging import Page, Place, page
from opam_ci.clients.index.rejudging import rejudge
from opam_ci.clients.index.retention import Retired, logs_to_retire, retire
from opam_ci.clients.index.rows import attempt_record, job_record, revision_record
from opam_ci.clients.index.schema import ATTEMPTS, JOBS, PULL_REQUESTS, REVISIONS
from opam_ci.clients.index.write import write
from opam_ci.core.incidents.messages import Rejudge
from opam_ci.core.incidents.model import HitJob, Incident
from opam_ci.core.overview import ErrorGroup, WorkerRow
from opam_ci.core.records import AttemptRecord, JobRecord, RecordBatch, RevisionRecord, Standing
from opam_ci.core.summary import Counts

_EVERY_REVISION = RevisionFilter()
_EVERY_JOB = JobFilter()
_EVERY_ATTEMPT = AttemptFilter()
_EVERY_INCIDENT = IncidentFilter()
_START = Place()

_DOUBTFUL = frozenset({"failed", "errored"})
"""Kinds of outcomes that can throw another light on verdicts."""

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
        self._batches = itertools.count(1)

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

    def record(self, batch: RecordBatch) -> tuple[int, ...]:
        """Writes records, all or none; what is already known is left as it is.

        Records may come twice and in any order: the newest stands, by round, attempt and
        sequence. Blocks while another process writes.

        Returns:
            The open incidents of the batch's faults, whether it opened them or not.

        Raises:
            InfrastructureError: The records could not be stored; try again.
        """
        with writing(self._engine) as connection:
            found = write(connection, batch)
        if next(self._batches) % FOLD_EVERY == 0:
            self.fold()
        return found

    def rejudge(self, batch: RecordBatch) -> tuple[Rejudge, ...]:
        """Finds jobs whose verdict a batch that was written throws another light on.

        Args:
            batch: As it was given to `record`; asking twice yields the same, as long as
                nobody has heard of it.

        Raises:
            InfrastructureError: The index cannot be read; try again.
        """
        if not any(each.outcome and each.outcome.kind in _DOUBTFUL for each in batch.attempts):
            return ()
        with reading(self._engine) as connection:
            return rejudge(connection, batch)

    def fold(self) -> None:
        """Folds the counters; `record` does it now and then.

        Raises:
            InfrastructureError: The counters could not be stored.
        """
        with writing(self._engine) as connection:
            fold(connection)

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
        with reading(self._engine) as connection:
            chosen = and_(job_condition(wanted), of_revisions(connection, wanted.of))
            order = (JOBS.c.updated_at, JOBS.c.id)
            return page(connection, query, order, place, job_record, chosen=chosen)

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
        with reading(self._engine) as connection:
            query = query.where(attempt_condition(wanted), of_revisions(connection, wanted.of))
            return page(
                connection, query, (ATTEMPTS.c.started_at, ATTEMPTS.c.id), place, attempt_record
            )

    def counts(self, wanted: JobFilter = _EVERY_JOB) -> Counts:
        """Counts jobs by how they stand.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            found = connection.execute(self._counting(connection, wanted, None))
            return Counts(**{standing: count for _, standing, count in found})

    def counts_by(self, column: CountedBy, wanted: JobFilter = _EVERY_JOB) -> dict[str, Counts]:
        """Counts jobs by a column and how they stand; jobs without a value are left out.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        found: dict[str, dict[str, int]] = {}
        with reading(self._engine) as connection:
            for key, standing, count in connection.execute(
                self._counting(connection, wanted, column)
            ):
                found.setdefault(key, {})[standing] = count
        return {key: Counts(**found[key]) for key in sorted(found)}

    def errors(self, of: RevisionFilter = CURRENT) -> tuple[ErrorGroup, ...]:
        """Groups what the CI itself lost, or tries again, by cause; most jobs first.

        Args:
            of: In which testings; by default the newest ones of open pull requests.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            return errors(connection, of_revisions(connection, of))

    def workers(self, since: datetime) -> tuple[WorkerRow, ...]:
        """Lists workers that began attempts on that day (in UTC) or later, last seen first.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            return workers(connection, since)

    def incidents(
        self, wanted: IncidentFilter = _EVERY_INCIDENT, *, place: Place = _START
    ) -> Page[Incident]:
        """Lists incidents, last seen first.

        Raises:
            UsageError: The place is not one that a listing gave.
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            return queries.incidents(connection, wanted, place)

    def incident(self, number: int) -> Incident | None:
        """Reads one incident; None if there is none, or it was united with another one.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            return queries.incident(connection, number)

    def resolve(self, number: int, *, at: datetime, by: str) -> bool:
        """Resolves an open incident; False where there is nothing to resolve (any more).

        Args:
            number: Of the incident.
            at: When it was found repaired; one that was seen later stays open.
            by: Who or what found that.

        Raises:
            InfrastructureError: The index cannot be written.
        """
        with writing(self._engine) as connection:
            return queries.resolve(connection, number, at, by)

    def hit_jobs(self, number: int, standing: Standing = Standing.ERRORED) -> tuple[HitJob, ...]:
        """Lists jobs that an incident hit and that still stand so, of current heads.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            return queries.hit_jobs(connection, number, standing)

    def undecided_jobs(self, number: int) -> int:
        """Counts jobs of current heads that an incident hit and that are under way.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            return queries.undecided_jobs(connection, number)

    def recovered_since(self, incident: Incident) -> bool:
        """Whether a job that it hit has got through since its last fault, at the same place.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            return queries.recovered_since(connection, incident)

    def retire(self, before: datetime, *, limit: int) -> Retired:
        """Forgets testings of closed pull requests, and of branches, that are long past.

        Call it again until it finds nothing. The logs must be gone by then: see `logs_of`.

        Args:
            before: Those that have not changed since.
            limit: How many at once: a transaction of some hundred milliseconds.

        Raises:
            InfrastructureError: The index cannot be written; nothing was forgotten then.
        """
        with writing(self._engine) as connection:
            return retire(connection, before, limit=limit)

    def logs_to_retire(self, before: datetime, *, limit: int) -> tuple[str, ...]:
        """Lists the keys of the logs of what `retire` would forget.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            return logs_to_retire(connection, before, limit=limit)

    def _counting(
        self, connection: Connection, wanted: JobFilter, by: CountedBy | None
    ) -> Select[Any]:
        if is_counted(wanted):
            return counting(wanted, by)
        query = counting_rows(wanted, by)
        if wanted.of == _EVERY_REVISION:
            return query
        return query.where(of_revisions(connection, wanted.of))
