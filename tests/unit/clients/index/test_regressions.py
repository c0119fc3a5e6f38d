"""Regressions of a testing; on SQLite and PostgreSQL."""

from opam_ci.clients.index import Index
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.known_verdict import KnownVerdict
from opam_ci.core.jobs.outcome import (
    Evidence,
    Failed,
    FailureReason,
    LogLine,
    OnBase,
    Outcome,
    Reused,
)
from opam_ci.core.jobs.plan import PlannedJob
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.pages.bounds import Regression
from tests.support.fakes.queue import FAILED, KEY, NOON, OTHER, PASSED, P, decided, wrote
from tests.support.samples.known_verdicts import RAN

ON_BASE = Evidence(rule="x", on_base=OnBase.PASSES)
BROKEN = FAILED.model_copy(update={"evidence": ON_BASE})


def revdep(name: str, kind: JobKind = JobKind.REVDEP) -> Job:
    return Job(platform=P, package="lib.2", kind=kind, revdep=name)


def ran(
    index: Index, job: Job, *outcomes: Outcome, key: RevisionKey = KEY, plan_key: str | None = None
) -> None:
    """Records rounds of a job, one attempt each."""
    for number, outcome in enumerate(outcomes, 1):
        planned = PlannedJob(job=job, plan_key=plan_key)
        index.plan(key, [planned], round_=number, origin=None, at=NOON)
        row = decided(job, outcome, attempt=1, round=number, log=f"{key.number} {job.id} {number}")
        wrote(index, row, sequence=number, key=key)


def found(index: Index, key: RevisionKey = KEY, job: str | None = None) -> list[str]:
    return [each.revdep for each in index.regressions(key, job=job)]


def test_what_failed_twice_alike_and_passes_on_the_base(index: Index) -> None:
    twice = revdep("twice.1")
    ran(index, twice, FAILED, BROKEN)
    ran(index, revdep("tests.1", JobKind.REVDEP_TEST), FAILED, BROKEN)
    ran(index, revdep("once.1"), BROKEN)
    ran(index, revdep("flaky.1"), FAILED, PASSED, BROKEN)
    ran(index, revdep("mended.1"), BROKEN, PASSED)
    ran(index, revdep("broken.1"), FAILED, FAILED)
    lines = Evidence(rule="x", lines=(LogLine(offset=0, text="Error: another"),))
    other = FAILED.model_copy(update={"evidence": lines})
    ran(index, revdep("otherwise.1"), other, BROKEN)
    needs = Failed(reason=FailureReason.DEPENDENCY, evidence=ON_BASE, blame="dep.1")
    ran(index, revdep("needs.1"), needs, needs)
    ran(index, Job(platform=P, package="lib.2", kind=JobKind.BUILD), FAILED, BROKEN)
    assert found(index) == ["tests.1", "twice.1"]
    assert index.regressions(KEY, job=twice.id) == (
        Regression(package="lib.2", revdep="twice.1", log=f"1 {twice.id} 2"),
    )
    assert found(index, job=revdep("once.1").id) == []
    assert found(index, OTHER) == []


def test_a_verdict_that_was_taken_from_another_job_is_confirmed(index: Index) -> None:
    job = revdep("user.1")
    ran(index, job, FAILED, BROKEN, key=OTHER, plan_key="k")
    reused = Reused(**OTHER.model_dump(), round=2, attempt=1, ended_at=NOON)
    evidence = ON_BASE.model_copy(update={"reused": reused})
    verdict = KnownVerdict(outcome=BROKEN.model_copy(update={"evidence": evidence}), log="l")
    planned = PlannedJob(job=job, plan_key="k", verdict=verdict)
    index.plan(KEY, [planned], round_=1, origin=None, at=NOON)
    # Its opam file is with the log of the one that ran.
    (regression,) = index.regressions(KEY)
    assert regression.log == f"2 {job.id} 2"


def test_attempts_of_jobs_with_the_same_inputs_count(index: Index) -> None:
    job = revdep("user.1")
    ran(index, job, BROKEN, key=OTHER, plan_key="k")
    ran(index, job, BROKEN, plan_key="k")
    ran(index, revdep("another.1"), BROKEN, plan_key="other")
    assert found(index) == found(index, OTHER) == ["user.1"]
    # With the same inputs it passes, too: one of them is by chance.
    third = KEY.model_copy(update={"number": 3})
    reused = ON_BASE.model_copy(update={"reused": RAN})
    ran(index, revdep("taken.1"), BROKEN, plan_key="taken")
    ran(
        index,
        revdep("taken.1"),
        BROKEN.model_copy(update={"evidence": reused}),
        key=third,
        plan_key="taken",
    )
    # One of these took its verdict from an attempt that may be the first.
    assert found(index) == ["user.1"]
    ran(index, job, PASSED, key=third, plan_key="k")
    assert found(index) == []
