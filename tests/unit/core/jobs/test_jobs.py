"""Rows that a workflow has in hand, selectors, retries."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from opam_ci.clients.index import Index
from opam_ci.core.jobs.build import PhaseTimeouts
from opam_ci.core.jobs.job import BASE_KINDS, REVDEP_KINDS, Job, JobKind, Phase
from opam_ci.core.jobs.lost_attempt import lost
from opam_ci.core.jobs.messages import JobHeartbeat, JobReport, revision_key
from opam_ci.core.jobs.outcome import (
    Cancelled,
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    Passed,
    label,
)
from opam_ci.core.jobs.records import RowBatch
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.jobs.selector import JobSelector, RestartSelector, RestartWhich
from opam_ci.core.jobs.signals import AttemptFaulted, AttemptStarted
from opam_ci.core.jobs.states import IllegalEvent
from opam_ci.core.jobs.summary import Fault, JobState, JobStatus, Standing
from opam_ci.core.jobs.table import JobTable
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.workflows.options import job_priority

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
BUILD = Job(platform=EMBEDDED.name, package="a.1", kind=JobKind.BUILD)
TEST = Job(platform=EMBEDDED.name, package="a.1", kind=JobKind.TEST)
PASSED = Passed(evidence=Evidence(rule="r"))
FAILED = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="r"))
ERRORED = Errored(cause=Cause.DNS, evidence=Evidence(rule="r"))


def fault(attempt: int, cause: Cause = Cause.DNS, worker: str = "w") -> Fault:
    return Fault(attempt=attempt, cause=cause, evidence=Evidence(rule="r"), worker=worker, at=AT)


def faulted(attempt: int, round_: int = 1, *, again: bool = True) -> AttemptFaulted:
    return AttemptFaulted(
        job=BUILD.id, round=round_, fault=fault(attempt), next_attempt_at=AT if again else None
    )


def started(attempt: int, previous: JobHeartbeat | None = None) -> AttemptStarted:
    return AttemptStarted(
        job=BUILD.id, round=1, attempt=attempt, worker="w2", at=AT, previous=previous
    )


def report(outcome: Passed | Failed | Errored, attempt: int = 1) -> JobReport:
    return JobReport(outcome=outcome, attempt=attempt, worker="w", started_at=AT, ended_at=AT)


def table() -> JobTable:
    result = JobTable([JobStatus(job=BUILD)])
    result.start(BUILD.id, AT)
    return result


def test_fault_reported_twice_is_recorded_once() -> None:
    rows = table()
    rows.fault(BUILD.id, faulted(1))
    rows.take_changed(10)
    rows.fault(BUILD.id, faulted(1))
    assert not rows.is_dirty
    assert rows[BUILD.id].state is JobState.RETRYING
    assert len(rows[BUILD.id].faults) == 1


def test_rows_are_taken_in_portions_that_faults_make_smaller() -> None:
    jobs = [BUILD.model_copy(update={"package": f"p{number}.1"}) for number in range(10)]
    rows = JobTable(JobStatus(job=job) for job in jobs)
    for job in jobs:
        rows.start(job.id, AT)
    many = tuple(faulted(number).fault for number in range(1, 6))
    rows.put(rows[jobs[3].id].model_copy(update={"faults": many}))
    rows.put(rows[jobs[5].id].model_copy(update={"faults": many[:1]}))
    taken = []
    while rows.is_dirty:
        taken.append([jobs.index(row.job) for row in rows.take_changed(6)])
    assert taken == [[0, 1, 2], [3], [4, 5], [6, 7, 8, 9]]


def test_a_restart_begins_a_round_of_which_nothing_is_known() -> None:
    rows = table()
    rows.fault(BUILD.id, faulted(1))
    rows.restart(BUILD.id, round_=4, restart_budget_used=20)
    assert rows[BUILD.id] == JobStatus(job=BUILD, round=4, restart_budget_used=20)
    # Nobody had taken the round before: what it met is not lost.
    assert [(row.round, len(row.faults)) for row in rows.take_changed(10)] == [(1, 1), (4, 0)]
    assert not rows.is_dirty


def test_events_of_another_round_are_ignored() -> None:
    rows = table()
    rows.decide(BUILD.id, report(FAILED))
    rows.restart(BUILD.id, round_=2, restart_budget_used=0)
    rows.start(BUILD.id, AT)
    rows.take_changed(2)
    rows.fault(BUILD.id, faulted(1, round_=1))
    rows.started(BUILD.id, started(2))
    assert not rows.is_dirty


def test_events_of_a_job_that_is_decided_or_not_in_hand_are_ignored() -> None:
    rows = table()
    rows.decide(BUILD.id, report(PASSED))
    rows.take_changed(1)
    rows.fault(BUILD.id, faulted(1))
    rows.fault(TEST.id, faulted(1))
    rows.started(TEST.id, started(2))
    assert not rows.is_dirty
    rows.drop(BUILD.id)
    assert rows.rows == ()


def test_the_last_fault_leaves_the_job_to_its_verdict() -> None:
    rows = table()
    rows.fault(BUILD.id, faulted(1))
    rows.fault(BUILD.id, faulted(2, again=False))
    assert rows[BUILD.id].state is JobState.RUNNING
    rows.decide(BUILD.id, report(ERRORED, attempt=2))
    assert (rows[BUILD.id].standing, rows[BUILD.id].attempt) == (Standing.ERRORED, 2)


def test_a_job_is_decided_once_a_round() -> None:
    rows = table()
    rows.decide(BUILD.id, report(PASSED))
    with pytest.raises(IllegalEvent):
        rows.settle(BUILD.id, ERRORED, AT)
    assert rows[BUILD.id].outcome == PASSED


def test_started_attempt_reveals_the_loss_of_the_one_before() -> None:
    rows = table()
    beat = JobHeartbeat(attempt=1, worker="w1", started_at=AT, phase=Phase.BUILD, log="logs/x")
    rows.started(BUILD.id, started(2, beat))
    (loss,) = rows[BUILD.id].faults
    assert (loss.cause, loss.worker, loss.log) == (Cause.WORKER_LOST, "w1", "logs/x")
    assert "in phase build" in (loss.evidence.detail or "")


def test_started_attempt_records_a_fault_that_only_the_heartbeat_reports() -> None:
    rows = table()
    beat = JobHeartbeat(attempt=1, worker="w1", started_at=AT, fault=fault(1, Cause.DISK_FULL))
    rows.started(BUILD.id, started(2, beat))
    assert [f.cause for f in rows[BUILD.id].faults] == [Cause.DISK_FULL]


def silent(
    attempt: int, worker: str, *, alone: bool = False, phase: Phase | None = Phase.BUILD
) -> AttemptFaulted:
    beat = JobHeartbeat(attempt=attempt, worker=worker, started_at=AT, alone=alone, phase=phase)
    return AttemptFaulted(job=BUILD.id, round=1, fault=lost(beat, attempt, AT))


def test_killer_needs_two_different_workers() -> None:
    rows = table()
    rows.fault(BUILD.id, silent(1, "w1", alone=True))
    rows.fault(BUILD.id, silent(2, "w1", alone=True))
    assert rows.killer(BUILD.id) is None
    rows.fault(BUILD.id, silent(3, "w2", alone=True))
    verdict = rows.killer(BUILD.id)
    assert verdict is not None
    assert verdict.reason is FailureReason.KILLS_WORKER


@pytest.mark.parametrize("phase", [None, Phase.CHECKOUT, Phase.SOLVE, Phase.DEPEXTS, Phase.FETCH])
def test_who_dies_before_package_code_runs_is_not_killed_by_the_package(
    phase: Phase | None,
) -> None:
    rows = table()
    rows.fault(BUILD.id, silent(1, "w1", alone=True))
    rows.fault(BUILD.id, silent(2, "w2", alone=True, phase=phase))
    assert rows.killer(BUILD.id) is None


def test_killer_was_alone_when_it_was_lost_last() -> None:
    rows = table()
    rows.fault(BUILD.id, silent(1, "w1", alone=True))
    rows.fault(BUILD.id, silent(2, "w2"))
    # Somebody else may have taken the second one down, and the first one died by chance.
    assert rows.killer(BUILD.id) is None
    rows.fault(BUILD.id, silent(3, "w3", alone=True))
    assert rows.killer(BUILD.id) is not None


def test_worker_of_another_version_does_not_report_a_job_as_alone() -> None:
    beat = JobHeartbeat.model_validate({"attempt": 1, "worker": "w1", "started_at": AT})
    assert not lost(beat, 1, AT).alone
    assert not lost(beat.model_copy(update={"alone": True}), 2, AT).alone


def test_workers_that_were_shut_down_in_good_order_were_not_killed() -> None:
    rows = table()
    for attempt, worker in ((1, "w1"), (2, "w2"), (3, "w3")):
        found = fault(attempt, Cause.WORKER_LOST, worker)
        rows.fault(BUILD.id, AttemptFaulted(job=BUILD.id, round=1, fault=found))
    assert rows.killer(BUILD.id) is None


def test_cancel_leaves_what_is_decided() -> None:
    rows = table()
    rows.put(JobStatus(job=TEST))
    rows.decide(BUILD.id, report(PASSED))
    rows.cancel_undecided(Cancelled(by="closed"), AT)
    assert [label(row.outcome) for row in rows.rows if row.outcome] == [
        "passed",
        "cancelled(closed)",
    ]


@pytest.mark.parametrize(
    ("selector", "standings"),
    [
        ({}, {"errored", "cancelled"}),
        ({"which": "failed"}, {"failed"}),
        ({"which": "all"}, {"passed", "failed", "skipped", "errored", "cancelled"}),
        ({"cause": "dns"}, {"errored"}),
        ({"cause": "dns", "which": "all"}, {"errored"}),
        ({"cause": "dns", "which": "failed"}, set()),
    ],
)
def test_a_restart_takes_decided_jobs_that_stand_so(
    selector: dict[str, str], standings: set[str]
) -> None:
    assert RestartSelector.model_validate(selector).standings == standings


@pytest.mark.parametrize(
    ("selector", "takes"),
    [
        ({}, True),
        ({"package": "a"}, True),
        ({"package": "a.1"}, True),
        ({"package": "b"}, False),
        ({"platform": "other/amd64"}, False),
        ({"kind": "build"}, True),
        ({"kind": "test"}, False),
        ({"revdep": "r"}, False),
        ({"job": BUILD.id}, True),
        ({"jobs": (TEST.id, BUILD.id)}, True),
        ({"jobs": (TEST.id,)}, False),
        # Whoever asks compares the head.
        ({"head": "f" * 40}, True),
    ],
)
def test_every_field_of_a_selector_narrows(selector: dict[str, object], takes: bool) -> None:
    assert JobSelector.model_validate(selector).narrows_to(BUILD) is takes


def test_a_reverse_dependency_is_named_with_or_without_its_version() -> None:
    revdep = Job(platform="p", package="a.1", kind=JobKind.REVDEP, revdep="r.2")
    assert JobSelector(revdep="r").narrows_to(revdep)
    assert JobSelector(revdep="r.2").narrows_to(revdep)
    assert not JobSelector(revdep="r.1").narrows_to(revdep)


def test_waiting_retry_is_hurried_unless_only_failures_are_meant() -> None:
    rows = table()
    rows.fault(BUILD.id, faulted(1))
    waiting = rows[BUILD.id]
    assert RestartSelector().takes_waiting(waiting)
    assert not RestartSelector(which=RestartWhich.FAILED).takes_waiting(waiting)
    assert not RestartSelector(cause=Cause.GIT).takes_waiting(waiting)
    assert not RestartSelector().takes_waiting(table()[BUILD.id])


@given(st.text(min_size=1, max_size=250))
def test_branch_names_make_safe_and_distinct_ids(branch: str) -> None:
    ref = PullRequestRef(owner="local", repo="r", branch=branch)
    assert ref.workflow_id.startswith("pr/local/r/branch-")
    assert all(char.isascii() and (char.isalnum() or char in "_.-/") for char in ref.workflow_id)
    other = PullRequestRef(owner="local", repo="r", branch=f"{branch}\N{SNOWMAN}"[:250])
    assert (other.branch == branch) == (other.workflow_id == ref.workflow_id)


def test_pull_request_has_a_number_or_a_branch() -> None:
    for values in ({}, {"number": 1, "branch": "x"}, {"number": 0}):
        with pytest.raises(ValidationError):
            PullRequestRef.model_validate({"owner": "o", "repo": "r"} | values)


def test_revdep_is_named_by_revdep_jobs_alone() -> None:
    with pytest.raises(ValidationError):
        Job(platform="p", package="a.1", kind=JobKind.BUILD, revdep="b.1")
    with pytest.raises(ValidationError):
        Job(platform="p", package="a.1", kind=JobKind.REVDEP)
    job = Job(platform="p", package="a.1", kind=JobKind.REVDEP, revdep="b.1")
    assert (job.id, job.title) == ("revdep p a.1 b.1", "b.1 with a.1")
    test = Job(platform="p", package="a.1", kind=JobKind.REVDEP_TEST, revdep="b.1")
    assert (test.id, test.title) == ("revdep-test p a.1 b.1", "b.1 with a.1 test")


def test_every_kind_of_job_has_a_priority() -> None:
    ref = PullRequestRef(owner="o", repo="r", number=1)
    levels = {kind: job_priority(kind, ref).priority_key or 0 for kind in JobKind}
    assert max(levels, key=lambda kind: levels[kind]) in REVDEP_KINDS | BASE_KINDS
    assert max(levels.values()) <= 5  # the server has no more


def test_a_failure_has_a_job_on_the_base() -> None:
    def on_base(kind: JobKind, revdep: str | None = None) -> str | None:
        job = Job(platform="p", package="a.1", kind=kind, revdep=revdep)
        return None if job.on_base is None else job.on_base.id

    assert on_base(JobKind.BUILD) == "base-build p a.1"
    assert on_base(JobKind.LOWER_BOUNDS) == "base-lower-bounds p a.1"
    assert on_base(JobKind.TEST) == "base-test p a.1"
    assert on_base(JobKind.REVDEP, "r.1") == "base-build p r.1"
    assert on_base(JobKind.REVDEP_TEST, "r.1") == "base-test p r.1"
    assert on_base(JobKind.LINT) is None
    assert on_base(JobKind.BASE_BUILD) is None
    test = Job(platform="p", package="r.1", kind=JobKind.BASE_TEST)
    assert test.plain == Job(platform="p", package="r.1", kind=JobKind.TEST)
    assert test.title == "r.1 test without the change"
    build = Job(platform="p", package="r.1", kind=JobKind.BUILD)
    assert build.plain == build


def test_a_cap_below_the_first_wait_is_refused() -> None:
    with pytest.raises(ValidationError, match="shorter than the first"):
        RetrySettings(initial_interval=timedelta(hours=1))


def test_a_long_first_wait_raises_the_cap() -> None:
    retry = RetrySettings.beginning_with(timedelta(hours=1), attempts=3)
    assert [retry.delay(attempt) for attempt in (1, 2)] == [timedelta(hours=1)] * 2
    assert retry.is_last(3)
    short = RetrySettings.beginning_with(timedelta(seconds=1), attempts=3)
    assert short.maximum_interval == RetrySettings().maximum_interval


def test_backoff_grows_is_capped_and_honours_the_other_side() -> None:
    retry = RetrySettings(maximum_interval=timedelta(minutes=5))
    waits = [retry.delay(attempt) for attempt in range(1, 5)]
    assert waits == [timedelta(minutes=m) for m in (1, 3, 5, 5)]
    assert retry.delay(1, retry_after=timedelta(hours=1)) == timedelta(hours=1)
    assert retry.delay(10**9) == timedelta(minutes=5)
    assert not retry.is_last(4)
    assert retry.is_last(5)


@given(st.integers(1, 50), st.floats(0, 1, exclude_max=True))
def test_jitter_stays_within_its_share(attempt: int, chance: float) -> None:
    retry = RetrySettings()
    plain = retry.delay(attempt).total_seconds()
    assert abs(retry.delay(attempt, chance=chance).total_seconds() - plain) <= 0.2 * plain + 1e-6


def test_every_phase_has_a_limit() -> None:
    assert all(PhaseTimeouts().of(phase) > timedelta() for phase in Phase)


def test_a_row_records_each_attempt_of_its_round(index: Index) -> None:
    rows = table()
    rows.fault(BUILD.id, faulted(1))
    rows.started(BUILD.id, started(2))
    rows.decide(BUILD.id, report(PASSED, attempt=2))
    key = revision_key(PullRequestRef(owner="o", repo="r", number=1), "a" * 40, AT)
    index.record(RowBatch(key=key, rows=rows.rows, sequence=1, updated_at=AT))
    attempts = sorted(index.attempts().items, key=lambda each: each.number)
    assert [(each.number, each.outcome and label(each.outcome)) for each in attempts] == [
        (1, "errored(dns)"),
        (2, "passed"),
    ]
    assert [each.status.attempt for each in index.jobs().items] == [2]
