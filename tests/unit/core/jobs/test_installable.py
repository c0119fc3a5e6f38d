"""A package that can be installed nowhere is a failure, once every platform has said so."""

from datetime import UTC, datetime

import pytest

from opam_ci.core.jobs.installable import Unavailable, installable_nowhere
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import (
    Cancelled,
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
from opam_ci.core.jobs.summary import JobState, JobStatus

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
WHY = Evidence(rule="solver-conflict", detail="a.1 needs nope: no such package")


def skipped(reason: SkipReason) -> Skipped:
    return Skipped(reason=reason, evidence=WHY)


NO_SOLUTION = skipped(SkipReason.NO_SOLUTION)
DEPEXT = skipped(SkipReason.DEPEXT_UNAVAILABLE)
NOT_INSTALLED = skipped(SkipReason.DEPEXT_NOT_INSTALLED)
UNAVAILABLE = skipped(SkipReason.UNAVAILABLE)
HIDDEN = skipped(SkipReason.NOT_MIRRORED)
ACCEPTED = skipped(SkipReason.ACCEPTED_FAILURE)
PASSED = Passed(evidence=WHY)
FAILED = Failed(reason=FailureReason.BUILD, evidence=WHY)
ERRORED = Errored(cause=Cause.DNS, evidence=WHY)
RED = "failed(not_installable)"


def row(number: int, outcome: Outcome | None, kind: JobKind = JobKind.BUILD) -> JobStatus:
    job = Job(platform=f"p{number}/amd64", package="a.1", kind=kind)
    state = JobState.DECIDED if outcome else JobState.QUEUED
    return JobStatus(job=job, outcome=outcome, state=state, decided_at=AT if outcome else None)


def concluded(*outcomes: Outcome | None, unavailable: Unavailable = "skip") -> list[str]:
    rows = [row(number, outcome) for number, outcome in enumerate(outcomes)]
    verdicts: dict[str, Outcome] = {
        job.id: verdict for job, verdict in installable_nowhere(rows, unavailable)
    }
    now = [verdicts.get(each.job.id, each.outcome) for each in rows]
    return [label(each) if each else "undecided" for each in now]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([NO_SOLUTION], [RED]),
        ([NO_SOLUTION, DEPEXT], [RED, RED]),
        ([NO_SOLUTION, UNAVAILABLE], [RED, "skipped(unavailable)"]),
        ([NO_SOLUTION, PASSED], ["skipped(no_solution)", "passed"]),
        ([NO_SOLUTION, FAILED], ["skipped(no_solution)", "failed(build)"]),
        ([NO_SOLUTION, ERRORED], ["skipped(no_solution)", "errored(dns)"]),
        ([NO_SOLUTION, None], ["skipped(no_solution)", "undecided"]),
        ([NO_SOLUTION, HIDDEN], ["skipped(no_solution)", "skipped(not_mirrored)"]),
        ([NO_SOLUTION, ACCEPTED], ["skipped(no_solution)", "skipped(accepted_failure)"]),
        (
            [NO_SOLUTION, Cancelled(by="request")],
            ["skipped(no_solution)", "cancelled(request)"],
        ),
        ([HIDDEN], ["skipped(not_mirrored)"]),
        ([NOT_INSTALLED], ["skipped(depext_not_installed)"]),
        ([UNAVAILABLE, UNAVAILABLE], ["skipped(unavailable)"] * 2),
    ],
)
def test_only_the_word_of_all_platforms_is_a_failure(
    outcomes: list[Outcome | None], expected: list[str]
) -> None:
    assert concluded(*outcomes) == expected
    assert concluded(*reversed(outcomes)) == expected[::-1]


def test_available_nowhere_is_as_configured() -> None:
    assert concluded(UNAVAILABLE, UNAVAILABLE, unavailable="fail") == [RED, RED]
    assert concluded(UNAVAILABLE, PASSED, unavailable="fail") == ["skipped(unavailable)", "passed"]
    assert concluded(UNAVAILABLE, HIDDEN, unavailable="fail") == [
        "skipped(unavailable)",
        "skipped(not_mirrored)",
    ]


def test_the_verdict_keeps_the_explanation() -> None:
    [(_, found)] = installable_nowhere([row(1, NO_SOLUTION)], "skip")
    assert found.evidence == WHY


def test_packages_are_decided_each_for_itself_and_by_builds_alone() -> None:
    other = row(2, PASSED).job.model_copy(update={"package": "b.1"})
    rows = [
        row(1, NO_SOLUTION),
        row(1, PASSED, JobKind.LOWER_BOUNDS),
        row(2, PASSED).model_copy(update={"job": other}),
    ]
    assert [job.id for job, _ in installable_nowhere(rows, "skip")] == [rows[0].job.id]
