"""The state of one pull request's head, from which statuses, tables and pages are made."""

from collections import Counter
from collections.abc import Collection, Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import Field

from opam_ci.core.jobs.hold import Hold
from opam_ci.core.jobs.job import BASE_KINDS, Job, JobKind, Phase
from opam_ci.core.jobs.outcome import (
    Cancelled,
    Cause,
    Errored,
    Evidence,
    Failed,
    Outcome,
    Passed,
    Skipped,
    SkipReason,
    fixes_of,
)
from opam_ci.core.model import Frozen
from opam_ci.core.packed import Packed
from opam_ci.core.submission.effect import Effect
from opam_ci.core.submission.result import Packages


class JobState(StrEnum):
    """The state of a job. Only `DECIDED` jobs have an outcome."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    """Its last attempt met an infrastructure fault; the next one waits for its backoff."""
    DECIDED = "decided"


class Standing(StrEnum):
    """The state of an undecided job, or the kind of a decided one's outcome."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    ERRORED = "errored"
    CANCELLED = "cancelled"


UNDECIDED = frozenset({Standing.QUEUED, Standing.RUNNING, Standing.RETRYING})
"""Standings of jobs without an outcome."""

DECIDED = frozenset(Standing) - UNDECIDED
"""Standings of jobs with an outcome."""

FIXED: Final = "fixed"
"""Why passed jobs are counted apart that are known to fail without the change."""


class State(StrEnum):
    """The four states of a GitHub commit status, with GitHub's names."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"


class Fault(Frozen):
    """One attempt lost to an infrastructure fault, visible as soon as it happened.

    Attributes:
        attempt: Number of the attempt, from 1.
        cause: Of the fault.
        evidence: For the cause.
        worker: Identity of the worker that ran it, if known.
        at: When it was noticed.
        started_at: When the attempt began, if known.
        log: Key of the attempt's log in the store, if there is one.
        alone: Whether the attempt ran alone in its worker's process at its last heartbeat.
    """

    attempt: int
    cause: Cause
    evidence: Evidence
    worker: str | None
    at: datetime
    started_at: datetime | None = None
    log: str | None = None
    alone: bool = False


class JobStatus(Frozen):
    """One row of the job matrix.

    Attributes:
        job: The job.
        state: Its state.
        round: 1 for the job's first run at this head, one more for each restart.
        restart_budget_used: Cost of automatic restarts since the last manual one, in units of
            `RESTART_COST`.
        attempt: Number of the current or last attempt of the round, 0 before the first.
        phase: The phase under way, if known.
        note: What is being made before the first phase can begin, for people.
        outcome: Its outcome, once decided.
        faults: Attempts of this round lost to infrastructure faults, oldest first.
        started_at: When its current round began.
        attempt_started_at: When its current or last attempt began.
        worker: Identity of the worker of that attempt, if known.
        decided_at: When it was decided.
        next_attempt_at: Time of the automatic retry, for `RETRYING`.
        log: Key of the last attempt's log.
        cpu_seconds: Processor time of the attempt that decided it, None if unknown.
        image: Fingerprint of the image that this attempt ran in, None if unknown.
        verdict_key: What the outcome of this attempt depends on, None if unknown.
        audits: Label of the verdict that was known for that key, if the job ran all the same.
    """

    job: Job
    state: JobState = JobState.QUEUED
    round: int = 1
    restart_budget_used: int = 0
    attempt: int = 0
    phase: Phase | None = None
    note: str = ""
    outcome: Outcome | None = None
    faults: tuple[Fault, ...] = ()
    started_at: datetime | None = None
    attempt_started_at: datetime | None = None
    worker: str | None = None
    decided_at: datetime | None = None
    next_attempt_at: datetime | None = None
    log: str | None = None
    cpu_seconds: float | None = None
    image: str | None = None
    verdict_key: str | None = None
    audits: str | None = None

    @property
    def standing(self) -> Standing:
        """The outcome's kind once it is decided, before that the state."""
        return Standing(self.outcome.kind if self.outcome is not None else self.state.value)


Rows = Annotated[tuple[JobStatus, ...], Packed()]
"""Rows in payloads between workflows and activities."""

ReadableRows = Annotated[tuple[JobStatus, ...], Packed(above=300)]
"""Rows that people read with Temporal's own tools: unpacked as long as they certainly fit in a
payload, each with five kilobytes of faults."""


