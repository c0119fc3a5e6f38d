"""The job index."""

import itertools
import time
from datetime import datetime, timedelta
from typing import Self, cast

from sqlalchemy import Engine, QueuePool, and_, func, select, text

from opam_ci.clients.index.counters import FOLD_EVERY, counting, counting_rows, fold, is_counted
from opam_ci.clients.index.engine import create, reading, writing
from opam_ci.clients.index.estimates import first_estimate, write_estimate
from opam_ci.clients.index.filters import (
    AttemptFilter,
    JobFilter,
    RevisionFilter,
    attempt_condition,
    job_condition,
    of_revisions,
    revision_condition,
)
from opam_ci.clients.index.migrate import migrate
from opam_ci.clients.index.ops import Ops
from opam_ci.clients.index.page_testing import find_testing, read_tallies
from opam_ci.clients.index.pages import Pages
from opam_ci.clients.index.paging import Page, Place, page
from opam_ci.clients.index.queue import JobQueue
from opam_ci.clients.index.regressions import Regressions
from opam_ci.clients.index.rejudging import Effects, find_doubtful, judge_again
from opam_ci.clients.index.retention import Retention
from opam_ci.clients.index.rows import attempt_record, job_record, revision_of, revision_record
from opam_ci.clients.index.schema import (
    ATTEMPTED,
    ATTEMPTS,
    HEADS,
    JOB_COLUMNS,
    JOBS,
    KEY_COLUMNS,
    PULL_REQUESTS,
    REVISIONS,
    TESTED,
)
from opam_ci.clients.index.summaries import Summaries
from opam_ci.clients.index.verdicts import Verdicts
from opam_ci.clients.index.write import find_revision, write
from opam_ci.core.jobs.records import (
    AttemptRecord,
    JobRecord,
    RevisionKey,
    RevisionRecord,
    RowBatch,
)
from opam_ci.core.jobs.summary import Counts, State
from opam_ci.core.pages.estimate import Estimate

CLOSE_PATIENCE = timedelta(seconds=5)
"""How long closing an index waits for running calls; they take milliseconds."""

_EVERY_REVISION = RevisionFilter()
_EVERY_JOB = JobFilter()
_EVERY_ATTEMPT = AttemptFilter()
_START = Place()


