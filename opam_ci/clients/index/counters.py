"""Counts over a million jobs: whole days from the counters, the rest from the rows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    delete,
    func,
    insert,
    literal,
    select,
    true,
    union_all,
)

from opam_ci.clients.index.filters import JobFilter, RevisionFilter, job_condition
from opam_ci.clients.index.schema import ATTEMPT_COUNTS, JOB_COUNTS, JOBS
from opam_ci.core.records import Standing

CountedBy = Literal["platform", "kind", "cause", "failure_reason"]
"""What jobs can be counted by, apart from how they stand."""

FOLD_EVERY = 64
"""Batches that a process writes before it folds the counters: some thousand rows."""

_ERRORS = (Standing.ERRORED.value, Standing.RETRYING.value)
_WHY_OF: dict[CountedBy | None, tuple[str, ...]] = {
    "cause": _ERRORS,
    "failure_reason": (Standing.FAILED.value,),
}
"""Of which standings the counters' reason is a value of the column."""


def is_counted(wanted: JobFilter) -> bool:
    """Whether the counters know these jobs: they know no package, worker, or head."""
    unknown = (wanted.package, wanted.worker, wanted.revdep)
    return wanted.of == RevisionFilter() and all(each is None for each in unknown)


def counting(wanted: JobFilter, by: CountedBy | None) -> Select[Any]:
    """Makes the query for (value, standing, count) of jobs that the counters know.

    Args:
        wanted: Which jobs.
        by: Whose values; None for the empty value.
    """
    first, last = _days(wanted.since, wanted.until)
    conditions = [_in_counters(wanted)]
    conditions += [] if first is None else [JOB_COUNTS.c.day >= first]
    conditions += [] if last is None else [JOB_COUNTS.c.day < last]
    if by in _WHY_OF:
        conditions.append(JOB_COUNTS.c.standing.in_(_WHY_OF[by]))
    value = literal("") if by is None else JOB_COUNTS.c["why" if by in _WHY_OF else by]
    count = JOB_COUNTS.c.count.label("count")
    parts = [select(value.label("value"), JOB_COUNTS.c.standing, count).where(*conditions)]
    for since, until in _edges(wanted.since, wanted.until):
        parts.append(counting_rows(wanted.model_copy(update={"since": since, "until": until}), by))
    whole = union_all(*parts).subquery() if len(parts) > 1 else parts[0].subquery()
    total = func.sum(whole.c.count).label("count")
    keys = (whole.c.value, whole.c.standing)
    return select(*keys, total).group_by(*keys).having(total > 0)


def counting_rows(wanted: JobFilter, by: CountedBy | None) -> Select[Any]:
    """Makes the same query for any jobs, from their rows; the caller narrows to heads."""
    value = literal("") if by is None else JOBS.c[by]
    count = func.count().label("count")
    query = select(value.label("value"), JOBS.c.standing.label("standing"), count)
    query = query.select_from(JOBS).where(job_condition(wanted))
    if by is None:
        return query.group_by(JOBS.c.standing)
    if by in _WHY_OF:
        query = query.where(JOBS.c.standing.in_(_WHY_OF[by]))
    return query.where(value.is_not(None)).group_by(value, JOBS.c.standing)


def _in_counters(wanted: JobFilter) -> ColumnElement[bool]:
    counts = JOB_COUNTS.c
    conditions: list[ColumnElement[bool]] = [
        counts[name] == getattr(wanted, name).value
        for name in ("standing", "kind")
        if getattr(wanted, name) is not None
    ]
    if wanted.platform is not None:
        conditions.append(counts.platform == wanted.platform)
    whys = (
        (wanted.cause, _ERRORS),
        (wanted.failure_reason, (Standing.FAILED.value,)),
        (wanted.skip_reason, (Standing.SKIPPED.value,)),
    )
    for why, standings in whys:
        if why is not None:
            conditions += [counts.why == why.value, counts.standing.in_(standings)]
    return and_(true(), *conditions)


def _days(since: datetime | None, until: datetime | None) -> tuple[str | None, str | None]:
    """Returns the first whole day, and the day after the last one."""
    first = None if since is None else f"{_midnight(since, up=True):%Y-%m-%d}"
    last = None if until is None else f"{_midnight(until, up=False):%Y-%m-%d}"
    return first, last


def _edges(
    since: datetime | None, until: datetime | None
) -> Iterator[tuple[datetime | None, datetime | None]]:
    """Yields what lies before the first whole day, and after the last one."""
    begin = None if since is None else _midnight(since, up=True)
    end = None if until is None else _midnight(until, up=False)
    if begin is not None and end is not None and begin > end:
        # All of it within one day.
        yield since, until
        return
    if since is not None and begin is not None and since < begin:
        yield since, begin
    if until is not None and end is not None and end < until:
        yield end, until


def _midnight(moment: datetime, *, up: bool) -> datetime:
    utc = moment.astimezone(UTC)
    day = utc.replace(hour=0, minute=0, second=0, microsecond=0)
    return day + timedelta(days=1) if up and day < utc else day


def fold(connection: Connection) -> None:
    """Makes one row of the many that changes have left since the last time.

    On PostgreSQL others may write and fold meanwhile: each row is folded by one of them.
    """
    for table in (JOB_COUNTS, ATTEMPT_COUNTS):
        _fold(connection, table)


def _fold(connection: Connection, table: Table) -> None:
    unfolded = table.c.folded.is_(False)
    days = connection.scalars(select(table.c.day).where(unfolded).distinct()).all()
    names = [column.name for column in table.c if column.name not in {"id", "count", "folded"}]
    for first in range(0, len(days), 100):
        some = table.c.day.in_(days[first : first + 100])
        keys = [table.c[name] for name in names]
        if connection.dialect.name == "postgresql":
            gone = delete(table).where(some).returning(*keys, table.c.count).cte("gone")
            total = func.sum(gone.c.count)
            grouped = [gone.c[name] for name in names]
            chosen = select(*grouped, total, true()).group_by(*grouped).having(total != 0)
            connection.execute(insert(table).from_select([*names, "count", "folded"], chosen))
            continue
        total = func.sum(table.c.count)
        query = select(*keys, total.label("count")).where(some).group_by(*keys).having(total != 0)
        rows = [{**row, "folded": True} for row in connection.execute(query).mappings()]
        connection.execute(delete(table).where(some))
        if rows:
            connection.execute(insert(table), rows)
