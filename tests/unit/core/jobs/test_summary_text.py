"""What people are told: states, statuses, tables."""

from datetime import UTC, datetime, timedelta
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from opam_ci.core.github.check_page import page
from opam_ci.core.github.status import DEFAULT_CONTEXTS, part_of
from opam_ci.core.jobs.hold import Hold
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import (
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
from opam_ci.core.jobs.selector import RestartSelector
from opam_ci.core.jobs.summary import (
    Counts,
    Fault,
    JobCount,
    JobState,
    JobStatus,
    Standing,
    State,
    Summary,
    state_of,
)
from opam_ci.core.jobs.tally import counts_of_rows
from opam_ci.core.submission.result import ChangedPackage, ChangeKind
from opam_ci.core.text.result import reason_line
from opam_ci.core.text.sentence import (
    SENTENCE_LIMIT,
    STATUS_LIMIT,
    job_sentence,
    sentence,
    sentence_line,
)
from opam_ci.core.text.status import (
    hidden_lines,
    markdown_matrix,
    problems,
    verdict,
    why,
)
from tests.support.fakes.summaries import summary_of
from tests.support.samples.fixed import fixed

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
SEEN = Evidence(rule="r", lines=(LogLine(offset=7, text="Error: Unbound value x"),))
PASSED = Passed(evidence=Evidence(rule="r"))
FIXED = fixed()
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
    return summary_of(rows, planned=planned)


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


def test_status_has_the_cause_of_retrying_jobs_not_of_errored_ones() -> None:
    lost = [row(number, ERRORED) for number in range(5)]
    text = sentence(summary(*lost, retrying(9)), limit=STATUS_LIMIT, maximum_attempts=5)
    assert text == (
        "5/6 done; 1 retry, CI fault: DNS resolution failed (attempt 2 of 5 at 03:07 UTC)"
    )


def test_status_counts_what_waits_although_no_row_of_it_is_shown() -> None:
    rows = [retrying(1), retrying(2), retrying(3, Cause.GIT), *(row(n, PASSED) for n in range(7))]
    of = summary_of(rows, jobs=rows[3:])
    text = sentence(of, limit=STATUS_LIMIT, maximum_attempts=5)
    assert text == "7/10 done; 3 retry, CI fault: DNS resolution failed"


def expecting(until: datetime, *rows: JobStatus, **changes: object) -> Summary:
    given = {"estimated_until": until, "updated_at": AT} | changes
    return summary(*rows).model_copy(update=given)


SOON = AT + timedelta(hours=2)


@pytest.mark.parametrize(
    ("until", "changes", "words"),
    [
        (SOON, {}, "1/2 done; all expected by 05:04 UTC"),
        (AT + timedelta(days=1), {}, "1/2 done; all expected by 03 January 03:04 UTC"),
        # A promise that was not kept is not repeated.
        (AT, {}, "1/2 done"),
        (SOON, {"updated_at": None}, "1/2 done"),
    ],
)
def test_status_has_the_first_estimate(
    until: datetime, changes: dict[str, object], words: str
) -> None:
    of = expecting(until, row(1, PASSED), row(2), **changes)
    assert sentence(of, limit=STATUS_LIMIT) == words
    # Where there is no room the numbers are more important.
    assert sentence(of, limit=20) == "1/2 done"


def test_status_has_no_estimate_where_it_says_nothing() -> None:
    rows = row(1, PASSED), row(2)
    held = expecting(SOON, *rows, hold=Hold(reason="new-author"))
    decided, linted = expecting(SOON, row(1, PASSED)), expecting(SOON, *rows)
    assert "expected" not in sentence(held, limit=STATUS_LIMIT)
    assert "expected" not in sentence(decided, limit=STATUS_LIMIT)
    assert "expected" not in sentence(linted, limit=STATUS_LIMIT, builds=False)


def test_status_has_failures_and_the_time_of_the_retry() -> None:
    text = sentence(
        summary(row(1, FAILED), row(2, PASSED), retrying(3)), limit=STATUS_LIMIT, maximum_attempts=5
    )
    assert text == (
        "2/3 done, 1 failed; 1 retry, CI fault: DNS resolution failed (attempt 2 of 5 at 03:07 UTC)"
    )


def test_what_a_head_fixes_is_counted_and_mentioned_where_it_fits() -> None:
    one = summary(row(1, FIXED), row(2, PASSED), row(3, FAILED))
    assert one.state is State.FAILURE
    assert one.ran == Counts(passed=2, failed=1)
    text = "1 failed, 2 passed; 1 fixed: it fails without this change"
    assert sentence(one, limit=STATUS_LIMIT) == text
    # It changes no state.
    two = summary(row(1, FIXED), row(2, FIXED))
    assert two.state is State.SUCCESS
    text = "2 passed; 2 fixed: they fail without this change"
    assert sentence(two, limit=STATUS_LIMIT) == text
    assert sentence(two, limit=len(text)) == text
    assert sentence(two, limit=len(text) - 1) == "2 passed"
    assert sentence(summary(row(1, FIXED), row(2)), limit=STATUS_LIMIT) == "1/2 done"


def test_a_fixed_job_says_how_it_fails_without_the_change() -> None:
    text = "without this change it fails: Error: it never worked"
    assert why(row(1, FIXED)) == text
    assert job_sentence(row(1, FIXED)) == f"Passed; {text}"
    assert job_sentence(row(1, PASSED)) == "Passed."
    assert len(job_sentence(row(1, fixed("x" * 200)))) <= SENTENCE_LIMIT


def test_status_of_an_error_states_that_it_is_not_the_authors_fault() -> None:
    text = sentence(
        summary(row(1, ERRORED), row(2, PASSED)), limit=STATUS_LIMIT, maximum_attempts=5
    )
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
    text = sentence(state, limit=STATUS_LIMIT, maximum_attempts=5)
    assert 0 < len(text) <= STATUS_LIMIT
    assert "\n" not in text
    assert sentence_line(state)


def of_kind(kind: JobKind, number: int, outcome: Outcome | None) -> JobStatus:
    package = "" if kind is JobKind.ANALYSIS else f"a.{number}"
    platform = "p/amd64" if kind is JobKind.BUILD or kind is JobKind.TEST else ""
    job = Job(platform=platform, package=package, kind=kind)
    return row(number, outcome).model_copy(update={"job": job})


def head(
    *builds: Outcome | None,
    lint: tuple[Outcome | None, ...] = (PASSED,),
    tests: tuple[Outcome, ...] = (),
    changed: ChangeKind = ChangeKind.NEW_RELEASE,
) -> Summary:
    rows = [of_kind(JobKind.ANALYSIS, 0, PASSED)]
    rows += [of_kind(JobKind.LINT, number, outcome) for number, outcome in enumerate(lint)]
    rows += [of_kind(JobKind.BUILD, number, outcome) for number, outcome in enumerate(builds)]
    rows += [of_kind(JobKind.TEST, number, outcome) for number, outcome in enumerate(tests)]
    packages = (ChangedPackage(package="a.1", kind=changed, has_tests=True),)
    return summary(*rows).model_copy(update={"packages": packages})


def skipped(reason: SkipReason) -> Skipped:
    return Skipped(reason=reason, evidence=Evidence(rule="r"))


NOT_BUILT = skipped(SkipReason.NOT_BUILT)


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (head(PASSED, SKIPPED), "1 skipped, 1 passed; analysis and lint passed"),
        (head(FAILED, PASSED), "1 failed, 1 passed; analysis and lint passed"),
        (head(PASSED, lint=(FAILED,)), "1 passed; lint failed"),
        (
            head(PASSED, lint=(FAILED, PASSED, PASSED)),
            "1 passed; lint (1 of 3) failed",
        ),
        (
            head(SKIPPED, SKIPPED, SKIPPED),
            "nothing was built: 3 builds skipped (not available here); analysis and lint passed",
        ),
        (
            head(skipped(SkipReason.NOT_MIRRORED), tests=(NOT_BUILT,)),
            (
                "nothing was built: 2 jobs skipped (not in the offline mirror); "
                "analysis and lint passed"
            ),
        ),
        (
            head(SKIPPED, lint=(FAILED,)),
            "nothing was built: 1 build skipped (not available here); lint failed",
        ),
        (head(), "nothing was built: no build was requested; analysis and lint passed"),
        (
            head(lint=(), changed=ChangeKind.DELETED),
            "nothing needed a build (deleted); analysis passed",
        ),
        (
            head(PASSED, lint=(ERRORED,)),
            (
                "internal CI error, not your package: disk full (1 passed; lint errored); it is "
                "restarted once repaired"
            ),
        ),
        (head(PASSED, FAILED, None), "2/3 done, 1 failed"),
        (head(PASSED, lint=(None, PASSED)), "1/1 done; lint (1 of 2) under way"),
        (
            summary(of_kind(JobKind.ANALYSIS, 0, FAILED)),
            "analysis failed: Error: Unbound value x",
        ),
    ],
)
def test_builds_and_tests_are_counted_and_the_rest_is_named(of: Summary, words: str) -> None:
    words = words[0].upper() + words[1:]
    assert sentence(of, limit=STATUS_LIMIT, maximum_attempts=5) == words
    assert sentence_line(of) == f"o/r#1 at {'a' * 12}: {words}"


