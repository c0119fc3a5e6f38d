"""Failures compared with the same jobs on the base; on SQLite and PostgreSQL."""

from datetime import datetime

from opam_ci.clients.index import Index
from opam_ci.clients.index.baseline import Compared
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.messages import CountJobs
from opam_ci.core.jobs.outcome import Failed, FailureReason, OnBase, Outcome, Skipped, SkipReason
from opam_ci.core.jobs.summary import total
from tests.support.fakes.queue import (
    DNS,
    FAILED,
    KEY,
    NO_SOLUTION,
    NOON,
    PASSED,
    WHY,
    P,
    Q,
    after,
    build,
    decided,
    its_test,
    labels,
    plan,
    records,
    wrote,
)

EDITED, NEW = build("edited.1"), build("new.1")


def revdep(name: str = "r.1", package: str = "new.1", platform: str = P) -> Job:
    return Job(platform=platform, package=package, kind=JobKind.REVDEP, revdep=name)


def base(job: Job) -> Job:
    assert job.on_base is not None
    return job.on_base


def compared(index: Index, at: datetime = NOON) -> Compared:
    return index.compare(KEY, frozenset({"edited.1"}), at)


def test_failures_that_need_it_are_run_on_the_base(index: Index) -> None:
    lint = Job(platform="", package="edited.1", kind=JobKind.LINT)
    failed = [EDITED, NEW, revdep(), revdep(package="edited.1"), revdep("s.1", platform=Q), lint]
    others = [build("passed.1"), its_test(EDITED)]
    plan(index, *failed, *others)
    wrote(
        index,
        *(decided(job, FAILED, attempt=1) for job in failed),
        decided(others[0], PASSED, attempt=1),
    )
    found = compared(index)
    assert not found.changed
    # Once for both packages that it fails with.
    assert {job.id for job in found.missing} == {
        "base-build p/amd64 edited.1",
        "base-build p/amd64 r.1",
        "base-build q/arm64 s.1",
    }
    assert len(found.missing) == 3
    plan(index, *found.missing)
    # They are under way.
    assert compared(index) == Compared(changed=False)


def test_what_fails_without_the_change_is_skipped(index: Index) -> None:
    jobs = [revdep(name) for name in ("alike.1", "otherwise.1", "broken.1", "lost.1", "gone.1")]
    plan(index, *jobs, *map(base, jobs))
    wrote(index, *(decided(job, FAILED, attempt=1, log="l") for job in jobs))
    other = Failed(reason=FailureReason.TEST, evidence=WHY)
    outcomes: list[Outcome] = [FAILED, other, PASSED, DNS, NO_SOLUTION]
    wrote(
        index,
        *(decided(base(job), outcome) for job, outcome in zip(jobs, outcomes, strict=True)),
        sequence=2,
    )
    assert compared(index, after(5)) == Compared(changed=True)
    found = records(index)
    verdicts = [found[job.id].status.outcome for job in jobs]
    on_base = [each.evidence.on_base for each in verdicts if isinstance(each, Failed | Skipped)]
    assert on_base == [
        *(OnBase.FAILS, OnBase.FAILS_OTHERWISE, OnBase.PASSES, OnBase.UNKNOWN, OnBase.NOT_BUILT)
    ]
    assert [labels(index)[job.id] for job in jobs] == [
        *["skipped(fails_on_base)"] * 2,
        *["failed(build)"] * 3,
    ]
    assert all(found[job.id].updated_at == after(5) for job in jobs)
    # The attempts did fail.
    attempts = index.attempts().items
    failed = [each for each in attempts if each.job in jobs]
    assert [each.standing for each in failed] == ["failed"] * len(jobs)
    # Again, nothing changes.
    assert compared(index, after(6)) == Compared(changed=False)
    (standing,) = index.count(CountJobs(key=KEY, platforms=(P,)))
    assert total(standing.counts).skipped == 3  # one of them is a job on the base
    # The one without a verdict gets one later.
    wrote(index, decided(base(jobs[3]), PASSED, round=2), sequence=3)
    assert compared(index, after(7)) == Compared(changed=True)
    last = records(index)[jobs[3].id].status.outcome
    assert isinstance(last, Failed)
    assert last.evidence.on_base is OnBase.PASSES


def test_a_failure_after_a_restart_is_compared_anew(index: Index) -> None:
    job = revdep()
    plan(index, job, base(job))
    wrote(index, decided(job, FAILED, attempt=1), decided(base(job), FAILED))
    assert compared(index).changed
    wrote(index, decided(job, FAILED, attempt=1, round=2), sequence=9)
    assert labels(index)[job.id] == "failed(build)"
    assert compared(index).changed
    assert labels(index)[job.id] == "skipped(fails_on_base)"


def test_a_testing_that_is_not_there_has_no_failures(index: Index) -> None:
    assert compared(index) == Compared(changed=False)


def test_what_follows_from_a_failure_still_does(index: Index) -> None:
    job = revdep()
    test = job.model_copy(update={"kind": JobKind.REVDEP_TEST})
    plan(index, job, test, base(job))
    skipped = Skipped(reason=SkipReason.NOT_BUILT, evidence=WHY)
    wrote(
        index, decided(job, FAILED, attempt=1), decided(test, skipped), decided(base(job), FAILED)
    )
    assert compared(index) == Compared(changed=True)
    assert labels(index)[test.id] == "skipped(not_built)"