class Index(JobQueue, Verdicts, Ops, Pages, Regressions, Summaries, Retention):
    """Pull requests, revisions, jobs and attempts, in SQLite or PostgreSQL.

    Every method blocks on the database (milliseconds, but up to half a minute when
    another process writes for long): call it on a thread. Methods may be called from
    several threads at once. A failure of the database is an InfrastructureError with cause
    `storage`, or `disk_full`.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._batches = itertools.count(1)

    @classmethod
    def open(cls, url: str) -> Self:
        """Opens an index and brings its tables to the newest schema, making them first.

        Several processes may do so at once. Blocks while another one does.

        Args:
            url: `sqlite:///FILE` (a fourth slash for an absolute path) or
                `postgresql://USER@HOST/DATABASE`.

        Raises:
            UsageError: It is not the URL of an index, or the index is of a newer opam-ci.
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

        Waits up to `CLOSE_PATIENCE` for calls of other threads: a thread goes on when the activity
        is cancelled that waits for it.

        Raises:
            InfrastructureError: The statistics could not be written.
        """
        deadline = time.monotonic() + CLOSE_PATIENCE.total_seconds()
        while cast("QueuePool", self._engine.pool).checkedout() and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            if self._engine.dialect.name == "sqlite":
                with writing(self._engine) as connection:
                    # 400 rows of each index, as SQLite advises: some milliseconds.
                    connection.execute(text("PRAGMA analysis_limit = 400"))
                    connection.execute(text("PRAGMA optimize"))
        finally:
            super().close()

    def record(self, batch: RowBatch, *, retried: bool = False) -> Effects:
        """Writes rows, all or none; newer ones in the index are left as they are.

        Rows may come twice and in any order: the newest wins, by round, attempt and sequence.
        Then verdicts that failures in the batch put in doubt are judged again, at once in all
        testings. Blocks while another process writes.

        Args:
            batch: What to write.
            retried: Whether an earlier call may have written the batch without its result being
                received: then testings that it judged again are reported again.

        Raises:
            InfrastructureError: The rows could not be stored; try again.
        """
        with writing(self._engine) as connection:
            incidents, failures = write(connection, batch)
        estimated_until = None
        if batch.revision is not None and batch.revision.state is State.PENDING:
            estimated_until = self._estimate_first(batch.revision)
        if next(self._batches) % FOLD_EVERY == 0:
            self.fold()
        if not failures:
            return Effects(incidents, estimated_until=estimated_until)
        # In another transaction, so that of two writers at once the later one sees all failures.
        with reading(self._engine) as connection:
            doubtful, before = find_doubtful(connection, failures)
        done = Effects()
        if doubtful:
            with writing(self._engine) as connection:
                done = judge_again(connection, doubtful, batch.updated_at)
        return Effects(
            incidents=tuple(sorted({*incidents, *done.incidents})),
            testings=done.testings | before if retried else done.testings,
            kinds=done.kinds,
            estimated_until=estimated_until,
        )

    def _estimate_first(self, record: RevisionRecord) -> datetime | None:
        """Writes down the first estimate of a head, so that it is known later whether it held.

        Returns:
            By when the head is decided, by that estimate; None if there is none.
        """
        with reading(self._engine) as connection:
            # Of most records this is all that is read.
            revision_id = find_revision(connection, record.key)
            if revision_id is None:
                return None
            is_open, until = first_estimate(connection, revision_id)
            if until is not None or not is_open:
                return until
            testing = find_testing(connection, record.key)
            if testing is None:
                return None
            tallies, _ = read_tallies(connection, testing)
            found = self._estimate(connection, testing, tallies, record.updated_at)
        if not isinstance(found, Estimate):
            return None
        with writing(self._engine) as connection:
            write_estimate(connection, testing.id, found)
        return found.until

    def fold(self) -> None:
        """Folds the counters; `record` does so after every `FOLD_EVERY` batches.

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
            UsageError: The cursor is not one that a page returned.
            InfrastructureError: The index cannot be read.
        """
        pull_request = (PULL_REQUESTS.c.title, PULL_REQUESTS.c.is_open, PULL_REQUESTS.c.author)
        others = (each for each in REVISIONS.c if each not in KEY_COLUMNS)
        query = select(*KEY_COLUMNS, *pull_request, *others).select_from(HEADS)
        query = query.where(revision_condition(wanted))
        with reading(self._engine) as connection:
            return page(
                connection, query, (REVISIONS.c.updated_at, REVISIONS.c.id), place, revision_record
            )

    def jobs(self, wanted: JobFilter = _EVERY_JOB, *, place: Place = _START) -> Page[JobRecord]:
        """Lists jobs, last changed first.

        Raises:
            UsageError: The cursor is not one that a page returned.
            InfrastructureError: The index cannot be read.
        """
        query = select(*KEY_COLUMNS, *JOBS.c).select_from(TESTED)
        with reading(self._engine) as connection:
            chosen = and_(job_condition(wanted), of_revisions(connection, wanted.of))
            order = (JOBS.c.updated_at, JOBS.c.id)
            return page(connection, query, order, place, job_record, chosen=chosen)

    def attempts(
        self, wanted: AttemptFilter = _EVERY_ATTEMPT, *, place: Place = _START
    ) -> Page[AttemptRecord]:
        """Lists attempts, last started first.

        Raises:
            UsageError: The cursor is not one that a page returned.
            InfrastructureError: The index cannot be read.
        """
        own = (
            each.label("attempt_number") if each is ATTEMPTS.c.number else each
            for each in ATTEMPTS.c
        )
        query = select(*KEY_COLUMNS, *JOB_COLUMNS, *own).select_from(ATTEMPTED)
        with reading(self._engine) as connection:
            query = query.where(attempt_condition(wanted), of_revisions(connection, wanted.of))
            return page(
                connection, query, (ATTEMPTS.c.started_at, ATTEMPTS.c.id), place, attempt_record
            )

    def counts(self, wanted: JobFilter = _EVERY_JOB) -> Counts:
        """Counts jobs by standing.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            if is_counted(wanted):
                query = counting(wanted)
            else:
                query = counting_rows(wanted).where(of_revisions(connection, wanted.of))
            return Counts(**dict(connection.execute(query).all()))

    def counts_by_testing(self, wanted: JobFilter) -> dict[RevisionKey, int]:
        """Counts jobs by the testing that they belong to, most jobs first.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        jobs = func.count().label("jobs")
        query = (
            select(*KEY_COLUMNS, jobs).select_from(TESTED).group_by(*KEY_COLUMNS, REVISIONS.c.id)
        )
        with reading(self._engine) as connection:
            query = query.where(job_condition(wanted), of_revisions(connection, wanted.of))
            found = connection.execute(query.order_by(jobs.desc(), REVISIONS.c.id))
            return {revision_of(row): row.jobs for row in found}
