"""The index activity: writes what happened for good."""

import asyncio
import logging

from temporalio import activity
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from opam_ci.activities.incidents import look_after
from opam_ci.clients.index import Index
from opam_ci.core.incidents.messages import IncidentPace
from opam_ci.core.incidents.restarts import workflow_of
from opam_ci.core.job import JobKind
from opam_ci.core.recording import RowBatch
from opam_ci.core.records import RevisionKey

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
    async def record(self, batch: RowBatch) -> tuple[JobKind, ...]:
        """Writes changed rows; the same batch twice changes nothing.

        Verdicts that its failures make doubtful are judged again, and the workflows of their pull
        requests get the signal `recount`. Its faults belong to an incident then, and each open
        incident has a workflow. If that cannot be done, all of this is done again.

        Returns:
            The kinds of the jobs that were judged again.

        Raises:
            InfrastructureError: The index cannot be written; retried until it can.
            RPCError: Temporal does not take it; retried until it does.
        """
        info = activity.info()
        done = await asyncio.to_thread(self._index.record, batch, retried=info.attempt > 1)
        client = activity.client()
        for key in sorted(done.testings, key=lambda each: (each.repository, each.target)):
            await _recount(client, key)
        await look_after(client, done.incidents, info.task_queue, self._pace)
        return done.kinds


async def _recount(client: Client, key: RevisionKey) -> None:
    workflow_id = workflow_of(key)
    try:
        await client.get_workflow_handle(workflow_id).signal("recount", key)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        # It has ended: closed, or a one-off check whose answer was taken.
        _log.info("%s has ended; nothing is counted again there", workflow_id)
