"""Estimates from the index: what they are made of, and whether the first one held."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select

from opam_ci.clients.index import Index
from opam_ci.clients.index.engine import reading
from opam_ci.clients.index.schema import REVISIONS
from opam_ci.core.jobs.hold import Hold
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.messages import ChangeJobs
from opam_ci.core.jobs.outcome import Outcome, Skipped, SkipReason
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch
from opam_ci.core.jobs.selector import RestartOrigin, RestartSelector, RestartWhich
from opam_ci.core.jobs.summary import JobState, JobStatus, State
from opam_ci.core.pages.estimate import (
    ENOUGH,
    MEASURED_FOR,
    Estimate,
    EstimatesKept,
    NoEstimate,
)
from tests.support.fakes.queue import DISK, FAILED, NOON, PASSED, WHY, P, Q, after, build, key
from tests.support.samples.known_verdicts import known_verdict

POOLS = {P: "pool", Q: "pool"}


def ran(
    job: Job,
    minutes: float = 10,
    outcome: Outcome = PASSED,
    *,
    at: datetime = NOON,
    attempt: int = 1,
) -> JobStatus:
    begun = at - timedelta(minutes=minutes)
    return JobStatus(
        job=job, state=JobState.DECIDED, outcome=outcome, attempt=attempt, started_at=begun,
        attempt_started_at=begun, decided_at=at,
    )  # fmt: skip


def queued(number: int, platform: str = P, start: int = 0) -> list[JobStatus]:
    jobs = (build(f"q{each}.1", platform) for each in range(start, start + number))
    return [JobStatus(job=job) for job in jobs]


def running(package: str, platform: str = P) -> JobStatus:
    return JobStatus(
        job=build(package, platform), state=JobState.RUNNING, attempt=1, started_at=NOON,
        attempt_started_at=NOON,
    )  # fmt: skip


def revision(of: RevisionKey, **changes: object) -> RevisionRecord:
    record = RevisionRecord(key=of, base="b" * 40, planned=True, updated_at=after(1), sequence=1)
    return record.model_copy(update=changes)


def put(
    index: Index,
    number: int,
    rows: Iterable[JobStatus],
    *,
    at: datetime | None = None,
    **changes: object,
) -> RevisionKey:
    """Writes a planned head."""
    of = key(number)
    record = revision(of, **{"updated_at": at or after(1)} | changes)
    index.record(
        RowBatch(
            key=of, revision=record, rows=tuple(rows), sequence=record.sequence,
            updated_at=record.updated_at, pools=POOLS,
        )
    )  # fmt: skip
    return of


def measured(index: Index, number: int = 100, platform: str = P, minutes: float = 10) -> None:
    """Writes a head whose jobs took as long, one after the other."""
    jobs = (build(f"a{each}.1", platform) for each in range(ENOUGH))
    rows = [
        ran(job, minutes, at=NOON - timedelta(minutes=minutes * each))
        for each, job in enumerate(jobs)
    ]
    put(index, number, rows, state=State.SUCCESS, at=NOON)


def shown(
    index: Index, of: RevisionKey, now: datetime | None = None
) -> tuple[float, float] | NoEstimate | None:
    page = index.head_top(of, now=now or after(2))
    assert page is not None
    if page.estimate is None:
        return page.no_estimate
    assert page.no_estimate is None
    minute = timedelta(minutes=1)
    return page.estimate.soonest / minute, page.estimate.latest / minute


def kept(index: Index, minutes: float = 60) -> EstimatesKept:
    return index.ops_page(after(minutes)).flow.estimates


def test_without_a_job_that_ended_there_is_no_estimate(index: Index) -> None:
    of = put(index, 1, queued(1))
    assert shown(index, of) == "unmeasured"
    # Neither what is taken from another job nor what the CI lost says how long it takes.
    rows = [
        ran(build("reused.1"), 1).model_copy(update={"started_at": None}),
        ran(build("solved.1"), 1, known_verdict().outcome),
        ran(build("retried.1"), 1, attempt=2),
        ran(build("lost.1"), 1, DISK),
        ran(build("skipped.1"), 1, Skipped(reason=SkipReason.UNAVAILABLE, evidence=WHY)),
        ran(Job(platform=P, package="", kind=JobKind.IMAGE), 1),
        ran(build("old.1"), 1, at=NOON - MEASURED_FOR - timedelta(hours=1)),
    ]
    put(index, 2, rows[:-1], state=State.ERROR)
    put(index, 3, rows[-1:], state=State.SUCCESS, at=NOON - MEASURED_FOR - timedelta(hours=1))
    assert shown(index, of) == "unmeasured"
    put(index, 4, [ran(build(), 7, FAILED)], state=State.FAILURE)
    # Five ran at once.
    assert shown(index, of) == (7, 9)


def test_jobs_of_its_own_and_of_others_before_it_count(index: Index) -> None:
    measured(index)
    assert shown(index, put(index, 1, queued(3))) == (30, 40)
    # Another head takes turns with it; one that waits for an approval, or is closed, does not.
    put(index, 2, queued(2, start=9))
    put(index, 3, queued(2), hold=Hold(reason="new-author"))
    put(index, 5, [*queued(2), running("x.1")], hold=Hold(reason="new-author"))
    put(index, 4, queued(2), is_open=False)
    # Read again after some seconds. The job that runs may end at once, or take ten minutes.
    assert shown(index, key(1), after(3)) == (50, 70)
    assert shown(index, key(2), after(3)) == (40, 60)
    assert shown(index, key(3), after(3)) is None
    assert shown(index, key(100), after(3)) is None


def test_slots_of_a_pool_are_those_that_ran_at_once(index: Index) -> None:
    measured(index)
    measured(index, 101, Q)
    # Both platforms are of one pool, on which two ran at once.
    of = put(index, 1, queued(12))
    assert shown(index, of) == (60, 70)
    put(index, 2, [running("x.1"), running("y.1", Q), running("z.1")])
    # Three run now: twelve of its own, and what runs.
    assert shown(index, of, after(3)) == (40, 60)


def test_a_platform_with_few_measurements_takes_those_of_all(index: Index) -> None:
    measured(index)
    put(index, 101, [ran(build("x.1", Q), 60, at=NOON - timedelta(days=1))], state=State.SUCCESS)
    # The median of five of ten minutes and one of sixty.
    found = shown(index, put(index, 1, queued(1, Q)))
    assert isinstance(found, tuple)
    assert found[0] == 10
    lists = JobStatus(job=Job(platform=Q, package="a.1", kind=JobKind.LIST_REVDEPS))
    assert shown(index, put(index, 2, [*queued(1, Q), lists])) == "unlisted"


def test_before_jobs_are_planned_nothing_is_estimated(index: Index) -> None:
    measured(index)
    assert shown(index, put(index, 1, queued(1), planned=False)) is None


def test_a_summary_has_the_estimate_as_a_notice(index: Index) -> None:
    of = put(index, 1, queued(1))
    found = index.summary(of)
    assert found is not None
    assert found.notices == ("no estimate yet: no such job has ended here",)
    done = index.summary(put(index, 2, [ran(build())], state=State.SUCCESS))
    assert done is not None
    assert done.notices == ()


@pytest.mark.parametrize(("minutes", "held"), [(21, 1), (22, 0)])
def test_a_first_estimate_held_or_not(index: Index, minutes: int, held: int) -> None:
    measured(index)
    # One job of ten minutes, from 12:01: done by 12:21.
    put(index, 1, queued(1))
    assert kept(index) == EstimatesKept()
    # Later estimates do not count, nor does what is planned later.
    put(index, 1, queued(9, start=1), at=after(5), sequence=2)
    put(index, 1, [], at=after(minutes), sequence=3, state=State.FAILURE)
    expected = EstimatesKept(held=held, missed=1 - held)
    assert kept(index) == expected
    # Decided again, after a restart.
    put(index, 1, queued(1, start=1), at=after(40), sequence=4)
    put(index, 1, [], at=after(50), sequence=5, state=State.SUCCESS)
    assert kept(index) == expected
    assert kept(index, 31 * 24 * 60) == EstimatesKept()


def test_an_error_is_not_the_end(index: Index) -> None:
    measured(index)
    put(index, 1, queued(1))
    put(index, 1, [], at=after(3), sequence=2, state=State.ERROR)
    assert kept(index) == EstimatesKept()
    put(index, 1, [], at=after(50), sequence=3, state=State.SUCCESS)
    assert kept(index) == EstimatesKept(missed=1)


def test_what_is_decided_at_once_or_not_at_all_does_not_count(index: Index) -> None:
    put(index, 1, queued(1))
    measured(index)
    # Not estimated when it was decided.
    put(index, 1, [], at=after(3), sequence=2, state=State.SUCCESS)
    put(index, 1, queued(1), at=after(4), sequence=3)
    put(index, 1, [], at=after(5), sequence=4, state=State.SUCCESS)
    put(index, 2, queued(1))
    put(index, 2, [], at=after(3), sequence=2, is_open=False)
    assert kept(index) == EstimatesKept()


@pytest.mark.parametrize("origin", [*RestartOrigin, None])
def test_a_restart_by_hand_drops_the_estimate(index: Index, origin: RestartOrigin | None) -> None:
    measured(index)
    of = put(index, 1, [*queued(1), ran(build("lost.1"), outcome=DISK)])
    if origin is None:
        put(index, 1, [], at=after(2), sequence=2, hold=Hold(reason="new-author"))
    else:
        selector = RestartSelector(which=RestartWhich.ERRORED, origin=origin)
        change = ChangeJobs(key=of, selector=selector, round=2)
        assert index.requeue(change.model_copy(update={"preview": True}), after(2)).jobs == 1
        assert index.requeue(change, after(2)).jobs == 1
    # No other one is written down.
    put(index, 1, [], at=after(3), sequence=3)
    put(index, 1, [], at=after(4), sequence=4, state=State.SUCCESS)
    automatic = origin is not None and not origin.is_manual
    assert kept(index) == EstimatesKept(held=int(automatic))


def test_who_records_a_pending_head_hears_its_first_estimate(index: Index) -> None:
    def heard(minutes: float, **changes: object) -> datetime | None:
        record = revision(key(1), updated_at=after(minutes), sequence=minutes, **changes)
        rows = tuple(queued(1))
        batch = RowBatch(key=key(1), revision=record, rows=rows, sequence=1, updated_at=after(1))
        return index.record(batch).estimated_until

    assert heard(1) is None
    measured(index)
    first = heard(2)
    assert first is not None
    assert first > after(2)
    assert heard(5) == first
    assert heard(6, state=State.ERROR) is None
    assert heard(7) == first
    heard(8, state=State.SUCCESS)
    # Jobs that are restarted by hand were not foreseen.
    assert heard(9) is None


def test_the_first_estimate_is_the_one_on_the_page(index: Index) -> None:
    measured(index)
    page = index.head_top(put(index, 1, queued(1)), now=after(1))
    assert page is not None
    assert page.estimate == Estimate(
        at=after(1), soonest=timedelta(minutes=10), latest=timedelta(minutes=20)
    )
    with reading(index._engine) as connection:
        written = select(REVISIONS.c.estimated_until).where(REVISIONS.c.head == key(1).head)
        assert connection.scalar(written) == page.estimate.until
