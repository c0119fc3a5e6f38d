"""The page of operators: each number is that of the rows it counts."""

from datetime import timedelta

from opam_ci.clients.index import Index
from opam_ci.core.incidents.fingerprint import SAME_FAILURE
from opam_ci.core.incidents.restarts import JOB_BUDGET
from opam_ci.core.jobs.hold import Hold
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Cause, Errored, Evidence, LogLine, Outcome
from opam_ci.core.jobs.records import AttemptRecord, RevisionRecord, RowBatch
from opam_ci.core.jobs.summary import Fault, JobState, JobStatus, Standing, State
from opam_ci.core.pages.model import AuditEntry, WrongVerdict
from opam_ci.core.pages.ops import HOURS, ROWS_SHOWN, OpsPage, Share
from tests.support.fakes.queue import (
    DISK,
    DNS,
    FAILED,
    NOON,
    PASSED,
    P,
    Q,
    after,
    build,
    key,
    plan,
    planned,
)
from tests.support.fakes.written import write

POOL = "linux-amd64"
LATE = after(30)


def revision(number: int, **changes: object) -> RevisionRecord:
    record = RevisionRecord(
        key=key(number), base="b" * 40, planned=True, title=f"title {number}", author="alice",
        updated_at=after(20), sequence=1,
    )  # fmt: skip
    return record.model_copy(update=changes)


def attempt(  # noqa: PLR0913  each is a fact of its own
    number: int,
    outcome: Outcome | None,
    *,
    worker: str | None = "w1",
    pool: str | None = POOL,
    minutes: float = 0,
    job: Job | None = None,
    try_: int = 1,
    round_: int = 1,
) -> AttemptRecord:
    begun = after(minutes)
    return AttemptRecord(
        revision=key(number), job=job or build(), round=round_, number=try_, worker=worker,
        pool=pool, started_at=begun, outcome=outcome,
        ended_at=None if outcome is None else begun + timedelta(minutes=1),
    )  # fmt: skip


def unknown(text: str, rule: str = "unknown") -> Errored:
    line = LogLine(offset=0, text=text)
    return Errored(cause=Cause.UNKNOWN, evidence=Evidence(rule=rule, lines=(line,)))


def page(index: Index, minutes: float = 30) -> OpsPage:
    return index.ops_page(after(minutes))


def test_an_empty_index_has_an_empty_page(index: Index) -> None:
    found = page(index)
    assert found.is_well
    assert found.sentence == "Nothing to do: no attempt began within 24 hours, and no job waits."
    rest = found.model_dump(exclude={"as_of", "is_well", "sentence", "quality", "audit"})
    assert not any(value for name, value in rest.items() if name != "flow")


def test_attempts_are_counted_by_pool_and_worker(index: Index) -> None:
    write(
        index,
        attempt(1, PASSED, minutes=-60 * HOURS - 1),
        attempt(2, PASSED, minutes=-90),
        attempt(3, DNS, minutes=-89),
        attempt(4, DISK, worker="w2", minutes=10),
        attempt(5, FAILED, worker="w2", minutes=11),
        attempt(6, None, worker="w2", minutes=12),
        attempt(7, PASSED, worker="o1", pool=None, minutes=13),
    )
    found = page(index)
    orchestration, pool = found.pools
    assert (orchestration.pool, orchestration.workers, orchestration.busy) == ("", 1, 0)
    assert (pool.pool, pool.workers, pool.busy, pool.running) == (POOL, 2, 1, 1)
    assert pool.hour == Share(attempts=2, faults=1)
    assert pool.day == Share(attempts=4, faults=2)
    assert pool.day.percent == 50
    assert pool.last_passed_at == after(-89)
    assert pool.faults_by_hour == (*[0] * (HOURS - 2), 1, 1)
    assert [each.worker for each in found.workers] == ["w1", "w2", "o1"]
    first, second, _ = found.workers
    assert first.causes == {Cause.DNS: 1}
    assert (second.pools, second.running, second.causes) == ((POOL,), 1, {Cause.DISK_FULL: 1})
    assert second.last_seen_at == after(12)
    assert [(each.standing, each.why) for each in second.last] == [
        (Standing.RUNNING, ""), (Standing.FAILED, "build"), (Standing.ERRORED, "disk_full"),
    ]  # fmt: skip
    # Of any time: what is older than a day is still one of its last ones.
    assert [each.revision.number for each in first.last] == [3, 2, 1]


