"""The queries for when the jobs of a head will be decided."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Column, Connection, Engine, select

from opam_ci.clients.index.engine import Connected, portions
from opam_ci.clients.index.ops_queue import read_undecided
from opam_ci.clients.index.page_testing import Testing
from opam_ci.clients.index.schema import ATTEMPTS, JOBS, REVISIONS
from opam_ci.core.jobs.job import JobKind, plain_kind
from opam_ci.core.jobs.summary import UNDECIDED, JobCount, Standing
from opam_ci.core.pages.estimate import (
    ENOUGH,
    JOBS_MEASURED,
    MEASURED_FOR,
    NOT_ESTIMATED,
    Estimate,
    Load,
    NoEstimate,
    Pools,
    Span,
    estimate,
)

T = TypeVar("T")

_RAN = (Standing.PASSED, Standing.FAILED)
_LOOKED_AT = 1000
"""Rows that are looked at for `JOBS_MEASURED` durations: jobs that were not run have none."""

_KEPT_FOR = timedelta(minutes=1)
"""How long durations are not read again: hundreds of them hardly change their median."""

_QUEUE_KEPT_FOR = timedelta(seconds=10)
"""How long the queues of all are not read again, as for the page of operators."""

_ATTEMPTS_READ = 2000
"""Attempts from which it is known how many run at once, the newest: ten for each of 200 slots."""

_MOST_KEPT = 1000
"""Platforms and kinds that are remembered."""


_Times = tuple[datetime, datetime]
"""When a job or an attempt began and ended."""


class _Ended(NamedTuple):
    """A job that ran to its end in one attempt."""

    kind: JobKind
    pool: str | None
    started_at: datetime
    decided_at: datetime

    @property
    def span(self) -> timedelta:
        return self.decided_at - self.started_at


class Estimating(Connected):
    """The part of the index that estimates heads.

    It remembers for a moment what the estimates of all heads need. Several threads may use it at
    once: the worst is that two read the same.

    Args:
        engine: To the database.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._kept: dict[object, tuple[datetime, Any]] = {}

    def _estimate(
        self, connection: Connection, testing: Testing, tallies: Iterable[JobCount], now: datetime
    ) -> Estimate | NoEstimate | None:
        """Estimates when the jobs of a head will be decided.

        Reads `JOBS_MEASURED` rows at most of each platform with undecided jobs, and of each kind,
        and `_ATTEMPTS_READ` attempts.

        Args:
            connection: Where to read.
            testing: The head.
            tallies: Numbers of its jobs.
            now: The time.

        Returns:
            See `core.pages.estimate.estimate`; None as well before jobs are planned, and if some
            wait for an approval.
        """
        own = [
            Load(
                testing.id, each.platform, each.kind, each.standing is Standing.RUNNING, each.number
            )
            for each in tallies
            if each.standing in UNDECIDED and each.kind not in NOT_ESTIMATED
        ]
        if not own or not testing.record.planned or testing.record.hold is not None:
            return None
        queue = self._keep("queue", now, _QUEUE_KEPT_FOR, partial(_loads, connection))
        others = [each for each in queue if each.head != testing.id]
        names = sorted({each.platform for each in (*own, *others)})
        ended = {
            name: self._keep(
                ("platform", name),
                now,
                _KEPT_FOR,
                partial(_ended, connection, JOBS.c.platform, name, now),
            )
            for name in names
        }
        pools = self._pools(connection, ended, (*own, *others), now)
        return estimate(own, others, pools, now)

    def _pools(
        self,
        connection: Connection,
        ended: dict[str, Sequence[_Ended]],
        loads: Iterable[Load],
        now: datetime,
    ) -> Pools:
        pools = {
            name: next((each.pool for each in found if each.pool is not None), name)
            for name, found in ended.items()
        }
        # A platform's jobs tell of the slots of a pool that is idle, the last attempts of all
        # platforms of a pool that is not.
        at_work = defaultdict[str, list[_Times]](list)
        for pool, times in self._keep("attempts", now, _KEPT_FOR, partial(_attempts, connection)):
            if pool is not None:
                at_work[pool].append(times)
        own_times = defaultdict[str, list[_Times]](list)
        spans = defaultdict[tuple[JobKind, str], list[timedelta]](list)
        for name, found in ended.items():
            for each in found:
                own_times[pools[name]].append((each.started_at, each.decided_at))
                spans[plain_kind(each.kind), name].append(each.span)
        running = Counter[str]()
        for load in loads:
            if load.is_running:
                running[pools[load.platform]] += load.number
        slots = {
            pool: max(running[pool], _at_once(own_times[pool]), _at_once(at_work[pool]))
            for pool in set(pools.values())
        }

        def span_of(kind: JobKind, platform: str) -> Span | None:
            kind = plain_kind(kind)
            found = spans.get((kind, platform), [])
            if len(found) < ENOUGH:
                read = partial(_ended, connection, JOBS.c.kind, kind, now)
                everywhere = self._keep(("kind", kind), now, _KEPT_FOR, read)
                found = [each.span for each in everywhere]
            return Span.of(found) if found else None

        return Pools(of=pools, slots=slots, spans=cache(span_of))

    def _keep(self, key: object, now: datetime, span: timedelta, read: Callable[[], T]) -> T:
        """Returns what was read a short time ago, or reads it."""
        if (kept := self._kept.get(key)) is not None:
            before: T = kept[1]
            # What has no rows yet will have some soon, and costs little.
            if timedelta(0) <= now - kept[0] < span and before:
                return before
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        found = read()
        self._kept[key] = (now, found)
        return found


