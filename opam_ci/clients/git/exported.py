"""Analysis of a head, and export of its merge to the store, for the build workers.

A warmed opam root costs a worker some 20 s, so heads share one: a head is exported as a base
that was exported before, plus an overlay with the packages in which the merge differs from
it. Only when every known base differs too much does the head's own base become a new one.
"""

import asyncio
import os
import sys
import tempfile
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from opam_ci.clients.git import head_process
from opam_ci.clients.git.head_process import (
    BASE,
    OVERLAY,
    OVERLAY_OF_BASE,
    REACH,
    REACH_ON_BASE,
    REFERENCES,
    RESULT,
    RESULTS,
    AnalysedHead,
    AnalyseHead,
    ArchiveBase,
    Export,
    Failed,
    Result,
    Task,
)
from opam_ci.clients.logs.store import ArtifactStore, MissingKeyError
from opam_ci.clients.runners.sandbox.process import LastOutput, run_process
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.build import RepositoryRef
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.records import RevisionKey, revision_folder
from opam_ci.core.model import Frozen
from opam_ci.core.reuse.reach import REFERENCES_VERSION
from opam_ci.core.submission.admission import DEFAULT_LIMITS, ChangeLimits
from opam_ci.core.submission.inputs import HeadInputs
from opam_ci.core.submission.result import Analysis

BASES: Final = "repositories/bases"
"""Folder of base archives, named by their commits."""

HEADS: Final = "repositories/heads"
"""Folder of overlays, `TESTING/BASE/DIGEST.tar.gz` below it, and of what `reach_key` names."""

_KNOWN_BASES: Final = "repositories/bases.json"
_REFERENCES: Final = f"repositories/references-{REFERENCES_VERSION}.json"
_BASES: Final = TypeAdapter(list[str])
_BASES_KEPT: Final = 4
"""As many base layers as a worker keeps."""

_TIME_LIMIT: Final = 10 * 60.0
"""Seconds for a process. An analysis takes one, an export of all of opam-repository four; single
commands of git have a limit of their own."""


class Prepared(Frozen):
    """A head that is analysed and exported.

    Attributes:
        analysis: The analysis.
        inputs: What its jobs work on; None if it is refused.
        merged: The merged repository, None if nothing is to be built.
        base_alone: What it is merged into, without the head; None if that is not wanted.
    """

    analysis: Analysis
    inputs: HeadInputs | None = None
    merged: RepositoryRef | None = None
    base_alone: RepositoryRef | None = None


