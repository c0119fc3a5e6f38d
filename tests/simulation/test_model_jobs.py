"""One platform's jobs: the table, the states and the tally under any faults of the network.

The workflow learns of an attempt by signals: late, twice, in any order, or never. A record of what
really happened is kept beside it, and the two are compared after each step.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from opam_ci.core.jobs.job import PACKAGE_PHASES, Job, JobKind, Phase
from opam_ci.core.jobs.lost_attempt import lost
from opam_ci.core.jobs.messages import JobHeartbeat, JobReport
from opam_ci.core.jobs.outcome import (
    Cancelled,
    Cause,
    Errored,
    Failed,
    FailureReason,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.signals import AttemptFaulted, AttemptStarted
from opam_ci.core.jobs.summary import (
    CountKey,
    Fault,
    JobState,
    JobStatus,
    PlatformStanding,
    Standing,
    count_key,
)
from opam_ci.core.jobs.table import KILLS_WORKER_AFTER, JobTable
from opam_ci.core.jobs.tally import Tally, counts_of, explaining
from tests.support.simulation.harness import AT, EVIDENCE, Simulation, one, pick, there_are

PLATFORM = "debian-13-ocaml-5.3/amd64"
JOBS = tuple(
    Job(platform=PLATFORM, package=f"p{number}.1", kind=kind)
    for number in range(3)
    for kind in (JobKind.BUILD, JobKind.TEST)
)
VERDICTS: tuple[Outcome, ...] = (
    Passed(evidence=EVIDENCE),
    Failed(reason=FailureReason.BUILD, evidence=EVIDENCE),
    Skipped(reason=SkipReason.NO_SOLUTION, evidence=EVIDENCE),
)
PASSED = VERDICTS[0]

mostly = st.sampled_from([True, True, True, False])


@dataclass
class Attempt:
    """What really happened to an attempt."""

    number: int
    worker: str
    phase: Phase | None = None
    alone: bool = False
    state: Literal["running", "faulted", "lost", "ended"] = "running"
    fault: Fault | None = None


@dataclass
class Run:
    """What really happened in one round of a job."""

    round: int
    attempts: list[Attempt] = field(default_factory=list)
    report: JobReport | None = None
    """The activity's result, until the workflow receives it."""

    @property
    def last(self) -> Attempt:
        return self.attempts[-1]

    @property
    def is_running(self) -> bool:
        return bool(self.attempts) and self.last.state == "running"

    @property
    def waits(self) -> bool:
        return bool(self.attempts) and self.report is None and self.last.state != "running"


