"""Which verdicts the index throws doubt on, in whatever order they are written."""

import threading
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import get_type_hints

import pytest
from pydantic import TypeAdapter

from opam_ci.activities.record import RecordActivities
from opam_ci.clients.index import Index
from opam_ci.core.incidents.messages import Rejudge
from opam_ci.core.incidents.restarts import JOB_BUDGET
from opam_ci.core.incidents.signature import SAME_FAILURE
from opam_ci.core.job import Job, JobKind, Phase
from opam_ci.core.outcome import (
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    LogLine,
    Outcome,
    Passed,
)
from opam_ci.core.recording import records_in, records_of
from opam_ci.core.records import RecordBatch, RevisionKey, RevisionRecord
from opam_ci.core.summary import JobState, JobStatus

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
DEBIAN = "debian-13-ocaml-5.3/amd64"
PASSED = Passed(evidence=Evidence(rule="installed"))


def key(number: int, opened: datetime = NOON) -> RevisionKey:
    return RevisionKey(repository="o/r", number=number, head=f"{number:040x}", opened_at=opened)


def job(package: str, kind: JobKind = JobKind.BUILD) -> Job:
    return Job(platform=DEBIAN, package=package, kind=kind)


def after(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def failure(line: str = "cp: cannot create x: Structure needs cleaning") -> Failed:
    lines = (LogLine(offset=0, text=line),)
    return Failed(
        reason=FailureReason.BUILD,
        evidence=Evidence(rule="ocaml-error", phase=Phase.BUILD, lines=lines, worker="w1"),
    )


def decided(  # noqa: PLR0913  each is a fact of its own
    number: int,
    *,
    minutes: float = 0,
    outcome: Outcome | None = None,
    round_: int = 1,
    automatic: int = 0,
    package: str | None = None,
    worker: str = "w1",
    sequence: int = 1,
    kind: JobKind = JobKind.BUILD,
    opened: datetime = NOON,
) -> RecordBatch:
    """What a workflow writes when a job is decided."""
    row = JobStatus(
        job=job(package or f"p{number}.1", kind), state=JobState.DECIDED, round=round_, attempt=1,
        automatic=automatic,
        outcome=outcome or failure(), attempt_started_at=after(minutes), worker=worker,
        decided_at=after(minutes),
    )  # fmt: skip
    pools = {DEBIAN: "linux-amd64"}
    at = after(minutes)
    return records_of(key(number, opened), [row], sequence=sequence, updated_at=at, pools=pools)


def closed(number: int) -> RecordBatch:
    record = RevisionRecord(key=key(number), base="b", is_open=False, updated_at=NOON, sequence=9)
    return RecordBatch(revisions=(record,))


def write(index: Index, *batches: RecordBatch) -> list[Rejudge]:
    """Writes batches one by one; returns all that was found."""
    found: list[Rejudge] = []
    for batch in batches:
        index.record(batch)
        found += index.rejudge(batch)
    return found


def told(found: list[Rejudge], rule: str = SAME_FAILURE) -> set[tuple[int | None, str, int]]:
    return {
        (each.revision.number, job.job.package, job.round)
        for each in found
        for job in each.jobs
        if job.rule == rule
    }


def test_records_of_an_older_version_are_still_taken() -> None:
    # As Temporal's converter reads them: by the activity's own annotation.
    taken = TypeAdapter(get_type_hints(RecordActivities.record)["batch"])
    sent = decided(1)
    assert records_in(taken.validate_json(sent.model_dump_json())) == sent


ALL = {(1, "p1.1", 1), (2, "p2.1", 1), (3, "p3.1", 1)}


@pytest.mark.parametrize("order", list(permutations((1, 2, 3))))
def test_the_third_alike_throws_doubt_on_all_in_any_order(
    index: Index, order: tuple[int, ...]
) -> None:
    batches = {number: decided(number, minutes=3 * number) for number in order}
    first, second, third = (batches[number] for number in order)
    assert write(index, first, second, first) == []
    found = write(index, third)
    assert told(found) == ALL
    [detail] = {job.detail for each in found for job in each.jobs}
    assert detail == "3 unrelated pull requests failed the same way within 6 minutes"
    # As long as nobody has heard of it, it is said again.
    assert told(write(index, first)) == ALL


def taken_back(number: int, minutes: float) -> RecordBatch:
    """What a workflow writes once it has heard."""
    row = decided(number, minutes=minutes - 1).jobs[0].status
    evidence = failure().evidence.model_copy(update={"rule": SAME_FAILURE})
    errored = Errored(cause=Cause.UNKNOWN, evidence=evidence)
    return decided(number, minutes=minutes, outcome=errored, sequence=2, package=row.job.package)


def test_a_job_is_doubted_once(index: Index) -> None:
    write(index, *(decided(number, minutes=number) for number in (1, 2, 3)))
    [incident] = {
        number
        for batch in (taken_back(number, 4) for number in (1, 2, 3))
        for number in index.record(batch)
    }
    found = index.incident(incident)
    assert found is not None
    assert (found.cause, found.jobs, found.evidence.rule) == (Cause.UNKNOWN, 3, SAME_FAILURE)
    assert len(index.hit_jobs(incident)) == 3
    # The first is tried again and fails the same way: it stands, and the late fourth does not.
    assert write(index, decided(1, minutes=5, round_=2)) == []
    assert told(write(index, decided(4, minutes=6))) == {(4, "p4.1", 1)}
    # An hour later it is usual, for what stands stands.
    later = [decided(number, minutes=70) for number in (11, 12, 13)]
    assert write(index, *later) == []


def test_what_recovered_is_no_habit(index: Index) -> None:
    write(index, *(decided(number, minutes=number) for number in (1, 2, 3)))
    write(index, *(taken_back(number, 4) for number in (1, 2, 3)))
    write(index, *(decided(number, minutes=8, outcome=PASSED, round_=2) for number in (1, 2, 3)))
    again = [decided(number, minutes=70) for number in (11, 12, 13)]
    assert {each[0] for each in told(write(index, *again))} == {11, 12, 13}


def test_a_habit_is_forgotten_after_a_day(index: Index) -> None:
    write(index, decided(50, minutes=-24 * 60 - 2))
    assert told(write(index, *(decided(number) for number in (1, 2, 3)))) == ALL
    write(index, decided(51, minutes=-24 * 60 + 2))
    assert write(index, decided(3)) == []


def test_it_is_the_first_of_a_burst_that_must_be_news(index: Index) -> None:
    write(index, decided(50, minutes=-24 * 60 - 2))
    burst = [decided(number, minutes=2 * number - 6) for number in (1, 2, 3)]
    assert write(index, *burst) == []


def test_a_batch_of_many_times_finds_what_each_of_them_does(index: Index) -> None:
    minutes = {1: 0, 2: 4, 3: 9, 4: 40, 5: 41, 6: 49, 7: 50}
    batches = [decided(number, minutes=at) for number, at in minutes.items()]
    # The first three are alike, and the others usual by then.
    late = RecordBatch(
        jobs=tuple(job for batch in batches for job in batch.jobs),
        attempts=tuple(attempt for batch in batches for attempt in batch.attempts),
    )
    assert told(write(index, late)) == ALL
    for number in (1, 2, 3):
        index.record(taken_back(number, minutes[number] + 0.5))
    assert {each[0] for each in told(write(index, late))} == {4, 5, 6, 7}


def test_closed_pull_requests_are_no_evidence(index: Index) -> None:
    write(index, decided(1), closed(1), decided(2))
    assert write(index, decided(3)) == []
    assert {each[0] for each in told(write(index, decided(4)))} == {2, 3, 4}


def test_superseded_heads_are_no_evidence(index: Index) -> None:
    newer = RevisionRecord(key=key(1, after(1)), base="b", updated_at=NOON, sequence=9)
    write(index, decided(1), RecordBatch(revisions=(newer,)), decided(2))
    assert write(index, decided(3)) == []
    assert {each[0] for each in told(write(index, decided(4)))} == {2, 3, 4}


@pytest.mark.parametrize("outcome", [PASSED, failure("Error: Unbound module Anything")])
def test_a_job_that_has_gone_on_is_evidence_and_is_left_alone(
    index: Index, outcome: Outcome
) -> None:
    write(index, decided(1), decided(1, round_=2, minutes=4, outcome=outcome), decided(2))
    assert {each[0] for each in told(write(index, decided(3)))} == {2, 3}


def test_a_package_without_automatic_restarts_left_is_left_alone(index: Index) -> None:
    batches = [decided(1, round_=4, automatic=JOB_BUDGET), decided(2, round_=4), decided(3)]
    assert {each[0] for each in told(write(index, *batches))} == {2, 3}


def test_a_dependency_that_breaks_for_everybody_is_no_doubt(index: Index) -> None:
    broken = failure().model_copy(update={"reason": FailureReason.DEPENDENCY, "blame": "base.1"})
    batches = [decided(number, outcome=broken) for number in (1, 2, 3)]
    assert write(index, *batches) == []
    other = broken.model_copy(update={"blame": "other.1"})
    third = broken.model_copy(update={"blame": "third.1"})
    found = write(index, decided(4, outcome=other), decided(5, outcome=third))
    assert {each[0] for each in told(found)} == {1, 2, 3, 4, 5}


def test_reverse_dependencies_throw_no_doubt(index: Index) -> None:
    def revdep(number: int) -> RecordBatch:
        batch = decided(number)
        other = Job(
            platform=DEBIAN, package=f"p{number}.1", kind=JobKind.REVDEP, revdep=f"r{number}.1"
        )
        status = batch.jobs[0].status.model_copy(update={"job": other})
        return records_of(key(number), [status], sequence=1, updated_at=NOON)

    assert write(index, *(revdep(number) for number in range(1, 6))) == []


def test_writers_at_once_throw_doubt_on_all(index: Index) -> None:
    found: list[Rejudge] = []

    def work(number: int) -> None:
        found.extend(write(index, decided(number)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {each[0] for each in told(found)} == {1, 2, 3, 4, 5, 6}


def test_a_canary_that_fails_the_same_way_is_no_evidence_of_a_repair(index: Index) -> None:
    write(index, *(decided(number, minutes=number) for number in range(1, 6)))
    for number in range(1, 6):
        index.record(taken_back(number, 6))
    [incident] = index.incidents().items
    for number in (1, 2):
        write(index, decided(number, minutes=7 + number, round_=2))
        assert not index.recovered_since(incident)
    # Three refute the doubt, wherever they ran.
    write(index, decided(3, minutes=10, round_=2, worker="w2"))
    assert index.recovered_since(incident)


@pytest.mark.parametrize("outcome", [PASSED, failure("Error: Unbound module Anything")])
def test_a_canary_that_gets_through_is_evidence_of_a_repair(index: Index, outcome: Outcome) -> None:
    write(index, *(decided(number, minutes=number) for number in (1, 2, 3)))
    for number in (1, 2, 3):
        index.record(taken_back(number, 6))
    [incident] = index.incidents().items
    write(index, decided(1, minutes=7, round_=2, outcome=outcome))
    assert index.recovered_since(incident)
