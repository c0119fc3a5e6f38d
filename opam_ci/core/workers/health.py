"""Whether a build worker should take jobs: a state machine over its own faults and probes.

A fault that can be the worker's own makes it probe itself at once (host checks and a build that
must pass, never the job that met the fault). A failed probe quarantines it, for twice as long each
time, until a job passes; a successful one attributes the fault to the job. Without a failed probe
only unrelated pull requests that met the same cause here quarantine it: what one pull request
submits cannot take a healthy worker out of service. So a worker that fails everything fast takes
a handful of jobs and then stops polling, and a hostile package costs it some probes.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from pydantic import AwareDatetime, Field

from opam_ci.core.jobs.job import count_unrelated, package_name
from opam_ci.core.jobs.outcome import IMAGE_UNFIT, OWN_LIMIT_RULES, Cause, Errored, Outcome
from opam_ci.core.model import Frozen

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
"""Causes that may lie in the worker's machine: one such fault makes it probe."""

NETWORK_CAUSES = frozenset({Cause.NETWORK, Cause.DNS, Cause.PACKAGE_MIRROR, Cause.GIT})
"""Causes that lie in the worker's network or in the remote host: several in a row are needed.

When the network is down for all, the workers are quarantined one by one; the jobs wait in the
queue instead of using up their attempts, and the end of each quarantine tries again.
"""

_OTHERS_RULES = OWN_LIMIT_RULES | {IMAGE_UNFIT}
"""Rules of faults that lie in the job or in its platform's image, whatever their causes."""

_SUSPECTS = 16
"""The newest pull requests that are remembered, at most."""

_NAMES = 64
"""Package names of each that are remembered, at most."""


class WorkerState(StrEnum):
    """Whether a worker takes jobs."""

    HEALTHY = "healthy"
    """It takes as many as configured."""
    PROBING = "probing"
    """It takes none while it probes itself. No fault of its own is known."""
    PROBATION = "probation"
    """After a quarantine, it takes one at a time until one has passed."""
    QUARANTINED = "quarantined"
    """It takes none."""


class HealthPolicy(Frozen):
    """When a worker is quarantined, and for how long.

    Attributes:
        first_quarantine: Length of the first quarantine.
        coefficient: Factor for each further failed probe, and each further unrelated pull
            request, before a job passes.
        longest_quarantine: Cap of one quarantine.
        network_faults: Network faults in a row that count as one of the worker's own.
        memory: How long a pull request that met a fault is remembered.
        fresh_jobs: Maximum number of jobs under way that have just begun: so many can be lost
            before the first fault is noticed.
        fresh_for: A job that has run for so long is no longer fresh: it did not fail fast.
    """

    first_quarantine: timedelta = timedelta(seconds=10)
    coefficient: float = Field(default=2.0, ge=1.0)
    longest_quarantine: timedelta = timedelta(hours=1)
    network_faults: int = Field(default=3, ge=1)
    memory: timedelta = timedelta(hours=1)
    fresh_jobs: int = Field(default=4, ge=1)
    fresh_for: timedelta = timedelta(minutes=1)

    def quarantine(self, strikes: int) -> timedelta:
        """Returns the length of a quarantine.

        Args:
            strikes: Number of reasons for one since a job passed, from 1.
        """
        # The exponent is bounded so that no number of strikes can overflow a float.
        factor = self.coefficient ** min(strikes - 1, 64)
        seconds = self.first_quarantine.total_seconds() * factor
        return timedelta(seconds=min(seconds, self.longest_quarantine.total_seconds()))


class Finding(Frozen):
    """What is wrong with a worker.

    Attributes:
        cause: What to repair.
        detail: The same as a sentence.
    """

    cause: Cause
    detail: str


