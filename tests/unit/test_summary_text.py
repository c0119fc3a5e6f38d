"""What people are told: states, statuses, tables."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from opam_ci.core.job import Job, JobKind
from opam_ci.core.outcome import (
    Cancelled,
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    LogLine,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.requests import RestartSelector
from opam_ci.core.result_text import reason_line
from opam_ci.core.summary import (
    Counts,
    Fault,
    JobGroup,
    JobState,
    JobStatus,
    State,
    Summary,
    state_of,
)
from opam_ci.core.text import (
    STATUS_LIMIT,
    headline,
    markdown_matrix,
    problems,
    status_description,
    verdict,
    why,
)

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
SEEN = Evidence(rule="r", lines=(LogLine(offset=7, text="Error: Unbound value x"),))
PASSED = Passed(evidence=Evidence(rule="r"))
FAILED = Failed(reason=FailureReason.BUILD, evidence=SEEN)
ERRORED = Errored(cause=Cause.DISK_FULL, evidence=Evidence(rule="r", detail="0 bytes free"))
SKIPPED = Skipped(reason=SkipReason.UNAVAILABLE, evidence=Evidence(rule="r"))


def row(number: int, outcome: Outcome | None = None, **changes: object) -> JobStatus:
    job = Job(platform="p/amd64", package=f"a.{number}", kind=JobKind.BUILD)
    state = JobState.DECIDED if outcome else JobState.QUEUED
    return JobStatus(job=job, outcome=outcome, state=state).model_copy(update=changes)


def retrying(number: int, cause: Cause = Cause.DNS) -> JobStatus:
    fault = Fault(attempt=1, cause=cause, evidence=Evidence(rule="r"), worker="w", at=AT)
    return row(
        number,
        state=JobState.RETRYING,
        attempt=1,
        faults=(fault,),
        next_attempt_at=AT + timedelta(minutes=3),
    )


def summary(*rows: JobStatus, planned: bool = True) -> Summary:
    return Summary(pull_request="o/r#1", head="a" * 40, base="b" * 40, planned=planned, jobs=rows)


@pytest.mark.parametrize(
    ("rows", "state"),
    [
        ([], State.SUCCESS),
        ([PASSED], State.SUCCESS),
        ([PASSED, SKIPPED], State.SUCCESS),
        ([PASSED, FAILED], State.FAILURE),
        ([PASSED, ERRORED], State.ERROR),
        ([FAILED, ERRORED], State.FAILURE),
        ([PASSED, None], State.PENDING),
        ([FAILED, None], State.PENDING),
        ([ERRORED, None], State.PENDING),
        ([PASSED, Cancelled(by="request")], State.PENDING),
    ],
)
def test_state_of_a_head(rows: list[Outcome | None], state: State) -> None:
    assert summary(*(row(n, outcome) for n, outcome in enumerate(rows))).state is state


def test_nothing_is_green_before_the_plan_is_complete() -> None:
    assert summary(row(1, PASSED), planned=False).state is State.PENDING


@given(st.builds(Counts, **{name: st.integers(0, 9) for name in Counts.model_fields}))
def test_green_needs_every_job_decided_and_none_red(counts: Counts) -> None:
    green = state_of(counts, planned=True) is State.SUCCESS
    red = counts.failed or counts.errored or counts.cancelled or counts.undecided
    assert green == (not red)
    assert counts.total == sum(counts.model_dump().values())


def test_status_says_the_cause_of_what_waits_and_not_of_what_is_lost() -> None:
    lost = [row(number, ERRORED) for number in range(5)]
    text = status_description(summary(*lost, retrying(9)), maximum_attempts=5)
    assert text == (
        "5/6 done; 1 retry, CI fault: names do not resolve (attempt 2 of 5 at 03:07 UTC)"
    )


def test_status_counts_what_waits_although_no_row_of_it_is_shown() -> None:
    group = JobGroup(
        platform="p/amd64",
        package="a.1",
        listing="k",
        listed=9,
        counts=Counts(failed=2, retrying=3, passed=4),
        causes={Cause.DNS: 3},
        shown=(row(1, FAILED), row(2, FAILED)),
    )
    of = summary(row(3, PASSED)).model_copy(update={"groups": (group,)})
    text = status_description(of, maximum_attempts=5)
    assert text == "7/10 done, 2 failed; 3 retry, CI fault: names do not resolve"


def test_status_says_what_failed_and_when_the_retry_comes() -> None:
    text = status_description(
        summary(row(1, FAILED), row(2, PASSED), retrying(3)), maximum_attempts=5
    )
    assert text == (
        "2/3 done, 1 failed; 1 retry, CI fault: names do not resolve (attempt 2 of 5 at 03:07 UTC)"
    )


def test_status_of_an_error_says_that_it_is_not_the_authors() -> None:
    text = status_description(summary(row(1, ERRORED), row(2, PASSED)), maximum_attempts=5)
    assert text.startswith("Internal CI error, not your package: disk full (1 errored, 1 passed)")


@given(
    st.lists(st.sampled_from([PASSED, FAILED, ERRORED, SKIPPED, None]), max_size=30),
    st.lists(st.sampled_from(list(Cause)), max_size=5),
    st.booleans(),
)
def test_status_fits_github(
    outcomes: list[Outcome | None], causes: list[Cause], planned: bool
) -> None:
    rows = [row(n, outcome) for n, outcome in enumerate(outcomes)]
    rows += [retrying(100 + n, cause) for n, cause in enumerate(causes)]
    state = summary(*rows, planned=planned)
    text = status_description(state, maximum_attempts=5)
    assert 0 < len(text) <= STATUS_LIMIT
    assert "\n" not in text
    assert headline(state)


def test_hostile_log_line_cannot_break_the_table() -> None:
    line = LogLine(offset=0, text="evil | cell\n| **x** <img src=x> `rm`")
    failed = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="r", lines=(line,)))
    table = markdown_matrix(summary(row(1, failed)))
    last = table.splitlines()[-1]
    assert last.replace("\\|", "").count("|") == 7
    assert "\\<img" in last


def test_long_matrix_is_cut_and_shows_red_first() -> None:
    rows = [row(n, PASSED) for n in range(100)] + [row(100, FAILED)]
    table = markdown_matrix(summary(*rows), rows=10)
    assert "a.100" in table.splitlines()[4]
    assert "and 91 more" in table


def test_words_for_rows() -> None:
    assert verdict(row(1)) == "queued"
    assert verdict(row(1, FAILED)) == "failed(build)"
    assert verdict(retrying(1)) == "retrying(dns)"
    assert reason_line(FAILED) == "Error: Unbound value x"
    assert reason_line(FAILED.model_copy(update={"blame": "b.1"})) == "b.1: Error: Unbound value x"
    assert why(row(1)) == ""
    recovered = retrying(1).model_copy(update={"outcome": PASSED, "state": JobState.DECIDED})
    assert why(recovered).startswith("recovered by itself from dns (attempt 1)")


def test_problems_are_one_line() -> None:
    with pytest.raises(ValidationError) as caught:
        RestartSelector.model_validate({"which": "x" * 1000, "no\nsuch": 1})
    text = problems(caught.value)
    assert "which" in text
    assert len(text) <= 300