def _loads(connection: Connection) -> Sequence[Load]:
    """Reads the undecided jobs of all heads; of those with a hold only the running ones."""
    rows = read_undecided(connection)
    held = set[int]()
    for some in portions({row.revision_id for row in rows}):
        query = select(REVISIONS.c.id).where(
            REVISIONS.c.id.in_(some), REVISIONS.c.hold.is_not(None)
        )
        held.update(connection.scalars(query))
    return [
        Load(
            row.revision_id,
            row.platform,
            JobKind(row.kind),
            row.standing == Standing.RUNNING,
            row.number,
        )
        for row in rows
        if row.revision_id not in held or row.standing == Standing.RUNNING
    ]


def _ended(
    connection: Connection, column: Column[str], value: str, now: datetime
) -> Sequence[_Ended]:
    """Reads the jobs of a platform or a kind that ended last, the newest first."""
    last = (
        select(JOBS)
        .where(column == value, JOBS.c.standing.in_(_RAN), JOBS.c.updated_at >= now - MEASURED_FOR)
        .order_by(JOBS.c.updated_at.desc(), JOBS.c.id.desc())
        .limit(_LOOKED_AT)
        .subquery()
    )
    pool = select(ATTEMPTS.c.pool).where(ATTEMPTS.c.job_id == last.c.id).limit(1)
    query = (
        select(last.c.kind, pool.scalar_subquery(), last.c.started_at, last.c.decided_at)
        .where(
            # Another attempt has the wait for it in its time.
            last.c.attempt == 1,
            last.c.started_at.is_not(None),
            last.c.decided_at.is_not(None),
            last.c.kind.not_in(NOT_ESTIMATED),
            # One with the verdict of another job ended once it had a solution.
            last.c.outcome["evidence", "reused", "head"].as_string().is_(None),
        )
        .order_by(last.c.updated_at.desc(), last.c.id.desc())
        .limit(JOBS_MEASURED)
    )
    return [_Ended(JobKind(kind), *others) for kind, *others in connection.execute(query)]


def _attempts(connection: Connection) -> Sequence[tuple[str | None, _Times]]:
    """Reads the pools of the newest attempts that ended, if they have one, and their times."""
    query = select(ATTEMPTS.c.pool, ATTEMPTS.c.started_at, ATTEMPTS.c.ended_at)
    query = query.order_by(ATTEMPTS.c.started_at.desc(), ATTEMPTS.c.id.desc())
    return [
        (pool, (started_at, ended_at))
        for pool, started_at, ended_at in connection.execute(query.limit(_ATTEMPTS_READ))
        if ended_at is not None
    ]


def _at_once(times: Iterable[_Times]) -> int:
    """Returns how many ran at once at most."""
    # Of two at the same time the end comes first: a slot that is free takes the next job.
    changes = sorted(
        change
        for started_at, ended_at in times
        if started_at < ended_at
        for change in ((started_at, 1), (ended_at, -1))
    )
    running = most = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    return most
