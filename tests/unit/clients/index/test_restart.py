"""The list of jobs: restarted, cancelled, settled, concluded; on SQLite and PostgreSQL."""

from collections import Counter
from datetime import timedelta

import pytest

from opam_ci.clients.index import Index
from opam_ci.clients.index.changing import queue_again
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.messages import ChangeJobs, ConcludeJobs, CountJobs, SettleJobs
from opam_ci.core.jobs.outcome import Cancelled, Cause, Outcome, Skipped, SkipReason, label
from opam_ci.core.jobs.plan import ANALYSIS, PlannedJob, outcome_after
from opam_ci.core.jobs.selector import (
    JobSelector,
    RestartSelector,
    RestartUpdate,
    RestartWhich,
)
from opam_ci.core.jobs.summary import JobState, JobStatus, total
from opam_ci.core.text.taken import taken_lines
from tests.support.fakes.queue import (
    DNS,
    FAILED,
    KEY,
    NO_SOLUTION,
    NOON,
    NOWHERE,
    PASSED,
    WHY,
    P,
    Q,
    after,
    build,
    decided,
    its_test,
    labels,
    plan,
    records,
    restart,
    retrying,
    taken,
    wrote,
)
from tests.support.fakes.threads import in_threads


def test_a_restart_begins_a_round_and_forgets_the_last_one(index: Index) -> None:
    job = build()
    wrote(
        index,
        decided(
            job,
            DNS,
            attempt=2,
            faults=retrying(job).faults,
            started_at=NOON,
            restart_budget_used=9,
            log="l",
        ),
    )
    assert restart(index, RestartSelector(), round_=4) == [job.id]
    found = records(index)[job.id]
    assert found.status == JobStatus(job=job, round=4)
    assert (found.sequence, found.updated_at) == (0, after(1))
    [queued] = taken(index)
    assert (queued.round, queued.restart_budget_used) == (4, 0)
    # Its attempts are kept, and a late record of that round does not overwrite it.
    assert len(index.attempts().items) == 2
    wrote(index, decided(job, DNS, attempt=3), sequence=99)
    assert records(index)[job.id] == found


def followed(needed: Job, outcome: Outcome) -> JobStatus:
    came_to = outcome_after(outcome, needed)
    assert came_to is not None
    return decided(its_test(needed), came_to)


def test_what_only_followed_comes_back_with_what_it_followed(index: Index) -> None:
    image = Job(platform=P, package="", kind=JobKind.IMAGE)
    a, b = build("a.1"), build("b.1")
    index.plan(KEY, [PlannedJob(job=a, needs=image)], round_=1, origin=None, at=NOON)
    came_to = outcome_after(DNS, image)
    assert came_to is not None
    wrote(
        index,
        decided(image, DNS),
        decided(a, came_to),
        followed(a, came_to),
        decided(b, FAILED),
        followed(b, FAILED),
        decided(its_test(build("c.1")), NO_SOLUTION),
    )
    assert restart(index, RestartSelector(kind=JobKind.IMAGE)) == sorted(
        [image.id, a.id, its_test(a).id]
    )
    failed = RestartSelector(which=RestartWhich.FAILED)
    assert restart(index, failed, 3) == sorted([b.id, its_test(b).id])


def test_the_job_that_the_ci_lost_comes_with_the_one_that_needs_it(index: Index) -> None:
    a, b, c = build("a.1"), build("b.1"), build("c.1")
    wrote(
        index,
        *(decided(a, DNS), followed(a, DNS)),
        *(decided(b, Cancelled(by="request")), decided(its_test(b), Cancelled(by="request"))),
        *(decided(c, FAILED), followed(c, FAILED)),
        # Another dependent of a lost build is restarted, too, as its outcome followed.
        decided(a.model_copy(update={"kind": JobKind.LOWER_BOUNDS}), outcome_after(DNS, a) or DNS),
    )
    assert restart(index, RestartSelector(package="a", kind=JobKind.TEST)) == sorted(
        [a.id, its_test(a).id, f"lower-bounds {P} a.1"]
    )
    assert restart(index, RestartSelector(kind=JobKind.TEST), 3) == sorted([b.id, its_test(b).id])
    skips = RestartSelector(which=RestartWhich.ALL, kind=JobKind.TEST, package="c.1")
    assert restart(index, skips, 4) == [its_test(c).id]


