"""Retention: deletes rows of the index and objects of the store that nothing needs any more."""

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from opam_ci.clients.git.exported import BASES, HEADS, known_bases
from opam_ci.clients.index import Index
from opam_ci.clients.index.retention import Retired
from opam_ci.clients.lint.findings import findings_folder
from opam_ci.clients.logs.store import TRIALS, ArtifactStore, StoredObject
from opam_ci.clients.threads import INDEX
from opam_ci.core.batched import batched
from opam_ci.core.jobs.records import logs_folder, revision_folder
from opam_ci.core.workers import canary

_HEADS_AT_ONCE = 20
"""Heads in one transaction: some thousand jobs, a fraction of a second."""

_FOLDERS_AT_ONCE = 16
"""Folders listed at the same time."""

_OVERLAYS_KEPT: Final = timedelta(days=8)
"""How long the overlay of a closed pull request, of a superseded head or of a branch is kept after
the last change of its testing: a day longer than a one-off check waits for a restart."""

_NEW: Final = timedelta(days=1)
"""An object that is younger may belong to a testing that is not in the index yet."""

_CANARY_LOGS: Final = f"logs/{canary.OWNER}/{canary.REPOSITORY}"
_CANARY_LOGS_KEPT: Final = timedelta(days=7)

_SHARED_OVERLAYS: Final = "repositories/overlays"
"""Where earlier versions stored overlays, named by their content alone."""


class Pruned(Retired):
    """What was deleted.

    Attributes:
        logs: Logs in the store.
        findings: Lint's findings about a package.
        overlays: Overlays of heads over their base repository.
        bases: Base repositories.
        canary_logs: Objects of logs of canaries.
    """

    logs: int = 0
    findings: int = 0
    overlays: int = 0
    bases: int = 0
    canary_logs: int = 0


async def prune(
    index: Index,
    store: ArtifactStore,
    before: datetime,
    *,
    now: datetime,
    heads_at_once: int = _HEADS_AT_ONCE,
) -> Pruned:
    """Deletes testings that have not changed since, but nothing of an open pull request.

    Their objects go first: when it is stopped in between, the rows still name what is to be
    deleted. Exported repositories go when no testing needs them, and canary logs by age.

    Raises:
        InfrastructureError: The index or the store failed; what is deleted so far stays deleted.
    """
    done = await _prune_testings(index, store, before, heads_at_once)
    overlays, bases = await _prune_repositories(index, store, before, now)
    logs = await store.list(_CANARY_LOGS)
    canaries = await _delete(store, _older(logs, now - _CANARY_LOGS_KEPT))
    await _delete(store, _older(await store.list(TRIALS), now - _NEW))
    return done.model_copy(update={"overlays": overlays, "bases": bases, "canary_logs": canaries})


async def _prune_testings(
    index: Index, store: ArtifactStore, before: datetime, heads_at_once: int
) -> Pruned:
    done = Pruned()
    while True:
        testings = await INDEX.run(index.testings_to_retire, before, limit=heads_at_once)
        logs = await INDEX.run(index.logs_to_retire, before, limit=heads_at_once)
        findings = await _delete_below(store, map(findings_folder, testings))
        # An attempt that was cancelled has a log and no row.
        await _delete_below(store, (*logs, *map(logs_folder, testings)))
        retired = await INDEX.run(index.retire, before, limit=heads_at_once)
        done = Pruned(
            revisions=done.revisions + retired.revisions,
            pull_requests=done.pull_requests + retired.pull_requests,
            incidents=done.incidents + retired.incidents,
            logs=done.logs + len(logs),
            findings=done.findings + findings,
        )
        if not retired.revisions:
            return done


async def _prune_repositories(
    index: Index, store: ArtifactStore, before: datetime, now: datetime
) -> tuple[int, int]:
    """Deletes overlays of testings that are over, then bases of no overlay; returns how many."""
    overlays = await store.list(HEADS)
    testings = await INDEX.run(index.testings_in_use, now - _OVERLAYS_KEPT)
    used = {revision_folder(testing) for testing in testings}
    unused = [each for each in overlays if _testing_of(each.key) not in used]
    old = list(_older(unused, now - _NEW))
    shared = _older(await store.list(_SHARED_OVERLAYS), before)
    deleted = await _delete(store, (*old, *shared))
    kept = {each.key for each in overlays} - {each.key for each in old}
    named = {key.split("/")[-2] for key in kept} | set(await known_bases(store))
    bases = [
        base
        for base in await store.list(BASES)
        if base.key.removeprefix(f"{BASES}/").partition(".")[0] not in named
    ]
    # Later than overlays: those of earlier versions do not name their base.
    return deleted, await _delete(store, _older(bases, before))


def _testing_of(overlay: str) -> str:
    return "/".join(overlay.removeprefix(f"{HEADS}/").split("/")[:-2])


def _older(objects: Iterable[StoredObject], than: datetime) -> Iterable[StoredObject]:
    return (each for each in objects if each.modified_at < than)


async def _delete_below(store: ArtifactStore, folders: Iterable[str]) -> int:
    deleted = 0
    for some in batched(folders, _FOLDERS_AT_ONCE):
        for found in await asyncio.gather(*map(store.list, some)):
            deleted += await _delete(store, found)
    return deleted


async def _delete(store: ArtifactStore, objects: Iterable[StoredObject]) -> int:
    keys = [each.key for each in objects]
    await store.delete(*keys)
    return len(keys)
