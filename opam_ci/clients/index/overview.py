"""Queries over the whole index: errors by cause, and workers."""

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from opam_ci.clients.index.schema import ATTEMPT_COUNTS, ATTEMPTS, JOBS, PULL_REQUESTS, REVISIONS
from opam_ci.core.outcome import Cause
from opam_ci.core.overview import ErrorGroup, HitPullRequest, WorkerRow
from opam_ci.core.records import Standing


def errors(connection: Connection, of: ColumnElement[bool]) -> tuple[ErrorGroup, ...]:
    """Groups what is errored or retrying by cause, most jobs first."""
    lost_at = func.coalesce(JOBS.c.decided_at, JOBS.c.updated_at, type_=JOBS.c.updated_at.type)
    keys = (JOBS.c.cause, JOBS.c.standing, PULL_REQUESTS.c.repository, PULL_REQUESTS.c.target)
    query = (
        select(
            *keys,
            func.count().label("jobs"),
            func.min(lost_at).label("first"),
            func.max(lost_at).label("last"),
        )
        .select_from(JOBS.join(REVISIONS).join(PULL_REQUESTS))
        .where(
            JOBS.c.standing.in_((Standing.ERRORED.value, Standing.RETRYING.value)),
            JOBS.c.cause.is_not(None),
            of,
        )
        .group_by(*keys)
    )
    by_cause = defaultdict[str, list[Any]](list)
    for row in connection.execute(query):
        by_cause[row.cause].append(row)
    groups = [_group(Cause(cause), rows) for cause, rows in by_cause.items()]
    return tuple(sorted(groups, key=lambda each: (-(each.errored + each.retrying), each.cause)))


def _group(cause: Cause, rows: list[Any]) -> ErrorGroup:
    hit = defaultdict[tuple[str, str], int](int)
    standings = defaultdict[str, int](int)
    for row in rows:
        hit[row.repository, row.target] += row.jobs
        standings[row.standing] += row.jobs
    ordered = sorted(hit.items(), key=lambda item: (-item[1], item[0]))
    return ErrorGroup(
        cause=cause,
        errored=standings[Standing.ERRORED.value],
        retrying=standings[Standing.RETRYING.value],
        since=min(row.first for row in rows),
        last_at=max(row.last for row in rows),
        pull_requests=tuple(
            HitPullRequest(repository=repository, target=target, jobs=jobs)
            for (repository, target), jobs in ordered
        ),
    )


def workers(connection: Connection, since: datetime) -> tuple[WorkerRow, ...]:
    """Lists workers with what they did since the beginning of a day, last seen first."""
    counts = ATTEMPT_COUNTS.c
    keys = (counts.worker, counts.pool, counts.standing, counts.why)
    total = func.sum(counts.count).label("count")
    query = select(*keys, total).where(
        counts.day >= f"{since.astimezone(UTC):%Y-%m-%d}", counts.worker != ""
    )
    found = defaultdict[tuple[str, str], list[Any]](list)
    for row in connection.execute(query.group_by(*keys).having(total > 0)):
        found[row.worker, row.pool].append(row)
    seen = _last_seen(connection, sorted({worker for worker, _ in found}))
    rows = [_worker(*key, each, seen.get(key[0])) for key, each in found.items()]
    beginning = datetime.min.replace(tzinfo=UTC)
    return tuple(sorted(rows, key=lambda row: row.last_seen_at or beginning, reverse=True))


def _worker(worker: str, pool: str, rows: list[Any], seen: datetime | None) -> WorkerRow:
    causes = {Cause(row.why): row.count for row in rows if row.standing == Standing.ERRORED.value}
    return WorkerRow(
        worker=worker,
        pool=pool,
        attempts=sum(row.count for row in rows),
        running=sum(row.count for row in rows if row.standing == Standing.RUNNING.value),
        faults=sum(causes.values()),
        causes=causes,
        last_seen_at=seen,
    )


def _last_seen(connection: Connection, names: list[str]) -> dict[str, datetime]:
    """Looks each worker up: a search in an index, where a grouping would read all of it."""
    found: dict[str, datetime] = {}
    for name in names:
        query = select(func.max(ATTEMPTS.c.started_at)).where(ATTEMPTS.c.worker == name)
        if (seen := connection.scalar(query)) is not None:
            found[name] = seen
    return found