def test_all_builds_come_back_on_whose_word_together_a_verdict_rests(index: Index) -> None:
    rows = [decided(build("a.1", name), NOWHERE) for name in (P, Q)]
    unavailable = Skipped(reason=SkipReason.UNAVAILABLE, evidence=WHY)
    wrote(
        index,
        *rows,
        followed(build("a.1", Q), NOWHERE),
        decided(build("a.1", "r"), unavailable),
        decided(build("b.1", Q), NOWHERE),
    )
    selector = RestartSelector(which=RestartWhich.FAILED, platform=P)
    assert restart(index, selector) == sorted(
        [build("a.1", P).id, build("a.1", Q).id, its_test(build("a.1", Q)).id]
    )


def test_jobs_that_wait_for_their_retry_are_counted_and_left(index: Index) -> None:
    wrote(index, retrying(build("a.1")), retrying(build("b.1"), Cause.DISK_FULL))
    before = records(index)
    assert restart(index, RestartSelector(cause=Cause.DNS)) == [build("a.1").id]
    assert restart(index, RestartSelector()) == [build("a.1").id, build("b.1").id]
    failed = index.requeue(
        ChangeJobs(key=KEY, selector=RestartSelector(which=RestartWhich.FAILED), round=2), NOON
    )
    assert failed.refusal is not None
    assert records(index) == before


