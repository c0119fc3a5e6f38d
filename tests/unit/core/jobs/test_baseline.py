"""Failures compared with the base: only what the change broke stays a failure."""

import pytest

from opam_ci.core.jobs.baseline import (
    compared,
    fixed,
    may_be_compared,
    may_be_fixed,
    there_before,
)
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import (
    Cancelled,
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    OnBase,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.summary import JobCount, PlatformStanding, Standing, State, Summary
from opam_ci.core.submission.result import ChangedPackage, ChangeKind
from tests.support.samples.fixed import failed_without

EVIDENCE = Evidence(rule="r", detail="it broke")
FAILED = Failed(reason=FailureReason.BUILD, evidence=EVIDENCE)


@pytest.mark.parametrize(
    ("base", "alike", "on_base"),
    [
        (Passed(evidence=EVIDENCE), False, OnBase.PASSES),
        (FAILED, True, OnBase.FAILS),
        (FAILED, False, OnBase.FAILS_OTHERWISE),
        (Skipped(reason=SkipReason.NO_SOLUTION, evidence=EVIDENCE), False, OnBase.NOT_BUILT),
        # The CI's own fault acquits nobody.
        (Errored(cause=Cause.DNS, evidence=EVIDENCE), True, OnBase.UNKNOWN),
        (Cancelled(by="request"), True, OnBase.UNKNOWN),
    ],
)
def test_only_what_fails_there_too_is_no_failure(
    base: Outcome,
    alike: bool,
    on_base: OnBase,
) -> None:
    verdict = compared(FAILED, base, alike=alike)
    assert verdict.evidence == EVIDENCE.model_copy(update={"on_base": on_base})
    if on_base in {OnBase.FAILS, OnBase.FAILS_OTHERWISE}:
        assert isinstance(verdict, Skipped)
        assert verdict.reason is SkipReason.FAILS_ON_BASE
    else:
        assert isinstance(verdict, Failed)
        assert verdict.reason is FailureReason.BUILD


def test_what_is_new_has_nothing_to_be_compared_with() -> None:
    packages = [
        ChangedPackage(package=f"{kind}.1", kind=kind, has_tests=True) for kind in ChangeKind
    ]
    assert there_before(packages) == ("significantly_changed.1",)


def count(kind: JobKind, standing: Standing, number: int = 1) -> JobCount:
    return JobCount(platform="p", kind=kind, standing=standing, number=number)


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        (count(JobKind.REVDEP, Standing.FAILED), True),
        (count(JobKind.BUILD, Standing.FAILED), True),
        (count(JobKind.BUILD, Standing.FAILED, 0), False),
        (count(JobKind.REVDEP, Standing.ERRORED), False),
        (count(JobKind.LINT, Standing.FAILED), False),
        (count(JobKind.BASE_BUILD, Standing.FAILED), False),
    ],
)
def test_a_platform_with_failures_may_have_to_be_compared(each: JobCount, expected: bool) -> None:
    assert may_be_compared(PlatformStanding(platform="p", counts=(each,))) == expected


@pytest.mark.parametrize(
    ("each", "there", "expected"),
    [
        (count(JobKind.REVDEP, Standing.PASSED), (), True),
        (count(JobKind.REVDEP, Standing.PASSED, 0), (), False),
        (count(JobKind.REVDEP_TEST, Standing.PASSED), ("a.1",), True),
        (count(JobKind.REVDEP, Standing.FAILED), ("a.1",), False),
        (count(JobKind.BUILD, Standing.PASSED), ("a.1",), True),
        # What is new cannot have failed before.
        (count(JobKind.BUILD, Standing.PASSED), (), False),
        (count(JobKind.LINT, Standing.PASSED), ("a.1",), False),
        (count(JobKind.BASE_BUILD, Standing.PASSED), ("a.1",), False),
    ],
)
def test_a_platform_where_jobs_passed_may_have_fixed_ones(
    each: JobCount, there: tuple[str, ...], expected: bool
) -> None:
    assert may_be_fixed(PlatformStanding(platform="p", counts=(each,)), there) == expected


def test_a_fixed_job_passed_all_the_same() -> None:
    verdict = fixed(Passed(evidence=EVIDENCE), failed_without())
    assert verdict == Passed(evidence=EVIDENCE.model_copy(update={"fixes": failed_without()}))


@pytest.mark.parametrize(
    ("standing", "state"),
    [
        (Standing.QUEUED, State.PENDING),
        (Standing.RUNNING, State.PENDING),
        (Standing.RETRYING, State.PENDING),
        (Standing.FAILED, State.SUCCESS),
        (Standing.ERRORED, State.SUCCESS),
        (Standing.CANCELLED, State.SUCCESS),
        (Standing.PASSED, State.SUCCESS),
    ],
)
def test_a_job_on_the_base_is_waited_for_and_does_not_count(
    standing: Standing, state: State
) -> None:
    tallies = (
        count(JobKind.REVDEP, Standing.SKIPPED),
        count(JobKind.BUILD, Standing.PASSED),
        count(JobKind.BASE_BUILD, standing),
    )
    summary = Summary(pull_request="p", head="h", base="b", planned=True, tallies=tallies)
    assert summary.state is state
    assert summary.ran.total == 2
