"""The job index, on SQLite and on a real PostgreSQL."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opam_ci.clients.index import (
    AttemptFilter,
    Index,
    JobFilter,
    Place,
    RevisionFilter,
)
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Job, JobKind, Phase
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
)
from opam_ci.core.jobs.records import (
    AttemptRecord,
    JobRecord,
    RevisionKey,
    RevisionRecord,
    RowBatch,
)
from opam_ci.core.jobs.summary import Counts, Fault, JobState, JobStatus, Standing, State
from tests.support.fakes.threads import in_threads
from tests.support.fakes.written import write

NOON = datetime(2026, 5, 4, 12, 0, 0, 123456, tzinfo=UTC)
KEY = RevisionKey(repository="ocaml/opam-repository", number=30203, head="a" * 40, opened_at=NOON)
DEBIAN, FEDORA = "debian-13-ocaml-5.3/amd64", "fedora-42-ocaml-5.3/amd64"


def job(package: str = "cppo.1.8.0", platform: str = DEBIAN) -> Job:
    return Job(platform=platform, package=package, kind=JobKind.BUILD)


PASSED = Passed(evidence=Evidence(rule="installed", worker="w1"))
FAILED = Failed(
    reason=FailureReason.BUILD,
    evidence=Evidence(
        rule="compile-error",
        phase=Phase.BUILD,
        lines=(LogLine(offset=17, text="Error: Unbound \0 é"),),
        exit_code=2,
        worker="w1",
    ),
)
ERRORED = Errored(
    cause=Cause.DISK_FULL, evidence=Evidence(rule="enospc", phase=Phase.FETCH, worker="w2")
)
SKIPPED = Skipped(reason=SkipReason.UNAVAILABLE, evidence=Evidence(rule="available"))


def decided(outcome: Outcome, what: Job, *, minutes: int = 0, **fields: int) -> JobRecord:
    status = JobStatus(job=what, state=JobState.DECIDED, attempt=1, outcome=outcome)
    moment = NOON + timedelta(minutes=minutes)
    return JobRecord(revision=KEY, status=status, updated_at=moment, **fields)


def retrying(what: Job) -> JobRecord:
    fault = Fault(
        attempt=1, cause=Cause.DNS, evidence=Evidence(rule="dns"), worker="w3", at=NOON, log="l"
    )
    status = JobStatus(
        job=what, state=JobState.RETRYING, attempt=1, faults=(fault,), started_at=NOON,
        next_attempt_at=NOON + timedelta(minutes=3),
    )  # fmt: skip
    return JobRecord(revision=KEY, status=status, updated_at=NOON)


def attempt(number: int, outcome: Outcome | None, *, sequence: int = 0) -> AttemptRecord:
    begun = NOON + timedelta(minutes=number)
    return AttemptRecord(
        revision=KEY, job=job(), number=number, sequence=sequence, worker="w2",
        started_at=begun, outcome=outcome, phase=Phase.FETCH, log_key=f"logs/{number}",
        ended_at=None if outcome is None else begun + timedelta(seconds=5),
    )  # fmt: skip


def test_records_come_back_as_they_went_in(index: Index) -> None:
    revision = RevisionRecord(
        key=KEY, base="b" * 40, merge_tree="c" * 40, state=State.FAILURE, planned=True,
        title="[new release] cppo", author="alice", updated_at=NOON, sequence=4,
    )  # fmt: skip
    jobs = (retrying(job("a.1")), decided(ERRORED, job("b.1")), decided(SKIPPED, job("c.1")))
    attempts = (attempt(1, ERRORED), attempt(2, None))
    write(index, revision, *jobs, *attempts)
    assert index.revisions().items == (revision,)
    assert set(index.jobs(JobFilter(package="a.1")).items) == {jobs[0]}
    assert set(index.jobs(JobFilter(package="b.1")).items) == {jobs[1]}
    assert set(index.jobs(JobFilter(package="c.1")).items) == {jobs[2]}
    assert index.attempts(AttemptFilter(job=job())).items == tuple(reversed(attempts))


def test_hours_of_an_author_are_those_of_all_pull_requests(index: Index) -> None:
    for number, author in ((1, "alice"), (2, "alice"), (3, "bob")):
        key = RevisionKey(repository="o/r", number=number, head="a" * 40, opened_at=NOON)
        write(index, RevisionRecord(key=key, base="b", author=author, updated_at=NOON))
        own = [attempt(n, FAILED if n < 6 else None) for n in range(1, 7)]
        own[1] = own[1].model_copy(update={"cpu_seconds": 90.5})
        own[2] = attempt(3, ERRORED)
        write(index, *(each.model_copy(update={"revision": key}) for each in own))
    # Of the five that ended, one met a fault of ours, and one was measured.
    cost = 90.5 + 3 * 5
    [alice, bob] = index.authors(NOON)
    assert (alice.author, alice.pull_requests, alice.attempts) == ("alice", 2, 8)
    assert alice.cpu_hours == pytest.approx(2 * cost / 3600)
    assert bob.author == "bob"
    assert bob.cpu_hours == pytest.approx(cost / 3600)
    [later] = index.authors(NOON + timedelta(minutes=3), repository="o/r", author="alice")
    assert later.cpu_hours == pytest.approx(2 * 2 * 5 / 3600)
    assert index.authors(NOON, repository="o/other") == index.authors(NOON, author="carol") == ()


def test_a_nul_is_stored_as_a_replacement(index: Index) -> None:
    evidence = FAILED.evidence.model_copy(update={"worker": "w\0 é"})
    write(index, decided(FAILED.model_copy(update={"evidence": evidence}), job()))
    [found] = index.jobs().items
    assert isinstance(found.status.outcome, Failed)
    assert found.status.outcome.evidence.worker == "w\ufffd é"
    assert found.status.outcome.evidence.lines[0].text == "Error: Unbound   é"


def test_instants_come_back_in_utc_whatever_zone_they_came_in(index: Index) -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=-7)))
    key = KEY.model_copy(update={"opened_at": elsewhere})
    write(index, RevisionRecord(key=key, base="b", updated_at=elsewhere))
    [found] = index.revisions(RevisionFilter(revision=key, since=elsewhere)).items
    assert found.key.opened_at == NOON
    assert found.updated_at.utcoffset() == timedelta(0)
    assert index.revisions(RevisionFilter(until=elsewhere)).items == ()


def test_the_same_record_twice_changes_nothing(index: Index) -> None:
    batch = (decided(FAILED, job()), attempt(1, ERRORED, sequence=1))
    write(index, *batch)
    before = (index.jobs(), index.attempts(), index.revisions())
    write(index, *batch)
    assert (index.jobs(), index.attempts(), index.revisions()) == before


@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(order=st.permutations(range(4)), data=st.data())
def test_the_newest_record_stands_in_whatever_order_they_arrive(
    index: Index, order: list[int], data: st.DataObject
) -> None:
    key = KEY.model_copy(update={"number": data.draw(st.integers(1, 10**6))})
    versions = ((1, 0, 5), (1, 1, 0), (2, 0, 0), (2, 0, 1))
    records = [
        JobRecord(
            revision=key,
            status=JobStatus(job=job(), state=JobState.RUNNING, round=round_, attempt=number),
            sequence=sequence,
            updated_at=NOON + timedelta(seconds=place),
        )
        for place, (round_, number, sequence) in enumerate(versions)
    ]
    for place in order:
        write(index, records[place])
    of_key = JobFilter(of=RevisionFilter(revision=key))
    assert index.jobs(of_key).items == (records[3],)


def test_of_two_records_with_the_same_numbers_the_first_stands(index: Index) -> None:
    for outcome in (FAILED, PASSED):
        write(index, decided(outcome, job()))
    assert index.counts() == Counts(failed=1)
    assert [each.standing for each in index.attempts().items] == [Standing.FAILED]


def test_a_job_that_was_restarted_comes_twice_in_one_batch(index: Index) -> None:
    ended = JobStatus(
        job=job(), state=JobState.DECIDED, attempt=1, outcome=FAILED, decided_at=NOON,
        started_at=NOON, attempt_started_at=NOON, worker="w1",
    )  # fmt: skip
    again = ended.model_copy(update={"round": 2, "outcome": PASSED})
    index.record(RowBatch(key=KEY, rows=(ended, again), sequence=1, updated_at=NOON))
    [known] = index.jobs().items
    assert (known.status.round, known.standing) == (2, Standing.PASSED)
    attempts = {each.round: each.standing for each in index.attempts().items}
    assert attempts == {1: Standing.FAILED, 2: Standing.PASSED}


def test_an_ended_attempt_never_runs_again(index: Index) -> None:
    ended = attempt(1, ERRORED, sequence=1)
    for record in (ended, attempt(1, None, sequence=7), attempt(1, PASSED, sequence=0)):
        write(index, record)
    assert index.attempts().items == (ended,)


def test_a_testing_known_by_its_jobs_alone_gives_way_to_its_record(index: Index) -> None:
    write(index, decided(PASSED, job()))
    revision = RevisionRecord(key=KEY, base="b", updated_at=NOON)
    write(index, revision)
    assert index.revisions().items == (revision,)


def test_a_new_testing_of_the_same_head_is_apart(index: Index) -> None:
    later = KEY.model_copy(update={"opened_at": NOON + timedelta(hours=1)})
    old = RevisionRecord(key=KEY, base="b", title="old", updated_at=NOON, sequence=9)
    new = RevisionRecord(key=later, base="b", title="new", updated_at=NOON + timedelta(hours=1))
    again = decided(PASSED, job()).model_copy(update={"revision": later})
    write(index, new, again)
    write(index, old, decided(FAILED, job(), sequence=9))
    assert index.counts() == Counts(passed=1, failed=1)
    newest = RevisionFilter(newest=True)
    assert index.revisions(newest).items == (new,)
    assert index.counts(JobFilter(of=newest)) == Counts(passed=1)
    assert {each.title for each in index.revisions().items} == {"new"}


def test_branches_and_pull_requests_are_never_confused(index: Index) -> None:
    branch = RevisionKey(repository=KEY.repository, branch="30203", head="a", opened_at=NOON)
    records = tuple(RevisionRecord(key=key, base="b", updated_at=NOON) for key in (KEY, branch))
    write(index, *records)
    assert index.revisions(RevisionFilter(number=30203)).items == (records[0],)
    assert index.revisions(RevisionFilter(branch="30203")).items == (records[1],)


@pytest.fixture
def filled(index: Index) -> Index:
    """One job of each kind of outcome, on two platforms."""
    records = (
        decided(PASSED, job("passed.1"), minutes=1),
        decided(FAILED, job("failed.1"), minutes=2),
        decided(ERRORED, job("errored.1", FEDORA), minutes=3),
        decided(SKIPPED, job("skipped.1", FEDORA), minutes=4),
        retrying(job()),
    )
    write(index, *records)
    return index


AT_3, AT_4 = NOON + timedelta(minutes=3), NOON + timedelta(minutes=4)


@pytest.mark.parametrize(
    ("wanted", "packages"),
    [
        (JobFilter(standing=Standing.FAILED), "failed.1"),
        (JobFilter(standing=Standing.ERRORED), "errored.1"),
        (JobFilter(cause=Cause.DISK_FULL), "errored.1"),
        (JobFilter(cause=Cause.DNS), "cppo.1.8.0"),
        (JobFilter(failure_reason=FailureReason.BUILD), "failed.1"),
        (JobFilter(skip_reason=SkipReason.UNAVAILABLE), "skipped.1"),
        (JobFilter(platform=FEDORA), "skipped.1 errored.1"),
        (JobFilter(platform=FEDORA, standing=Standing.ERRORED), "errored.1"),
        (JobFilter(package="passed.1"), "passed.1"),
        (JobFilter(worker="w1"), "failed.1 passed.1"),
        (JobFilter(worker="w3"), "cppo.1.8.0"),
        (JobFilter(since=AT_3), "skipped.1 errored.1"),
        (JobFilter(since=AT_3, until=AT_4, kind=JobKind.BUILD), "errored.1"),
        (JobFilter(kind=JobKind.TEST), ""),
        (JobFilter(of=RevisionFilter(head="b")), ""),
        (JobFilter(of=RevisionFilter(revision=KEY), standing=Standing.RETRYING), "cppo.1.8.0"),
        (JobFilter(package="failed.1' OR 1=1 --"), ""),
        (JobFilter(name=f"build {DEBIAN} failed.1"), "failed.1"),
        (JobFilter(name="failed.1"), ""),
        (JobFilter(words=("fedora", "ED.1")), "skipped.1 errored.1"),
        (JobFilter(words=("debian", "fedora")), ""),
        (JobFilter(words=("%",)), ""),
        (JobFilter(words=("_",)), ""),
        (JobFilter(words=("\\",)), ""),
    ],
)
def test_jobs_are_found_by_each_filter(filled: Index, wanted: JobFilter, packages: str) -> None:
    found = [each.status.job.package for each in filled.jobs(wanted).items]
    assert found == packages.split()
    assert filled.counts(wanted).total == len(found)


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (AttemptFilter(), [2, 1]),
        (AttemptFilter(job=job()), [2, 1]),
        (AttemptFilter(job=job("other.1")), []),
        (AttemptFilter(standing=Standing.RUNNING), [2]),
        (AttemptFilter(cause=Cause.DISK_FULL), [1]),
        (AttemptFilter(phase=Phase.FETCH, worker="w2"), [2, 1]),
        (AttemptFilter(since=NOON + timedelta(minutes=2)), [2]),
        (AttemptFilter(failure_reason=FailureReason.BUILD), []),
        (AttemptFilter(of=RevisionFilter(number=1)), []),
    ],
)
def test_attempts_are_found_by_each_filter(
    index: Index, wanted: AttemptFilter, numbers: list[int]
) -> None:
    write(index, attempt(1, ERRORED), attempt(2, None))
    assert [each.number for each in index.attempts(wanted).items] == numbers


def test_failed_and_errored_are_counted_apart(filled: Index) -> None:
    everything = Counts(passed=1, failed=1, errored=1, skipped=1, retrying=1)
    assert filled.counts() == everything
    assert filled.counts(JobFilter(platform=FEDORA)) == Counts(errored=1, skipped=1)
    assert filled.counts(JobFilter(cause=Cause.DNS)) == Counts(retrying=1)
    assert filled.counts(JobFilter(failure_reason=FailureReason.BUILD)) == Counts(failed=1)


def test_a_listing_in_parts_shows_everything_once(index: Index) -> None:
    # Three share each moment, so that places between equal times are tried too.
    records = [decided(PASSED, job(f"p.{n}"), minutes=n // 3) for n in range(10)]
    write(index, *records)
    found: list[JobRecord] = []
    after = None
    for _ in range(5):
        part = index.jobs(place=Place(limit=2, after=after))
        found += part.items
        after = part.following
    assert after is None
    assert {each.status.job.package for each in found} == {f"p.{n}" for n in range(10)}
    assert [each.updated_at for each in found] == sorted(
        (each.updated_at for each in records), reverse=True
    )


@pytest.mark.parametrize(
    "after",
    [
        *("", "x", "2026-05-04T12:00:00/1", "2026-05-04T12:00:00+00:00/x"),
        # More than a database's integers hold.
        f"2026-05-04T12:00:00+00:00/{'9' * 20}",
    ],
)
def test_an_invalid_page_cursor_is_refused(index: Index, after: str) -> None:
    with pytest.raises(UsageError, match="invalid page cursor"):
        index.jobs(place=Place(after=after))


def test_a_batch_is_written_whole_or_not_at_all(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise InfrastructureError("cut off", cause=Cause.STORAGE)

    monkeypatch.setattr("opam_ci.clients.index.write.attempt_rows", broken)
    with pytest.raises(InfrastructureError):
        write(index, decided(PASSED, job()))
    assert index.jobs().items == ()
    assert index.revisions().items == ()


def test_many_threads_can_write_and_read_at_once(index: Index) -> None:
    def work(worker: int) -> None:
        for number in range(10):
            names = [f"p{each}.{number}" for each in range(20)]
            rows = tuple(decided(PASSED, job(name)).status for name in names)
            index.record(RowBatch(key=KEY, rows=rows, sequence=worker, updated_at=NOON))
            index.counts()

    in_threads(work, range(4))
    assert index.counts() == Counts(passed=200)
    assert {each.sequence for each in index.jobs(place=Place(limit=1000)).items} == {3}


def test_a_batch_without_rows_is_no_job(index: Index) -> None:
    index.record(RowBatch(key=KEY, rows=(), sequence=0, updated_at=NOON))
    assert index.jobs().items == ()