def test_an_interrupted_restart_takes_the_rest_when_asked_again(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opam_ci.clients.index.engine._PARAMETERS", 2)
    builds = [build(f"p{number}.1") for number in range(5)]
    wrote(
        index,
        *(decided(job, DNS) for job in builds),
        *(followed(job, DNS) for job in builds),
    )
    whole = index.requeue(
        ChangeJobs(key=KEY, selector=RestartSelector(), round=2, preview=True), NOON
    )
    calls = iter(range(10))

    def broken(*args: object, **named: object) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        queue_again(*args, **named)  # type: ignore[arg-type] # only handed on

    monkeypatch.setattr("opam_ci.clients.index.queue.queue_again", broken)
    with pytest.raises(KeyboardInterrupt):
        index.requeue(ChangeJobs(key=KEY, selector=RestartSelector(), round=2), NOON)
    # Jobs that others need were queued first; meanwhile one of them runs and is lost again.
    some = taken(index)
    assert {each.job.kind for each in some} == {JobKind.BUILD}
    wrote(index, decided(some[0].job, DNS, round=2, attempt=1))
    monkeypatch.setattr("opam_ci.clients.index.queue.queue_again", queue_again)
    assert index.requeue(ChangeJobs(key=KEY, selector=RestartSelector(), round=2), NOON) == whole
    assert len(taken(index)) == 9


def test_the_analysis_is_never_touched(index: Index) -> None:
    wrote(index, decided(ANALYSIS, DNS), decided(build(), DNS))
    before = records(index)[ANALYSIS.id]
    assert restart(index, RestartSelector(which=RestartWhich.ALL)) == [build().id]
    wrote(index, JobStatus(job=ANALYSIS, round=2))
    index.settle(SettleJobs(key=KEY, outcome=DNS), NOON)
    assert index.cancel(ChangeJobs(key=KEY, selector=JobSelector()), NOON).jobs == 0
    assert records(index)[ANALYSIS.id].status == JobStatus(job=ANALYSIS, round=2)
    assert before.status.outcome == DNS
    assert taken(index, "") == []


HOSTILE = ["a_1", "a%", "", "%", "_", "a", "a.", "a.1' OR 1=1", "\0", "é", "a.1.2"]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_compared_as_they_are(index: Index, name: str) -> None:
    packages = ["a.1", "ab.1", "a_1.1", "a%.1", "axb", "a-b.2", "A.1"]
    wrote(index, *(decided(build(package), DNS) for package in packages))
    expected = sorted(
        build(package).id for package in packages if name in {package, package.partition(".")[0]}
    )
    done = index.requeue(ChangeJobs(key=KEY, selector=RestartSelector(package=name), round=2), NOON)
    assert sorted(done.first) == expected
    assert (done.refusal is None) == bool(expected)


def test_ten_thousand_ids_select_those_that_exist(index: Index) -> None:
    wrote(index, *(decided(build(f"p{number}.1"), DNS) for number in range(5)))
    wanted = tuple(build(f"p{number}.1").id for number in range(3, 10_003))
    assert restart(index, RestartSelector(jobs=wanted)) == [build(f"p{n}.1").id for n in (3, 4)]
    assert index.requeue(
        ChangeJobs(key=KEY, selector=RestartSelector(jobs=wanted[5:]), round=3), NOON
    ).refusal


def test_a_restart_says_what_there_is_where_it_takes_nothing(index: Index) -> None:
    def refused(**fields: object) -> str | None:
        selector = RestartSelector.model_validate(fields)
        before = records(index)
        found = index.requeue(ChangeJobs(key=KEY, selector=selector, round=2), NOON)
        assert (found.jobs, found.first, records(index)) == (0, (), before)
        return found.refusal

    assert refused() == "o/r#1 has no jobs yet: wait until its change is analysed"
    plan(index, build("a.1"), build("b.1"), build("c.1", Q), *(build(f"p{n}.1") for n in range(2)))
    wrote(
        index,
        decided(build("a.1"), PASSED),
        decided(build("b.1"), FAILED),
        JobStatus(job=build("p1.1"), state=JobState.RUNNING, attempt=1),
    )
    hint = ". Decided jobs are restarted with --failed or --all"
    whole = f"it has: 2 queued, 1 running, 1 passed, 1 failed{hint}"
    assert refused() == f"o/r#1 has no errored job that matches; {whole}"
    assert refused(package="b") == f"{build('b.1').id} is not errored: it is failed{hint}"
    assert (
        refused(package="p1") == f"{build('p1.1').id} is not errored: it is running already{hint}"
    )
    assert refused(cause="dns") == (
        "o/r#1 has no errored(dns) job that matches; it has: 2 queued, 1 running, 1 passed, "
        "1 failed. All decided jobs are restarted with --all"
    )
    assert refused(which="all", platform=Q) == (
        f"{build('c.1', Q).id} is not decided: it is queued already. "
        "Jobs are restarted once they are decided"
    )
    assert refused(platform="x" * 100) == (
        f"o/r#1 has no job that matches; it has none on '{'x' * 100}', its platforms are: {P}, {Q}"
    )
    assert refused(package="zzz") == (
        "o/r#1 has no job that matches; list its jobs with `opam-ci status`"
    )


# Cancelling, settling, concluding


def test_a_cancel_takes_what_is_undecided_and_changes_what_is_queued(index: Index) -> None:
    a, b, c, d = (build(f"{name}.1") for name in "abcd")
    plan(index, a, its_test(a), b, build("a.1", Q))
    wrote(
        index,
        JobStatus(job=b, state=JobState.RUNNING, attempt=1),
        retrying(c),
        decided(d, PASSED),
    )
    before = records(index)
    selector = JobSelector(platform=P)
    preview = index.cancel(ChangeJobs(key=KEY, selector=selector, preview=True), after(1))
    assert records(index) == before
    for _ in range(2):
        done = index.cancel(ChangeJobs(key=KEY, selector=selector), after(1))
        assert done == preview
        assert sorted(done.first) == sorted([a.id, its_test(a).id, b.id, c.id])
        assert labels(index) == {
            a.id: "cancelled(request)",
            its_test(a).id: "cancelled(request)",
            b.id: "running",
            c.id: "retrying",
            d.id: "passed",
            build("a.1", Q).id: "queued",
        }
    found = records(index)[a.id]
    assert (found.sequence, found.status.decided_at) == (1, after(1))
    # A workflow that ran it records its result.
    wrote(index, decided(a, PASSED, attempt=1))
    assert labels(index)[a.id] == "passed"
    late = index.cancel(ChangeJobs(key=KEY, selector=JobSelector(package="d")), after(2))
    assert late.refusal == f"{d.id} is not undecided: it is passed"


def test_settling_decides_all_that_is_undecided_and_ends_its_attempts(index: Index) -> None:
    a, b = build("a.1"), build("b.1")
    plan(index, a, its_test(a), build("a.1", Q))
    wrote(
        index,
        JobStatus(job=b, state=JobState.RUNNING, attempt=1, worker="w"),
        retrying(build("c.1")),
        decided(build("d.1"), PASSED),
    )
    gone = Cancelled(by="superseded")
    for _ in range(2):
        index.settle(SettleJobs(key=KEY, outcome=gone, platforms=(P,)), after(1))
        assert Counter(labels(index).values()) == {
            "cancelled(superseded)": 4,
            "passed": 1,
            "queued": 1,
        }
    assert records(index)[b.id].sequence == 2
    [attempt] = [each for each in index.attempts().items if each.job == b]
    assert (attempt.outcome, attempt.ended_at, attempt.worker) == (gone, after(1), "w")
    index.settle(SettleJobs(key=KEY, outcome=gone), after(1))
    assert labels(index)[build("a.1", Q).id] == "cancelled(superseded)"


def test_what_no_platform_can_install_is_a_failure_with_all_that_follows(index: Index) -> None:
    a, there = build("a.1"), build("a.1", Q)
    plan(index, a, there, its_test(a))
    wrote(index, decided(a, NO_SOLUTION, attempt=1), followed(a, NO_SOLUTION))
    assert index.conclude(ConcludeJobs(key=KEY, unavailable="skip"), NOON) is False
    wrote(index, decided(there, NO_SOLUTION, attempt=1))
    wrote(
        index,
        *(
            decided(build("b.1", name), outcome)
            for name, outcome in ((P, NO_SOLUTION), (Q, PASSED))
        ),
    )
    assert index.conclude(ConcludeJobs(key=KEY, unavailable="skip"), after(1)) is True
    now = labels(index)
    assert now[a.id] == now[there.id] == "failed(not_installable)"
    followed_now = records(index)[its_test(a).id].status.outcome
    assert isinstance(followed_now, Skipped)
    assert followed_now.evidence.detail == "a.1 build ended with failed(not_installable)"
    assert now[build("b.1").id] == "skipped(no_solution)"
    assert {label(each.outcome) for each in index.attempts().items if each.outcome} == {
        "failed(not_installable)"
    }
    before = records(index)
    assert index.conclude(ConcludeJobs(key=KEY, unavailable="skip"), after(2)) is False
    assert records(index) == before
    # The workflow that ran it cannot overwrite the verdict in its round.
    wrote(index, decided(a, NO_SOLUTION, attempt=1))
    assert labels(index)[a.id] == "failed(not_installable)"


def test_available_nowhere_is_as_configured(index: Index) -> None:
    unavailable = Skipped(reason=SkipReason.UNAVAILABLE, evidence=WHY)
    wrote(index, *(decided(build("a.1", name), unavailable) for name in (P, Q)))
    assert index.conclude(ConcludeJobs(key=KEY, unavailable="skip"), NOON) is False
    assert index.conclude(ConcludeJobs(key=KEY, unavailable="fail"), NOON) is True
    assert set(labels(index).values()) == {"failed(not_installable)"}


def test_changes_at_once_leave_each_job_once_and_in_one_state(index: Index) -> None:
    builds = [build(f"p{number}.1") for number in range(40)]

    def work(turn: int) -> None:
        for round_ in range(1, 4):
            plan(index, *builds, *(its_test(job) for job in builds), round_=round_)
            if turn % 2:
                index.settle(SettleJobs(key=KEY, outcome=DNS, platforms=(P,)), NOON)
            else:
                wrote(index, *(decided(job, DNS, round=round_) for job in builds[::-1]))
            index.requeue(ChangeJobs(key=KEY, selector=RestartSelector(), round=10 + round_), NOON)
            index.cancel(ChangeJobs(key=KEY, selector=JobSelector()), NOON)
            index.conclude(ConcludeJobs(key=KEY, unavailable="skip"), NOON)

    in_threads(work, range(4))
    [found] = index.count(CountJobs(key=KEY, platforms=(P,)))
    assert total(found.counts).total == len(records(index)) == 80
    assert index.counts().total == 80


def test_a_platform_without_workers_is_a_row_that_a_restart_takes(index: Index) -> None:
    missing = Job(platform=Q, package="", kind=JobKind.PLATFORM)
    skipped = Skipped(reason=SkipReason.NOT_SERVED, evidence=WHY)
    plan(index, build(), missing)
    for _ in range(2):
        index.serve(KEY, {P: PASSED, Q: skipped}, after(1))
        assert labels(index) == {build().id: "queued", missing.id: "skipped(not_served)"}
    # What the other platform cannot install may be installable on this one.
    wrote(index, decided(build(), NO_SOLUTION))
    concluding = ConcludeJobs(key=KEY, unavailable="fail")
    assert not index.conclude(concluding, after(2))
    assert restart(index, RestartSelector()) == [missing.id]
    index.serve(KEY, {Q: PASSED}, after(3))
    assert labels(index)[missing.id] == "passed"
    assert index.conclude(concluding, after(4))


def test_a_preview_says_how_long_jobs_ran(index: Index) -> None:
    a, b = build("a.1"), build("b.1")
    wrote(
        index,
        decided(a, DNS, started_at=NOON, decided_at=NOON + timedelta(minutes=3)),
        decided(b, DNS, started_at=NOON, decided_at=NOON + timedelta(seconds=20)),
    )
    change = ChangeJobs(key=KEY, selector=RestartSelector(), round=2, preview=True)
    found = index.requeue(change, after(1))
    assert (found.total_seconds, found.longest_seconds) == (200, 180)
    assert list(taken_lines("o/r/7", found, RestartUpdate(preview=True)))[:2] == [
        "2 jobs of o/r/7 would be restarted",
        "  when they last ran, the longest took 3 min 0 s, and all one after another 3 min 20 s",
    ]
    one = RestartSelector(job=b.id)
    found = index.requeue(change.model_copy(update={"selector": one}), after(1))
    assert list(taken_lines("o/r/7", found, RestartUpdate(preview=True)))[1] == (
        "  it took 20.0 s when it last ran"
    )