def lost(number: int, **changes: object) -> RowBatch:
    """A job that is errored after its only attempt."""
    fault = Fault(attempt=1, cause=Cause.DISK_FULL, evidence=DISK.evidence, worker="w1", at=NOON)
    row = JobStatus(
        job=build(), attempt=1, state=JobState.DECIDED, outcome=DISK, decided_at=NOON,
        faults=(fault,),
    )  # fmt: skip
    return RowBatch(
        key=key(number), rows=(row.model_copy(update=changes),), sequence=1, updated_at=NOON,
        pools={P: POOL},
    )  # fmt: skip


def test_an_incident_previews_what_its_resolution_restarts(index: Index) -> None:
    waits = {"state": JobState.RETRYING, "outcome": None, "next_attempt_at": after(33)}
    write(
        index,
        *(revision(number) for number in range(1, 5)),
        lost(1),
        lost(2),
        lost(3, restart_budget_used=JOB_BUDGET),
        lost(4, **waits),
    )
    found = page(index)
    (one,) = found.incidents
    assert (one.incident.cause, one.incident.jobs, one.faults_hour) == (Cause.DISK_FULL, 4, 4)
    assert (one.restarts, one.restart_pull_requests, one.spent) == (2, 2, 1)
    assert (one.retrying, one.next_retry_at) == (1, after(33))
    # The preview is what a resolution takes.
    hit = index.hit_jobs(one.incident.id)
    assert len(hit) == one.restarts + one.spent
    assert page(index, minutes=61).incidents[0].faults_hour == 0
    assert not found.is_well
    assert found.sentence == (
        "No: disk full on worker w1 hit 4 jobs of 4 pull requests since 2026-05-04 12:00 UTC."
    )
    (parked,) = found.parked
    assert (parked.errored, parked.retrying) == (3, 1)


def test_a_closed_pull_request_is_not_restarted(index: Index) -> None:
    write(index, lost(1), lost(2), revision(1), revision(2, is_open=False))
    (one,) = page(index).incidents
    assert (one.restarts, one.restart_pull_requests) == (1, 1)


def test_a_single_fault_is_not_listed(index: Index) -> None:
    write(index, attempt(1, DISK))
    assert page(index).incidents == ()


def test_queued_jobs_are_listed_by_platform_and_pull_request(index: Index) -> None:
    lint = Job(platform="", package="a.1", kind=JobKind.LINT)
    write(index, *(revision(number) for number in range(1, 4)))
    plan(index, build(), build("b.1"), key=key(1))
    plan(index, build(platform=Q), lint, key=key(2))
    plan(index, build(), key=key(3))
    # Neither decided jobs nor those of a closed pull request wait.
    plan(index, build(), key=key(4))
    write(
        index,
        attempt(1, None, job=build(), minutes=1),
        attempt(1, PASSED, job=build("c.1", "z/amd64")),
        revision(3, hold=Hold(reason="new-author"), sequence=2),
        revision(4, is_open=False),
    )
    found = page(index)
    rows = {each.platform: each for each in found.queue}
    assert set(rows) == {P, Q, ""}
    assert (rows[P].queued, rows[P].running, rows[P].oldest_at) == (2, 1, NOON)
    assert [(each.kind, each.number) for each in rows[P].kinds] == [(JobKind.BUILD, 2)]
    waiting = {each.revision.number: each for each in found.waiting}
    assert {number: each.reason for number, each in waiting.items()} == {
        1: "runs", 2: "stalled", 3: "held",
    }  # fmt: skip
    assert (waiting[1].queued, waiting[1].running, waiting[1].since) == (1, 1, NOON)
    assert waiting[3].hold == Hold(reason="new-author")
    assert (waiting[2].title, waiting[2].author) == ("title 2", "alice")


def test_of_many_that_wait_the_first_ones_are_shown(index: Index) -> None:
    for number in range(1, ROWS_SHOWN + 3):
        write(index, revision(number))
        index.plan(key(number), planned(build()), round_=1, origin=None, at=after(-number))
    found = page(index)
    assert found.more_waiting == 2
    assert [each.revision.number for each in found.waiting] == list(range(ROWS_SHOWN + 2, 2, -1))


