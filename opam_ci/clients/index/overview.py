"""Queries over the whole index: errors by cause, workers, and authors."""

from collections import Counter, defaultdict
from datetime import UTC, datetime

from sqlalchemy import func, select

from opam_ci.clients.index.engine import Connected, reading
from opam_ci.clients.index.filters import CURRENT, REASONS, of_revisions
from opam_ci.clients.index.rows import AnyRow
from opam_ci.clients.index.schema import (
    ATTEMPT_COUNTS,
    ATTEMPTED,
    ATTEMPTS,
    JOBS,
    PULL_REQUESTS,
    TESTED,
)
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.overview import AuthorRow, ErrorGroup, HitPullRequest, WorkerRow
from opam_ci.core.jobs.summary import Standing


class Overview(Connected):
    """The part of the index with overviews for operators."""

    def errors(self) -> tuple[ErrorGroup, ...]:
        """Groups errored and retrying jobs of current heads by cause, most jobs first.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        lost_at = func.coalesce(JOBS.c.decided_at, JOBS.c.updated_at, type_=JOBS.c.updated_at.type)
        keys = (JOBS.c.cause, JOBS.c.standing, PULL_REQUESTS.c.repository, PULL_REQUESTS.c.target)
        numbers = (
            func.count().label("jobs"),
            func.min(lost_at).label("first"),
            func.max(lost_at).label("last"),
        )
        query = select(*keys, *numbers).select_from(TESTED).group_by(*keys)
        query = query.where(JOBS.c.standing.in_(REASONS["cause"]), JOBS.c.cause.is_not(None))
        by_cause = defaultdict[str, list[AnyRow]](list)
        with reading(self._engine) as connection:
            for row in connection.execute(query.where(of_revisions(connection, CURRENT))):
                by_cause[row.cause].append(row)
        groups = [_group(Cause(cause), rows) for cause, rows in by_cause.items()]
        return tuple(sorted(groups, key=lambda each: (-(each.errored + each.retrying), each.cause)))

    def authors(
        self, since: datetime, *, repository: str | None = None, author: str | None = None
    ) -> tuple[AuthorRow, ...]:
        """Lists who used how much processor time, most first.

        Where no control group counts that, it is the time that the attempt took. Attempts that
        met an infrastructure fault are at nobody's cost, and those under way are not known yet.

        Args:
            since: Only attempts that began then or later.
            repository: Only pull requests to this one.
            author: Only pull requests that this account opened.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        of, ran = PULL_REQUESTS.c, ATTEMPTS.c
        columns = (of.repository, of.author, of.target)
        query = select(*columns, ran.started_at, ran.ended_at, ran.cpu_seconds)
        query = query.select_from(ATTEMPTED).where(
            ran.started_at >= since,
            ran.ended_at.is_not(None),
            ran.standing != Standing.ERRORED,
            of.author.is_not(None) if author is None else of.author == author,
            *(() if repository is None else (of.repository == repository,)),
        )
        found = defaultdict[tuple[str, str], list[AnyRow]](list)
        with reading(self._engine) as connection:
            for row in connection.execute(query):
                found[row.repository, row.author].append(row)
        rows = [
            AuthorRow(
                author=name,
                repository=where,
                cpu_hours=sum(map(_cpu_seconds, attempts)) / 3600,
                attempts=len(attempts),
                pull_requests=len({each.target for each in attempts}),
            )
            for (where, name), attempts in found.items()
        ]
        return tuple(sorted(rows, key=lambda row: (-row.cpu_hours, row.author)))

    def workers(self, since: datetime) -> tuple[WorkerRow, ...]:
        """Lists workers that started attempts on that day (in UTC) or later, last seen first.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        counts = ATTEMPT_COUNTS.c
        keys = (counts.worker, counts.pool, counts.standing, counts.why)
        total = func.sum(counts.count)
        day = f"{since.astimezone(UTC):%Y-%m-%d}"
        query = select(*keys, total).where(counts.day >= day, counts.worker != "").group_by(*keys)
        found = defaultdict[tuple[str, str], Counter[tuple[str, str]]](Counter)
        seen: dict[str, datetime] = {}
        with reading(self._engine) as connection:
            for worker, pool, standing, why, number in connection.execute(query.having(total > 0)):
                found[worker, pool][standing, why] = number
            # One by one: each is a search in a database index, and a grouping would read it all.
            for worker in {worker for worker, _ in found}:
                last = select(func.max(ATTEMPTS.c.started_at)).where(ATTEMPTS.c.worker == worker)
                if (at := connection.scalar(last)) is not None:
                    seen[worker] = at
        rows = [_worker(*key, numbers, seen.get(key[0])) for key, numbers in found.items()]
        beginning = datetime.min.replace(tzinfo=UTC)
        return tuple(sorted(rows, key=lambda row: row.last_seen_at or beginning, reverse=True))


def _cpu_seconds(row: AnyRow) -> float:
    if row.cpu_seconds is not None:
        return float(row.cpu_seconds)
    return float((row.ended_at - row.started_at).total_seconds())


def _group(cause: Cause, rows: list[AnyRow]) -> ErrorGroup:
    hit = Counter[tuple[str, str]]()
    standings = Counter[str]()
    for row in rows:
        hit[row.repository, row.target] += row.jobs
        standings[row.standing] += row.jobs
    return ErrorGroup(
        cause=cause,
        errored=standings[Standing.ERRORED],
        retrying=standings[Standing.RETRYING],
        since=min(row.first for row in rows),
        last_at=max(row.last for row in rows),
        pull_requests=tuple(
            HitPullRequest(repository=repository, target=target, jobs=jobs)
            for (repository, target), jobs in sorted(hit.items(), key=lambda it: (-it[1], it[0]))
        ),
    )


def _worker(
    worker: str, pool: str, numbers: Counter[tuple[str, str]], seen: datetime | None
) -> WorkerRow:
    causes = {
        Cause(why): number
        for (standing, why), number in numbers.items()
        if standing == Standing.ERRORED
    }
    return WorkerRow(
        worker=worker,
        pool=pool,
        attempts=numbers.total(),
        running=numbers[Standing.RUNNING, ""],
        faults=sum(causes.values()),
        causes=causes,
        last_seen_at=seen,
    )