ROUND_MARK = " round "
"""Separates a job's id from the number of its round in the ids of activities."""


def activity_id(row: JobStatus, head: str) -> str:
    """Returns the id of the job's activity: findable in the Web UI, unique in a workflow.

    Args:
        row: The job.
        head: Commit under test; the workflow of a pull request analyses one after the other.
    """
    name = row.job.id if row.round == 1 else f"{row.job.id}{ROUND_MARK}{row.round}"
    return f"{name} of {head[:12]}" if row.job.kind is JobKind.ANALYSIS else name


class Counts(Frozen):
    """Numbers of jobs by standing. Failed and errored are never added up."""

    queued: int = 0
    running: int = 0
    retrying: int = 0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    errored: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """All jobs."""
        return self.undecided + self.decided

    @property
    def undecided(self) -> int:
        """Jobs without an outcome."""
        return self.queued + self.running + self.retrying

    @property
    def decided(self) -> int:
        """Jobs with one."""
        return self.passed + self.failed + self.skipped + self.errored + self.cancelled


class JobCount(Frozen):
    """Number of jobs of one kind on one platform with the same standing and reason.

    Attributes:
        platform: Name of the platform; empty for analysis and lint.
        kind: Kind of the jobs.
        standing: Their standing.
        why: Reason of failed and skipped ones, cause of errored and retrying ones,
            `Cancelled.by` of cancelled ones, `FIXED` of passed ones that fail without the
            change; else empty.
        number: Number of the jobs.
    """

    platform: str
    kind: JobKind
    standing: Standing
    why: str = ""
    number: int = Field(ge=0)


JobCounts = Annotated[tuple[JobCount, ...], Packed(above=40)]
"""Counts in payloads: for 75 platforms there can be some thousand."""

SHOWN_ROWS = 50
"""Rows of one platform that a summary shows: all of a usual pull request's, and of ten thousand
those that people look for first. The others are in the index."""


class PlatformStanding(Frozen):
    """The standing of the jobs on one platform: numbers, and the few rows that explain them.

    Attributes:
        platform: Name of the platform; empty for lint.
        counts: Of all its jobs.
        shown: At most `SHOWN_ROWS` rows.
    """

    platform: str
    counts: JobCounts = ()
    shown: Rows = ()


