"""The activity that records rows in the index."""

import logging

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from opam_ci.activities.incidents import ensure_workflows
from opam_ci.clients.index import Index
from opam_ci.clients.threads import INDEX
from opam_ci.core.incidents.messages import IncidentIntervals
from opam_ci.core.incidents.restarts import workflow_of
from opam_ci.core.jobs.records import Recorded, RevisionKey, RowBatch

_log = logging.getLogger(__name__)


class RecordActivities:
    """Activities that record in the index.

    Args:
        index: The index.
        intervals: How often incidents are checked.
    """

    def __init__(self, index: Index, intervals: IncidentIntervals | None = None) -> None:
        self._index = index
        self._intervals = intervals or IncidentIntervals()

    @activity.defn
    async def record(self, batch: RowBatch) -> Recorded:
        """Writes changed rows; idempotent.

        Verdicts that its failures put in doubt are revised, and the workflows of their pull
        requests get the signal `recount`. Its faults are grouped into incidents, and each open
        incident gets a workflow. If any of this fails, all of it is retried.

        Raises:
            InfrastructureError: The index cannot be written; retried until it can.
            RPCError: A request to Temporal failed; retried until it succeeds.
        """
        info = activity.info()
        done = await INDEX.run(self._index.record, batch, retried=info.attempt > 1)
        client = activity.client()
        for key in sorted(done.testings, key=lambda each: (each.repository, each.target)):
            await _recount(client, key)
        await ensure_workflows(client, done.incidents, info.task_queue, self._intervals)
        return Recorded(revised=done.kinds, estimated_until=done.estimated_until)


async def _recount(client: Client, key: RevisionKey) -> None:
    workflow_id = workflow_of(key)
    try:
        await client.get_workflow_handle(workflow_id).signal("recount", key)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        # It has ended: closed, or a one-off check that is done.
        _log.info("%s has ended; signal recount not sent", workflow_id)