class PlatformJobs(Simulation):
    """A workflow that takes jobs from an index, runs them, and records them."""

    EXPECTED = frozenset(
        {
            "take", "start", "fault", "loss", "next attempt", "verdict", "complete", "deliver",
            "duplicate", "lost signal", "late: decided", "late: another round",
            "late: not in hand", "out of order", "killed workers", "last attempt faulted",
            "settle", "cancel", "restart of a waiting job", "restart in the index",
            "judged again", "write", "drop", "continue as new",
        }
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.round = 1
        self.index = {job.id: JobStatus(job=job) for job in JOBS}
        self.table = JobTable()
        self.tally = Tally(self.recounted())
        self.runs: dict[str, Run] = {}
        self.decided: dict[str, Outcome] = {}
        self.network: list[tuple[str, AttemptFaulted | AttemptStarted]] = []
        self.clock = AT
        self.most_attempts = 1
        self.dropped = False

    # The machine's own state.

    def now(self) -> datetime:
        self.clock += timedelta(seconds=1)
        return self.clock

    def recounted(self) -> PlatformStanding:
        """The standing in the index of all jobs that are not in hand."""
        rows = [row for row in self.index.values() if row.job.id not in self.table]
        numbers: Counter[CountKey] = Counter(map(count_key, rows))
        return PlatformStanding(
            platform=PLATFORM, counts=counts_of(numbers), shown=explaining(rows)
        )

    def recount(self) -> None:
        self.tally.replace(self.recounted(), self.table.rows)

    def row(self, job_id: str) -> JobStatus | None:
        """The row that is in hand."""
        return self.table[job_id] if job_id in self.table else None  # noqa: SIM401  it has no get

    def in_hand(self, which: Callable[[JobStatus], bool]) -> list[JobStatus]:
        return [row for row in self.table.rows if which(row)]

    def of_runs(self, which: Callable[[Run], bool]) -> list[str]:
        """Jobs that really run, or wait, in the round that is in hand."""
        return [
            job_id
            for job_id, run in self.runs.items()
            if which(run) and job_id in self.table and self.table[job_id].outcome is None
        ]

    def moved(self, job_id: str) -> None:
        self.tally.move(self.table[job_id])
        row = self.table[job_id]
        if row.outcome is not None:
            assert self.decided.setdefault(job_id, row.outcome) == row.outcome

    # The workflow takes and starts.

    def queued(self) -> list[JobStatus]:
        return [
            row
            for row in self.index.values()
            if row.state is JobState.QUEUED and row.job.id not in self.table
        ]

    @initialize(number=st.integers(1, len(JOBS)), attempts=st.integers(2, 4))
    def begin(self, number: int, attempts: int) -> None:
        """Hypothesis leaves some rules out of a history: jobs run also where it is this one."""
        self.most_attempts = attempts
        self.take(number, started=True)

    @there_are(queued)
    @rule(limit=st.integers(1, 4), started=st.booleans())
    def take(self, limit: int, started: bool) -> None:
        self.step("take")
        for row in self.queued()[:limit]:
            self.table.take(row)
            self.tally.take(row)
            if started:
                self.begin_first_attempt(row)

    @there_are(lambda self: self.in_hand(lambda row: row.state is JobState.QUEUED))
    @rule(pick=pick)
    def start(self, pick: int) -> None:
        self.step("start")
        self.begin_first_attempt(one(self.in_hand(lambda row: row.state is JobState.QUEUED), pick))

    def begin_first_attempt(self, row: JobStatus) -> None:
        self.table.start(row.job.id, self.now())
        self.runs[row.job.id] = Run(row.round, [Attempt(1, "w1")])
        self.moved(row.job.id)

    @there_are(lambda self: self.in_hand(lambda row: row.state is JobState.QUEUED))
    @rule(pick=pick, outcome=st.sampled_from([*VERDICTS, Cancelled(by="request")]))
    def settle(self, pick: int, outcome: Outcome) -> None:
        """A job gets its outcome from the one that it needs."""
        self.step("settle")
        row = one(self.in_hand(lambda row: row.state is JobState.QUEUED), pick)
        self.table.settle(row.job.id, outcome, self.now())
        self.moved(row.job.id)

    # Attempts really do something.

    @there_are(lambda self: self.of_runs(lambda run: run.is_running))
    @rule(pick=pick, outcome=st.sampled_from(VERDICTS))
    def verdict(self, pick: int, outcome: Outcome) -> None:
        self.step("verdict")
        run = self.runs[one(self.of_runs(lambda run: run.is_running), pick)]
        run.last.state = "ended"
        run.report = self.report(run, outcome)

    @there_are(lambda self: self.of_runs(lambda run: run.is_running))
    @rule(pick=pick, cause=st.sampled_from([Cause.DNS, Cause.DISK_FULL]), at_once=st.booleans())
    def fault(self, pick: int, cause: Cause, at_once: bool) -> None:
        self.step("fault")
        job_id = one(self.of_runs(lambda run: run.is_running), pick)
        run = self.runs[job_id]
        last, now = run.last, self.now()
        last.state = "faulted"
        last.fault = Fault(
            attempt=last.number, cause=cause, evidence=EVIDENCE, worker=last.worker, at=now
        )
        is_last = last.number == self.most_attempts
        again = None if is_last else now + timedelta(minutes=last.number)
        message = AttemptFaulted(
            job=job_id, round=run.round, fault=last.fault, next_attempt_at=again
        )
        self.send(job_id, message, at_once=at_once)
        if is_last:
            self.hit("last attempt faulted")
            run.report = self.report(run, Errored(cause=cause, evidence=EVIDENCE))

    @there_are(lambda self: self.of_runs(lambda run: run.is_running))
    @rule(pick=pick, phase=st.sampled_from([Phase.BUILD, Phase.BUILD, None]), alone=mostly)
    def loss(self, pick: int, phase: Phase | None, alone: bool) -> None:
        """A worker is lost: no signal comes, until another attempt or the limit."""
        self.step("loss")
        job_id = one(self.of_runs(lambda run: run.is_running), pick)
        run = self.runs[job_id]
        run.last.state, run.last.phase, run.last.alone = "lost", phase, alone
        if run.last.number < self.most_attempts:
            return
        now = self.now()
        beat = _heartbeat(run.last, now)
        found = lost(beat, run.last.number, now)
        self.table.fault(job_id, AttemptFaulted(job=job_id, round=run.round, fault=found))
        self.moved(job_id)
        verdict = self.table.killer(job_id)
        killed = {
            each.worker
            for each in run.attempts
            if each.state == "lost" and each.phase in PACKAGE_PHASES
        }
        if verdict is not None:
            self.hit("killed workers")
            assert len(killed) >= KILLS_WORKER_AFTER
        outcome = verdict or Errored(cause=found.cause, evidence=found.evidence)
        run.report = self.report(run, outcome)

    @there_are(lambda self: self.of_runs(lambda run: run.waits))
    @rule(pick=pick, worker=st.sampled_from(["w2", "w1"]), knows=mostly, at_once=st.booleans())
    def next_attempt(self, pick: int, worker: str, knows: bool, at_once: bool) -> None:
        self.step("next attempt")
        job_id = one(self.of_runs(lambda run: run.waits), pick)
        run = self.runs[job_id]
        now = self.now()
        message = AttemptStarted(
            job=job_id,
            round=run.round,
            attempt=run.last.number + 1,
            worker=worker,
            at=now,
            previous=_heartbeat(run.last, now) if knows else None,
        )
        run.attempts.append(Attempt(message.attempt, worker))
        self.send(job_id, message, at_once=at_once)

    def report(self, run: Run, outcome: Outcome) -> JobReport:
        return JobReport(
            outcome=outcome,
            attempt=run.last.number,
            worker=run.last.worker,
            started_at=AT,
            ended_at=self.now(),
        )

    @there_are(lambda self: self.of_runs(lambda run: run.report is not None))
    @rule(pick=pick)
    def complete(self, pick: int) -> None:
        """The workflow receives the activity's result: once, but maybe before late signals."""
        self.step("complete")
        job_id = one(self.of_runs(lambda run: run.report is not None), pick)
        report = self.runs[job_id].report
        assert report is not None
        self.table.decide(job_id, report)
        self.moved(job_id)
        assert self.table[job_id].outcome == report.outcome

    # The network.

    def send(self, job_id: str, message: AttemptFaulted | AttemptStarted, *, at_once: bool) -> None:
        self.network.append((job_id, message))
        if at_once:
            self.arrive(*self.network.pop())

    @there_are(lambda self: self.network)
    @rule(pick=pick, keep=st.sampled_from([False, False, False, True]))
    def deliver(self, pick: int, keep: bool) -> None:
        self.step("deliver")
        place = pick % len(self.network)
        job_id, message = self.network[place]
        if place:
            self.hit("out of order")
        if keep:
            self.hit("duplicate")
        else:
            del self.network[place]
        self.arrive(job_id, message)

    def arrive(self, job_id: str, message: AttemptFaulted | AttemptStarted) -> None:
        before = self.row(job_id)
        if isinstance(message, AttemptFaulted):
            self.table.fault(job_id, message)
        else:
            self.table.started(job_id, message)
        if before is None:
            self.hit("late: not in hand")
            assert job_id not in self.table
            return
        self.moved(job_id)
        after = self.table[job_id]
        if before.outcome is not None or before.round != message.round:
            self.hit("late: decided" if before.outcome is not None else "late: another round")
            assert after == before

    @there_are(lambda self: self.network)
    @rule(pick=pick)
    def lose_signal(self, pick: int) -> None:
        self.step("lost signal")
        del self.network[pick % len(self.network)]

    # Users, incidents, and the index.

    @there_are(lambda self: self.in_hand(lambda row: row.outcome is None))
    @rule(often=st.sampled_from([False, False, False, True]))
    def cancel(self, often: bool) -> None:
        if not often:
            return
        self.step("cancel")
        undecided = self.in_hand(lambda row: row.outcome is None)
        self.table.cancel_undecided(Cancelled(by="request"), self.now())
        for row in undecided:
            self.moved(row.job.id)

    @there_are(lambda self: self.in_hand(lambda row: row.state is JobState.RETRYING))
    @rule(pick=pick)
    def restart_waiting(self, pick: int) -> None:
        self.step("restart of a waiting job")
        row = one(self.in_hand(lambda row: row.state is JobState.RETRYING), pick)
        self.round += 1
        self.table.restart(
            row.job.id, round_=self.round, restart_budget_used=row.restart_budget_used
        )
        self.runs.pop(row.job.id)
        self.moved(row.job.id)

    def rested(self) -> list[JobStatus]:
        """Decided rows that only the index has."""
        return [
            row
            for row in self.index.values()
            if row.outcome is not None and row.job.id not in self.table
        ]

    @there_are(rested)
    @rule(first=pick, number=st.integers(1, 4))
    def restart(self, first: int, number: int) -> None:
        self.step("restart in the index")
        rows = self.rested()
        self.round += 1
        for row in rows[first % len(rows) :][:number]:
            job = row.job
            self.index[job.id] = JobStatus(
                job=job, round=self.round, restart_budget_used=row.restart_budget_used
            )
            self.runs.pop(job.id, None)
            del self.decided[job.id]
        self.recount()

    @there_are(lambda self: [row for row in self.rested() if row.standing is Standing.FAILED])
    @rule(pick=pick)
    def judge_again(self, pick: int) -> None:
        self.step("judged again")
        row = one([row for row in self.rested() if row.standing is Standing.FAILED], pick)
        outcome = Errored(cause=Cause.UNKNOWN, evidence=EVIDENCE)
        self.index[row.job.id] = row.model_copy(update={"outcome": outcome})
        self.decided[row.job.id] = outcome
        self.recount()

    @precondition(lambda self: self.table.is_dirty)
    @rule(limit=st.integers(1, 9))
    def write(self, limit: int) -> None:
        self.step("write")
        for row in self.table.take_changed(limit):
            before = self.index[row.job.id]
            assert (row.round, row.attempt) >= (before.round, before.attempt)
            self.index[row.job.id] = row

    def written(self) -> list[JobStatus]:
        return self.in_hand(lambda row: row.outcome is not None and self.index[row.job.id] == row)

    @there_are(written)
    @rule(pick=pick)
    def drop(self, pick: int) -> None:
        self.step("drop")
        job_id = one(self.written(), pick).job.id
        self.table.drop(job_id)
        self.tally.forget(job_id)
        self.dropped = True

    @precondition(lambda self: self.dropped and not self.table.rows)
    @rule()
    def continue_as_new(self) -> None:
        self.step("continue as new")
        self.dropped = False
        standing = PlatformStanding.model_validate_json(self.tally.standing().model_dump_json())
        self.table, self.tally = JobTable(), Tally(standing)

    # Invariants.

    @invariant()
    def holds(self) -> None:
        self.numbers_are_a_recount()
        self.rows_say_what_happened()
        self.states_are_of_the_newest_attempt()

    def numbers_are_a_recount(self) -> None:
        rows = [self.row(job_id) or row for job_id, row in self.index.items()]
        standing = self.tally.standing()
        assert standing.counts == counts_of(Counter(map(count_key, rows)))
        newest = {row.job.id: row for row in rows}
        assert all(newest[row.job.id] == row for row in standing.shown)

    def rows_say_what_happened(self) -> None:
        for row in self.table.rows:
            assert (row.state is JobState.DECIDED) == (row.outcome is not None)
            numbers = [fault.attempt for fault in row.faults]
            assert numbers == sorted(set(numbers)), "a fault is noted once for each attempt"
            if row.state is JobState.QUEUED:
                assert not row.faults
                continue
            run = self.runs.get(row.job.id)
            if run is None or run.round != row.round:
                assert not row.faults
                continue
            assert row.attempt <= run.last.number <= self.most_attempts
            for fault in row.faults:
                really = run.attempts[fault.attempt - 1]
                assert really.state in {"faulted", "lost"}
                if fault.cause is not Cause.WORKER_LOST:
                    assert fault == really.fault

    def states_are_of_the_newest_attempt(self) -> None:
        for row in self.table.rows:
            newest = row.faults[-1] if row.faults else None
            faulted = newest is not None and newest.attempt == row.attempt
            if row.state is JobState.RETRYING:
                assert newest is not None
                assert faulted
                assert row.next_attempt_at == newest.at + timedelta(minutes=newest.attempt)
            elif row.state is JobState.RUNNING:
                assert not faulted or row.attempt == self.most_attempts
                assert row.next_attempt_at is None


def _heartbeat(attempt: Attempt, at: datetime) -> JobHeartbeat:
    return JobHeartbeat(
        attempt=attempt.number,
        worker=attempt.worker,
        started_at=at,
        phase=attempt.phase,
        alone=attempt.alone,
        fault=attempt.fault,
    )


def test_jobs_of_a_platform(run: Callable[[type[Simulation], float], None]) -> None:
    run(PlatformJobs, 0.45)