class Suspect(Frozen):
    """A pull request whose jobs met faults on this worker since a job last passed here.

    Attributes:
        pull_request: Id of its workflow.
        packages: Names, without versions, of the packages in these jobs.
        causes: Of the faults.
        faults: Number of the faults.
        probe_at: Number of faults at which the worker probes next: twice as many each time, so
            that one pull request alone cannot keep it busy with probes.
        faulted_at: When the last one happened.
    """

    pull_request: str
    packages: frozenset[str] = frozenset()
    causes: frozenset[Cause] = frozenset()
    faults: int = 0
    probe_at: int = 1
    faulted_at: AwareDatetime


class Health(Frozen):
    """The health of a worker.

    Attributes:
        strikes: Reasons for quarantines since a job passed: failed probes, or unrelated pull
            requests beyond the first one that met the same cause.
        network_faults: Network faults in a row.
        suspects: Pull requests that met faults since a job passed.
        faulted_at: When the last fault that counts happened.
        probing: Whether a probe is due or under way outside of a quarantine.
        until: Earliest end of the quarantine, None outside of one.
        reason: Why it was quarantined, or probed, last.
        host: What the host check finds wrong at the moment: no job is taken meanwhile.
    """

    strikes: int = 0
    network_faults: int = 0
    suspects: tuple[Suspect, ...] = ()
    faulted_at: AwareDatetime | None = None
    probing: bool = False
    until: AwareDatetime | None = None
    reason: Finding | None = None
    host: Finding | None = None

    @property
    def state(self) -> WorkerState:
        """Whether the worker takes jobs."""
        if self.host is not None or self.until is not None:
            return WorkerState.QUARANTINED
        if self.probing:
            return WorkerState.PROBING
        return WorkerState.PROBATION if self.strikes else WorkerState.HEALTHY

    @property
    def trouble(self) -> Finding | None:
        """Why the worker takes no jobs, None if nothing is known to be wrong with it."""
        if self.host is not None:
            return self.host
        return self.reason if self.until is not None else None

    def slots(self, builds: int) -> int:
        """Returns how many jobs the worker may run at once.

        Args:
            builds: The configured number.
        """
        match self.state:
            case WorkerState.QUARANTINED | WorkerState.PROBING:
                return 0
            case WorkerState.PROBATION:
                return 1
            case WorkerState.HEALTHY:
                return builds

    def fresh_jobs(self, policy: HealthPolicy) -> int:
        """Returns how many jobs under way may have just begun; see `HealthPolicy.fresh_jobs`.

        After a fault that its probe did not explain it is one, until a job passes: a fault that
        the probe cannot show costs one job at a time, and long jobs are not held up.
        """
        return 1 if self.suspects else policy.fresh_jobs

    def needs_probe(self, now: datetime) -> bool:
        """Whether a probe is due now."""
        if self.host is not None:
            return False
        return now >= self.until if self.until is not None else self.probing


UNPROVEN = Health(probing=True)
"""The health of a worker that has just started: a probe comes before any work."""


class Attempt(NamedTuple):
    """An attempt of a job that has ended on this worker.

    Attributes:
        pull_request: Id of the workflow of the job's pull request.
        packages: Packages of the job, with or without versions.
        began_at: When it began.
        ended_at: When it ended.
    """

    pull_request: str
    packages: tuple[str, ...]
    began_at: datetime
    ended_at: datetime


def after_attempt(
    health: Health, outcome: Outcome, attempt: Attempt, policy: HealthPolicy
) -> Health:
    """Returns a worker's health after an attempt of a job has ended.

    Args:
        health: Before.
        outcome: Of the attempt. Only a job that passed proves the worker good: packages fail
            for reasons of their own, and on a broken worker for the worker's. A limit that the
            job's own cgroup hit is the job's, and what an image lacks is the image's.
        attempt: Its pull request and times.
        policy: When to quarantine.
    """
    if not isinstance(outcome, Errored):
        return _after_pass(health, attempt.began_at) if outcome.kind == "passed" else health
    counts = outcome.cause in OWN_CAUSES | NETWORK_CAUSES
    if not counts or outcome.evidence.rule in _OTHERS_RULES:
        return health
    if health.until is not None:
        # Jobs that were under way when it was quarantined fail for a reason already known.
        return health.model_copy(update={"faulted_at": attempt.ended_at})
    return _after_fault(health, outcome, attempt, policy)


