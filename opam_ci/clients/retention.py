"""Retention: deletes rows of the index and their logs in the store, batch by batch."""

import asyncio
from datetime import datetime

from opam_ci.clients.index import Index
from opam_ci.clients.index.retention import Retired
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.threads import INDEX
from opam_ci.core.batched import batched

_HEADS_AT_ONCE = 20
"""Heads in one transaction: some thousand jobs, a fraction of a second."""

_LOGS_AT_ONCE = 16
"""Logs deleted at the same time."""


class Pruned(Retired):
    """What was deleted.

    Attributes:
        logs: Logs in the store.
    """

    logs: int = 0


async def prune(
    index: Index, store: ArtifactStore, before: datetime, *, heads_at_once: int = _HEADS_AT_ONCE
) -> Pruned:
    """Deletes testings that have not changed since, but nothing of an open pull request.

    Logs go first: when it is stopped in between, the rows still name what is to be deleted.

    Raises:
        InfrastructureError: The index or the store failed; what is deleted so far stays deleted.
    """
    done = Pruned()
    while True:
        logs = await INDEX.run(index.logs_to_retire, before, limit=heads_at_once)
        for some in batched(logs, _LOGS_AT_ONCE):
            await asyncio.gather(*(_delete(store, key) for key in some))
        retired = await INDEX.run(index.retire, before, limit=heads_at_once)
        done = Pruned(
            revisions=done.revisions + retired.revisions,
            pull_requests=done.pull_requests + retired.pull_requests,
            incidents=done.incidents + retired.incidents,
            logs=done.logs + len(logs),
        )
        if not retired.revisions:
            return done


async def _delete(store: ArtifactStore, log: str) -> None:
    for part in await store.list(log):
        await store.delete(part.key)
