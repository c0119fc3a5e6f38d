"""The judge of the statuses that a drill sampled: what it must refuse, and what it must let be."""

from datetime import UTC, datetime, timedelta

import pytest

from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import (
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    Outcome,
    Passed,
)
from opam_ci.core.jobs.records import AttemptRecord, JobRecord, RevisionKey
from opam_ci.core.jobs.summary import JobState, JobStatus
from tests.support.samples.samples import Sample, Truth

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HEAD = "1" * 40
KEY = RevisionKey(repository="o/r", number=1, head=HEAD, opened_at=NOW)
EVIDENCE = Evidence(rule="x")
PASSED = Passed(evidence=EVIDENCE)
FAILED = Failed(reason=FailureReason.BUILD, evidence=EVIDENCE)
LOST = Errored(cause=Cause.DNS, evidence=EVIDENCE)
DONE, TRIED, PARKED = 100, 140, 240
"""Seconds at which the first job is done, and the second one's attempts end."""
ERROR = "Internal CI error, not your package: DNS resolution failed (1 errored); it is"
ERROR += " restarted once repaired"
RETRY = "; 1 retry, CI fault: DNS resolution failed (attempt 2 of 2 at 12:03 UTC)"


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def truth(*ends: tuple[int, int, float, float, Outcome], broken: bool = False) -> Truth:
    """One job is done early; the other one has attempts: round, number, begin, end, outcome."""
    first = Job(platform="", package="", kind=JobKind.ANALYSIS)
    second = Job(platform="p", package="a.1", kind=JobKind.BUILD)
    jobs = [
        JobRecord(
            revision=KEY,
            status=JobStatus(job=job, state=JobState.QUEUED),
            updated_at=NOW,
        )
        for job in (first, second)
    ]
    done = [(first, 1, 1, 0.0, float(DONE), PASSED), *((second, *end) for end in ends)]
    attempts = [
        AttemptRecord(
            revision=KEY, job=job, round=round_, number=number,
            started_at=at(begin), ended_at=at(end), outcome=outcome,
        )
        for job, round_, number, begin, end, outcome in done
    ]  # fmt: skip
    return Truth.of(jobs, attempts, maximum=2, broken=[HEAD] if broken else [], away=[])


PARKED_THEN_PASSED = truth(
    (1, 1, 105, TRIED, LOST),
    (1, 2, 200, PARKED, LOST),
    (2, 1, 300, 340, PASSED),
)


def said(seconds: float, state: str, text: str, context: str = "opam-ci") -> Sample:
    return Sample(at(seconds), HEAD, context, state, text, taken=True)


@pytest.mark.parametrize(
    ("seconds", "state", "text"),
    [
        (10, "pending", "Analysing the change"),
        (10, "pending", "Analysis under way"),
        (90, "pending", "0/1 done; analysis under way"),
        (120, "pending", "0/1 done"),
        (190, "pending", "0/1 done" + RETRY),
        (120, "pending", "0/1 done; all expected by 14:30 UTC"),
        (190, "pending", f"0/1 done{RETRY}; all expected by 03 August 14:30 UTC"),
        (241, "error", ERROR),
        (301, "pending", "0/1 done"),
        (341, "success", "1 passed; analysis passed"),
        (341, "pending", "0/1 done"),
    ],
)
def test_what_was_so_is_let_be(seconds: float, state: str, text: str) -> None:
    assert PARKED_THEN_PASSED.problem(said(seconds, state, text)) is None


@pytest.mark.parametrize(
    ("seconds", "state", "text", "problem"),
    [
        (120, "success", "1 passed", "success was never right"),
        (339, "success", "1 passed", "success was never right"),
        (190, "error", ERROR, "error was never right"),
        (120, "failure", "1 failed", "failure was never right"),
        (341, "failure", "1 failed", "failure was never right"),
        (280, "pending", "1/1 done", "decided"),
        (120, "pending", "1/1 done", "decided"),
        (120, "pending", "0/2 done", "there are 1 jobs"),
        (120, "pending", "0/1 done, 1 failed", "1 failed"),
        (190, "pending", "1/1 done; analysis under way", "analysis under way"),
        (341, "success", "2 passed", "there are 1 jobs"),
        (341, "success", "1 skipped", "1 skipped"),
        (341, "success", "Analysis passed", "no word of what was built"),
        (341, "success", "1 passed; lint passed", "lint passed"),
        (341, "success", "1 passed; analysis failed", "analysis failed"),
        (241, "error", ERROR.replace("1 errored", "1 passed"), "1 passed"),
        (241, "error", "something broke", "no error"),
        (341, "success", "1 passed" + " " * 140, "140 characters"),
        (120, "pending", "work in progress", "no such words"),
        (341, "success", "1 passed; all expected by 14:30 UTC", "no such words"),
    ],
)
def test_what_was_not_so_is_refused(seconds: float, state: str, text: str, problem: str) -> None:
    assert problem in (PARKED_THEN_PASSED.problem(said(seconds, state, text)) or "nothing")


def test_failure_is_right_only_where_something_is_broken() -> None:
    failing = ((1, 1, 105, TRIED, FAILED),)
    sample = said(TRIED + 1, "failure", "1 failed; analysis passed")
    assert truth(*failing, broken=True).problem(sample) is None
    assert truth(*failing).problem(sample) == "failure, and nothing of it is broken"


def test_state_that_stands_too_long_is_noticed() -> None:
    pending, error = said(10, "pending", "Analysing the change"), said(241, "error", ERROR)
    again, end = said(301, "pending", "0/1 done"), said(341, "success", "1 passed")
    PARKED_THEN_PASSED.check([pending, error, again, end])
    with pytest.raises(AssertionError, match=r"error.* still stood"):
        PARKED_THEN_PASSED.check([pending, error, end])
    with pytest.raises(AssertionError, match=r"pending.* still stood"):
        PARKED_THEN_PASSED.check([pending, error, again])
    PARKED_THEN_PASSED.away.append((at(301), at(400)))
    PARKED_THEN_PASSED.check([pending, error, again])
