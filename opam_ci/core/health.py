"""Whether a build worker should take jobs: a state machine over what it has seen of itself.

A fault that can be the worker's own quarantines it, for twice as long each time, until a job
passes. At the end of a quarantine a probe (host checks and a build that must pass) decides
whether it goes on; after that the worker takes one job at a time until one has passed. So a
worker that fails everything fast takes a handful of jobs and then leaves the queue alone.
"""

from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import AwareDatetime, Field

from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cause, Errored, Outcome

OWN_CAUSES = frozenset(
    {
        Cause.DISK_FULL,
        Cause.OUT_OF_MEMORY,
        Cause.SANDBOX,
        Cause.IMAGE,
        Cause.OPAM_INTERNAL,
        Cause.REPOSITORY_STATE,
        Cause.STORAGE,
        Cause.UNKNOWN,
    }
)
"""Causes that lie in the worker's machine as far as one fault can tell: one is enough."""

NETWORK_CAUSES = frozenset({Cause.NETWORK, Cause.DNS, Cause.PACKAGE_MIRROR, Cause.GIT})
"""Causes that lie in the worker's network or in the other side: several in a row are needed.

When the network is down for everybody, all workers step back one by one; the jobs wait in the
queue instead of using up their attempts, and each quarantine's end tries again.
"""


class WorkerState(StrEnum):
    """What a worker does with jobs."""

    HEALTHY = "healthy"
    """It takes as many as it is set to."""
    PROBATION = "probation"
    """Back from a quarantine, it takes one at a time until one has passed."""
    QUARANTINED = "quarantined"
    """It takes none."""


class HealthPolicy(Frozen):
    """When a worker steps back, and for how long.

    Attributes:
        first_quarantine: Length of the first quarantine.
        coefficient: Factor for each further one before a job passes.
        longest_quarantine: Cap of one quarantine.
        network_faults: Faults of the network in a row that quarantine.
        fresh_jobs: Jobs that a worker has in its hands at most, of which nothing is known
            yet: so many can be lost before the first fault is noticed.
        fresh_for: A job that has run for so long is no longer fresh: it did not fail fast.
    """

    first_quarantine: timedelta = timedelta(seconds=10)
    coefficient: float = Field(default=2.0, ge=1.0)
    longest_quarantine: timedelta = timedelta(hours=1)
    network_faults: int = Field(default=3, ge=1)
    fresh_jobs: int = Field(default=4, ge=1)
    fresh_for: timedelta = timedelta(minutes=1)

    def quarantine(self, strikes: int) -> timedelta:
        """Returns the length of a quarantine.

        Args:
            strikes: Which one it is since a job passed, from 1.
        """
        # The exponent is bounded so that no number of strikes can overflow a float.
        factor = self.coefficient ** min(strikes - 1, 64)
        seconds = self.first_quarantine.total_seconds() * factor
        return timedelta(seconds=min(seconds, self.longest_quarantine.total_seconds()))


class Finding(Frozen):
    """What is wrong with a worker.

    Attributes:
        cause: What to repair.
        detail: The same in words.
    """

    cause: Cause
    detail: str


class Health(Frozen):
    """How a worker is.

    Attributes:
        strikes: Quarantines since a job passed.
        network_faults: Faults of the network in a row.
        faulted_at: When the last fault that counts happened.
        until: Earliest end of the quarantine, None outside of one.
        reason: Why it was quarantined last.
        host: What the host check finds wrong at the moment: no job is taken meanwhile.
    """

    strikes: int = 0
    network_faults: int = 0
    faulted_at: AwareDatetime | None = None
    until: AwareDatetime | None = None
    reason: Finding | None = None
    host: Finding | None = None

    @property
    def state(self) -> WorkerState:
        """What the worker does with jobs."""
        if self.host is not None or self.until is not None:
            return WorkerState.QUARANTINED
        return WorkerState.PROBATION if self.strikes else WorkerState.HEALTHY

    @property
    def is_unproven(self) -> bool:
        """Whether the worker has just started: it takes no job yet, and nothing is wrong."""
        return self.until is not None and not self.strikes and self.host is None

    @property
    def trouble(self) -> Finding | None:
        """What is wrong with the worker that it takes no jobs, None if nothing is."""
        if self.host is not None:
            return self.host
        return self.reason if self.until is not None and not self.is_unproven else None

    def slots(self, builds: int) -> int:
        """Returns how many jobs the worker may run at once.

        Args:
            builds: How many it is set to.
        """
        match self.state:
            case WorkerState.QUARANTINED:
                return 0
            case WorkerState.PROBATION:
                return 1
            case WorkerState.HEALTHY:
                return builds

    def needs_probe(self, now: datetime) -> bool:
        """Whether the quarantine is over as soon as a probe says so."""
        return self.host is None and self.until is not None and now >= self.until


def unproven(now: datetime) -> Health:
    """Returns the health of a worker that has just started: a probe comes before any work."""
    return Health(until=now)


def after_attempt(
    health: Health,
    outcome: Outcome,
    *,
    began_at: datetime,
    now: datetime,
    policy: HealthPolicy,
) -> Health:
    """Returns a worker's health after an attempt of a job has ended.

    Args:
        health: Before.
        outcome: What the attempt came to. Only a job that passed proves the worker good:
            packages fail for their own reasons, and on a broken worker for another's.
        began_at: When the attempt began.
        now: When it ended.
        policy: When to step back.
    """
    if not isinstance(outcome, Errored):
        if outcome.kind != "passed" or (health.faulted_at and began_at < health.faulted_at):
            # What began before the fault says nothing about the time after it.
            return health
        return Health(host=health.host)
    finding = Finding(cause=outcome.cause, detail=_words(outcome))
    if outcome.cause in OWN_CAUSES:
        return _struck(health, finding, now, policy)
    if outcome.cause in NETWORK_CAUSES:
        noted = health.model_copy(
            update={"network_faults": health.network_faults + 1, "faulted_at": now}
        )
        # On probation the network has not been seen to work again: one more is enough.
        if noted.network_faults >= policy.network_faults or health.strikes:
            return _struck(noted, finding, now, policy)
        return noted
    return health


def after_probe(
    health: Health, finding: Finding | None, *, now: datetime, policy: HealthPolicy
) -> Health:
    """Returns a worker's health after the probe at the end of a quarantine.

    A good probe lets it take jobs again, one at a time; only a job that passes lets it
    forget: a probe builds one tiny package and cannot know everything that jobs need.
    """
    if finding is not None:
        return _struck(health.model_copy(update={"until": None}), finding, now, policy)
    return health.model_copy(update={"until": None, "network_faults": 0})


def after_check(health: Health, finding: Finding | None) -> Health:
    """Returns a worker's health after a look at its host (disk, memory, clock)."""
    return health.model_copy(update={"host": finding})


def _struck(health: Health, finding: Finding, now: datetime, policy: HealthPolicy) -> Health:
    if health.until is not None:
        # Jobs that were under way when it was quarantined fail of what is known already.
        return health.model_copy(update={"faulted_at": now})
    strikes = health.strikes + 1
    return health.model_copy(
        update={
            "strikes": strikes,
            "network_faults": 0,
            "faulted_at": now,
            "until": now + policy.quarantine(strikes),
            "reason": finding,
        }
    )


def _words(outcome: Errored) -> str:
    evidence = outcome.evidence
    return evidence.detail or (evidence.lines[0].text if evidence.lines else evidence.rule)
