"""Grouping faults into incidents, and locating these."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from opam_ci.core.incidents.model import FaultSeen, Place, Scope
from opam_ci.core.jobs.outcome import OWN_LIMIT_RULES, Cause

GAP = timedelta(minutes=45)
"""Maximum time between two faults of one incident.

Longer than the longest pause between two attempts of a job (27 minutes with jitter, and the
attempt itself), so that the retries of one job stay one incident.
"""


class Span(NamedTuple):
    """The time of a known incident.

    Attributes:
        id: Its number.
        first: Time of its first fault.
        last: Time of its last fault.
        resolved: When it was resolved, None while it is open.
    """

    id: int
    first: datetime
    last: datetime
    resolved: datetime | None


class Group(NamedTuple):
    """Faults that are one incident."""

    cause: Cause
    place: Place
    faults: tuple[FaultSeen, ...]


def sort_key(fault: FaultSeen) -> tuple[Any, ...]:
    """Returns the key by which faults are sorted: by time, and then in any total order."""
    key = fault.revision
    named = (key.repository, key.target, key.head)
    run = (fault.job.id, fault.round, fault.attempt, fault.worker or "", fault.pool or "")
    return (fault.at, *named, key.opened_at, *run)


def group(faults: Iterable[FaultSeen], gap: timedelta = GAP) -> tuple[Group, ...]:
    """Groups faults of one cause of which each is close in time to another one.

    The order of the input does not matter, nor do duplicates. A limit that a job's own cgroup
    measured is not an incident: there is nothing to repair in the CI.
    """
    by_cause: dict[Cause, list[FaultSeen]] = defaultdict(list)
    for fault in sorted(set(faults), key=sort_key):
        if fault.evidence.rule in OWN_LIMIT_RULES:
            continue
        by_cause[fault.cause].append(fault)
    groups = []
    for cause, found in by_cause.items():
        together: list[FaultSeen] = []
        for fault in found:
            if together and fault.at - together[-1].at > gap:
                groups.append(_made(cause, together))
                together = []
            together.append(fault)
        groups.append(_made(cause, together))
    return tuple(sorted(groups, key=lambda each: (sort_key(each.faults[0]), each.cause)))


def _made(cause: Cause, faults: list[FaultSeen]) -> Group:
    return Group(cause, place_of((fault.pool, fault.worker) for fault in faults), tuple(faults))


def place_of(seen: Iterable[tuple[str | None, str | None]]) -> Place:
    """Returns the place of faults with these (pool, worker).

    A fault of an unknown worker is ignored, unless the workers of all are unknown.
    """
    pairs = set(seen)
    workers = {worker for _, worker in pairs if worker is not None}
    pools = {pool for pool, worker in pairs if worker is not None or not workers}
    if len(pools) > 1:
        return Place(scope=Scope.ALL)
    pool = next(iter(pools), None)
    if len(workers) == 1:
        return Place(scope=Scope.WORKER, pool=pool, worker=next(iter(workers)))
    if pool is None:
        return Place(scope=Scope.ALL)
    return Place(scope=Scope.POOL, pool=pool)


def joined(at: datetime, known: Sequence[Span], gap: timedelta = GAP) -> tuple[int, ...]:
    """Returns the incidents of its cause that a fault belongs to; several become one.

    A fault that happened before an incident was resolved belongs to that incident, whenever it is
    reported; a later one begins a new incident. So the result of adding faults one by one is that
    of `group`, in whatever order they arrive.

    Args:
        at: When the fault happened.
        known: Incidents of the same cause.
        gap: Maximum time between two faults of one incident.
    """
    near = [span for span in known if span.first - gap <= at <= span.last + gap]
    repaired = [span for span in near if span.resolved is not None and at <= span.resolved]
    if repaired:
        return (min(repaired, key=lambda span: (span.resolved, span.id)).id,)
    return tuple(sorted(span.id for span in near if span.resolved is None))
