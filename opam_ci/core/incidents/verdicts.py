"""Verdicts that other verdicts throw another light on: each rule is about several jobs at once.

A failure that unrelated pull requests share within minutes may be the CI's; a fault that
follows one job alone from worker to worker is the job's. Why so: ADR 0014.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from pydantic import AwareDatetime, Field

from opam_ci.core.incidents.grouping import GAP
from opam_ci.core.incidents.model import FaultSeen
from opam_ci.core.incidents.signature import SAME_FAILURE
from opam_ci.core.job import REVDEP_KINDS, Job, JobKind
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cause
from opam_ci.core.records import RevisionKey

BURST = timedelta(minutes=10)
"""Within which unrelated pull requests must fail the same way to throw doubt on it."""

MEMORY = timedelta(days=1)
"""How long a failure is remembered: what packages failed with before is no news."""

UNRELATED = 3
"""So many pull requests, each with other packages, do not break the same way by chance."""

REFUTED_BY = 3
"""So many jobs that were tried again and failed the same way again refute a doubt."""

WORKERS_FOR_ONE_JOB = 3
"""So many workers are not broken for one job alone."""

OWN_CAUSES = frozenset(
    {
        Cause.DISK_FULL,
        Cause.OUT_OF_MEMORY,
        Cause.SANDBOX,
        Cause.IMAGE,
        Cause.OPAM_INTERNAL,
        Cause.SOLVER_TIMEOUT,
        Cause.UNKNOWN,
    }
)
"""Causes whose place is the worker, so that three of them can clear the CI.

