"""Which verdicts the index puts in doubt, in whatever order they are written."""

from datetime import datetime
from itertools import permutations

import pytest

from opam_ci.clients.index import AttemptFilter, Index, JobFilter, RevisionFilter
from opam_ci.clients.index.rejudging import Effects
from opam_ci.core.incidents.fingerprint import SAME_FAILURE
from opam_ci.core.incidents.restarts import JOB_BUDGET
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.messages import ChangeJobs
from opam_ci.core.jobs.outcome import (
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
    label,
)
from opam_ci.core.jobs.plan import outcome_after
from opam_ci.core.jobs.records import RevisionRecord, RowBatch
from opam_ci.core.jobs.selector import RestartSelector
from opam_ci.core.jobs.summary import JobState, JobStatus
from tests.support.fakes.queue import NOON, after, key
from tests.support.fakes.threads import in_threads
from tests.support.fakes.written import write

DEBIAN = "debian-13-ocaml-5.3/amd64"
PASSED = Passed(evidence=Evidence(rule="installed"))


def job(package: str, kind: JobKind = JobKind.BUILD) -> Job:
    return Job(platform=DEBIAN, package=package, kind=kind)


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
    restart_budget_used: int = 0,
    package: str | None = None,
    worker: str = "w1",
    sequence: int = 1,
    kind: JobKind = JobKind.BUILD,
    opened: datetime = NOON,
) -> RowBatch:
    """The batch of a workflow when a job is decided."""
    row = JobStatus(
        job=job(package or f"p{number}.1", kind), state=JobState.DECIDED, round=round_, attempt=1,
        restart_budget_used=restart_budget_used,
        outcome=outcome or failure(), attempt_started_at=after(minutes), worker=worker,
        decided_at=after(minutes),
    )  # fmt: skip
    pools = {DEBIAN: "linux-amd64"}
    at = after(minutes)
    return RowBatch(
        key=key(number, opened), rows=(row,), sequence=sequence, updated_at=at, pools=pools or {}
    )


def closed(number: int) -> RevisionRecord:
    return RevisionRecord(key=key(number), base="b", is_open=False, updated_at=NOON, sequence=9)


def judged(found: Effects) -> set[int | None]:
    """The pull requests of which verdicts were judged again."""
    return {each.number for each in found.testings}


def outcomes(index: Index, number: int) -> dict[str, str]:
    """The outcomes of a pull request's jobs."""
    jobs = index.jobs(JobFilter(of=RevisionFilter(number=number))).items
    return {each.status.job.id: label(each.status.outcome) for each in jobs if each.status.outcome}


ALL = {1, 2, 3}


@pytest.mark.parametrize("order", list(permutations((1, 2, 3))))
def test_the_third_alike_throws_doubt_on_all_in_any_order(
    index: Index, order: tuple[int, ...]
) -> None:
    batches = {number: decided(number, minutes=3 * number) for number in order}
    first, second, third = (batches[number] for number in order)
    assert write(index, first, second, first) == Effects()
    found = write(index, third)
    assert judged(found) == ALL
    assert found.kinds == (JobKind.BUILD,) * 3
    [incident] = index.incidents().items
    assert found.incidents == (incident.id,)
    for number in order:
        [job_] = index.jobs(JobFilter(of=RevisionFilter(number=number))).items
        outcome = job_.status.outcome
        assert isinstance(outcome, Errored)
        assert (outcome.cause, outcome.evidence.rule) == (Cause.UNKNOWN, SAME_FAILURE)
        assert (
            outcome.evidence.detail
            == "3 unrelated pull requests failed the same way within 6 minutes"
        )
        assert job_.sequence == 2
        [tried] = index.attempts(AttemptFilter(of=RevisionFilter(number=number))).items
        assert tried.outcome == outcome
        assert tried.ended_at == after(3 * number)


