"""Attempts of the last day by pool and worker, and faults of unknown cause, for operators."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, case, func, select

from opam_ci.clients.index.rows import AnyRow, revision_of
from opam_ci.clients.index.schema import ATTEMPTED, ATTEMPTS, JOBS, KEY_COLUMNS
from opam_ci.core.incidents.fingerprint import SAME_FAILURE
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.pages.causes import cause_group
from opam_ci.core.pages.ops import (
    ATTEMPTS_SHOWN,
    HOURS,
    ROWS_SHOWN,
    WORKERS_SHOWN,
    AttemptMark,
    PoolRow,
    Share,
    UnknownFaults,
    WorkerStrip,
)
from opam_ci.core.text.result import reason_line

_HOUR = timedelta(hours=1)
_DAY = timedelta(hours=HOURS)
_WEEK = timedelta(days=7)

_GROUPED = 1_000
"""Faults of unknown cause that are grouped, the newest."""

_MARK = (
    *KEY_COLUMNS, JOBS.c.name, ATTEMPTS.c.standing, ATTEMPTS.c.cause, ATTEMPTS.c.failure_reason,
    ATTEMPTS.c.skip_reason, ATTEMPTS.c.started_at,
)  # fmt: skip

_JUDGED_AGAIN = and_(
    ATTEMPTS.c.cause == Cause.UNKNOWN,
    ATTEMPTS.c.outcome["evidence", "rule"].as_string() == SAME_FAILURE,
)


class Recent(NamedTuple):
    """Attempts that began within the last day.

    Attributes:
        pools: By pool.
        workers: By worker, most faults first.
        begun_at: When the last one began, None if there are none.
    """

    pools: tuple[PoolRow, ...]
    workers: tuple[WorkerStrip, ...]
    begun_at: datetime | None


def recent(connection: Connection, now: datetime) -> Recent:
    """Reads the attempts of the last day, without those that each worker is shown with."""
    columns = ATTEMPTS.c
    keys = (columns.pool, columns.worker, columns.standing, columns.cause)
    query = select(
        *keys,
        func.count().label("number"),
        func.sum(case((columns.started_at >= now - _HOUR, 1), else_=0)).label("hour"),
        func.max(columns.started_at).label("begun_at"),
        func.max(columns.ended_at).label("ended_at"),
    )
    rows = connection.execute(query.where(columns.started_at >= now - _DAY).group_by(*keys)).all()
    by_pool, by_worker = defaultdict[str, list[AnyRow]](list), defaultdict[str, list[AnyRow]](list)
    for row in rows:
        by_pool[row.pool or ""].append(row)
        if row.worker is not None:
            by_worker[row.worker].append(row)
    hours = _faults_by_hour(connection, now)
    return Recent(
        tuple(_pool(name, found, hours[name]) for name, found in sorted(by_pool.items())),
        tuple(
            sorted(
                (_worker(name, found) for name, found in by_worker.items()),
                key=lambda each: (-each.day.faults, each.worker),
            )
        ),
        max((row.begun_at for row in rows), default=None),
    )


def with_attempts(connection: Connection, workers: Sequence[WorkerStrip]) -> list[WorkerStrip]:
    """Returns the first `WORKERS_SHOWN` workers with their last attempts."""
    # One by one: each is a range of a database index, and a window over all would read them all.
    return [
        each.model_copy(update={"last": _last(connection, ATTEMPTS.c.worker == each.worker)})
        for each in workers[:WORKERS_SHOWN]
    ]


def judged_again(connection: Connection, now: datetime) -> tuple[int, tuple[AttemptMark, ...]]:
    """Counts and reads the verdicts of a week that were judged again, the newest first."""
    condition = and_(_JUDGED_AGAIN, ATTEMPTS.c.started_at >= now - _WEEK)
    number = connection.scalar(select(func.count()).select_from(ATTEMPTS).where(condition)) or 0
    return number, _last(connection, condition, ROWS_SHOWN)


def unknown_faults(connection: Connection, now: datetime) -> tuple[UnknownFaults, ...]:
    """Groups the faults of unknown cause of a week by what looks the same."""
    query = (
        select(*_MARK, ATTEMPTS.c.ended_at, ATTEMPTS.c.worker, ATTEMPTS.c.outcome)
        .select_from(ATTEMPTED)
        .where(
            ATTEMPTS.c.cause == Cause.UNKNOWN,
            ~_JUDGED_AGAIN,
            ATTEMPTS.c.started_at >= now - _WEEK,
        )
        .order_by(ATTEMPTS.c.started_at.desc(), ATTEMPTS.c.id.desc())
        .limit(_GROUPED)
    )
    groups = defaultdict[str | None, list[AnyRow]](list)
    for row in connection.execute(query):
        groups[cause_group(row.outcome)].append(row)
    # As read: the newest group comes first among equals.
    found = sorted(groups.values(), key=len, reverse=True)
    return tuple(map(_unknown, found[:ROWS_SHOWN]))


def _last(
    connection: Connection, condition: ColumnElement[bool], limit: int = ATTEMPTS_SHOWN
) -> tuple[AttemptMark, ...]:
    query = select(*_MARK).select_from(ATTEMPTED).where(condition)
    newest = query.order_by(ATTEMPTS.c.started_at.desc(), ATTEMPTS.c.id.desc()).limit(limit)
    known: dict[tuple[object, ...], RevisionKey] = {}
    return tuple(_mark(row, known) for row in connection.execute(newest))


def _mark(row: AnyRow, known: dict[tuple[object, ...], RevisionKey] | None = None) -> AttemptMark:
    known = {} if known is None else known
    identity = (row.repository, row.number, row.branch, row.head, row.opened_at)
    if identity not in known:
        known[identity] = revision_of(row)
    return AttemptMark(
        standing=row.standing,
        why=row.cause or row.failure_reason or row.skip_reason or "",
        job=row.name,
        revision=known[identity],
        started_at=row.started_at,
    )


def _faults_by_hour(connection: Connection, now: datetime) -> dict[str, list[int]]:
    """Counts faults of each pool by the hour in which their attempts began, the oldest first."""
    query = select(ATTEMPTS.c.pool, ATTEMPTS.c.started_at).where(
        ATTEMPTS.c.standing == Standing.ERRORED, ATTEMPTS.c.started_at >= now - _DAY
    )
    found = defaultdict[str, list[int]](lambda: [0] * HOURS)
    for pool, started_at in connection.execute(query):
        ago = max(now - started_at, timedelta()) // _HOUR
        found[pool or ""][HOURS - 1 - min(ago, HOURS - 1)] += 1
    return found


def _pool(name: str, rows: list[AnyRow], faults_by_hour: Sequence[int]) -> PoolRow:
    passed = (row.ended_at for row in rows if row.standing == Standing.PASSED)
    running = [row for row in rows if row.standing == Standing.RUNNING]
    return PoolRow(
        pool=name,
        workers=len({row.worker for row in rows if row.worker is not None}),
        busy=len({row.worker for row in running if row.worker is not None}),
        running=sum(row.number for row in running),
        hour=_share(Counter({row: row.hour for row in rows})),
        day=_share(Counter({row: row.number for row in rows})),
        last_passed_at=max(passed, default=None),
        faults_by_hour=tuple(faults_by_hour),
    )


def _worker(name: str, rows: list[AnyRow]) -> WorkerStrip:
    causes: Counter[Cause] = Counter()
    for row in rows:
        if row.standing == Standing.ERRORED:
            causes[Cause(row.cause or Cause.UNKNOWN)] += row.number
    return WorkerStrip(
        worker=name,
        pools=tuple(sorted({row.pool or "" for row in rows})),
        running=sum(row.number for row in rows if row.standing == Standing.RUNNING),
        day=_share(Counter({row: row.number for row in rows})),
        causes=dict(causes.most_common()),
        last_seen_at=max(row.begun_at for row in rows),
    )


def _share(numbers: Counter[AnyRow]) -> Share:
    return Share(
        attempts=sum(n for row, n in numbers.items() if row.standing != Standing.RUNNING),
        faults=sum(n for row, n in numbers.items() if row.standing == Standing.ERRORED),
    )


def _unknown(rows: list[AnyRow]) -> UnknownFaults:
    newest = rows[0]
    return UnknownFaults(
        rule=newest.outcome.evidence.rule,
        line=reason_line(newest.outcome),
        attempts=len(rows),
        workers=len({row.worker for row in rows if row.worker is not None}),
        pull_requests=len({(row.repository, row.number, row.branch) for row in rows}),
        first_at=min(row.ended_at for row in rows),
        last=_mark(newest),
    )
