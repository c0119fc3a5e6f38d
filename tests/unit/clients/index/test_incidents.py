"""Incidents in the index: the same in whatever order faults are written."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from opam_ci.clients.index import IncidentFilter, Index
from opam_ci.clients.index.schema import INCIDENTS, PULL_REQUESTS
from opam_ci.core.incidents.grouping import GAP, group
from opam_ci.core.incidents.model import FaultSeen, Place, Scope
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import OWN_LIMIT_RULES, Cause, Errored, Evidence, Outcome, Passed
from opam_ci.core.jobs.records import AttemptRecord, JobRecord, RevisionRecord
from opam_ci.core.jobs.summary import JobState, JobStatus
from tests.support.fakes.queue import NOON, key
from tests.support.fakes.threads import in_threads
from tests.support.fakes.written import write

DEBIAN = "debian-13-ocaml-5.3/amd64"


def job(package: str = "cppo.1.8.0") -> Job:
    return Job(platform=DEBIAN, package=package, kind=JobKind.BUILD)


def errored(cause: Cause, worker: str | None, minutes: float, rule: str | None = None) -> Errored:
    rule = rule or f"{cause}-{minutes}"
    return Errored(cause=cause, evidence=Evidence(rule=rule, worker=worker))


def attempt(  # noqa: PLR0913  each is a fact of its own
    number: int,
    outcome: Outcome,
    *,
    minutes: float = 0,
    worker: str | None = "w1",
    what: Job | None = None,
    try_: int = 1,
) -> AttemptRecord:
    ended = NOON + timedelta(minutes=minutes)
    return AttemptRecord(
        revision=key(number), job=what or job(), number=try_, worker=worker,
        pool="linux-amd64", started_at=ended, ended_at=ended, outcome=outcome,
    )  # fmt: skip


def fault(
    number: int = 1, *, minutes: float = 0, worker: str | None = "w1", try_: int = 1
) -> AttemptRecord:
    outcome = errored(Cause.DISK_FULL, worker, minutes)
    return attempt(number, outcome, minutes=minutes, worker=worker, try_=try_)


def lost(
    number: int, *, minutes: float = 0, round_: int = 1, restart_budget_used: int = 0
) -> JobRecord:
    outcome = errored(Cause.DISK_FULL, "w1", minutes)
    return JobRecord(
        revision=key(number),
        status=JobStatus(
            job=job(),
            state=JobState.DECIDED,
            attempt=1,
            outcome=outcome,
            round=round_,
            restart_budget_used=restart_budget_used,
        ),
        updated_at=NOON + timedelta(minutes=minutes),
    )


def all_incidents(index: Index) -> list[tuple[object, ...]]:
    """The incidents of the index, without their ids."""
    return sorted(
        (each.cause, each.first_seen_at, each.last_seen_at, each.place.model_dump_json(),
         each.faults, each.jobs, each.pull_requests, each.evidence.rule)
        for each in index.incidents().items
    )  # fmt: skip


def expected(records: Sequence[AttemptRecord]) -> list[tuple[object, ...]]:
    """The incidents that the pure rule makes of the same faults."""
    faults = [
        FaultSeen(
            revision=each.revision, job=each.job, attempt=each.number, cause=each.outcome.cause,
            at=each.ended_at or NOON, worker=each.worker, pool=each.pool,
            evidence=each.outcome.evidence,
        )
        for each in records
        if isinstance(each.outcome, Errored)
    ]  # fmt: skip
    return sorted(
        (one.cause, one.faults[0].at, one.faults[-1].at, one.place.model_dump_json(),
         len(one.faults), len({(each.revision, each.job) for each in one.faults}),
         len({each.revision.number for each in one.faults}), one.faults[0].evidence.rule)
        for one in group(faults)
    )  # fmt: skip


_runs = count()

records = st.lists(
    st.builds(
        lambda number, minutes, cause, worker, try_, rule: attempt(
            number, errored(cause, worker, minutes, rule), minutes=minutes, worker=worker, try_=try_
        ),
        st.integers(1, 3),
        st.integers(0, 200),
        st.sampled_from([Cause.DISK_FULL, Cause.DNS]),
        st.sampled_from(["w1", "w2", None]),
        st.integers(1, 4),
        st.sampled_from([None, None, *sorted(OWN_LIMIT_RULES)]),
    ),
    max_size=10,
    unique_by=lambda each: (each.revision, each.number),
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=records, data=st.data())
def test_incidents_are_those_of_the_pure_rule_in_whatever_order_faults_come(
    index: Index, found: list[AttemptRecord], data: st.DataObject
) -> None:
    with index._engine.begin() as connection:
        connection.execute(delete(PULL_REQUESTS))
        connection.execute(delete(INCIDENTS))
    shuffled = data.draw(st.permutations(found))
    size = data.draw(st.integers(1, 4))
    for first in range(0, len(shuffled), size):
        some = shuffled[first : first + size]
        write(index, *some)
        if data.draw(st.booleans()):
            write(index, *some)
    assert all_incidents(index) == expected(found)


def test_the_same_batch_twice_changes_nothing_and_names_the_same_incident(index: Index) -> None:
    batch = (fault(1), fault(2, minutes=1, worker="w2"))
    first = write(index, *batch).incidents
    before = index.incidents()
    assert write(index, *batch).incidents == first
    assert index.incidents() == before
    [found] = before.items
    assert first == (found.id,)
    assert (found.faults, found.jobs, found.pull_requests) == (2, 2, 2)
    assert found.place == Place(scope=Scope.POOL, pool="linux-amd64")


def test_what_is_no_fault_belongs_to_no_incident(index: Index) -> None:
    passed = Passed(evidence=Evidence(rule="installed"))
    assert write(index, attempt(1, passed)).incidents == ()
    assert index.incidents().items == ()


@pytest.mark.parametrize("rule", sorted(OWN_LIMIT_RULES))
def test_a_limit_that_a_job_hit_alone_is_no_incident(index: Index, rule: str) -> None:
    outcome = Errored(cause=Cause.OUT_OF_MEMORY, evidence=Evidence(rule=rule, worker="w1"))
    write(index, *(attempt(n, outcome, minutes=n) for n in range(1, 4)))
    assert index.incidents().items == ()
    # Nor does one join an incident of its cause.
    other = Errored(cause=Cause.OUT_OF_MEMORY, evidence=Evidence(rule="oom-of-host", worker="w1"))
    write(index, attempt(7, other, minutes=5), attempt(8, outcome))
    (incident,) = index.incidents().items
    assert incident.pull_requests == 1


def test_a_fault_in_between_unites_two_incidents(index: Index) -> None:
    apart = 1.5 * GAP.total_seconds() / 60
    write(index, fault(1), fault(2, minutes=apart))
    assert len(index.incidents().items) == 2
    write(index, fault(3, minutes=apart / 2))
    [found] = index.incidents().items
    assert found.faults == 3
    assert index.incident(found.id) == found


def test_after_a_repair_the_same_fault_is_a_new_incident(index: Index) -> None:
    [number] = write(index, fault(1)).incidents
    repaired = NOON + timedelta(minutes=5)
    assert index.resolve(number, at=repaired, by="ann")
    assert not index.resolve(number, at=repaired, by="bob")
    [again] = write(index, fault(2, minutes=6)).incidents
    assert again != number
    # It happened before the repair, and was only written later.
    assert write(index, fault(3, minutes=4)).incidents == ()
    found = index.incident(number)
    assert found is not None
    assert (found.faults, found.resolved_by) == (2, "ann")
    assert [each.id for each in index.incidents(IncidentFilter(is_open=True)).items] == [again]


def test_an_incident_that_goes_on_is_not_resolved_in_the_past(index: Index) -> None:
    [number] = write(index, fault(1), fault(2, minutes=10)).incidents
    assert not index.resolve(number, at=NOON + timedelta(minutes=5), by="probe")
    assert not index.resolve(number + 1000, at=NOON + timedelta(minutes=50), by="probe")


def test_what_is_restarted_is_what_it_hit_and_still_stands(index: Index) -> None:
    closed = RevisionRecord(key=key(3), base="b", is_open=False, updated_at=NOON, sequence=1)
    newer = RevisionRecord(key=key(4, NOON + GAP), base="b", updated_at=NOON, sequence=1)
    passed = JobRecord(
        revision=key(2),
        status=JobStatus(
            job=job(),
            state=JobState.DECIDED,
            attempt=2,
            outcome=Passed(evidence=Evidence(rule="installed")),
        ),
        updated_at=NOON,
    )
    # 1 is lost, 2 recovered by itself, 3 is closed, 4 is superseded, 5 was restarted and lost.
    later = 3 * GAP.total_seconds() / 60
    done = write(
        index,
        *(
            closed,
            newer,
            lost(1, restart_budget_used=2),
            fault(2),
            passed,
            lost(3),
            lost(4),
            fault(5),
        ),
        lost(5, minutes=later, round_=2),
    )
    number, _ = done.incidents
    hit = index.hit_jobs(number)
    assert [(each.revision.number, each.restart_budget_used) for each in hit] == [(1, 2)]


def test_a_job_that_gets_through_at_the_same_place_is_evidence_of_the_repair(
    index: Index,
) -> None:
    passed = Passed(evidence=Evidence(rule="installed"))
    [number] = write(index, fault(1)).incidents
    found = index.incident(number)
    assert found is not None
    elsewhere = attempt(1, passed, minutes=1, worker="w2", try_=2)
    write(index, elsewhere)
    assert not index.recovered_since(found)
    write(index, attempt(1, passed, minutes=2, try_=3))
    assert index.recovered_since(found)


def test_incidents_are_found_by_each_filter(index: Index) -> None:
    [disk] = write(index, fault(1), fault(2, minutes=1)).incidents
    names = attempt(1, errored(Cause.DNS, "w2", 3), minutes=3, worker="w2", try_=2)
    dns = next(each for each in write(index, names).incidents if each != disk)
    for wanted, ids in (
        (IncidentFilter(), [dns, disk]),
        (IncidentFilter(cause=Cause.DNS), [dns]),
        (IncidentFilter(worker="w1"), [disk]),
        (IncidentFilter(pool="linux-amd64"), [dns, disk]),
        (IncidentFilter(pool="none"), []),
        (IncidentFilter(least_faults=2), [disk]),
        (IncidentFilter(since=NOON + timedelta(minutes=2)), [dns]),
        (IncidentFilter(is_open=False), []),
    ):
        assert [each.id for each in index.incidents(wanted).items] == ids, wanted


def test_writers_at_once_make_one_incident(index: Index) -> None:
    def work(number: int) -> None:
        for try_ in range(1, 4):
            write(index, fault(number, minutes=try_, try_=try_))

    in_threads(work, range(1, 5))
    [found] = index.incidents().items
    assert (found.faults, found.jobs, found.pull_requests) == (12, 4, 4)