class Summary(Frozen):
    """The state of one head: counts, causes, and the rows that explain them.

    Attributes:
        pull_request: Such as `ocaml/opam-repository#30203`, or a local branch's name.
        head: Commit under test.
        base: Commit it is merged into.
        request: The request that this answers, see `Revision.request`.
        planned: Whether the list of jobs is complete: before that, nothing is green.
        concluded: Whether nothing is left that only all platforms together can decide.
        packages: The changed packages.
        tallies: Numbers of all jobs.
        jobs: Rows that explain them, analysis first; not all rows of a large head.
        hold: Why queued jobs are not run yet, None if none wait for an approval.
        effect: What the head does to other packages, None if that is not decided (yet).
        notices: Notices that are not verdicts, such as a rejected signal.
        estimated_until: By when all is decided, as was estimated first; None for no estimate.
        updated_at: Time of this state.
    """

    pull_request: str
    head: str
    base: str
    request: str = ""
    planned: bool = False
    concluded: bool = True
    packages: Packages = ()
    tallies: JobCounts = ()
    jobs: ReadableRows = ()
    hold: Hold | None = None
    effect: Effect | None = None
    notices: tuple[str, ...] = ()
    estimated_until: datetime | None = None
    updated_at: datetime | None = None

    @property
    def counts(self) -> Counts:
        """Numbers of all jobs, those included that build nothing."""
        return total(self.tallies)

    @property
    def ran(self) -> Counts:
        """Numbers of builds and tests: those that people see."""
        return total(each for each in self.tallies if each.kind not in BUILDS_NOTHING)

    @property
    def unserved(self) -> int:
        """Number of platforms that no worker serves."""
        return total(each for each in self.tallies if each.kind is JobKind.PLATFORM).skipped

    @property
    def fixed(self) -> int:
        """Number of jobs that passed, and are known to fail without the change."""
        return sum(each.number for each in self.tallies if each.why == FIXED)

    @property
    def is_analysed(self) -> bool:
        """Whether the analysis passed: only then can there be other jobs."""
        return any(
            each.kind is JobKind.ANALYSIS and each.standing is Standing.PASSED
            for each in self.tallies
        )

    @property
    def state(self) -> State:
        """The status state on GitHub.

        A job on the base is waited for, and decides nothing by itself. Where a platform is not
        served and nothing has passed on the others, nothing is proven: the CI lacks workers.
        """
        counting = (
            each
            for each in self.tallies
            if each.kind not in BASE_KINDS or each.standing in UNDECIDED
        )
        state = state_of(total(counting), planned=self.planned and self.concluded)
        if state is State.SUCCESS and stopped(self.tallies):
            # What they were stopped for does not count any more: they are about to run.
            return State.PENDING
        nothing = state is State.SUCCESS and self.unserved and not self.ran.passed
        return State.ERROR if nothing else state

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Causes of all jobs that are errored or wait for a retry, sorted."""
        return tuple(sorted(self.cause_counts))

    @property
    def cause_counts(self) -> Counter[Cause]:
        """Numbers of jobs that are errored or wait for a retry, by cause."""
        causes: Counter[Cause] = Counter()
        for each in self.tallies:
            if each.standing in {Standing.ERRORED, Standing.RETRYING}:
                causes[Cause(each.why)] += each.number
        return causes

    def of_kinds(self, kinds: Collection[JobKind]) -> Self:
        """Returns the summary of the jobs of some kinds only."""
        return self.model_copy(
            update={
                "tallies": tuple(each for each in self.tallies if each.kind in kinds),
                "jobs": tuple(row for row in self.jobs if row.job.kind in kinds),
                "effect": None,
            }
        )


CountKey = tuple[str, JobKind, Standing, str]
"""Platform, kind, standing and why of a `JobCount`."""


def count_key(row: JobStatus) -> CountKey:
    """Returns the key under which a row is counted."""
    return row.job.platform, row.job.kind, row.standing, why_counted(row)


def why_counted(row: JobStatus) -> str:
    """Returns the reason, cause, `Cancelled.by` or `FIXED`, see `JobCount.why`; empty for none."""
    match row.outcome:
        case Failed(reason=reason) | Skipped(reason=reason):
            return reason.value
        case Errored(cause=cause):
            return cause.value
        case Cancelled(by=by):
            return by
        case Passed() if fixes_of(row.outcome) is not None:
            return FIXED
        case None if row.state is JobState.RETRYING:
            return (row.faults[-1].cause if row.faults else Cause.UNKNOWN).value
        case _:
            return ""


def total(counts: Iterable[JobCount]) -> Counts:
    """Adds counts up by standing."""
    numbers: Counter[str] = Counter()
    for each in counts:
        numbers[each.standing.value] += each.number
    return Counts(**numbers)


def stopped(counts: Iterable[JobCount]) -> int:
    """Counts the jobs that were not run because others fail alike, see `early_stop.py`."""
    return sum(each.number for each in counts if each.why == SkipReason.STOPPED_EARLY)


def state_of(counts: Counts, *, planned: bool) -> State:
    """Decides the status state of a context.

    An undecided job never yields green, and an error never hides a proven failure. A
    cancelled job is undecided for this purpose: it says nothing about the package.

    Args:
        counts: Of the context's jobs.
        planned: Whether the list of jobs is complete.
    """
    if not planned or counts.undecided or counts.cancelled:
        return State.PENDING
    if counts.failed:
        return State.FAILURE
    if counts.errored:
        return State.ERROR
    return State.SUCCESS


def cause_of(job: JobStatus) -> Cause | None:
    """Returns why a job is errored or waits for a retry, None if it does neither."""
    if job.outcome is not None:
        return job.outcome.cause if job.outcome.kind == "errored" else None
    return job.faults[-1].cause if job.state is JobState.RETRYING and job.faults else None


REPOSITORY_JOBS = (JobKind.ANALYSIS, JobKind.LINT)
"""Kinds that run once for each head and belong to no platform."""

BUILDS_NOTHING = (
    *(*REPOSITORY_JOBS, JobKind.PLATFORM, JobKind.IMAGE, JobKind.LIST_REVDEPS),
    *sorted(BASE_KINDS),
)
"""Kinds that are not counted with builds and tests, but listed separately."""
