"""Counters, the overview that is made from them, and retention."""

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select

from opam_ci.clients.index import CURRENT, Index, JobFilter, RevisionFilter
from opam_ci.clients.index.counters import counting, counting_rows, is_counted
from opam_ci.clients.index.engine import reading
from opam_ci.clients.index.schema import ATTEMPT_COUNTS, JOB_COUNTS, JOBS, PULL_REQUESTS
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import (
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.records import AttemptRecord, JobRecord, RevisionKey, RevisionRecord
from opam_ci.core.jobs.summary import Counts, Fault, JobState, JobStatus, Standing
from tests.support.fakes.queue import NOON, key
from tests.support.fakes.written import write

EVIDENCE = Evidence(rule="r", worker="w1")
OUTCOMES: tuple[Outcome, ...] = (
    Passed(evidence=EVIDENCE),
    Failed(reason=FailureReason.BUILD, evidence=EVIDENCE),
    Failed(reason=FailureReason.TEST, evidence=EVIDENCE),
    Skipped(reason=SkipReason.NO_SOLUTION, evidence=EVIDENCE),
    Errored(cause=Cause.DNS, evidence=EVIDENCE),
    Errored(cause=Cause.DISK_FULL, evidence=EVIDENCE),
)


def job(platform: str = "p/amd64", kind: JobKind = JobKind.BUILD, package: str = "a.1") -> Job:
    return Job(platform=platform, package=package, kind=kind)


def record(
    of: RevisionKey, what: Job, outcome: Outcome | None, *, hours: int = 0, round_: int = 1
) -> JobRecord:
    state = JobState.QUEUED if outcome is None else JobState.DECIDED
    faults: tuple[Fault, ...] = ()
    if outcome is None:
        state = JobState.RETRYING
        faults = (Fault(attempt=1, cause=Cause.DNS, evidence=EVIDENCE, worker="w", at=NOON),)
    return JobRecord(
        revision=of,
        status=JobStatus(job=what, state=state, round=round_, outcome=outcome, faults=faults),
        updated_at=NOON + timedelta(hours=hours),
    )


jobs = st.builds(
    record,
    st.builds(key, st.integers(1, 2)),
    st.builds(
        job, st.sampled_from(["p/amd64", "q/amd64"]), st.sampled_from([JobKind.BUILD, JobKind.TEST])
    ),
    st.sampled_from([*OUTCOMES, None]),
    hours=st.integers(-60, 60),
    round_=st.integers(1, 3),
)
moments = st.none() | st.integers(-70, 70).map(lambda hours: NOON + timedelta(hours=hours))
wanted_jobs = st.builds(
    JobFilter,
    standing=st.sampled_from([None, None, Standing.FAILED, Standing.RETRYING]),
    cause=st.sampled_from([None, None, Cause.DNS]),
    failure_reason=st.sampled_from([None, None, FailureReason.TEST]),
    skip_reason=st.sampled_from([None, None, SkipReason.NO_SOLUTION]),
    kind=st.sampled_from([None, JobKind.TEST]),
    platform=st.sampled_from([None, "q/amd64"]),
    since=moments,
    until=moments,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), found=st.lists(jobs, max_size=15), wanted=wanted_jobs)
def test_counters_say_what_the_rows_say(
    index: Index, data: st.DataObject, found: list[JobRecord], wanted: JobFilter
) -> None:
    with index._engine.begin() as connection:
        connection.execute(delete(PULL_REQUESTS))
    for each in found:
        write(index, each)
        if data.draw(st.booleans()):
            index.fold()
    assert is_counted(wanted)
    with reading(index._engine) as connection:
        counted = sorted(map(tuple, connection.execute(counting(wanted))))
        assert counted == sorted(map(tuple, connection.execute(counting_rows(wanted))))


def test_counters_follow_what_goes_with_its_pull_request(index: Index) -> None:
    write(index, record(key(1), job(), OUTCOMES[0]))
    assert index.counts() == Counts(passed=1)
    with index._engine.begin() as connection:
        connection.execute(delete(PULL_REQUESTS))
    assert index.counts() == Counts()
    index.fold()
    with reading(index._engine) as connection:
        assert connection.scalar(select(func.count()).select_from(JOB_COUNTS)) == 0


def test_folding_leaves_one_row_for_each_day_and_group(index: Index) -> None:
    for outcome, round_ in ((None, 1), (OUTCOMES[0], 2), (OUTCOMES[1], 3)):
        found = record(key(1), job(), outcome, round_=round_)
        write(index, found)
    index.fold()
    index.fold()
    with reading(index._engine) as connection:
        assert connection.scalars(select(JOB_COUNTS.c["count"])).all() == [1]
    assert index.counts() == Counts(failed=1)


def test_a_package_is_found_without_its_version_and_no_other(index: Index) -> None:
    names = ("re.1.10", "re.2", "re-x.1", "re2.1", "r.1", "re/x.1")
    rows = tuple(record(key(1), job(package=name), OUTCOMES[0]) for name in names)
    write(index, *rows)
    found = index.jobs(JobFilter(package="re")).items
    assert {each.status.job.package for each in found} == {"re.1.10", "re.2"}
    assert index.counts(JobFilter(package="re")) == Counts(passed=2)


