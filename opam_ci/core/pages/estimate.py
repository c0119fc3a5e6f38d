"""When the jobs of a head will be decided: a range, or why nobody can tell."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from statistics import mean, median
from typing import Literal, NamedTuple, Self

from pydantic import AwareDatetime, Field

from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.plan import RANKS
from opam_ci.core.model import Frozen
from opam_ci.core.text.durations import range_text, until_text

MEASURED_FOR = timedelta(days=14)
"""How far back durations of jobs are considered: machines and compilers change."""

JOBS_MEASURED = 200
"""Jobs of a platform, or of a kind, whose durations are considered: those decided last."""

ENOUGH = 5
"""Fewer durations of a kind on a platform say less than those of the kind on all platforms."""

NOT_ESTIMATED = frozenset({JobKind.ANALYSIS, JobKind.PLATFORM, JobKind.IMAGE, JobKind.LINT})
"""Kinds that take no slot of a build worker, and seconds: they are left out."""

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_STEPS = ((10 * _MINUTE, _MINUTE), (2 * _HOUR, 5 * _MINUTE), (2 * _DAY, _HOUR))
"""Up to which time what a time is rounded to; beyond these to days. Each is a multiple of the next
step too, so that a longer time is never rounded to a shorter one. In s."""

_LONG = 0.9
"""Nine of ten jobs are not longer than a long one."""

NoEstimate = Literal["unmeasured", "unlisted"]
"""Why there is no estimate.