@given(
    st.lists(st.sampled_from([PASSED, FAILED, SKIPPED, ERRORED]), max_size=9),
    st.lists(st.sampled_from([PASSED, FAILED]), max_size=3),
)
def test_status_without_builds_never_says_passed(
    builds: list[Outcome], lint: list[Outcome]
) -> None:
    of = head(*builds, lint=tuple(lint))
    words = sentence_line(of)
    assert of.ran.total == len(builds)
    if PASSED not in builds:
        assert ": passed" not in words
    if of.state is State.SUCCESS and PASSED not in builds:
        assert "Nothing was built" in words


def images(*outcomes: Outcome | None) -> list[JobStatus]:
    jobs = [Job(platform=f"p{n}", package="", kind=JobKind.IMAGE) for n in range(len(outcomes))]
    return [row(n, each).model_copy(update={"job": jobs[n]}) for n, each in enumerate(outcomes)]


def test_an_image_is_named_only_while_builds_wait_for_it_or_if_it_cannot_be_had() -> None:
    def said(*outcomes: Outcome | None) -> str:
        rows = [of_kind(JobKind.ANALYSIS, 0, PASSED), *images(*outcomes), row(1, PASSED)]
        return sentence(summary(*rows), limit=STATUS_LIMIT, maximum_attempts=5)

    assert said(PASSED, PASSED) == "1 passed; analysis passed"
    assert said(PASSED, None, None) == "1/1 done; the build image (2 of 3) under way"
    assert "disk full (1 passed; the build image (1 of 2) errored)" in said(PASSED, ERRORED)


