"""The activities about incidents: read, resolve, and start their workflows."""

from collections.abc import Iterable
from datetime import UTC, datetime

from temporalio import activity
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy

from opam_ci.clients.index import Index
from opam_ci.clients.threads import INDEX
from opam_ci.core.incidents.messages import (
    HIT_JOBS_AT_ONCE,
    INCIDENT_WORKFLOW,
    IncidentIntervals,
    IncidentState,
    IncidentStatus,
    ResolveIncident,
    workflow_id,
)


class IncidentActivities:
    """Activities of the workflow of an incident, on the index."""

    def __init__(self, index: Index) -> None:
        self._index = index

    @activity.defn
    async def look_at_incident(self, incident: int) -> IncidentStatus:
        """Reads the state of an incident.

        Args:
            incident: Its number.

        Raises:
            InfrastructureError: The index cannot be read; retried until it can.
        """
        return await INDEX.run(self._read, incident)

    @activity.defn
    async def resolve_incident(self, message: ResolveIncident) -> bool:
        """Resolves an incident; False if it had another fault meanwhile, or was resolved before.

        Raises:
            InfrastructureError: The index cannot be written; retried until it can.
        """
        now = datetime.now(UTC)
        return await INDEX.run(self._index.resolve, message.incident, at=now, by=message.by)

    def _read(self, number: int) -> IncidentStatus:
        incident = self._index.incident(number)
        if incident is None:
            return IncidentStatus(incident=None)
        return IncidentStatus(
            incident=incident,
            hit=self._index.hit_jobs(number)[:HIT_JOBS_AT_ONCE],
            undecided=self._index.undecided_jobs(number),
            recovered=self._index.recovered_since(incident),
        )


async def ensure_workflows(
    client: Client, incidents: Iterable[int], task_queue: str, intervals: IncidentIntervals
) -> None:
    """Starts the workflow of each of these incidents, unless it is running.

    Raises:
        RPCError: A request to Temporal failed; the record of the faults is retried.
    """
    for number in incidents:
        await client.start_workflow(
            INCIDENT_WORKFLOW,
            IncidentState(incident=number, intervals=intervals),
            id=workflow_id(number),
            task_queue=task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary=f"incident {number}",
        )
