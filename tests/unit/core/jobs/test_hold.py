"""What waits for an approval: new authors, budgets of a day, restarts of an hour."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from opam_ci.core.github.status import statuses
from opam_ci.core.jobs.hold import Approval, Author, Hold, day_of, hold_for, next_restart
from opam_ci.core.jobs.job import BASE_KINDS, Job, JobKind
from opam_ci.core.jobs.outcome import Evidence, Passed
from opam_ci.core.jobs.plan import ANALYSIS
from opam_ci.core.jobs.summary import JobState, JobStatus, State
from tests.support.fakes.summaries import summary_of

NOW = datetime(2026, 3, 1, 13, 30, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
NEW = Hold(reason="new-author")
SPENT = Hold(reason="budget", used=1234.56, hours=1000, until=MIDNIGHT)
REVDEPS = {JobKind.LIST_REVDEPS, JobKind.REVDEP, JobKind.REVDEP_TEST}


@pytest.mark.parametrize(
    ("author", "used", "hold"),
    [
        (Author(login="a"), 9999, None),
        (Author(login="a", hours_a_day=10), 9.9, None),
        (Author(login="a", hours_a_day=1000), 1234.56, SPENT),
        (Author(login="a", is_new=True), 0, NEW),
        (Author(login="a", is_new=True, hours_a_day=10), 11, NEW),
    ],
)  # fmt: skip
def test_an_author_is_held_up_by_what_is_configured(
    author: Author, used: float, hold: Hold | None
) -> None:
    assert hold_for(author, used, NOW) == hold
    assert author.is_limited or hold is None


def test_a_day_is_one_of_utc() -> None:
    late = datetime(2026, 3, 2, 1, tzinfo=UTC).astimezone(timezone(timedelta(hours=-7)))
    assert (day_of(NOW), day_of(late)) == (MIDNIGHT - timedelta(days=1), MIDNIGHT)


def test_a_budget_keeps_reverse_dependencies_and_a_new_author_all_but_the_small_set() -> None:
    for first in (True, False):
        assert SPENT.keeps(is_first_platform=first) == REVDEPS
    small = set(JobKind) - NEW.keeps(is_first_platform=True)
    # What a failure of these is compared with, too.
    assert small == BASE_KINDS | {
        *(JobKind.LINT, JobKind.PLATFORM, JobKind.IMAGE, JobKind.BUILD, JobKind.TEST)
    }
    assert NEW.keeps(is_first_platform=False) == set(JobKind)


@pytest.mark.parametrize(
    ("seconds", "always", "covers"),
    [(-1, False, True), (0, False, False), (1, False, False), (1, True, True)],
)
def test_nobody_approves_what_is_pushed_later(seconds: int, always: bool, covers: bool) -> None:
    approval = Approval(as_of=NOW, always=always)
    assert approval.covers(NOW + timedelta(seconds=seconds)) is covers


def test_approvals_add_up_in_any_order() -> None:
    always = Approval(as_of=NOW, always=True)
    later = Approval(as_of=NOW + timedelta(hours=1))
    both = Approval(as_of=later.as_of, always=True)
    assert (always.joined(later), later.joined(always), later.joined(None)) == (both, both, later)


def test_restarts_are_counted_over_an_hour() -> None:
    author = Author(login="a", restarts_an_hour=2)
    before = [NOW - timedelta(minutes=minutes) for minutes in (90, 50, 10)]
    assert next_restart(author, before[:2], NOW) is None
    assert next_restart(author, before, NOW) == NOW + timedelta(minutes=10)
    assert next_restart(author, before, NOW + timedelta(minutes=10)) is None
    assert next_restart(Author(login="a"), [NOW] * 99, NOW) is None


NEW_TEXT = "new author: the rest waits for /opam-ci ok by somebody with triage or write access"
SPENT_TEXT = (
    "revdeps wait until 00:00 UTC or /opam-ci ok by a maintainer: the author's jobs used 1234.6 of "
    "1000 CPU hours today"
)


@pytest.mark.parametrize(("hold", "text"), [(NEW, NEW_TEXT), (SPENT, SPENT_TEXT)])
def test_a_status_says_what_is_waited_for_and_who_may_say_it(hold: Hold, text: str) -> None:
    build = Job(platform="p", package="a.1", kind=JobKind.BUILD)
    passed = Passed(evidence=Evidence(rule="x"))
    revdep = build.model_copy(update={"kind": JobKind.REVDEP, "revdep": "r.1"})
    done = [JobStatus(job=job, state=JobState.DECIDED, outcome=passed) for job in (ANALYSIS, build)]
    listing = build.model_copy(update={"kind": JobKind.LIST_REVDEPS})
    summary = summary_of([*done, JobStatus(job=listing), *[JobStatus(job=revdep)] * 9000])
    overall, linter, revdeps = statuses(
        summary.model_copy(update={"hold": hold}), maximum_attempts=5
    )
    assert (overall.state, overall.description) == (State.PENDING, f"1/9001 done; {text}")
    assert (revdeps.state, revdeps.description) == (State.PENDING, f"0/9000 done; {text}")
    assert linter.state is State.SUCCESS
