"""The activity that deletes what nothing needs any more."""

from datetime import UTC, datetime, timedelta

from temporalio import activity

from opam_ci.activities.heartbeats import heartbeating
from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.retention import Pruned, prune


class RetentionActivities:
    """Activities on what is kept.

    Args:
        index: The list of jobs.
        store: Has their logs and the exported repositories.
    """

    def __init__(self, index: Index, store: ArtifactStore) -> None:
        self._index = index
        self._store = store

    @activity.defn(name="prune")
    async def prune(self, days: int) -> Pruned:
        """Deletes what has not changed in so many days; see `clients.retention.prune`.

        Raises:
            InfrastructureError: The index or the store failed; the next attempt goes on.
        """
        now = datetime.now(UTC)
        with heartbeating(activity.heartbeat):
            return await prune(self._index, self._store, now - timedelta(days=days), now=now)
