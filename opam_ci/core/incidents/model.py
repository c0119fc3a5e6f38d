"""The values that incidents are made of."""

from enum import StrEnum

from pydantic import AwareDatetime, Field

from opam_ci.core.job import Job
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cause, Evidence
from opam_ci.core.records import RevisionKey


class Scope(StrEnum):
    """How far an incident reaches."""

    WORKER = "worker"
    """One worker alone: its disk, its sandbox, its network."""
    POOL = "pool"
    """Several workers of one pool: its image, its mirror."""
    ALL = "all"
    """Several pools, or the orchestration too: what everybody uses."""


class FaultSeen(Frozen):
    """An attempt that ended by an infrastructure fault.

    Attributes:
        revision: Of which testing.
        job: Of which job.
        round: Of which round, from 1.
        attempt: Its number within the round, from 1.
        cause: Why.
        at: When it ended.
        worker: Who ran it, if known.
        pool: For what it builds; None for repository jobs.
        evidence: On what the cause rests.
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
    """Where an incident is.

    Attributes:
        scope: How far it reaches.
        pool: The pool, for a worker's and a pool's.
        worker: The worker, for a worker's.
    """

    scope: Scope
    pool: str | None = None
    worker: str | None = None


class Incident(Frozen):
    """Faults of one cause, close in time.

    Attributes:
        id: Its number in the index.
        cause: Why they happened.
        place: Where.
        first_seen_at: When the first of them was noticed.
        last_seen_at: When the last of them was.
        resolved_at: When it was found repaired, None while it is open.
        resolved_by: Who or what found that.
        faults: How many.
        jobs: How many jobs they hit.
        pull_requests: How many pull requests and branches.
        evidence: Of the first of them.
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
        """Whether it is not repaired yet, as far as anybody knows."""
        return self.resolved_at is None


class HitJob(Frozen):
    """A job that an incident hit and that stands errored.

    Attributes:
        revision: Of which testing.
        job: Which.
        automatic: What restarts of it have cost since somebody last asked for one.
    """

    revision: RevisionKey
    job: Job
    automatic: int = Field(default=0, ge=0)
