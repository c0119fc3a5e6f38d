"""The index activity: writes what happened for good."""

import asyncio
import logging

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from opam_ci.activities.incidents import look_after
from opam_ci.clients.index import Index
from opam_ci.core.incidents.messages import IncidentPace, Rejudge
from opam_ci.core.incidents.restarts import workflow_of
from opam_ci.core.recording import RowBatch, records_in
from opam_ci.core.records import RecordBatch

_log = logging.getLogger(__name__)


class RecordActivities:
    """What needs the job index.

    Args:
        index: Where to write.
        pace: How often incidents are looked at.
    """

    def __init__(self, index: Index, pace: IncidentPace | None = None) -> None:
        self._index = index
        self._pace = pace or IncidentPace()

    @activity.defn
    async def record(self, batch: RowBatch | RecordBatch) -> None:
        """Writes a batch of records; the same batch twice changes nothing.

        Faults in it have an incident then, and each open incident a workflow; and whoever has
        a verdict that the batch throws another light on has been told. If that cannot be
        done, all of this is done again, which changes nothing either.

        Args:
            batch: What to write; records themselves come from workflows of an older version.

        Raises:
            InfrastructureError: The index cannot be written; retried until it can.
            RPCError: Temporal does not take it; retried until it does.
        """
        incidents, doubtful = await asyncio.to_thread(self._write, records_in(batch))
        client = activity.client()
        # Before anything is restarted: a job whose fault is its own needs no restart.
        for said in doubtful:
            await _tell(client, said)
        await look_after(client, incidents, activity.info().task_queue, self._pace)

    def _write(self, records: RecordBatch) -> tuple[tuple[int, ...], tuple[Rejudge, ...]]:
        return self._index.record(records), self._index.rejudge(records)


async def _tell(client: Client, said: Rejudge) -> None:
    workflow_id = workflow_of(said.revision)
    try:
        await client.get_workflow_handle(workflow_id).signal("rejudge", said)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        # It has ended: closed, or a one-off check whose answer was taken.
        _log.info("%s has ended; nothing is judged again there", workflow_id)