A host, a name server, a mirror, GitHub or the store that is down is down for this one job
from every worker. The merged repository is the same broken copy on each. A lost worker has a
rule of its own (`kills_worker`).
"""

_OUR_BUGS = frozenset({"internal-error", "activity-error", "no-verdict", SAME_FAILURE})
"""Rules of faults that say nothing of what the job did: a bug of ours reproduces anywhere."""

_OWN_KINDS = REVDEP_KINDS | {
    JobKind.BUILD,
    JobKind.TEST,
    JobKind.LOWER_BOUNDS,
    JobKind.LIST_REVDEPS,
}


class FailedVerdict(Frozen):
    """A job that was given as the package's failure.

    Attributes:
        revision: Of which testing.
        job: Which.
        round: Of which round, from 1.
        at: When it was decided.
        blame: The package that failed, where it is another than the job's own.
        doubted: Whether the verdict was taken back since.
        again: Whether the job failed the same way in an earlier round: then it stands.
        is_over: Whether there is nothing to judge again: the job has gone on to another
            round, or has had its automatic restarts.
    """

    revision: RevisionKey
    job: Job
    round: int = Field(default=1, ge=1)
    at: AwareDatetime
    blame: str | None = None
    doubted: bool = False
    again: bool = False
    is_over: bool = False

    @property
    def is_open(self) -> bool:
        """Whether a doubt can take it back."""
        return not (self.doubted or self.again or self.is_over)


class Doubt(NamedTuple):
    """Verdicts to be judged again, since unrelated pull requests failed the same way.

    Attributes:
        verdicts: Those that still stand, oldest first.
        pull_requests: How many unrelated pull requests failed so.
        span: Within how long.
    """

    verdicts: tuple[FailedVerdict, ...]
    pull_requests: int
    span: timedelta


class GotThrough(NamedTuple):
    """An attempt that came to a verdict on the package: the worker did its part.

    Attributes:
        revision: Of which testing.
        job: Of which job.
        worker: Who ran it.
        at: When it began.
    """

    revision: RevisionKey
    job: Job
    worker: str
    at: datetime


class OwnFault(NamedTuple):
    """A fault that follows one job from worker to worker, and no other job: it is the job's.

    Attributes:
        last: The newest of its faults.
        workers: Those that it met, and that did other jobs meanwhile.
    """

    last: FaultSeen
    workers: tuple[str, ...]


def doubts(
    alike: Iterable[FailedVerdict], *, before: datetime | None = None, unrelated: int = UNRELATED
) -> tuple[Doubt, ...]:
    """Finds verdicts of one signature that unrelated pull requests share within minutes.

    What packages fail with all the time, such as a compiler's usual words, is in no doubt:
    none that still stands may have the same signature within a day before the first of a
    burst. Verdicts that were taken back prove no such habit, but are evidence for others
    close to them; a job that fails the same way again begins no burst. The order in which
    verdicts are given does not matter.

    Args:
        alike: All of one signature, of current heads of open pull requests.
        before: The last verdict of that signature before them that stands, if there is one.
        unrelated: How many pull requests, without a package in common.
    """
    line = sorted(set(alike), key=_order)
    found: list[Doubt] = []
    taken: set[FailedVerdict] = set()
    usual = before
    for place, first in enumerate(line):
        is_usual = usual is not None and first.at - usual <= MEMORY
        if not first.doubted:
            usual = first.at
        if is_usual or first.again:
            continue
        together = [each for each in line[place:] if each.at - first.at <= BURST]
        fresh = [each for each in together if each.is_open and each not in taken]
        count = _unrelated(together) if fresh else 0
        if count >= unrelated:
            taken.update(fresh)
            found.append(Doubt(tuple(fresh), count, together[-1].at - first.at))
    return tuple(found)


def _order(verdict: FailedVerdict) -> tuple[datetime, str, str, str, str, int]:
    key = verdict.revision
    return (verdict.at, key.repository, key.target, key.head, verdict.job.id, verdict.round)


def _unrelated(verdicts: Iterable[FailedVerdict]) -> int:
    """Counts pull requests that share no package with one counted before.

    What failed counts as well as whose job it was: a package in the base repository that
    breaks fails every pull request that needs it, and is one package.
    """
    packages: dict[tuple[str, str], set[str]] = defaultdict(set)
    for each in verdicts:
        key = (each.revision.repository, each.revision.target)
        packages[key] |= {_name(full) for full in (each.job.package, each.blame) if full}
    seen: set[str] = set()
    count = 0
    for _, names in sorted(packages.items()):
        if not names & seen:
            count += 1
            seen |= names
    return count


def can_be_own(fault: FaultSeen) -> bool:
    """Whether a fault is of a kind that a job itself can bring about."""
    return (
        fault.worker is not None
        and fault.cause in OWN_CAUSES
        and fault.job.kind in _OWN_KINDS
        and fault.evidence.rule not in _OUR_BUGS
    )


def own_fault(
    faults: Sequence[FaultSeen],
    others: Iterable[FaultSeen],
    through: Iterable[GotThrough],
    *,
    workers: int = WORKERS_FOR_ONE_JOB,
) -> OwnFault | None:
    """Judges whether the faults of one job and cause are the job's own.

    A worker counts if nobody else met the cause there at that time, and if a job of another
    package got through there, on the same platform: a worker that did nothing else, and one
    that is broken for the platform, clear nobody. Jobs on the same package of the same pull
    request are no others: what it does to a worker it does in each of them.

    Args:
        faults: Of one job and one cause, in any order.
        others: Faults of that cause on the same workers.
        through: What got through on these workers.
        workers: How many different ones it takes.
    """
    mine = [fault for fault in faults if can_be_own(fault)]
    if not mine:
        return None
    suspect, platform = _suspect(mine[0].revision, mine[0].job), mine[0].job.platform
    times: dict[str, list[datetime]] = defaultdict(list)
    for fault in mine:
        if fault.worker is not None:
            times[fault.worker].append(fault.at)

    def close(worker: str | None, at: datetime) -> bool:
        return any(abs(at - met) <= GAP for met in times.get(worker or "", ()))

    broken = {
        each.worker
        for each in others
        if _suspect(each.revision, each.job) != suspect and close(each.worker, each.at)
    }
    working = {
        each.worker
        for each in through
        if _suspect(each.revision, each.job) != suspect
        and each.job.platform == platform
        and close(each.worker, each.at)
    }
    clear = sorted(set(times) & working - broken)
    if len(clear) < workers:
        return None
    last = max(mine, key=lambda fault: (fault.round, fault.attempt, fault.at))
    return OwnFault(last, tuple(clear))


def _suspect(revision: RevisionKey, job: Job) -> tuple[str, str, str]:
    return (revision.repository, revision.target, _name(job.revdep or job.package))


def _name(full: str) -> str:
    return full.split(".", 1)[0]
