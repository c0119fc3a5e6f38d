"""Counts of a million jobs: whole days from the counters, the rest from the rows."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select, union_all

from opam_ci.clients.index.filters import REASONS, JobFilter, equal, job_condition
from opam_ci.clients.index.schema import ATTEMPT_COUNTS, JOB_COUNTS, JOBS
from opam_ci.clients.index.triggers import groups
from opam_ci.core.batched import batched

FOLD_EVERY = 64
"""Batches that a process writes before it folds the counters: some thousand rows."""

_COLUMNS = ("standing", "kind", "platform")
_KNOWN = {*_COLUMNS, *REASONS, "since", "until"}

_DAY = timedelta(days=1)
_DAYS_AT_ONCE = 100
"""Days whose counters are in memory at the same time."""


def is_counted(wanted: JobFilter) -> bool:
    """Whether these jobs have counters: there are none by package, worker, head or id."""
    return wanted.model_dump(exclude_defaults=True).keys() <= _KNOWN


def counting(wanted: JobFilter) -> Select[Any]:
    """Makes the query for (standing, count) of jobs that have counters."""
    begin = None if wanted.since is None else _midnight(wanted.since + _DAY - datetime.resolution)
    end = None if wanted.until is None else _midnight(wanted.until)
    if begin is not None and end is not None and begin >= end:
        return counting_rows(wanted)
    conditions = equal(JOB_COUNTS, wanted, *_COLUMNS)
    for name, standings in REASONS.items():
        if (why := getattr(wanted, name)) is not None:
            conditions += [JOB_COUNTS.c.why == why, JOB_COUNTS.c.standing.in_(standings)]
    edges: list[Select[Any]] = []
    if begin is not None:
        conditions.append(JOB_COUNTS.c.day >= f"{begin:%Y-%m-%d}")
        edges.append(counting_rows(wanted.model_copy(update={"until": begin})))
    if end is not None:
        conditions.append(JOB_COUNTS.c.day < f"{end:%Y-%m-%d}")
        edges.append(counting_rows(wanted.model_copy(update={"since": end})))
    days = select(JOB_COUNTS.c.standing, JOB_COUNTS.c.count.label("count")).where(*conditions)
    whole = union_all(days, *edges).subquery()
    total = func.sum(whole.c.count)
    return select(whole.c.standing, total).group_by(whole.c.standing).having(total > 0)


def counting_rows(wanted: JobFilter) -> Select[Any]:
    """Makes the same query for any jobs, from their rows; the caller narrows to heads."""
    query = select(JOBS.c.standing, func.count().label("count"))
    return query.where(job_condition(wanted)).group_by(JOBS.c.standing)


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def fold(connection: Connection) -> None:
    """Replaces the rows that changes have added since the last time by one for each day and group.

    On PostgreSQL other processes may write and fold meanwhile: each row is folded by one of them.
    """
    for table in (JOB_COUNTS, ATTEMPT_COUNTS):
        unfolded = select(table.c.day).where(table.c.folded.is_(False)).distinct()
        days = connection.scalars(unfolded).all()
        names = groups(table)
        for some in batched(days, _DAYS_AT_ONCE):
            gone = delete(table).where(table.c.day.in_(some))
            sums: Counter[tuple[str, ...]] = Counter()
            for *group, count in connection.execute(
                gone.returning(*(table.c[name] for name in names), table.c.count)
            ):
                sums[tuple(group)] += count
            rows = [
                {**dict(zip(names, group, strict=True)), "count": count, "folded": True}
                for group, count in sums.items()
                if count != 0
            ]
            if rows:
                connection.execute(insert(table), rows)