@pytest.mark.parametrize(
    ("analysis", "words"),
    [(None, "Analysing the change"), (PASSED, "Queueing the jobs")],
)
def test_status_without_a_plan_says_what_is_pending(analysis: Outcome | None, words: str) -> None:
    of = summary(of_kind(JobKind.ANALYSIS, 0, analysis), planned=False)
    assert sentence(of, limit=STATUS_LIMIT, maximum_attempts=5) == words
    assert words in sentence_line(of)
    assert words.lower() in markdown_matrix(of).splitlines()[0]


def test_waiting_for_all_platforms_is_not_shown_as_stopped() -> None:
    of = head(PASSED, SKIPPED).model_copy(update={"concluded": False})
    assert of.state is State.PENDING
    assert sentence(of, limit=STATUS_LIMIT, maximum_attempts=5) == (
        "2/2 done; comparing results across platforms"
    )
    assert "comparing results across platforms" in markdown_matrix(of)
    under_way = head(PASSED, None).model_copy(update={"concluded": False})
    assert "comparing" not in sentence(under_way, limit=STATUS_LIMIT, maximum_attempts=5)


@pytest.mark.parametrize(
    ("by", "words"),
    [
        (["superseded"], "Stopped: a newer head is tested (2 cancelled)"),
        (["superseded", "request"], "Stopped on request (2 cancelled)"),
        (["closed", "request"], "Stopped: the pull request was closed (2 cancelled)"),
    ],
)
def test_reason_of_a_stop_is_shown_without_its_rows(by: list[str], words: str) -> None:
    cancelled = [Cancelled.model_validate({"by": each}) for each in (by * 2)[:2]]
    of = summary_of([row(n, each) for n, each in enumerate(cancelled)], jobs=())
    assert sentence(of, limit=STATUS_LIMIT, maximum_attempts=5) == words


