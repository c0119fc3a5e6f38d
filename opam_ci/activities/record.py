"""The index activity: writes what happened for good."""

import asyncio

from temporalio import activity

from opam_ci.activities.incidents import look_after
from opam_ci.clients.index import Index
from opam_ci.core.records import RecordBatch


class RecordActivities:
    """What needs the job index."""

    def __init__(self, index: Index) -> None:
        self._index = index

    @activity.defn
    async def record(self, batch: RecordBatch) -> None:
        """Writes a batch of records; the same batch twice changes nothing.

        Faults in it have an incident then, and each open incident a workflow. If that
        cannot be started, all of this is done again, which changes nothing either.

        Raises:
            InfrastructureError: The index cannot be written; retried until it can.
        """
        incidents = await asyncio.to_thread(self._index.record, batch)
        await look_after(activity.client(), incidents, activity.info().task_queue)