def test_whoever_may_not_have_told_of_it_says_it_again(index: Index) -> None:
    batches = [decided(number) for number in (1, 2, 3)]
    write(index, *batches)
    # The same batch again changes nothing: it does not overwrite the new verdict.
    assert judged(write(index, batches[2])) == set()
    assert judged(write(index, batches[2], retried=True)) == ALL
    assert outcomes(index, 3) == {job("p3.1").id: "errored(unknown)"}
    # A job that has changed since is not reported again.
    write(index, decided(1, round_=2, minutes=1, outcome=PASSED))
    assert judged(write(index, batches[2], retried=True)) == {2, 3}


def test_what_followed_from_a_verdict_follows_from_the_new_one(index: Index) -> None:
    build, test = job("p1.1"), job("p1.1", JobKind.TEST)
    other = job("q1.1", JobKind.TEST)
    rows = [
        JobStatus(job=each, state=JobState.DECIDED, outcome=came_to)
        for each, came_to in (
            (test, outcome_after(failure(), build)),
            (other, Skipped(reason=SkipReason.UNAVAILABLE, evidence=Evidence(rule="x"))),
        )
    ]
    index.record(RowBatch(key=key(1), rows=tuple(rows), sequence=1, updated_at=NOON))
    write(index, *(decided(number) for number in (1, 2, 3)))
    assert outcomes(index, 1) == {
        build.id: "errored(unknown)",
        test.id: "errored(unknown)",
        other.id: "skipped(unavailable)",
    }
    # It is restarted with the build.
    taken = index.requeue(
        ChangeJobs(key=key(1), selector=RestartSelector(job=build.id), round=2), NOON
    )
    assert set(taken.first) == {build.id, test.id}


def test_a_job_is_doubted_once(index: Index) -> None:
    [incident] = write(index, *(decided(number, minutes=number) for number in (1, 2, 3))).incidents
    found = index.incident(incident)
    assert found is not None
    assert (found.cause, found.jobs, found.evidence.rule) == (Cause.UNKNOWN, 3, SAME_FAILURE)
    assert len(index.hit_jobs(incident)) == 3
    # The first is retried and fails the same way: its verdict stays, the late fourth's does not.
    assert judged(write(index, decided(1, minutes=5, round_=2))) == set()
    assert judged(write(index, decided(4, minutes=6))) == {4}
    # An hour later it is usual, because of the verdict that stayed.
    later = [decided(number, minutes=70) for number in (11, 12, 13)]
    assert judged(write(index, *later)) == set()


def test_what_recovered_is_no_habit(index: Index) -> None:
    write(index, *(decided(number, minutes=number) for number in (1, 2, 3)))
    write(index, *(decided(number, minutes=8, outcome=PASSED, round_=2) for number in (1, 2, 3)))
    again = [decided(number, minutes=70) for number in (11, 12, 13)]
    assert judged(write(index, *again)) == {11, 12, 13}


def test_a_habit_is_forgotten_after_a_day(index: Index) -> None:
    write(index, decided(50, minutes=-24 * 60 - 2))
    assert judged(write(index, *(decided(number) for number in (1, 2, 3)))) == ALL
    write(index, decided(51, minutes=-24 * 60 + 2))
    assert judged(write(index, decided(3))) == set()


def test_it_is_the_first_of_a_burst_that_must_be_news(index: Index) -> None:
    write(index, decided(50, minutes=-24 * 60 - 2))
    burst = [decided(number, minutes=2 * number - 6) for number in (1, 2, 3)]
    assert judged(write(index, *burst)) == set()


def test_a_batch_of_many_times_finds_what_each_of_them_does(index: Index) -> None:
    for number, at in {2: 1, 3: 2, 4: 40, 5: 41, 6: 49}.items():
        assert judged(write(index, decided(number, minutes=at))) == set()
    # A batch of one testing whose jobs failed at both times.
    rows = tuple(
        decided(1, minutes=at, package=package).rows[0]
        for package, at in (("p1.1", 0), ("q1.1", 50))
    )
    done = write(index, RowBatch(key=key(1), rows=rows, sequence=1, updated_at=after(50)))
    # The first three are alike, and so are the others: those verdicts of before do not stand.
    assert judged(done) == {1, 2, 3}
    assert judged(write(index, decided(7, minutes=49.5))) == {1, 4, 5, 6, 7}


