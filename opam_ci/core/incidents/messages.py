"""What the workflow of an incident and its activities say to each other."""

from datetime import timedelta
from typing import Annotated

from pydantic import AwareDatetime, Field

from opam_ci.core.incidents.model import HitJob, Incident
from opam_ci.core.model import Frozen, State
from opam_ci.core.packed import Packed
from opam_ci.core.records import RevisionKey

HIT_JOBS_AT_ONCE = 2000
"""Jobs in one answer, which Temporal keeps for a while. More take another look."""


class IncidentPace(Frozen):
    """How often an open incident is looked at, and when it is over by itself.

    Attributes:
        probe_first: How long after its fault, and after each canary, it is looked at first; the
            double each time after. So it is before the first canary and between the first two,
            and ever longer.
        probe_maximum: Longest time between two looks, and between two canaries.
        quiet: An incident of which no job is left over is over when it has been quiet for so
            long.
    """

    probe_first: timedelta = timedelta(minutes=1)
    probe_maximum: timedelta = timedelta(minutes=15)
    quiet: timedelta = timedelta(minutes=10)


class SentCanary(Frozen):
    """How often an incident has sent a job as its canary."""

    revision: RevisionKey
    job: str
    times: int


class IncidentState(State):
    """What an IncidentWorkflow knows; its input.

    Attributes:
        incident: The incident's number in the index.
        pace: How often it is looked at.
        restarted: How many jobs it has restarted, canaries among them.
        sent: Canaries so far.
        canary_pause: How long after the next canary the one after it comes; None before the first.
        next_canary_at: When the next one may come, None for at once.
        pause: How long until the next look; None before the first.
        notes: What its page says besides.
    """

    incident: int
    pace: IncidentPace = IncidentPace()
    restarted: int = 0
    sent: Annotated[tuple[SentCanary, ...], Packed()] = ()
    canary_pause: timedelta | None = None
    next_canary_at: AwareDatetime | None = None
    pause: timedelta | None = None
    notes: list[str] = Field(default_factory=list)


class IncidentLook(Frozen):
    """How an incident stands.

    Attributes:
        incident: The incident; None if there is none, or it was united with another one.
        hit: Jobs that it hit and that stand errored, `HIT_JOBS_AT_ONCE` at most.
        undecided: Jobs that it hit and that are queued, run, or wait for a retry.
        recovered: Whether one of them has got through since its last fault, at its place.
    """

    incident: Incident | None
    hit: Annotated[tuple[HitJob, ...], Packed()] = ()
    undecided: int = 0
    recovered: bool = False


class ResolveIncident(Frozen):
    """Input of the activity that resolves an incident.

    Attributes:
        incident: Its number.
        by: Who or what found that it is repaired.
    """

    incident: int
    by: str


def workflow_id(incident: int) -> str:
    """Returns the id of the workflow that looks after an incident."""
    return f"incident/{incident}"


INCIDENT_WORKFLOW = "IncidentWorkflow"
"""Its type; by name, since the activity that starts it lies below the workflows."""
