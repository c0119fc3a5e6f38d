"""Finding the log of an attempt."""

from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.records import AttemptRecord, log_key


async def find_log(store: ArtifactStore, attempt: AttemptRecord) -> str | None:
    """Returns the key of an attempt's log, None if nothing of it is stored (yet).

    The index has the key once the attempt has ended; until then the store is searched.

    Raises:
        InfrastructureError: The store cannot be read.
    """
    if attempt.log_key is not None:
        return attempt.log_key
    key = log_key(
        attempt.revision, attempt.job, run="any", round_=attempt.round, attempt=attempt.number
    )
    folder, _, name = key.rpartition("/")
    begin = f"{folder}/{name.removesuffix('any')}"
    stored = {each.key for each in await store.list(folder) if each.key.startswith(begin)}
    found = sorted({each.rpartition("/")[0] for each in stored})
    # Several: an operator's reset has repeated the attempt. The open one is still written.
    return max(found, key=lambda each: (f"{each}/end.json" not in stored, each), default=None)
