"""Counts many jobs while their standing changes, and selects the few rows that explain them."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cancelled
from opam_ci.core.jobs.summary import (
    SHOWN_ROWS,
    UNDECIDED,
    CountKey,
    JobCount,
    JobState,
    JobStatus,
    PlatformStanding,
    Standing,
    count_key,
)

_INTEREST = {
    Standing.FAILED: 20,
    Standing.ERRORED: 10,
    Standing.RETRYING: 5,
    Standing.RUNNING: 5,
    Standing.CANCELLED: 3,
    Standing.SKIPPED: 3,
    Standing.PASSED: 2,
    Standing.QUEUED: 2,
}
"""Rows of each standing that are shown before any standing gets more, most interesting first."""


class Tally:
    """The standing of one platform's jobs.

    Args:
        standing: Their standing so far.
    """

    def __init__(self, standing: PlatformStanding) -> None:
        self._platform = standing.platform
        self._numbers: Counter[CountKey] = Counter()
        self._shown: dict[str, JobStatus] = {}
        self._counted: dict[str, CountKey] = {}
        self.replace(standing)

    def replace(self, standing: PlatformStanding, rows: Iterable[JobStatus] = ()) -> None:
        """Starts from numbers that were counted anew.

        Args:
            standing: All jobs but those of `rows`.
            rows: Those that were excluded from the count.
        """
        self._numbers = Counter(
            {(each.platform, each.kind, each.standing, each.why): each.number
             for each in standing.counts}
        )  # fmt: skip
        self._shown = {row.job.id: row for row in standing.shown}
        self._counted = {}
        for row in rows:
            key = count_key(row)
            self._numbers[key] += 1
            self._counted[row.job.id] = key
            self._shown[row.job.id] = row

    def take(self, row: JobStatus) -> None:
        """Adds a queued row that is counted already, before its standing first changes."""
        self._counted[row.job.id] = count_key(row)
        self._shown.setdefault(row.job.id, row)

    def expect(self, kind: JobKind, number: int) -> None:
        """Counts queued jobs that have just been planned, until all are counted anew.

        Without them, a platform of which all else is decided would look decided meanwhile.
        """
        self._numbers[self._platform, kind, Standing.QUEUED, ""] += number

    def move(self, row: JobStatus) -> None:
        """Counts a row by its present standing instead of by its previous one."""
        before, now = self._counted.get(row.job.id), count_key(row)
        if before is not None:
            self._numbers[before] -= 1
        self._numbers[now] += 1
        self._counted[row.job.id] = now
        self._shown[row.job.id] = row
        if len(self._shown) > 4 * SHOWN_ROWS:
            self._shown = {row.job.id: row for row in explaining(self._shown.values())}

    def forget(self, job_id: str) -> None:
        """Removes a decided job's row, but not its number."""
        self._counted.pop(job_id, None)

    @property
    def counts(self) -> tuple[JobCount, ...]:
        """Numbers of the jobs."""
        return counts_of(self._numbers)

    def standing(self) -> PlatformStanding:
        """Returns the standing of the jobs."""
        return PlatformStanding(
            platform=self._platform,
            counts=self.counts,
            shown=explaining(self._shown.values()),
        )


def is_unserved(standing: PlatformStanding | None) -> bool:
    """Whether no worker served a platform when its jobs were planned."""
    return standing is not None and any(
        each.kind is JobKind.PLATFORM and each.standing is Standing.SKIPPED
        for each in standing.counts
    )


def counts_of(numbers: Counter[CountKey]) -> tuple[JobCount, ...]:
    """Returns numbers by key, sorted, without zeros."""
    return tuple(
        JobCount(platform=platform, kind=kind, standing=standing, why=why, number=number)
        for (platform, kind, standing, why), number in sorted(numbers.items())
        if number > 0
    )


def explaining(rows: Iterable[JobStatus], limit: int = SHOWN_ROWS) -> tuple[JobStatus, ...]:
    """Returns the rows that explain a state best: some of each standing, then the worst.

    Args:
        rows: Of one platform.
        limit: Maximum number of rows.
    """
    rows = tuple(rows)
    if len(rows) <= limit:
        return rows
    by_standing: dict[Standing, list[JobStatus]] = defaultdict(list)
    for row in rows:
        by_standing[row.standing].append(row)
    first = [row for standing, many in _INTEREST.items() for row in by_standing[standing][:many]]
    more = [row for standing, many in _INTEREST.items() for row in by_standing[standing][many:]]
    return tuple((*first, *more)[:limit])


def counts_of_rows(rows: Iterable[JobStatus]) -> tuple[JobCount, ...]:
    """Counts rows."""
    return counts_of(Counter(count_key(row) for row in rows))


def settled(standing: PlatformStanding, outcome: Cancelled) -> PlatformStanding:
    """Returns a standing with everything undecided cancelled."""
    numbers: Counter[CountKey] = Counter()
    for each in standing.counts:
        key = (each.standing, each.why)
        if each.standing in UNDECIDED:
            key = (Standing.CANCELLED, outcome.by)
        numbers[each.platform, each.kind, *key] += each.number
    shown = tuple(
        row
        if row.outcome is not None
        else row.model_copy(
            update={"state": JobState.DECIDED, "outcome": outcome, "next_attempt_at": None}
        )
        for row in standing.shown
    )
    return standing.model_copy(update={"counts": counts_of(numbers), "shown": shown})
