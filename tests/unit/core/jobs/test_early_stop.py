"""When the other reverse dependencies of a package need not be run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.jobs.early_stop import ENOUGH, Seen, early_stop, failures, is_in_vain
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import SkipReason
from opam_ci.core.jobs.summary import JobCount, PlatformStanding, Standing, State, Summary, stopped

FAILED = Seen(Standing.FAILED, None, "x", ENOUGH)
QUEUED = Seen(Standing.QUEUED, None, None, 70)


def test_thirty_that_fail_alike_are_enough() -> None:
    found = early_stop([FAILED, QUEUED])
    assert found is not None
    assert found.reason is SkipReason.STOPPED_EARLY
    assert found.evidence.detail == "stopped after 30 of 100: all fail alike"
    assert early_stop([FAILED._replace(number=ENOUGH - 1), QUEUED]) is None


@pytest.mark.parametrize(
    "other",
    [
        Seen(Standing.PASSED, None, None, 1),
        Seen(Standing.FAILED, None, "y", 1),
        Seen(Standing.SKIPPED, SkipReason.FAILS_ON_BASE, "z", 1),
        Seen(Standing.SKIPPED, SkipReason.WAIVED, "z", 1),
    ],
)
def test_one_that_is_otherwise_lets_all_run(other: Seen) -> None:
    assert early_stop([FAILED, QUEUED, other]) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from([Standing.ERRORED, Standing.RETRYING, Standing.RUNNING]),
            st.integers(0, 10**6),
        )
    )
)
def test_faults_are_no_reason(others: list[tuple[Standing, int]]) -> None:
    seen = [Seen(standing, None, "x", number) for standing, number in others]
    assert early_stop(seen) is None
    assert early_stop([FAILED, *seen]) is not None


def count(
    standing: Standing, number: int, why: str = "", kind: JobKind = JobKind.REVDEP
) -> JobCount:
    return JobCount(platform="p", kind=kind, standing=standing, why=why, number=number)


def test_failures_of_reverse_dependencies_count_until_one_passes() -> None:
    failed = [count(Standing.FAILED, 20, "build"), count(Standing.FAILED, 15, "dependency")]
    assert failures([*failed, count(Standing.PASSED, 4, kind=JobKind.BUILD)]) == 35
    assert failures([*failed, count(Standing.PASSED, 1)]) == 0
    assert failures([*failed, count(Standing.SKIPPED, 1, SkipReason.FAILS_ON_BASE)]) == 0


def test_what_was_stopped_for_nothing_is_noticed_and_never_green() -> None:
    skipped = count(Standing.SKIPPED, 9, SkipReason.STOPPED_EARLY)
    few, enough = (count(Standing.FAILED, number, "build") for number in (ENOUGH - 1, ENOUGH))
    assert stopped((skipped, few)) == 9
    for counts, in_vain, state in (
        ((skipped, enough), False, State.FAILURE),
        ((skipped, few), True, State.FAILURE),
        ((skipped,), True, State.PENDING),
        ((few,), False, State.FAILURE),
    ):
        assert is_in_vain(PlatformStanding(platform="p", counts=counts)) is in_vain
        summary = Summary(pull_request="o/r#1", head="a", base="b", planned=True, tallies=counts)
        assert summary.state is state