@pytest.mark.parametrize("few", [0, 1000])
def test_few_heads_and_many_are_found_alike(
    index: Index, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr("opam_ci.clients.index.filters._FEW", few)
    later = key(1, NOON + timedelta(days=1))
    rows = [record(key(1), job(), OUTCOMES[0]), record(later, job(), OUTCOMES[1])]
    newest = RevisionRecord(key=later, base="b", updated_at=NOON, sequence=1)
    rows.append(record(key(2), job(), OUTCOMES[4]))
    write(index, newest, *rows)
    assert index.counts(JobFilter(of=CURRENT)) == Counts(failed=1, errored=1)
    assert index.counts(JobFilter(of=RevisionFilter(number=1))) == Counts(passed=1, failed=1)
    assert index.counts(JobFilter(of=RevisionFilter(number=3))) == Counts()


def test_errors_are_grouped_by_cause_with_whom_they_hit(index: Index) -> None:
    closed = RevisionRecord(key=key(3), base="b", is_open=False, updated_at=NOON, sequence=1)
    write(
        index,
        closed,
        record(key(1), job(package="a.1"), OUTCOMES[4]),
        record(key(1), job(package="b.1"), None, hours=2),
        record(key(2), job(), OUTCOMES[4], hours=1),
        record(key(2), job(package="c.1"), OUTCOMES[5]),
        record(key(2), job(package="d.1"), OUTCOMES[1]),
        record(key(3), job(), OUTCOMES[5]),
    )
    dns, disk = index.errors()
    assert (dns.cause, dns.errored, dns.retrying) == (Cause.DNS, 2, 1)
    assert [(hit.target, hit.jobs) for hit in dns.pull_requests] == [("pull/1", 2), ("pull/2", 1)]
    assert (dns.since, dns.last_at) == (NOON, NOON + timedelta(hours=2))
    assert (disk.cause, disk.errored, disk.retrying) == (Cause.DISK_FULL, 1, 0)


def test_workers_are_listed_with_what_they_did(index: Index) -> None:
    def attempt(number: int, worker: str, outcome: Outcome | None) -> AttemptRecord:
        at = NOON + timedelta(minutes=number)
        return AttemptRecord(
            revision=key(1), job=job(), number=number, worker=worker, pool="linux-amd64",
            started_at=at, ended_at=None if outcome is None else at, outcome=outcome,
        )  # fmt: skip

    found = (
        attempt(1, "w1", OUTCOMES[4]),
        attempt(2, "w1", OUTCOMES[5]),
        attempt(3, "w2", OUTCOMES[1]),
        attempt(4, "w2", None),
    )
    write(index, *found)
    second, first = index.workers(NOON)
    assert (first.worker, first.pool, first.attempts, first.faults) == ("w1", "linux-amd64", 2, 2)
    assert first.causes == {Cause.DNS: 1, Cause.DISK_FULL: 1}
    assert (second.worker, second.attempts, second.running, second.faults) == ("w2", 2, 1, 0)
    assert second.last_seen_at == NOON + timedelta(minutes=4)
    assert index.workers(NOON + timedelta(days=1)) == ()
    index.fold()
    assert index.workers(NOON) == (second, first)
    with reading(index._engine) as connection:
        assert connection.scalar(select(func.count()).select_from(ATTEMPT_COUNTS)) == 4


def test_retention_forgets_closed_pull_requests_and_old_branches_alone(index: Index) -> None:
    branch = RevisionKey(repository="o/r", branch="b", head="a", opened_at=NOON)
    recent = NOON + timedelta(days=30)
    heads = (
        RevisionRecord(key=key(1), base="b", is_open=False, updated_at=NOON, sequence=1),
        RevisionRecord(key=key(2), base="b", is_open=True, updated_at=NOON, sequence=1),
        RevisionRecord(key=key(3, recent), base="b", is_open=False, updated_at=recent, sequence=1),
        RevisionRecord(key=branch, base="b", updated_at=NOON, sequence=1),
    )
    attempts = tuple(
        AttemptRecord(
            revision=head.key, job=job(), number=1, worker="w1", started_at=NOON, ended_at=NOON,
            outcome=OUTCOMES[4], log_key=f"logs/{head.key.target}",
        )
        for head in heads
    )  # fmt: skip
    write(index, *heads, *attempts)
    before = NOON + timedelta(days=7)
    assert index.logs_to_retire(before, limit=9) == ("logs/heads/b", "logs/pull/1")
    assert index.retire(before, limit=1).revisions == 1
    again = index.retire(before, limit=1)
    assert (again.revisions, again.pull_requests) == (1, 1)
    assert index.retire(before, limit=1).revisions == 0
    assert {each.key.target for each in index.revisions().items} == {"pull/2", "pull/3"}
    with reading(index._engine) as connection:
        assert connection.scalar(select(func.count()).select_from(JOBS)) == 2
    [incident] = index.incidents().items
    assert index.resolve(incident.id, at=recent, by="test")
