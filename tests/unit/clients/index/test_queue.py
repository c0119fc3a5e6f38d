"""The list of jobs: planned, taken and counted; on SQLite and PostgreSQL."""

from collections import Counter

import pytest

from opam_ci.clients.index import Index
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.hold import Hold
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.messages import ChangeJobs, CountJobs, TakeJobs
from opam_ci.core.jobs.outcome import Cancelled, Outcome
from opam_ci.core.jobs.plan import ANALYSIS, PlannedJob, outcome_after
from opam_ci.core.jobs.selector import RESTART_COST, TRIAL_COST, RestartOrigin, RestartSelector
from opam_ci.core.jobs.summary import SHOWN_ROWS, JobState, JobStatus, Standing, count_key, total
from tests.support.fakes.queue import (
    DISK,
    DNS,
    FAILED,
    KEY,
    NO_SOLUTION,
    NOON,
    OTHER,
    PASSED,
    P,
    Q,
    build,
    decided,
    ids,
    its_test,
    plan,
    planned,
    records,
    restart,
    retrying,
    taken,
    wrote,
)


def test_jobs_come_in_the_order_in_which_they_are_to_run(index: Index) -> None:
    a, b = build("a.1"), build("b.1")
    image = Job(platform=P, package="", kind=JobKind.IMAGE)
    revdep = Job(platform=P, package="a.1", kind=JobKind.REVDEP, revdep="r.1")
    plan(index, revdep, its_test(a), a, its_test(b), b, image, build("c.1", Q))
    for limit in (1, 2, 100):
        assert ids(taken(index, limit=limit)) == [
            each.id for each in (image, a, b, its_test(a), its_test(b), revdep)
        ]
    assert ids(taken(index, Q)) == [build("c.1", Q).id]
    assert taken(index, "none") == []
    assert index.take(TakeJobs(key=OTHER, platform=P, limit=9)).jobs == ()


def test_jobs_that_wait_for_an_approval_are_left_out(index: Index) -> None:
    a = build("a.1")
    kinds = (JobKind.LOWER_BOUNDS, JobKind.LIST_REVDEPS)
    more = [a.model_copy(update={"kind": kind}) for kind in kinds]
    revdep = a.model_copy(update={"kind": JobKind.REVDEP, "revdep": "r.1"})
    plan(index, a, its_test(a), *more, revdep)
    whole = [each.id for each in (a, its_test(a), *more, revdep)]
    for hold, first, left in (
        (None, False, whole),
        (Hold(reason="budget"), False, whole[:3]),
        (Hold(reason="new-author"), True, whole[:2]),
        (Hold(reason="new-author"), False, []),
    ):
        given = TakeJobs(key=KEY, platform=P, limit=9, is_first_platform=first)
        page = index.take(given, hold)
        assert (ids(page.jobs), page.hold) == (left, hold)


def test_planning_twice_adds_nothing_and_disturbs_nobody(index: Index) -> None:
    a, b, c = build("a.1"), build("b.1"), build("c.1")
    plan(index, a, b, c)
    wrote(
        index,
        JobStatus(job=a, state=JobState.RUNNING, attempt=1),
        decided(b, FAILED, attempt=1, restart_budget_used=5, log="l", faults=retrying(b).faults),
    )
    before = records(index)
    plan(index, a, b, c)
    assert records(index) == before
    # In a later round whatever was decided runs again, and nothing else.
    plan(index, a, b, c, round_=2)
    now = records(index)
    assert now.pop(b.id).status == JobStatus(job=b, round=2)
    before.pop(b.id)
    assert now == before
    plan(index, a, b, c, round_=2)
    wrote(index, decided(b, FAILED), sequence=9)  # a late record of the earlier round
    assert records(index)[b.id].status == JobStatus(job=b, round=2)


@pytest.mark.parametrize(
    ("origin", "restart_budget_used"),
    [
        (None, 0),
        (RestartOrigin.PERSON, 0),
        (RestartOrigin.INCIDENT, 7 + RESTART_COST),
        (RestartOrigin.TRIAL, 7 + TRIAL_COST),
    ],
)
def test_a_plan_and_a_restart_are_charged_to_whoever_asks(
    index: Index, origin: RestartOrigin | None, restart_budget_used: int
) -> None:
    wrote(
        index,
        decided(build(), DNS, restart_budget_used=7),
        decided(build("b.1"), DNS, restart_budget_used=7),
    )
    for _ in range(2):
        index.plan(KEY, planned(build()), round_=2, origin=origin, at=NOON)
        if origin is not None:
            selector = RestartSelector(package="b", origin=origin)
            index.requeue(ChangeJobs(key=KEY, selector=selector, round=2), NOON)
            assert records(index)[build("b.1").id].status.restart_budget_used == restart_budget_used
    assert records(index)[build().id].status.restart_budget_used == restart_budget_used


