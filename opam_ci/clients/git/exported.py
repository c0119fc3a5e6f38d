"""Export of the merged repository of a head to the store, for the build workers.

A warmed opam root costs a worker some 20 s, so heads share one: a head is exported as a base
that was exported before, plus an overlay with the packages in which the merge differs from
it. Only when every known base differs too much does the head's own base become a new one.
"""

import asyncio
import hashlib
import tempfile
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from opam_ci.clients.git.export import archive_tree, overlay
from opam_ci.clients.git.repository import Repository
from opam_ci.clients.logs.store import ArtifactStore, MissingKeyError
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.build import RepositoryRef
from opam_ci.core.jobs.records import RevisionKey, revision_folder

BASES: Final = "repositories/bases"
"""Folder of base archives, named by their commits."""

HEADS: Final = "repositories/heads"
"""Folder of overlays: `TESTING/BASE/DIGEST.tar.gz` below it."""

_KNOWN_BASES: Final = "repositories/bases.json"
_BASES: Final = TypeAdapter(list[str])
_BASES_KEPT: Final = 4
"""As many base layers as a worker keeps."""

MAXIMUM_OVERLAY = 300
"""Files in an overlay, beside those of the pull request itself, before a new base is made.
opam reads an overlay anew for each job, at 2 ms a package; opam-repository changes by some 40
packages a day, most of them one file, so a base serves for a week."""


class Exporter:
    """Exports repositories to the store."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        # Two heads at once must not both make the same base: it takes seconds.
        self._lock = asyncio.Lock()

    async def export(
        self, clone: Repository, testing: RevisionKey, base: str, merged_tree: str
    ) -> RepositoryRef:
        """Exports a merged tree.

        Args:
            clone: Contains both.
            testing: For which it is exported, and whose end is the overlay's.
            base: Commit into which the head was merged.
            merged_tree: The merged tree.

        Raises:
            InfrastructureError: Git or the store fails.
        """
        async with self._lock:
            bases = await known_bases(self._store)
            chosen = await asyncio.to_thread(_nearest, clone, bases, base, merged_tree)
            archive = f"{BASES}/{chosen}.tar.gz"
            with tempfile.TemporaryDirectory(prefix="opam-ci-export-") as directory:
                # One that is not in the list was perhaps not stored to its end.
                if chosen not in bases or not await self._store.exists(archive):
                    path = Path(directory) / "base.tar.gz"
                    await asyncio.to_thread(archive_tree, clone, chosen, path)
                    await self._store.put(archive, path)
                await self._remember(chosen, bases)
                path = Path(directory) / "overlay.tar.gz"
                made = await asyncio.to_thread(
                    overlay,
                    clone,
                    clone.tree_of(chosen),
                    merged_tree,
                    path,
                    own_base=clone.tree_of(base),
                )
                digest = hashlib.sha256(await asyncio.to_thread(path.read_bytes)).hexdigest()
                key = f"{HEADS}/{revision_folder(testing)}/{chosen}/{digest}.tar.gz"
                await self._store.put(key, path)
        return RepositoryRef(
            base_commit=chosen,
            base_archive=archive,
            overlay_archive=key,
            overlay_packages=len(made.packages) + len(made.deleted),
            package_count=made.total,
        )

    async def _remember(self, base: str, bases: list[str]) -> None:
        if bases[:1] != [base]:
            kept = [base, *(known for known in bases if known != base)][:_BASES_KEPT]
            await self._store.put(_KNOWN_BASES, _BASES.dump_json(kept))


async def known_bases(store: ArtifactStore) -> list[str]:
    """Returns the commits of the bases that the next heads may share, the last one first.

    Raises:
        InfrastructureError: The store cannot be read.
    """
    try:
        return _BASES.validate_json(await store.get(_KNOWN_BASES))
    except (MissingKeyError, ValidationError):
        # A list that does not exist, or is damaged, only costs a new base.
        return []


def _nearest(clone: Repository, bases: list[str], base: str, merged_tree: str) -> str:
    """Returns the known base that is nearest to the merged tree, or the head's own."""
    known = {
        candidate: distance
        for candidate in bases
        if (distance := _distance(clone, candidate, merged_tree)) is not None
    }
    if not known:
        return base
    own = _distance(clone, base, merged_tree)
    # Of two with the same distance, the one that was used last.
    best = min(known, key=known.__getitem__)
    return base if own is None or known[best] - own > MAXIMUM_OVERLAY else best


def _distance(clone: Repository, base: str, merged_tree: str) -> int | None:
    """Counts the files in which a base differs, None for a commit that the clone lacks."""
    try:
        tree = clone.tree_of(clone.resolve(base))
    except UsageError:
        return None
    return len(clone.changes(tree, merged_tree))