class Exporter:
    """Analyses heads, and exports their merges to the store.

    Args:
        store: Where the exports go.
        limits: How much a head may add and modify.
    """

    def __init__(self, store: ArtifactStore, limits: ChangeLimits = DEFAULT_LIMITS) -> None:
        self._store = store
        self._limits = limits
        # Two heads at once must not both make the same base: it takes seconds.
        self._making: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._listing = asyncio.Lock()

    async def prepare(  # noqa: PLR0913 - the parts of a head, and what is wanted of it
        self,
        clone: Path,
        testing: RevisionKey,
        base: str,
        head: str,
        *,
        export: bool = True,
        unchanged: bool = False,
        base_alone: bool = False,
        reach: bool = False,
        popular: int = 0,
    ) -> "Prepared":
        """Analyses the merge of a head into a base, and exports it.

        Args:
            clone: Contains both.
            testing: For which it is exported, and whose end is the overlay's.
            base: Commit into which the head is merged.
            head: The head.
            export: Whether to export it if packages are to be built.
            unchanged: Whether packages are to be built that the head does not change.
            base_alone: Whether to export the base alone, too.
            reach: Whether to find what is within reach of packages; of each of an exported head it
                is stored at `reach_key`.
            popular: How many packages of the head are built in place of those that it changes.

        Raises:
            UsageError: The base is not an opam repository, or a shallow clone cannot merge.
            InfrastructureError: Git or the store fails.
            asyncio.CancelledError: The caller was cancelled; no process works for it any more.
        """
        bases = tuple(await known_bases(self._store)) if export else None
        with tempfile.TemporaryDirectory(prefix="opam-ci-head-") as name:
            directory = Path(name)
            if reach:
                with suppress(MissingKeyError):
                    references = await self._store.get(_REFERENCES)
                    (directory / REFERENCES).write_bytes(references)
            done = await run_task(
                AnalyseHead(
                    clone=clone,
                    directory=directory,
                    base=base,
                    head=head,
                    limits=self._limits,
                    bases=bases,
                    unchanged=unchanged,
                    base_alone=base_alone,
                    reach=reach,
                    popular=popular,
                )
            )
            assert isinstance(done, AnalysedHead)  # noqa: S101 - for mypy: the task's result
            if (made := done.export) is None:
                return Prepared(analysis=done.analysis, inputs=done.inputs)
            archive = await self._base_archive(clone, made.base)
            merged = await self._put(archive, made, testing, directory / OVERLAY)
            base_ref = None
            if (of_base := done.export_of_base) is not None:
                path = directory / OVERLAY_OF_BASE
                base_ref = await self._put(archive, of_base, testing, path)
            if reach:
                await self._store.put(reach_key(testing), directory / REACH)
                await self._store.put(reach_key(testing, on_base=True), directory / REACH_ON_BASE)
            if done.references_changed:
                await self._store.put(_REFERENCES, directory / REFERENCES)
        return Prepared(
            analysis=done.analysis, inputs=done.inputs, merged=merged, base_alone=base_ref
        )

    async def _put(
        self, archive: str, made: Export, testing: RevisionKey, overlay: Path
    ) -> RepositoryRef:
        key = f"{HEADS}/{revision_folder(testing)}/{made.base}/{made.digest}.tar.gz"
        await self._store.put(key, overlay)
        return RepositoryRef(
            base_commit=made.base,
            base_archive=archive,
            overlay_archive=key,
            overlay_packages=len(made.overlay.packages) + len(made.overlay.deleted),
            package_count=made.overlay.total,
        )

    async def _base_archive(self, clone: Path, base: str) -> str:
        """Returns the key of a base's archive, which is made if need be."""
        key = f"{BASES}/{base}.tar.gz"
        async with self._making[base]:
            # One that is not in the list was perhaps not stored to its end.
            if base not in await known_bases(self._store) or not await self._store.exists(key):
                with tempfile.TemporaryDirectory(prefix="opam-ci-base-") as name:
                    await run_task(ArchiveBase(clone=clone, directory=Path(name), commit=base))
                    await self._store.put(key, Path(name) / BASE)
            async with self._listing:
                bases = await known_bases(self._store)
                if bases[:1] != [base]:
                    kept = [base, *(known for known in bases if known != base)][:_BASES_KEPT]
                    await self._store.put(_KNOWN_BASES, _BASES.dump_json(kept))
        return key


def reach_key(testing: RevisionKey, *, on_base: bool = False) -> str:
    """Returns the key of what is within reach of each package: `Reachable` as JSON.

    Args:
        testing: The testing.
        on_base: Without the head.
    """
    return f"{HEADS}/{revision_folder(testing)}/reach/{REACH_ON_BASE if on_base else REACH}"


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


async def run_task(task: Task) -> Result:
    """Performs a task in a process that dies with the caller.

    Raises:
        UsageError: The task cannot be done with this clone.
        InfrastructureError: Git failed, or a limit was reached.
        asyncio.CancelledError: The caller was cancelled; the process is gone.
    """
    output = LastOutput()
    # Git reads which clones of other users are safe in the user's own configuration.
    home = [f"HOME={os.environ['HOME']}"] if "HOME" in os.environ else []
    with tempfile.TemporaryFile() as file:
        file.write(task.model_dump_json().encode())
        file.seek(0)
        ended = await run_process(
            # The first dies with a worker that is killed.
            [
                *("setpriv", "--pdeathsig", "KILL", "--", "env", *home),
                *(sys.executable, "-P", "-m", head_process.__name__),
            ],
            output=output,
            time_limit=_TIME_LIMIT,
            stdin=file,
        )
    if not ended.ok:
        message = f"the process of a head ({task.kind}) ended early ({ended.how})"
        if ended.timed_out or ended.signal is not None:
            raise InfrastructureError(message, cause=Cause.GIT)
        raise RuntimeError(f"{message}: {output.text}")
    result = RESULTS.validate_json((task.directory / RESULT).read_bytes())
    if isinstance(result, Failed):
        if result.cause is None:
            raise UsageError(result.message)
        raise InfrastructureError(result.message, cause=result.cause)
    return result
