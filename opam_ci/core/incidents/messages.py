"""Messages between the workflow of an incident and its activities."""

from datetime import timedelta
from typing import Annotated

from pydantic import AwareDatetime, Field

from opam_ci.core.incidents.model import HitJob, Incident
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.model import Frozen, State
from opam_ci.core.packed import Packed

HIT_JOBS_AT_ONCE = 2000
"""Jobs in one result, which Temporal stores for a while. More need another activity."""


class IncidentIntervals(Frozen):
    """How often an open incident is checked, and when it ends by itself.

    Attributes:
        probe_first: Wait before the first check after its last fault and after each trial,
            doubled for each further check. Also the wait before the first trial and between
            the first two, doubled for each further one.
        probe_maximum: Longest wait between two checks, and between two trials.
        quiet: An incident without errored jobs is over when it has been quiet for so long.
    """

    probe_first: timedelta = timedelta(minutes=1)
    probe_maximum: timedelta = timedelta(minutes=15)
    quiet: timedelta = timedelta(minutes=10)


class SentTrial(Frozen):
    """How often an incident has restarted a job on trial."""

    revision: RevisionKey
    job: str
    times: int


class IncidentState(State):
    """State of an IncidentWorkflow; its input.

    A trial is the restart of one job, to see whether the fault is over. Two fields have its older
    name, canary, in open workflows.

    Attributes:
        incident: The incident's number in the index.
        intervals: How often it is checked.
        restarted: Number of restarted jobs, trials included.
        sent: Trials so far.
        canary_pause: Wait between the next trial and the one after it; None before the first.
        next_canary_at: Earliest time of the next trial, None for at once.
        pause: Wait until the next check; None before the first.
        notes: Notes for the Temporal Web UI.
    """

    incident: int
    intervals: IncidentIntervals = IncidentIntervals()
    restarted: int = 0
    sent: Annotated[tuple[SentTrial, ...], Packed()] = ()
    canary_pause: timedelta | None = None
    next_canary_at: AwareDatetime | None = None
    pause: timedelta | None = None
    notes: list[str] = Field(default_factory=list)


class IncidentStatus(Frozen):
    """The state of an incident.

    Attributes:
        incident: The incident; None if there is none, or it was merged into another one.
        hit: Jobs that it hit and that are errored, `HIT_JOBS_AT_ONCE` at most.
        undecided: Number of jobs that it hit and that are queued, run, or wait for a retry.
        recovered: Whether one of them has succeeded since the last fault, at the same place.
    """

    incident: Incident | None
    hit: Annotated[tuple[HitJob, ...], Packed()] = ()
    undecided: int = 0
    recovered: bool = False


class ResolveIncident(Frozen):
    """Input of the activity that resolves an incident.

    Attributes:
        incident: Its number.
        by: Operator or event by which it counts as repaired.
    """

    incident: int
    by: str


def workflow_id(incident: int) -> str:
    """Returns the id of the workflow of an incident."""
    return f"incident/{incident}"


INCIDENT_WORKFLOW = "IncidentWorkflow"
"""Its type; by name, since activities may not import workflows."""
