"""A package that can be installed nowhere is a failure, once every platform has said so."""

from datetime import UTC, datetime

import pytest

from opam_ci.core.installable import Unavailable
from opam_ci.core.job import Job, JobKind
from opam_ci.core.job_table import JobTable
from opam_ci.core.outcome import (
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
from opam_ci.core.plan import outcome_after, with_dependents
from opam_ci.core.summary import JobState, JobStatus

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
WHY = Evidence(rule="solver-conflict", detail="a.1 needs nope: no such package")


def skipped(reason: SkipReason) -> Skipped:
    return Skipped(reason=reason, evidence=WHY)


NO_SOLUTION = skipped(SkipReason.NO_SOLUTION)
DEPEXT = skipped(SkipReason.DEPEXT_UNAVAILABLE)
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
    table = JobTable(row(number, outcome) for number, outcome in enumerate(outcomes))
    table.conclude({"a.1"}, unavailable, AT)
    return [label(each.outcome) if each.outcome else "undecided" for each in table.rows]


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


def test_the_verdict_keeps_the_explanation_and_the_time() -> None:
    table = JobTable([row(1, NO_SOLUTION)])
    table.conclude({"a.1"}, "skip", datetime(2027, 1, 1, tzinfo=UTC))
    (found,) = table.rows
    assert isinstance(found.outcome, Failed)
    assert found.outcome.evidence == WHY
    assert table.is_dirty


def test_other_packages_are_left_alone() -> None:
    table = JobTable([row(1, NO_SOLUTION)])
    table.conclude({"b.1"}, "skip", AT)
    assert not table.is_dirty


def test_what_followed_from_the_skip_follows_from_the_failure() -> None:
    build, test = row(1, NO_SOLUTION), row(1, None, JobKind.TEST)
    test = row(1, outcome_after(NO_SOLUTION, build.job), JobKind.TEST)
    table = JobTable([build, test])
    table.conclude({"a.1"}, "skip", AT)
    followed = table[test.job.id].outcome
    assert isinstance(followed, Skipped)
    assert followed.evidence.detail == f"a.1 build came to {RED}"


def test_who_ran_the_build_cannot_take_the_verdict_back_in_its_round() -> None:
    table = JobTable([row(1, NO_SOLUTION)])
    table.conclude({"a.1"}, "skip", AT)
    table.merge(row(1, NO_SOLUTION))
    assert label(table.rows[0].outcome or PASSED) == RED
    table.merge(row(1, NO_SOLUTION).model_copy(update={"round": 2}))
    assert label(table.rows[0].outcome or PASSED) == "skipped(no_solution)"


def test_a_restart_of_one_platform_takes_the_others_whose_verdict_rests_on_it() -> None:
    rows = [row(1, NO_SOLUTION), row(2, DEPEXT), row(3, UNAVAILABLE)]
    rows.append(row(2, outcome_after(DEPEXT, rows[1].job), JobKind.TEST))
    table = JobTable(rows)
    table.conclude({"a.1"}, "skip", AT)
    taken = with_dependents([table.rows[0]], table.rows)
    assert {each.job.id for each in taken} == {rows[n].job.id for n in (0, 1, 3)}
    for each in taken:
        table.queue(each.job)
    assert concluded(*(each.outcome for each in table.rows)) == [
        *("undecided", "undecided", "skipped(unavailable)", "undecided")
    ]
