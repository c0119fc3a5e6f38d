"""Incidents, their faults, places and jobs."""

from enum import StrEnum

from pydantic import AwareDatetime, Field

from opam_ci.core.jobs.job import Job
from opam_ci.core.jobs.outcome import Cause, Evidence
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.model import Frozen


class Scope(StrEnum):
    """The extent of an incident."""

    WORKER = "worker"
    """One worker: its disk, its sandbox, its network."""
    POOL = "pool"
    """Several workers of one pool: its image, its mirror."""
    ALL = "all"
    """Several pools, or the orchestration too: something shared by all."""


class FaultSeen(Frozen):
    """An attempt that ended by an infrastructure fault.

    Attributes:
        revision: The testing.
        job: The job.
        round: The job's round, from 1.
        attempt: Its number within the round, from 1.
        cause: Of the fault.
        at: When it ended.
        worker: Identity of the worker, if known.
        pool: Pool of the worker; None for repository jobs.
        evidence: For the cause.
    """

    revision: RevisionKey
    job: Job
    round: int = Field(default=1, ge=1)
    attempt: int = Field(default=1, ge=1)
    cause: Cause
    at: AwareDatetime
    worker: str | None = None
    pool: str | None = None
    evidence: Evidence


class Place(Frozen):
    """The place of an incident.

    Attributes:
        scope: Its extent.
        pool: The pool, for the scopes worker and pool.
        worker: The worker, for the scope worker.
    """

    scope: Scope
    pool: str | None = None
    worker: str | None = None


class Incident(Frozen):
    """Faults of one cause, close in time.

    Attributes:
        id: Its number in the index.
        cause: Of the faults.
        place: Of the faults.
        first_seen_at: When the first fault was noticed.
        last_seen_at: When the last fault was noticed.
        resolved_at: When it was found repaired, None while it is open.
        resolved_by: Operator or event by which it counts as repaired.
        faults: Number of faults.
        jobs: Number of jobs that they hit.
        pull_requests: Number of pull requests and branches that they hit.
        evidence: Of the first fault.
    """

    id: int
    cause: Cause
    place: Place
    first_seen_at: AwareDatetime
    last_seen_at: AwareDatetime
    resolved_at: AwareDatetime | None = None
    resolved_by: str | None = None
    faults: int = Field(ge=1)
    jobs: int = Field(ge=1)
    pull_requests: int = Field(ge=1)
    evidence: Evidence

    @property
    def is_open(self) -> bool:
        """Whether it is not known to be repaired."""
        return self.resolved_at is None


class HitJob(Frozen):
    """A job that an incident hit and that is errored.

    Attributes:
        revision: The testing.
        job: The job.
        restart_budget_used: See `JobStatus.restart_budget_used`.
    """

    revision: RevisionKey
    job: Job
    restart_budget_used: int = Field(default=0, ge=0)
