"""Failures compared with the same jobs on the base; on SQLite and PostgreSQL."""

from datetime import datetime

from opam_ci.clients.index import Index
from opam_ci.clients.index.baseline import Compared
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.messages import CountJobs
from opam_ci.core.jobs.outcome import Failed, FailureReason, OnBase, Outcome, Skipped, SkipReason
from opam_ci.core.jobs.selector import RestartSelector, RestartWhich
from opam_ci.core.jobs.summary import FIXED, Counts, total
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
    restart,
    wrote,
)
from tests.support.samples.fixed import failed_without

EDITED, NEW = build("edited.1"), build("new.1")
THERE = frozenset({"edited.1"})


def revdep(name: str = "r.1", package: str = "new.1", platform: str = P) -> Job:
    return Job(platform=platform, package=package, kind=JobKind.REVDEP, revdep=name)


def base(job: Job) -> Job:
    assert job.on_base is not None
    return job.on_base


def compared(index: Index, at: datetime = NOON) -> Compared:
    return index.compare(KEY, THERE, at)


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


def test_what_passes_and_fails_without_the_change_is_marked(index: Index) -> None:
    test = revdep().model_copy(update={"kind": JobKind.REVDEP_TEST})
    jobs = [EDITED, NEW, revdep(), test, revdep("broken.1"), revdep("s.1", platform=Q)]
    lint = Job(platform="", package="edited.1", kind=JobKind.LINT)
    plan(index, *jobs, lint, build("queued.1"))
    outcomes = {job: FAILED if job.revdep == "broken.1" else PASSED for job in (*jobs, lint)}
    wrote(index, *(decided(job, outcome, attempt=1) for job, outcome in outcomes.items()))
    found = index.passed(KEY, THERE)
    # What is new cannot have failed before.
    assert {each.job for each in found} == {EDITED, revdep(), test, jobs[-1]}
    assert {each.plan_key for each in found} == {None}
    before = {name: each.status for name, each in records(index).items()}
    how = {job.id: failed_without() for job in (revdep(), revdep("broken.1"), build("gone.1"))}
    assert index.mark_fixed(KEY, how, after(5))
    now = {name: each.status for name, each in records(index).items()}
    marked = now.pop(revdep().id)
    evidence = WHY.model_copy(update={"fixes": failed_without()})
    assert marked.outcome == PASSED.model_copy(update={"evidence": evidence})
    assert marked.decided_at == before.pop(marked.job.id).decided_at
    # One that failed is not fixed.
    assert now == before
    assert revdep() not in {each.job for each in index.passed(KEY, THERE)}
    # The attempt is what it was.
    assert {each.outcome for each in index.attempts().items if each.job == revdep()} == {PASSED}
    assert not index.mark_fixed(KEY, {}, after(6))


def test_fixed_jobs_are_counted_apart_until_they_run_again(index: Index) -> None:
    jobs = [revdep(f"r{number}.1") for number in range(3)]
    plan(index, *jobs)
    wrote(index, *(decided(job, PASSED, attempt=1) for job in jobs))
    index.mark_fixed(KEY, {job.id: failed_without() for job in jobs[:2]}, after(5))

    def numbers() -> dict[str, int]:
        (standing,) = index.count(CountJobs(key=KEY, platforms=(P,)))
        assert {row.job for row in standing.shown} == set(jobs)
        return {each.why or each.standing.value: each.number for each in standing.counts}

    assert numbers() == {FIXED: 2, "passed": 1}
    page = index.head_page(KEY, maximum_attempts=5)
    assert page is not None
    assert page.counts == Counts(passed=3)
    restart(index, RestartSelector(which=RestartWhich.ALL, job=jobs[0].id))
    assert numbers() == {FIXED: 1, "passed": 1, "queued": 1}
    # An older record does not bring it back, and a newer one is not marked by itself.
    wrote(index, decided(jobs[0], PASSED, attempt=1, round=2), sequence=9)
    assert numbers() == {FIXED: 1, "passed": 2}
    assert {each.job for each in index.passed(KEY, THERE)} == {jobs[0], jobs[2]}


def test_a_testing_that_is_not_there_has_no_failures(index: Index) -> None:
    assert compared(index) == Compared(changed=False)
    assert index.passed(KEY, THERE) == ()


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
