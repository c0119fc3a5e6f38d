"""Undecided jobs by platform, who waits for them, and how long heads took, for operators."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from statistics import quantiles
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from opam_ci.clients.index.estimates import count_estimates
from opam_ci.clients.index.filters import CURRENT, of_revisions
from opam_ci.clients.index.rows import AnyRow, revision_of
from opam_ci.clients.index.schema import HEADS, JOBS, KEY_COLUMNS, PULL_REQUESTS, REVISIONS
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.plan import RANKS
from opam_ci.core.jobs.summary import DECIDED, UNDECIDED, Standing, State
from opam_ci.core.pages.ops import (
    HOURS,
    ROWS_SHOWN,
    Flow,
    KindCount,
    Quantiles,
    QueueRow,
    Waiting,
)
from opam_ci.core.pages.waiting import wait_reason

_HEADS_TIMED = 200
"""Heads whose durations are read, those that changed last."""

_DAY = timedelta(hours=HOURS)


class Queue(NamedTuple):
    """Undecided jobs of the newest heads of open pull requests.

    Attributes:
        platforms: By platform, the longest waiting first.
        waiting: Pull requests that wait, the longest first.
        more_waiting: Number of other ones that wait.
    """

    platforms: tuple[QueueRow, ...]
    waiting: tuple[Waiting, ...]
    more_waiting: int


def read_undecided(connection: Connection) -> Sequence[AnyRow]:
    """Counts the undecided jobs of the newest heads of open pull requests.

    Returns:
        Rows by testing, platform, kind and standing, with their `number`, and `since` when the
        first of them has not changed.
    """
    keys = (JOBS.c.revision_id, JOBS.c.platform, JOBS.c.kind, JOBS.c.standing)
    numbers = (func.count().label("number"), func.min(JOBS.c.updated_at).label("since"))
    query = select(*keys, *numbers).group_by(*keys).where(JOBS.c.standing.in_(UNDECIDED))
    return connection.execute(query.where(of_revisions(connection, CURRENT))).all()


def queue(connection: Connection) -> Queue:
    """Reads the undecided jobs."""
    rows = read_undecided(connection)
    by_platform = defaultdict[str, list[AnyRow]](list)
    by_revision = defaultdict[int, list[AnyRow]](list)
    for row in rows:
        by_platform[row.platform].append(row)
        by_revision[row.revision_id].append(row)
    platforms = [_platform(name, found) for name, found in by_platform.items()]
    latest = max((row.since for row in rows), default=None)
    platforms.sort(key=lambda each: (each.oldest_at or latest, each.platform))
    busy = {each.platform for each in platforms if each.running}
    first = {
        revision: min(row.since for row in found if row.standing == Standing.QUEUED)
        for revision, found in by_revision.items()
        if any(row.standing == Standing.QUEUED for row in found)
    }
    chosen = sorted(first, key=lambda revision: (first[revision], revision))
    shown = {revision: by_revision[revision] for revision in chosen[:ROWS_SHOWN]}
    waiting = _waiting(connection, shown, busy)
    return Queue(tuple(platforms), waiting, len(chosen) - len(waiting))


def flow(connection: Connection, now: datetime) -> Flow:
    """Reads how long heads took."""
    of = JOBS.c.revision_id == REVISIONS.c.id
    # Each of these is the end of a range of an index; a maximum over several standings is not.
    ends = [
        select(func.max(JOBS.c.updated_at)).where(of, JOBS.c.standing == each).scalar_subquery()
        for each in sorted(DECIDED - {Standing.CANCELLED})
    ]
    built = select(func.min(JOBS.c.started_at)).where(of, JOBS.c.kind == JobKind.BUILD)
    heads = (
        select(REVISIONS.c.id, REVISIONS.c.opened_at)
        .where(
            REVISIONS.c.updated_at >= now - _DAY,
            REVISIONS.c.state.in_((State.SUCCESS, State.FAILURE, State.ERROR)),
        )
        .order_by(REVISIONS.c.updated_at.desc(), REVISIONS.c.id.desc())
        .limit(_HEADS_TIMED)
        .subquery()
    )
    query = select(heads.c.opened_at, built.scalar_subquery(), *ends)
    query = query.select_from(heads.join(REVISIONS, REVISIONS.c.id == heads.c.id))
    verdicts, starts = [], []
    for opened_at, built_at, *ended in connection.execute(query):
        ends_at = max((each for each in ended if each is not None), default=None)
        if ends_at is None or ends_at < now - _DAY:
            continue
        verdicts.append((ends_at - opened_at).total_seconds())
        if built_at is not None:
            starts.append((built_at - opened_at).total_seconds())
    return Flow(
        heads=len(verdicts),
        first_job=_quantiles(starts),
        verdict=_quantiles(verdicts),
        estimates=count_estimates(connection, now),
    )


def _quantiles(seconds: Iterable[float]) -> Quantiles | None:
    found = [max(each, 0.0) for each in seconds]
    if not found:
        return None
    # One value has no quantiles for Python before 3.13.
    cuts = quantiles(found * 2 if len(found) == 1 else found, n=20, method="inclusive")
    return Quantiles(p50=cuts[9], p95=cuts[18])


def _platform(name: str, rows: Sequence[AnyRow]) -> QueueRow:
    queued = [row for row in rows if row.standing == Standing.QUEUED]
    kinds: Counter[JobKind] = Counter()
    for row in queued:
        kinds[JobKind(row.kind)] += row.number
    standings: Counter[str] = Counter()
    for row in rows:
        standings[row.standing] += row.number
    return QueueRow(
        platform=name,
        queued=standings[Standing.QUEUED],
        kinds=tuple(
            KindCount(kind=kind, number=kinds[kind])
            for kind in sorted(kinds, key=lambda kind: (RANKS[kind], kind))
        ),
        oldest_at=min((row.since for row in queued), default=None),
        running=standings[Standing.RUNNING],
        retrying=standings[Standing.RETRYING],
    )


def _waiting(
    connection: Connection, shown: dict[int, list[AnyRow]], busy: set[str]
) -> tuple[Waiting, ...]:
    query = (
        select(
            *KEY_COLUMNS, REVISIONS.c.id, REVISIONS.c.hold, PULL_REQUESTS.c.title,
            PULL_REQUESTS.c.author,
        )
        .select_from(HEADS)
        .where(REVISIONS.c.id.in_(shown))
    )  # fmt: skip
    heads = {row.id: row for row in connection.execute(query)}
    return tuple(_one_waiting(heads[each], rows, busy) for each, rows in shown.items())


def _one_waiting(head: AnyRow, rows: Sequence[AnyRow], busy: set[str]) -> Waiting:
    queued = [row for row in rows if row.standing == Standing.QUEUED]
    running = sum(row.number for row in rows if row.standing == Standing.RUNNING)
    return Waiting(
        revision=revision_of(head),
        title=head.title,
        author=head.author,
        queued=sum(row.number for row in queued),
        running=running,
        since=min(row.since for row in queued),
        reason=wait_reason(
            head.hold,
            runs=running > 0,
            platforms={row.platform for row in queued},
            busy=busy,
        ),
        hold=head.hold,
    )