def test_a_pull_request_waits_its_turn_behind_others(index: Index) -> None:
    write(index, revision(1), revision(2))
    plan(index, build(), key=key(1))
    plan(index, build(), key=key(2))
    write(index, attempt(1, None))
    (one,) = page(index).waiting
    assert (one.revision.number, one.reason) == (2, "turn")


def test_jobs_that_no_worker_takes_are_not_well(index: Index) -> None:
    write(index, revision(1))
    plan(index, build(), key=key(1))
    assert page(index, minutes=14).is_well
    assert page(index).sentence == (
        "No: 1 job waiting, and no attempt began within 24 hours: are there workers?"
    )


def test_faults_of_unknown_cause_are_grouped_by_what_they_look_like(index: Index) -> None:
    write(
        index,
        attempt(1, unknown("cannot frobnicate 0x12345678 <b>"), minutes=1),
        attempt(2, unknown("cannot frobnicate 0xdeadbeef <b>"), minutes=2, worker="w2"),
        attempt(3, unknown("another one"), minutes=3),
        attempt(4, unknown("no failure", SAME_FAILURE), minutes=4),
        attempt(5, unknown("long ago"), minutes=-60 * 24 * 8),
    )
    found = page(index)
    first, second = found.unknown
    assert first.line == "cannot frobnicate 0xdeadbeef <b>"
    assert (first.attempts, first.workers, first.pull_requests) == (2, 2, 2)
    assert (first.first_at, first.last.revision.number) == (after(2), 2)
    assert (second.line, second.attempts) == ("another one", 1)
    assert found.quality.judged_again_number == 1
    assert [each.revision.number for each in found.quality.judged_again] == [4]


def test_green_heads_without_a_passed_build_are_listed(index: Index) -> None:
    green = {"state": State.SUCCESS}
    write(index, revision(1, **green), revision(2, **green), attempt(1, PASSED))
    plan(index, build(), key=key(2))
    quality = page(index).quality
    assert quality.green_unbuilt_number == 1
    assert [each.revision.number for each in quality.green_unbuilt] == [2]


def test_the_time_from_opening_to_the_verdict_is_that_of_the_last_job(index: Index) -> None:
    for number, minutes in ((1, 10), (2, 20)):
        row = JobStatus(
            job=build(), attempt=1, state=JobState.DECIDED, outcome=PASSED,
            started_at=after(number), decided_at=after(minutes),
        )  # fmt: skip
        batch = RowBatch(key=key(number), rows=(row,), sequence=1, updated_at=after(minutes))
        write(index, batch, revision(number, state=State.SUCCESS))
    # What is pending has no verdict yet; what was only closed now had its verdict long ago.
    write(index, attempt(3, PASSED), revision(3))
    long_ago = attempt(4, PASSED, minutes=-60 * 25)
    write(index, long_ago, revision(4, state=State.SUCCESS, is_open=False))
    found = page(index).flow
    assert found.heads == 2
    assert found.verdict is not None
    assert found.first_job is not None
    assert found.verdict.p50 == 15 * 60
    assert found.verdict.p95 == 19.5 * 60
    assert found.first_job.p50 == 1.5 * 60
    assert page(index, minutes=60 * 24 + 21).flow.heads == 0


def test_actions_and_reports_of_people_are_listed(index: Index) -> None:
    entry = AuditEntry(
        at=LATE, login="ann", role="admin", action="restart", repository="o/r", target="pull/1",
        taken=3,
    )  # fmt: skip
    index.add_audit(entry)
    report = WrongVerdict(
        at=LATE, login="bob", attempt=attempt(1, FAILED), expected="errored(dns)", comment="<i>"
    )
    index.add_wrong_verdict(report)
    found = page(index)
    assert found.audit[0].model_copy(update={"id": 0}) == entry
    assert found.quality.wrong[0].model_copy(update={"id": 0}) == report


def test_the_page_survives_its_own_json(index: Index) -> None:
    write(index, revision(1), lost(1), lost(2), attempt(3, PASSED))
    found = page(index)
    assert OpsPage.model_validate_json(found.model_dump_json()) == found