- `unmeasured`: no such job has ended, or nothing is known to have run on a platform.
- `unlisted`: reverse dependencies are not listed yet, so nobody knows how many jobs there are.
"""


_NO_ESTIMATE = {
    "unmeasured": "no estimate yet: no such job has ended here",
    "unlisted": "no estimate yet: reverse dependencies are not listed",
}


class Span(NamedTuple):
    """How long jobs took that are alike, in s.

    Attributes:
        typical: The median.
        mean: By which many of them add up.
        long: Nine of ten are not longer.
    """

    typical: float
    mean: float
    long: float

    @classmethod
    def of(cls, durations: Iterable[timedelta]) -> Self:
        """Measures at least one duration; one below zero, of clocks that differ, is zero."""
        found = sorted(max(each.total_seconds(), 0.0) for each in durations)
        return cls(median(found), mean(found), found[math.ceil(_LONG * len(found)) - 1])


class Load(NamedTuple):
    """Undecided jobs of a head that are alike.

    Attributes:
        head: Identifies the head.
        platform: Their platform.
        kind: Their kind.
        is_running: Whether they run, and do not wait.
        number: How many.
    """

    head: int
    platform: str
    kind: JobKind
    is_running: bool
    number: int


class Pools(NamedTuple):
    """What is known of the workers.

    Attributes:
        of: The pool that builds for a platform; one without is a pool by itself.
        slots: By pool, how many jobs run at once.
        spans: Returns how long jobs of a kind take on a platform, None if that is not known.
    """

    of: Mapping[str, str]
    slots: Mapping[str, int]
    spans: Callable[[JobKind, str], Span | None]


class Estimate(Frozen):
    """When all jobs of a head will be decided.

    Attributes:
        at: When it was made.
        soonest: If all takes as long as usual, from then on.
        latest: If something takes long, from then on.
    """

    at: AwareDatetime
    soonest: timedelta = Field(ge=timedelta(0))
    latest: timedelta = Field(ge=timedelta(0))

    @property
    def until(self) -> datetime:
        """The end of the range."""
        return self.at + self.latest


class EstimatesKept(Frozen):
    """How first estimates of heads compare with when these were decided.

    Attributes:
        held: Heads that were decided before the end of the range.
        missed: Those that were decided later.
    """

    held: int = Field(default=0, ge=0)
    missed: int = Field(default=0, ge=0)

    @property
    def number(self) -> int:
        """All of them."""
        return self.held + self.missed

    @property
    def percent(self) -> int:
        """Share of those that held, from 0 to 100, rounded down; 0 without any."""
        return 100 * self.held // self.number if self.number else 0


class _Timed(NamedTuple):
    load: Load
    span: Span

    @property
    def rank(self) -> int:
        return RANKS[self.load.kind]


def estimate_text(found: Estimate | NoEstimate) -> str:
    """Returns an estimate in words, with the time by which it will have been wrong."""
    if not isinstance(found, Estimate):
        return _NO_ESTIMATE[found]
    until = until_text(found.until, found.at)
    return f"done {range_text(found.soonest, found.latest)}, {until}"


def estimate(
    own: Sequence[Load], others: Iterable[Load], pools: Pools, now: datetime
) -> Estimate | NoEstimate | None:
    """Estimates when the jobs of a head will be decided.

    Approximates the order of a pool's task queue, by which the lowest rank of kinds is first, and
    pull requests take turns within it (`workflows.options.job_priority`): before the last job of
    the head come all that run, those of a lower rank, and of each other head as many of the same
    rank as the head has. A pool with that much work is done no sooner than the work takes with all
    slots busy, and no later than that and the longest chain of jobs that need each other take
    one after the other (Graham's bound for list scheduling). The sooner end takes medians, the
    later one means, by which many jobs add up, and a long duration for each step of the chain.

    It does not know of pull requests that come, of faults and retries, and of failures that are
    compared with the base; a job of the same rank that is long counts before a short one.

    Args:
        own: Undecided jobs of the head.
        others: Those of all other heads, without those that wait for an approval.
        pools: What is known of the workers.
        now: The time.

    Returns:
        None if nothing is to be decided.
    """
    own = [each for each in own if each.kind not in NOT_ESTIMATED and each.number]
    if not own:
        return None
    if any(each.kind is JobKind.LIST_REVDEPS for each in own):
        return "unlisted"

    def pool_of(load: Load) -> str:
        return pools.of.get(load.platform, load.platform)

    wanted = {pool_of(each) for each in own}
    loads = [
        each
        for each in others
        if each.kind not in NOT_ESTIMATED and each.number and pool_of(each) in wanted
    ]
    by_pool = defaultdict[str, tuple[list[_Timed], list[_Timed]]](lambda: ([], []))
    for number, group in enumerate((own, loads)):
        for load in group:
            span = pools.spans(load.kind, load.platform)
            if span is None:
                return "unmeasured"
            by_pool[pool_of(load)][number].append(_Timed(load, span))
    soonest = latest = 0.0
    for pool, (mine, theirs) in by_pool.items():
        slots = pools.slots.get(pool, 0)
        if slots < 1:
            return "unmeasured"
        sooner, later = _pool_range(mine, theirs, slots)
        soonest, latest = max(soonest, sooner), max(latest, later)
    low, high = _rounded(soonest, latest)
    return Estimate(at=now, soonest=timedelta(seconds=low), latest=timedelta(seconds=high))


def _pool_range(own: Sequence[_Timed], others: Sequence[_Timed], slots: int) -> tuple[float, float]:
    """Returns when a pool has done the jobs of a head at the soonest and at the latest, in s."""
    waiting = [each for each in own if not each.load.is_running]
    # What runs may end at once.
    queued = [each for each in others if not each.load.is_running]
    least = _work(waiting, waiting, queued, lambda span: span.typical) / slots
    most = _work(own, waiting, others, lambda span: span.mean) / slots
    steps: dict[JobKind, float] = {}
    for each in own:
        steps[each.load.kind] = max(steps.get(each.load.kind, 0.0), each.span.long)
    latest = most + sum(steps.values())
    soonest = max([least, *(each.span.typical for each in waiting)])
    return min(soonest, latest), latest


def _work(
    own: Sequence[_Timed],
    waiting: Sequence[_Timed],
    others: Sequence[_Timed],
    length: Callable[[Span], float],
) -> float:
    """Adds up the jobs of a head and those that come before the last of them, in s."""
    found = sum(each.load.number * length(each.span) for each in own)
    if not waiting:
        return found
    last = max(each.rank for each in waiting)
    turns = sum(each.load.number for each in waiting if each.rank == last)
    left = defaultdict[int, int](lambda: turns)
    # The longest first, so that another job before the head never makes it sooner.
    for each in sorted(others, key=lambda each: length(each.span), reverse=True):
        number = each.load.number
        if not each.load.is_running and each.rank >= last:
            number = min(number, left[each.load.head]) if each.rank == last else 0
            left[each.load.head] -= number
        found += number * length(each.span)
    return found


def _rounded(soonest: float, latest: float) -> tuple[int, int]:
    """Rounds a range to what people say, and never to a narrower one; in s."""
    low, high = _step(soonest), _step(latest)
    return low * math.floor(soonest / low), high * max(1, math.ceil(latest / high))


def _step(seconds: float) -> int:
    return next((step for end, step in _STEPS if seconds <= end), _DAY)
