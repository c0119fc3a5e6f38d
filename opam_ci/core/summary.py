"""The state of one pull request's head: what statuses, tables and pages are made from."""

from collections import Counter
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from opam_ci.core.analysis_result import Packages
from opam_ci.core.job import Job, JobKind, Phase
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cause, Evidence, Outcome
from opam_ci.core.packed import Packed


class JobState(StrEnum):
    """How far a job is. Only `DECIDED` jobs have an outcome."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    """Its last attempt met an infrastructure fault; the next one waits for its backoff."""
    DECIDED = "decided"


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
        cause: Why.
        evidence: On what that rests.
        worker: Identity of the worker that ran it, if known.
        at: When it was noticed.
        started_at: When the attempt began, if known.
        log: Key of the attempt's log in the store, if it got that far.
        alone: Whether the attempt ran alone in its worker's process when it was last heard of.
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
        job: Which.
        state: How far.
        round: 1 for the job's first run at this head, one more for each restart.
        automatic: What restarts of it have cost since somebody last asked for one.
        attempt: Number of the current or last attempt of the round, 0 before the first.
        phase: The phase under way, when it is known.
        outcome: What it came to, once decided.
        faults: Attempts of this round lost to the CI itself, oldest first.
        started_at: When its current round began.
        attempt_started_at: When its current or last attempt began.
        worker: Who runs, or ran, that attempt, if known.
        decided_at: When it was decided.
        next_attempt_at: When the automatic retry comes, for `RETRYING`.
        log: Key of the last attempt's log.
    """

    job: Job
    state: JobState = JobState.QUEUED
    round: int = 1
    automatic: int = 0
    attempt: int = 0
    phase: Phase | None = None
    outcome: Outcome | None = None
    faults: tuple[Fault, ...] = ()
    started_at: datetime | None = None
    attempt_started_at: datetime | None = None
    worker: str | None = None
    decided_at: datetime | None = None
    next_attempt_at: datetime | None = None
    log: str | None = None

    @property
    def standing(self) -> str:
        """Where it stands, by the names of `Counts`: the outcome's kind, before it the state."""
        return self.outcome.kind if self.outcome is not None else self.state.value


Rows = Annotated[tuple[JobStatus, ...], Packed()]
"""Rows as they travel between workflows and activities."""

ReadableRows = Annotated[tuple[JobStatus, ...], Packed(above=300)]
"""Rows that people read with Temporal's own tools: as they are for as long as a payload holds
them with certainty, each with five kilobytes of faults."""


ROUND_MARK = " round "
"""Separates a job's id from the number of its round in the ids of activities."""


def activity_id(row: JobStatus) -> str:
    """Returns the id of the job's activity: findable in the Web UI, unique in a workflow."""
    return row.job.id if row.round == 1 else f"{row.job.id}{ROUND_MARK}{row.round}"


class Counts(Frozen):
    """How many jobs are where. Failed and errored are never one number."""

    queued: int = 0
    running: int = 0
    retrying: int = 0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    errored: int = 0
    cancelled: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        """Adds number by number."""
        return Counts(
            **{name: getattr(self, name) + getattr(other, name) for name in Counts.model_fields}
        )

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


class JobGroup(Frozen):
    """The jobs on the reverse dependencies of one package on one platform, as numbers.

    A package such as dune has ten thousand of them: more rows than a payload may hold. Each
    row is in the index; here are their numbers and those that people look for first.

    Attributes:
        platform: On which platform.
        package: Whose reverse dependencies.
        round: Highest round of any of its jobs.
        version: Grows with each change; of two with the same round the higher one is newer.
        listing: Key of the list in the store.
        listed: How many reverse dependencies the list has.
        taken: How many of them, from its start, have become jobs.
        untaken: How many jobs the others make.
        counts: How many jobs are where; those not yet taken from the list are queued.
        causes: How many are errored or wait for a retry, by cause.
        shown: At most `GROUP_ROWS` rows, the most interesting ones.
    """

    platform: str
    package: str
    round: int = 1
    version: int = 0
    listing: str
    listed: int
    taken: int = 0
    untaken: int = 0
    counts: Counts = Counts()
    causes: dict[Cause, int] = Field(default_factory=dict)
    shown: tuple[JobStatus, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """What tells it apart within a head."""
        return self.platform, self.package


GROUP_ROWS = 50
"""Rows that a group shows: some 50 kB of a payload's 2 MB, with several groups in one."""


class Summary(Frozen):
    """All about one head.

    Attributes:
        pull_request: Such as `ocaml/opam-repository#30203`, or a local branch's name.
        head: Commit under test.
        base: Commit it is merged into.
        request: Which request this answers, see `Revision.request`.
        planned: Whether the list of jobs is complete: before that, nothing is green.
        packages: What the analysis found.
        jobs: The job matrix, repository jobs first.
        notices: Things to know that are no verdict, such as a refused signal.
        updated_at: When this was true.
        counts_all: Whether analysis and lint are counted among the builds, as workflows do that
            were started when that was so: what they post decides what they do next.
    """

    pull_request: str
    head: str
    base: str
    request: str = ""
    planned: bool = False
    packages: Packages = ()
    jobs: ReadableRows = ()
    groups: tuple[JobGroup, ...] = ()
    notices: tuple[str, ...] = ()
    updated_at: datetime | None = None
    counts_all: bool = Field(default=False, exclude=True)

    @property
    def counts(self) -> Counts:
        """How many jobs are where, those included that build nothing."""
        return sum((group.counts for group in self.groups), count(self.jobs))

    @property
    def ran(self) -> Counts:
        """How many builds and tests are where: the numbers that people are told."""
        if self.counts_all:
            return self.counts
        jobs = tuple(row for row in self.jobs if row.job.kind not in BUILDS_NOTHING)
        return sum((group.counts for group in self.groups), count(jobs))

    @property
    def state(self) -> State:
        """What GitHub is told."""
        return state_of(self.counts, planned=self.planned)

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Causes of all jobs that are errored or wait for a retry, sorted."""
        return tuple(sorted(self.cause_counts))

    @property
    def cause_counts(self) -> Counter[Cause]:
        """How many jobs are errored or wait for a retry, by cause."""
        causes = Counter(cause for job in self.jobs if (cause := cause_of(job)) is not None)
        for group in self.groups:
            causes.update(group.causes)
        return causes

    @property
    def shown(self) -> tuple[JobStatus, ...]:
        """Every row that there is to show: all jobs, and those that the groups show."""
        return self.jobs + tuple(row for group in self.groups for row in group.shown)


def count(jobs: tuple[JobStatus, ...]) -> Counts:
    """Counts jobs by state and outcome."""
    return Counts(**Counter(job.standing for job in jobs))


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

BUILDS_NOTHING = (*REPOSITORY_JOBS, JobKind.LIST_REVDEPS)
"""Kinds that are named apart wherever builds and tests are counted."""