@pytest.mark.parametrize(
    ("outcome", "waits"),
    [(None, True), (PASSED, False), (FAILED, False), (DNS, False), (Cancelled(by="closed"), False)],
)
def test_a_queued_job_says_what_became_of_the_one_it_needs(
    index: Index, outcome: Outcome | None, waits: bool
) -> None:
    plan(index, build(), its_test(build()))
    if outcome is not None:
        wrote(index, decided(build(), outcome))
    found = taken(index)[-1]
    assert (found.job, found.needs, found.waits) == (its_test(build()), build().id, waits)
    assert found.inherited_outcome == outcome_after(outcome, build())


def test_a_needed_job_that_the_index_does_not_have_holds_nobody_up(index: Index) -> None:
    plan(index, its_test(build()))
    [found] = taken(index)
    assert (found.waits, found.inherited_outcome) == (False, None)


def test_the_plan_says_what_a_job_needs_and_a_record_leaves_that(index: Index) -> None:
    image = Job(platform=P, package="", kind=JobKind.IMAGE)
    index.plan(KEY, [PlannedJob(job=build(), needs=image)], round_=1, origin=None, at=NOON)
    wrote(index, decided(build(), DNS), decided(image, DNS))
    assert restart(index, RestartSelector(package="a.1")) == sorted([build().id, image.id])
    assert [each.needs for each in taken(index)] == [None, image.id]


@pytest.mark.parametrize(
    "after_", ["", "x", "1", "1/", "/1", "1/x", "-1/2", "1/2/3", "1/9" * 50, " 1/2", "٣/٤"]
)
def test_a_cursor_of_nobody_is_refused(index: Index, after_: str) -> None:
    with pytest.raises(UsageError, match="invalid page cursor"):
        index.take(TakeJobs(key=KEY, platform=P, limit=1, after=after_))


def test_pages_show_each_job_once_while_others_change_the_list(index: Index) -> None:
    jobs = [build(f"p{number:03}.1") for number in range(60)]
    plan(index, *jobs)
    seen: Counter[str] = Counter()
    following: str | None = None
    turn = 0
    while True:
        page = index.take(TakeJobs(key=KEY, platform=P, limit=7, after=following))
        seen.update(ids(page.jobs))
        # Taken jobs run, a later one is decided, and more are planned.
        wrote(
            index,
            *(JobStatus(job=each.job, state=JobState.RUNNING, attempt=1) for each in page.jobs),
            decided(jobs[59 - turn], FAILED),
        )
        plan(index, build(f"more{turn}.1"))
        turn += 1
        if (following := page.following) is None or turn > 30:
            break
    assert set(seen.values()) == {1}
    assert {build(f"p{number:03}.1").id for number in range(40)} <= set(seen)


# Counting


def test_counts_and_rows_are_those_of_the_jobs(index: Index) -> None:
    rows = [
        JobStatus(job=build("queued.1")),
        JobStatus(job=build("running.1"), state=JobState.RUNNING, attempt=1),
        retrying(build("retrying.1")),
        decided(build("passed.1"), PASSED),
        decided(build("failed.1"), FAILED),
        decided(its_test(build("failed.1")), FAILED),
        decided(build("skipped.1"), NO_SOLUTION),
        decided(build("errored.1"), DISK),
        decided(build("gone.1"), Cancelled(by="superseded")),
    ]
    lint = Job(platform="", package="a.1", kind=JobKind.LINT)
    plan(index, build("queued.1"))
    wrote(index, *rows[1:], decided(lint, PASSED), decided(ANALYSIS, PASSED))
    empty, found, first = index.count(CountJobs(key=KEY, platforms=("none", P, "")))
    assert (empty.platform, empty.counts, empty.shown) == ("none", (), ())
    wanted = Counter(count_key(row) for row in rows)
    assert {
        (each.platform, each.kind, each.standing, each.why): each.number for each in found.counts
    } == wanted
    assert {row.job.id for row in found.shown} == {row.job.id for row in rows}
    # The analysis belongs to the workflow of its pull request.
    assert [row.job for row in first.shown] == [lint]
    assert total(first.counts).total == 1
    without = [row.job.id for row in rows[:6]]
    [rest] = index.count(
        CountJobs(
            key=KEY, platforms=(P,), excluding=(*without, *(f"nobody {n}" for n in range(40_000)))
        )
    )
    assert total(rest.counts).total == 3
    assert {row.job.id for row in rest.shown} == {row.job.id for row in rows[6:]}
    assert index.count(CountJobs(key=OTHER, platforms=(P,)))[0].counts == ()


def test_few_rows_of_many_explain_each_standing(index: Index) -> None:
    many = [build(f"p{number}.1") for number in range(3 * SHOWN_ROWS)]
    plan(index, *many)
    wrote(index, *(decided(job, PASSED) for job in many[100:]), decided(many[0], FAILED))
    [found] = index.count(CountJobs(key=KEY, platforms=(P,)))
    assert len(found.shown) == SHOWN_ROWS
    assert {row.standing for row in found.shown} == {
        *(Standing.FAILED, Standing.PASSED, Standing.QUEUED)
    }
    assert total(found.counts).total == len(many)
