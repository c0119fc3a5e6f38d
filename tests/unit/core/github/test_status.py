"""Statuses of each context, when they are posted, and what is caught up with."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opam_ci.core.github.action import Tracked
from opam_ci.core.github.debounce import (
    STATUSES_LIMIT,
    Debounce,
    Due,
    Posted,
    after,
    after_refusal,
    doubted,
    due,
    reconsidered,
)
from opam_ci.core.github.model import HEAD_GONE
from opam_ci.core.github.payload import BaseBranch, HeadBranch, PullRequest
from opam_ci.core.github.reconcile import Delivery, compare, to_redeliver
from opam_ci.core.github.status import DEFAULT_CONTEXTS, About, Context, Status, statuses
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
from opam_ci.core.jobs.plan import ANALYSIS
from opam_ci.core.jobs.summary import JobState, JobStatus, State, Summary
from tests.support.fakes.summaries import summary_of

HEAD = "1" * 40
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
EVIDENCE = Evidence(rule="test")
PASSED = Passed(evidence=EVIDENCE)
FAILED = Failed(reason=FailureReason.BUILD, evidence=EVIDENCE)
FULL = Errored(cause=Cause.DISK_FULL, evidence=EVIDENCE)
LINT = Job(platform="", package="a.1", kind=JobKind.LINT)
BUILD = Job(platform="p", package="a.1", kind=JobKind.BUILD)
REVDEP = Job(platform="p", package="a.1", kind=JobKind.REVDEP, revdep="b.2")
PACE = Debounce()


def summary(planned: bool = True, **jobs: Outcome | None) -> Summary:
    known = {"analysis": ANALYSIS, "lint": LINT, "build": BUILD, "revdep": REVDEP}
    known["image"] = Job(platform="p", package="", kind=JobKind.IMAGE)
    rows = tuple(
        JobStatus(job=known[name], outcome=outcome, state=JobState.DECIDED)
        if outcome is not None
        else JobStatus(job=known[name])
        for name, outcome in jobs.items()
    )
    return summary_of(rows, head=HEAD, planned=planned)


def states(of: Summary, contexts: tuple[Context, ...] = DEFAULT_CONTEXTS) -> list[str]:
    return [status.state.value for status in statuses(of, contexts=contexts, maximum_attempts=5)]


@pytest.mark.parametrize(
    ("given_jobs", "expected"),
    [
        (summary(planned=False), ["pending", "pending", "pending"]),
        (
            summary(analysis=PASSED, lint=PASSED, build=None),
            ["pending", "success", "success"],
        ),
        (summary(analysis=PASSED, lint=FAILED, build=None), ["pending", "failure", "success"]),
        (summary(analysis=PASSED, lint=PASSED, build=FAILED), ["failure", "success", "success"]),
        (summary(analysis=PASSED, build=PASSED, revdep=FAILED), ["failure", "success", "failure"]),
        (summary(analysis=PASSED, build=FULL, revdep=None), ["pending", "success", "pending"]),
        (summary(analysis=FULL), ["error", "error", "error"]),
        (summary(analysis=FAILED), ["failure", "failure", "failure"]),
        # Which lint jobs there are is known once all jobs are.
        (summary(planned=False, analysis=PASSED), ["pending", "pending", "pending"]),
        (
            summary(analysis=PASSED, lint=PASSED, image=FULL, build=PASSED, revdep=PASSED),
            ["error", "success", "success"],
        ),
    ],
)
def test_each_context_speaks_of_its_own_jobs(given_jobs: Summary, expected: list[str]) -> None:
    assert states(given_jobs) == expected


def test_advisory_context_is_posted_and_not_counted() -> None:
    contexts = (
        Context(about=About.OVERALL, name="required"),
        Context(about=About.REVDEPS, name="revdeps", advisory=True),
    )
    of = summary(analysis=PASSED, lint=PASSED, build=PASSED, revdep=FAILED)
    overall, revdeps = statuses(of, contexts=contexts, maximum_attempts=5)
    assert (overall.state, overall.description) == (
        State.SUCCESS,
        "1 passed; analysis and lint passed",
    )
    assert (revdeps.state, revdeps.description) == (State.FAILURE, "Advisory: 1 failed")


def test_builds_are_estimated_and_lint_is_not() -> None:
    of = summary(analysis=PASSED, lint=None, build=None, revdep=None)
    times = {"updated_at": NOW, "estimated_until": NOW + timedelta(hours=1)}
    found = statuses(of.model_copy(update=times), maximum_attempts=5)
    assert ["all expected by" in each.description for each in found] == [True, False, True]


def test_numbers_are_shared_out_although_no_row_is_shown() -> None:
    of = summary(analysis=PASSED, lint=PASSED, build=PASSED, revdep=FAILED)
    assert states(of.model_copy(update={"jobs": of.jobs[:1]})) == states(of)


def test_what_platforms_decide_together_concerns_builds_alone() -> None:
    of = summary(analysis=PASSED, lint=PASSED, build=PASSED, revdep=PASSED)
    assert states(of.model_copy(update={"concluded": False})) == ["pending", "success", "success"]


def test_failures_of_reverse_dependencies_wait_for_the_base() -> None:
    of = summary(analysis=PASSED, lint=PASSED, build=PASSED, revdep=FAILED)
    assert states(of) == ["failure", "success", "failure"]
    assert states(of.model_copy(update={"concluded": False})) == ["pending", "success", "pending"]


def test_revdeps_without_a_plan_show_what_is_pending() -> None:
    of = summary(planned=False, analysis=PASSED)
    assert [one.description for one in statuses(of, maximum_attempts=5)] == [
        "Queueing the jobs",
        "Queueing the jobs",
        "Queueing the jobs",
    ]


def test_analysis_and_lint_are_never_left_out() -> None:
    contexts = (
        Context(about=About.OVERALL, name="required"),
        Context(about=About.LINTER, name="lint", advisory=True),
    )
    assert states(summary(analysis=PASSED, lint=FAILED), contexts) == ["failure", "failure"]


def test_missing_head_is_an_error_with_its_own_text() -> None:
    gone = Errored(cause=Cause.GITHUB, evidence=Evidence(rule=HEAD_GONE))
    for one in statuses(summary(analysis=gone), maximum_attempts=5):
        assert one.state is State.ERROR
        assert one.description.startswith("Commit not found on GitHub: push again")
    waiting = summary(planned=False, analysis=None)
    assert "Analysing" in statuses(waiting, maximum_attempts=5)[0].description


def test_no_head_has_no_statuses() -> None:
    assert statuses(Summary(pull_request="o/r#1", head="", base=""), maximum_attempts=5) == ()


@given(st.text(min_size=1, max_size=100), st.booleans(), st.sampled_from(list(About)))
def test_every_status_fits(name: str, advisory: bool, about: About) -> None:
    waiting = JobStatus(job=BUILD, state=JobState.RETRYING, next_attempt_at=NOW, attempt=10**6)
    of = summary_of([waiting] * 1000)
    contexts = (Context(about=about, name=name, advisory=advisory),)
    assert len(statuses(of, contexts=contexts, maximum_attempts=10**9)[0].description) <= 140


def status(
    words: str = "1/9 done", state: State = State.PENDING, sha: str = HEAD, context: str = "c"
) -> Status:
    return Status(context=context, sha=sha, state=state, description=words)


def sent(one: Status, at: datetime = NOW) -> dict[str, Posted]:
    return after({}, one, at)


def test_a_status_whose_answer_was_lost_is_followed_by_one_that_counts() -> None:
    """What was known before the lost one is wanted again: GitHub must be told all the same."""
    unsure = doubted(sent(status()))
    assert due([status()], unsure, NOW, PACE).post == (status(),)
    assert not due([status()], after(unsure, status(), NOW), NOW, PACE).post


def test_first_status_goes_at_once_and_the_same_never_again() -> None:
    assert due([status()], {}, NOW, PACE).post == (status(),)
    assert due([status()], sent(status()), NOW + timedelta(days=1), PACE) == due([], {}, NOW, PACE)


def test_new_text_is_debounced_and_a_new_state_is_not() -> None:
    later = NOW + timedelta(seconds=1)
    words = due([status("2/9 done")], sent(status()), later, PACE)
    assert (words.post, words.next_at) == ((), NOW + PACE.interval)
    assert due([status("2/9 done")], sent(status()), NOW + PACE.interval, PACE).post
    failed = status("1 failed", State.FAILURE)
    assert due([failed], sent(status()), later, PACE).post == (failed,)


def test_new_head_begins_anew() -> None:
    other = status(sha="2" * 40)
    assert due([other], sent(status()), NOW, PACE).post == (other,)
    assert after(sent(status()), other, NOW)["c"].count == 1


def test_verdicts_go_before_progress() -> None:
    wanted = [status(context="a"), status("1 passed", State.SUCCESS, context="b")]
    assert [one.context for one in due(wanted, {}, NOW, PACE).post] == ["b", "a"]


def refused(
    posted: Mapping[str, Posted], one: Status, at: datetime, *, is_full: bool = False
) -> dict[str, Posted]:
    return after_refusal(posted, one, at, "422 No commit found", is_full=is_full)


def test_refused_status_is_tried_again_ever_more_rarely_for_a_day() -> None:
    posted: dict[str, Posted] = {}
    at, tried = NOW, []
    while (found := due([status("2/9 done")], posted, at, PACE)) != Due():
        if found.post:
            tried.append(round((at - NOW).total_seconds() / 60))
            posted = refused(posted, found.post[0], at)
        else:
            assert found.next_at is not None
            at = found.next_at
    assert tried == [0, 1, 6, 36, 396, 756, 1116, 1476]
    assert posted["c"].count == 0
    # Then once at each change of state, or when GitHub names the commit, until it is accepted.
    verdict = status("9 passed", State.SUCCESS)
    assert due([verdict], posted, at, PACE).post == (verdict,)
    posted = refused(posted, verdict, at)
    assert due([verdict], posted, at + timedelta(days=9), PACE) == Due()
    assert due([verdict], reconsidered(posted, at), at, PACE).post == (verdict,)
    posted = after(posted, verdict, at)
    assert (posted["c"].refusal, posted["c"].count) == (None, 1)


def test_refused_status_is_tried_at_each_change_of_state() -> None:
    posted = refused({}, status(), NOW)
    changed = status("1 failed", State.FAILURE)
    assert due([status("3/9 done")], posted, NOW, PACE) == Due(next_at=NOW + timedelta(minutes=1))
    assert due([changed], posted, NOW, PACE).post == (changed,)
    assert due([status(sha="2" * 40)], posted, NOW, PACE).post
    # A request of another status that gets no response changes nothing of that.
    assert due([status()], doubted(posted), NOW, PACE).post == ()


def test_a_commit_with_all_its_statuses_gets_no_more() -> None:
    posted = refused({}, status(), NOW, is_full=True)
    for one in (status(), status("1 failed", State.FAILURE)):
        assert due([one], reconsidered(posted, NOW), NOW + timedelta(days=9), PACE) == Due()
    assert due([status(sha="2" * 40)], posted, NOW, PACE).post


def test_five_thousand_jobs_are_a_handful_of_statuses_a_minute() -> None:
    posted: dict[str, Posted] = {}
    at = NOW
    for number in range(5001):
        wanted = [
            status(f"{number}/5000 done", State.PENDING, context=name) for name in ("a", "b", "c")
        ]
        for one in due(wanted, posted, at, PACE).post:
            posted = after(posted, one, at)
        at += timedelta(seconds=0.12)
    # Ten minutes of one job each 120 ms.
    assert sum(entry.count for entry in posted.values()) <= 3 * 21


@given(st.integers(0, 20_000))
def test_a_restless_week_stays_below_githubs_limit(steps: int) -> None:
    entry = Posted(status=status(), at=NOW, count=min(steps, STATUSES_LIMIT))
    words = due([status("other")], {"c": entry}, NOW + timedelta(days=9), PACE).post
    verdict = due([status("x", State.ERROR)], {"c": entry}, NOW, PACE).post
    assert bool(words) is (steps < 950)
    assert bool(verdict) is (steps < 1000)
    assert PACE.wait(steps) <= PACE.longest_interval


def pull(number: int, head: str, ref: str = "master") -> PullRequest:
    return PullRequest(
        number=number,
        state="open",
        updated_at=NOW,
        head=HeadBranch(sha=head),
        base=BaseBranch(ref=ref, sha="b" * 40),
    )


def test_missed_heads_are_found_and_missing_pull_requests_suspected() -> None:
    listed = [
        pull(1, "1" * 40),
        pull(2, "2" * 40),
        pull(3, "3" * 40),
        pull(5, "5" * 40, "other"),
    ]
    found = compare(
        listed, {1: "1" * 40, 2: "0" * 40, 4: "4" * 40, 5: "5" * 40}, TRACKED, lately=NOW
    )
    assert [(one.pull_request.number, one.head, one.why) for one in found.missed] == [
        (2, "2" * 40, "missed"),
        (3, "3" * 40, "missed"),
    ]
    assert found.suspects == (4, 5)
    assert found.renewed == ()


def test_recent_changes_are_signalled_again_unless_draft() -> None:
    draft = pull(2, "2" * 40).model_copy(update={"draft": True})
    old = pull(3, "3" * 40).model_copy(update={"updated_at": NOW - timedelta(hours=2)})
    running = {number: f"{number}" * 40 for number in (1, 2, 3)}
    listed = [pull(1, "1" * 40), draft, old]
    found = compare(listed, running, TRACKED, lately=NOW - timedelta(hours=1))
    assert (found.missed, found.suspects) == ((), ())
    assert [(one.pull_request.number, one.head, one.again) for one in found.renewed] == [
        (1, "1" * 40, False)
    ]


TRACKED = Tracked(repository="ocaml/opam-repository")


def attempt(number: int, guid: str, code: int, hours: float = 1) -> Delivery:
    return Delivery(
        id=number,
        guid=guid,
        delivered_at=NOW - timedelta(hours=hours),
        status_code=code,
        event="push",
    )


@pytest.mark.parametrize(
    ("attempts", "again"),
    [
        ([attempt(1, "a", 202)], ()),
        ([attempt(1, "a", 503)], (1,)),
        ([attempt(1, "a", 0), attempt(2, "a", 200, 0.5)], ()),
        ([attempt(1, "a", 0), attempt(2, "a", 502, 0.5)], (2,)),
        ([attempt(n, "a", 0) for n in range(1, 6)], ()),
        ([attempt(1, "a", 400)], ()),
        ([attempt(1, "a", 401)], (1,)),
        ([attempt(1, "a", 0, 73)], ()),
        ([attempt(2, "b", 0, 1), attempt(1, "a", 0, 2), attempt(1, "a", 0, 2)], (1, 2)),
    ],
)
def test_failed_deliveries_are_redelivered(
    attempts: list[Delivery], again: tuple[int, ...]
) -> None:
    assert to_redeliver(attempts, NOW) == again