def test_closed_pull_requests_are_no_evidence(index: Index) -> None:
    write(index, decided(1), closed(1), decided(2))
    assert judged(write(index, decided(3))) == set()
    assert judged(write(index, decided(4))) == {2, 3, 4}


def test_superseded_heads_are_no_evidence(index: Index) -> None:
    newer = RevisionRecord(key=key(1, after(1)), base="b", updated_at=NOON, sequence=9)
    write(index, decided(1), newer, decided(2))
    assert judged(write(index, decided(3))) == set()
    assert judged(write(index, decided(4))) == {2, 3, 4}


@pytest.mark.parametrize("outcome", [PASSED, failure("Error: Unbound module Anything")])
def test_a_job_that_has_gone_on_is_evidence_and_is_left_alone(
    index: Index, outcome: Outcome
) -> None:
    write(index, decided(1), decided(1, round_=2, minutes=4, outcome=outcome), decided(2))
    assert judged(write(index, decided(3))) == {2, 3}


def test_a_package_without_automatic_restarts_left_is_left_alone(index: Index) -> None:
    batches = [
        decided(1, round_=4, restart_budget_used=JOB_BUDGET),
        decided(2, round_=4),
        decided(3),
    ]
    assert judged(write(index, *batches)) == {2, 3}


def test_a_dependency_that_breaks_for_everybody_is_no_doubt(index: Index) -> None:
    broken = failure().model_copy(update={"reason": FailureReason.DEPENDENCY, "blame": "base.1"})
    batches = [decided(number, outcome=broken) for number in (1, 2, 3)]
    assert judged(write(index, *batches)) == set()
    other = broken.model_copy(update={"blame": "other.1"})
    third = broken.model_copy(update={"blame": "third.1"})
    found = write(index, decided(4, outcome=other), decided(5, outcome=third))
    assert judged(found) == {1, 2, 3, 4, 5}


def test_reverse_dependencies_throw_no_doubt(index: Index) -> None:
    def revdep(number: int) -> RowBatch:
        other = Job(
            platform=DEBIAN, package=f"p{number}.1", kind=JobKind.REVDEP, revdep=f"r{number}.1"
        )
        row = decided(number).rows[0].model_copy(update={"job": other})
        return RowBatch(key=key(number), rows=(row,), sequence=1, updated_at=NOON)

    assert judged(write(index, *(revdep(number) for number in range(1, 6)))) == set()


def test_writers_at_once_throw_doubt_on_all(index: Index) -> None:
    found = in_threads(lambda number: write(index, decided(number)), range(1, 7))
    assert {number for each in found for number in judged(each)} == {1, 2, 3, 4, 5, 6}
    assert sum(len(each.kinds) for each in found) == 6


def test_a_trial_that_fails_the_same_way_is_no_evidence_of_a_repair(index: Index) -> None:
    write(index, *(decided(number, minutes=number) for number in range(1, 6)))
    [incident] = index.incidents().items
    for number in (1, 2):
        write(index, decided(number, minutes=7 + number, round_=2))
        assert not index.recovered_since(incident)
    # Three refute the doubt, wherever they ran.
    write(index, decided(3, minutes=10, round_=2, worker="w2"))
    assert index.recovered_since(incident)


@pytest.mark.parametrize("outcome", [PASSED, failure("Error: Unbound module Anything")])
def test_a_trial_that_gets_through_is_evidence_of_a_repair(index: Index, outcome: Outcome) -> None:
    write(index, *(decided(number, minutes=number) for number in (1, 2, 3)))
    [incident] = index.incidents().items
    write(index, decided(1, minutes=7, round_=2, outcome=outcome))
    assert index.recovered_since(incident)
