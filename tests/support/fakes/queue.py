"""Jobs in an index, and helpers for tests of its list of jobs."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from opam_ci.clients.index import Index, JobFilter, Place, RevisionFilter
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.messages import ChangeJobs, QueuedJob, TakeJobs
from opam_ci.core.jobs.outcome import (
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
    label,
)
from opam_ci.core.jobs.plan import PlannedJob, depends_on
from opam_ci.core.jobs.records import JobRecord, RevisionKey, RowBatch
from opam_ci.core.jobs.selector import RestartSelector, Taken
from opam_ci.core.jobs.summary import Fault, JobState, JobStatus

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


async def all_served(pools: frozenset[str]) -> frozenset[str]:
    """A fleet that serves every pool."""
    return pools


def key(number: int, opened: datetime = NOON) -> RevisionKey:
    """A testing of a pull request."""
    return RevisionKey(repository="o/r", number=number, head=f"{number:040x}", opened_at=opened)


KEY = RevisionKey(repository="o/r", number=1, head="a" * 40, opened_at=NOON)
OTHER = KEY.model_copy(update={"number": 2})
P, Q = "p/amd64", "q/arm64"
WHY = Evidence(rule="x")
PASSED = Passed(evidence=WHY)
FAILED = Failed(reason=FailureReason.BUILD, evidence=WHY)
DNS = Errored(cause=Cause.DNS, evidence=WHY)
DISK = Errored(cause=Cause.DISK_FULL, evidence=WHY)
NO_SOLUTION = Skipped(reason=SkipReason.NO_SOLUTION, evidence=WHY)
NOWHERE = Failed(reason=FailureReason.NOT_INSTALLABLE, evidence=WHY)


def after(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def build(package: str = "a.1", platform: str = P) -> Job:
    return Job(platform=platform, package=package, kind=JobKind.BUILD)


def its_test(job: Job) -> Job:
    return job.model_copy(update={"kind": JobKind.TEST})


def planned(*jobs: Job) -> list[PlannedJob]:
    return [PlannedJob(job=job, needs=depends_on(job)) for job in jobs]


def plan(index: Index, *jobs: Job, round_: int = 1, key: RevisionKey = KEY) -> None:
    index.plan(key, planned(*jobs), round_=round_, origin=None, at=NOON)


def decided(job: Job, outcome: Outcome, **changes: object) -> JobStatus:
    row = JobStatus(job=job, state=JobState.DECIDED, outcome=outcome, decided_at=NOON)
    return row.model_copy(update=changes)


def retrying(job: Job, cause: Cause = Cause.DNS) -> JobStatus:
    fault = Fault(attempt=1, cause=cause, evidence=WHY, worker="w", at=NOON)
    return JobStatus(job=job, state=JobState.RETRYING, attempt=1, faults=(fault,))


def wrote(index: Index, *rows: JobStatus, sequence: int = 1, key: RevisionKey = KEY) -> None:
    index.record(RowBatch(key=key, rows=rows, sequence=sequence, updated_at=NOON))


def taken(index: Index, platform: str = P, limit: int = 100) -> list[QueuedJob]:
    found: list[QueuedJob] = []
    following = None
    while True:
        page = index.take(TakeJobs(key=KEY, platform=platform, limit=limit, after=following))
        found += page.jobs
        if (following := page.following) is None:
            return found


def ids(jobs: Iterable[QueuedJob]) -> list[str]:
    return [each.job.id for each in jobs]


def records(index: Index, key: RevisionKey = KEY) -> dict[str, JobRecord]:
    wanted = JobFilter(of=RevisionFilter(revision=key))
    return {each.status.job.id: each for each in index.jobs(wanted, place=Place(limit=9999)).items}


def labels(index: Index) -> dict[str, str]:
    return {
        name: label(each.status.outcome) if each.status.outcome else each.standing.value
        for name, each in records(index).items()
    }


def untimed(preview: Taken) -> Taken:
    """Returns what a restart takes after its preview: only before is known how long jobs ran."""
    return preview.model_copy(update={"total_seconds": 0, "longest_seconds": 0})


def restart(index: Index, selector: RestartSelector, round_: int = 2) -> list[str]:
    """Restarts twice, and previews twice before: all four have the same jobs."""
    change = ChangeJobs(key=KEY, selector=selector, round=round_)
    preview = change.model_copy(update={"preview": True})
    before = records(index)
    expected = index.requeue(preview, after(1))
    assert index.requeue(preview, after(1)) == expected
    assert records(index) == before
    expected = untimed(expected)
    assert index.requeue(change, after(1)) == expected
    now = records(index)
    assert index.requeue(change, after(2)) == expected
    assert records(index) == now
    assert expected.jobs == sum(expected.by_platform.values())
    return sorted(expected.first)