def test_tables_state_what_is_hidden_and_how_to_list_it() -> None:
    shown = [row(1, FAILED), row(2, PASSED), row(3)]
    others = [*(row(n, FAILED) for n in range(10, 129)), *(row(n) for n in range(200, 209))]
    of = summary_of(shown, tallies=counts_of_rows([*shown, *others]))
    assert hidden_lines(of, of.jobs) == [
        "120 failed, 1 shown; all: opam-ci jobs o/r/1 --standing failed",
        "10 to go, 1 shown",
    ]
    assert "… and 128 more" in markdown_matrix(of)
    branch = of.model_copy(update={"pull_request": "local/clone:my branch:#1"})
    assert "opam-ci jobs 'local/clone/heads/my branch:#1' --" in hidden_lines(branch, of.jobs)[0]


def test_what_is_known_to_run_is_not_taken_for_hidden() -> None:
    """Who watches sees a job start before the workflow that counts says so."""
    of = summary(row(1), row(2, PASSED))
    running = of.jobs[0].model_copy(update={"state": JobState.RUNNING})
    assert hidden_lines(of, (running, of.jobs[1])) == []


def test_text_about_a_large_head_takes_no_time() -> None:
    """It is made in a task of a workflow, which Temporal ends after two seconds."""
    reasons = [
        (Standing.PASSED, ""),
        (Standing.QUEUED, ""),
        *((Standing.FAILED, reason.value) for reason in FailureReason),
        *((Standing.SKIPPED, reason.value) for reason in SkipReason),
        *((Standing.ERRORED, cause.value) for cause in Cause),
        *((Standing.RETRYING, cause.value) for cause in Cause),
    ]
    numbers = [
        JobCount(platform=f"p{place:02}", kind=kind, standing=standing, why=why, number=4)
        # Every kind with every reason on each: more numbers than a head on 75 platforms has.
        for place in range(20)
        for kind in JobKind
        for standing, why in reasons
    ]
    of = summary_of((row(n, FAILED) for n in range(75 * 50)), tallies=numbers)
    assert of.counts.total > 50_000
    before = process_time()
    sentence_line(of)
    markdown_matrix(of)
    hidden_lines(of, of.jobs)
    for context in DEFAULT_CONTEXTS:
        part = part_of(of, context, DEFAULT_CONTEXTS)
        assert len(sentence(part, limit=STATUS_LIMIT, maximum_attempts=5)) <= STATUS_LIMIT
        page(part)
    assert process_time() - before < 2


def test_reason_of_not_installable_comes_before_the_log() -> None:
    line = LogLine(offset=0, text="[ERROR] Package conflict!")
    evidence = Evidence(rule="r", lines=(line,), detail="a.1 needs nope:\nno such package")
    words = "a.1 needs nope: no such package"
    for reason in (SkipReason.NO_SOLUTION, SkipReason.NOT_MIRRORED):
        assert reason_line(Skipped(reason=reason, evidence=evidence)) == words
    nowhere = Failed(reason=FailureReason.NOT_INSTALLABLE, evidence=evidence)
    assert reason_line(nowhere) == words
    accepted = evidence.model_copy(update={"detail": "failed(build), accepted"})
    assert reason_line(Skipped(reason=SkipReason.ACCEPTED_FAILURE, evidence=accepted)) == (
        "failed(build), accepted: [ERROR] Package conflict!"
    )


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


def test_texts_for_rows() -> None:
    assert verdict(row(1)) == "queued"
    assert verdict(row(1, FAILED)) == "failed(build)"
    assert verdict(retrying(1)) == "retrying(dns)"
    assert reason_line(FAILED) == "Error: Unbound value x"
    assert reason_line(FAILED.model_copy(update={"blame": "b.1"})) == "b.1: Error: Unbound value x"
    assert why(row(1)) == ""
    recovered = retrying(1).model_copy(update={"outcome": PASSED, "state": JobState.DECIDED})
    assert why(recovered).startswith("recovered by retry from dns (attempt 1)")


def test_problems_are_one_line() -> None:
    with pytest.raises(ValidationError) as caught:
        RestartSelector.model_validate({"which": "x" * 1000, "no\nsuch": 1})
    text = problems(caught.value)
    assert "which" in text
    assert len(text) <= 300