def after_probe(
    health: Health, finding: Finding | None, *, now: datetime, policy: HealthPolicy
) -> Health:
    """Returns a worker's health after a probe.

    After a successful one it takes jobs as before; at the end of a quarantine, one at a time.
    Only a job that passes resets strikes and suspects: a probe builds one tiny package and cannot
    test everything that jobs need. A failed one explains all faults and so clears the suspects.
    """
    if finding is not None:
        explained = health.model_copy(update={"suspects": ()})
        return _struck(explained, finding, health.strikes + 1, now, policy)
    # A quarantine that began while the probe ran stays in force.
    until = health.until if health.until is not None and health.until > now else None
    return health.model_copy(update={"until": until, "probing": False, "network_faults": 0})


def after_check(health: Health, finding: Finding | None) -> Health:
    """Returns a worker's health after a check of its host (disk, memory, clock)."""
    return health.model_copy(update={"host": finding})


def _after_pass(health: Health, began_at: datetime) -> Health:
    if health.faulted_at is None or began_at >= health.faulted_at:
        return Health(host=health.host)
    # A job that began before a fault proves nothing about the time after it.
    later = tuple(each for each in health.suspects if each.faulted_at > began_at)
    return health.model_copy(update={"suspects": later})


def _after_fault(
    health: Health, outcome: Errored, attempt: Attempt, policy: HealthPolicy
) -> Health:
    now, is_network = attempt.ended_at, outcome.cause in NETWORK_CAUSES
    remembered = [each for each in health.suspects if now - each.faulted_at <= policy.memory]
    others = [each for each in remembered if each.pull_request != attempt.pull_request]
    suspect = next((each for each in remembered if each not in others), None)
    suspect = _with_fault(suspect, outcome.cause, attempt)
    noted = health.model_copy(
        update={
            "suspects": (*others[1 - _SUSPECTS :], suspect),
            "network_faults": health.network_faults + is_network,
            "faulted_at": now,
        }
    )
    # On probation the network is not yet known to work again: one more fault is enough.
    if is_network and noted.network_faults < policy.network_faults and not health.strikes:
        return noted
    finding = Finding(cause=outcome.cause, detail=_detail(outcome))
    alike = NETWORK_CAUSES if is_network else frozenset({outcome.cause})
    unrelated = count_unrelated(each.packages for each in noted.suspects if each.causes & alike)
    if unrelated > 1:
        return _struck(noted, finding, max(health.strikes, unrelated - 1), now, policy)
    if health.probing or suspect.faults < suspect.probe_at:
        return noted
    suspect = suspect.model_copy(update={"probe_at": 2 * suspect.faults})
    probing = {"suspects": (*noted.suspects[:-1], suspect), "probing": True, "reason": finding}
    return noted.model_copy(update=probing)


def _with_fault(suspect: Suspect | None, cause: Cause, attempt: Attempt) -> Suspect:
    before = suspect or Suspect(pull_request=attempt.pull_request, faulted_at=attempt.ended_at)
    names = before.packages | {package_name(package) for package in attempt.packages}
    return before.model_copy(
        update={
            "packages": frozenset(sorted(names)[:_NAMES]),
            "causes": before.causes | {cause},
            "faults": before.faults + 1,
            "faulted_at": attempt.ended_at,
        }
    )


def _struck(
    health: Health, finding: Finding, strikes: int, now: datetime, policy: HealthPolicy
) -> Health:
    return health.model_copy(
        update={
            "strikes": strikes,
            "network_faults": 0,
            "probing": False,
            "faulted_at": now,
            "until": now + policy.quarantine(strikes),
            "reason": finding,
        }
    )


def _detail(outcome: Errored) -> str:
    evidence = outcome.evidence
    return evidence.detail or (evidence.lines[0].text if evidence.lines else evidence.rule)
