"""Copies of logs that outlive the retention of their pull requests."""

from opam_ci.clients.logs.store import ArtifactStore, MissingKeyError

FOLDER = "wrong-verdicts"

_TRIES = 3


async def keep_log(store: ArtifactStore, key: str) -> str | None:
    """Copies a log of an attempt that has ended, with what was judged.

    Args:
        store: Of the log, and of its copy.
        key: Of the log.

    Returns:
        Key of the copy, the same for each copy of a log; None if there is no such log (any more).

    Raises:
        InfrastructureError: The store cannot be read or written.
    """
    copy = f"{FOLDER}/{key.removeprefix('logs/')}"
    for last in (*[False] * (_TRIES - 1), True):
        try:
            found = await store.list(key)
            for each in found:
                await store.put(copy + each.key.removeprefix(key), await store.get(each.key))
        except MissingKeyError:
            # Its segments were compacted meanwhile: what there is now is listed again.
            if last:
                raise
        else:
            return copy if found else None
    return None
