"""Base layers of the native runner: copies of opam roots, one for each commit and slot.

The files of the base repository, most of a root, are not copied for each job: its root has a link
to them. opam only reads them, and where slots have users, these can do no more.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from opam_ci.clients import programs
from opam_ci.clients.runners.images.image import read_manifest
from opam_ci.clients.runners.images.layer import (
    ArtifactSource,
    Layer,
    LayerMaking,
    LayerManifest,
    layer_key,
    waiting_line,
)
from opam_ci.clients.runners.phases import mirrors
from opam_ci.clients.runners.sandbox.bubblewrap import ROOT
from opam_ci.clients.runners.sandbox.locks import (
    HALF_MADE,
    made_on_demand,
    own_directory,
    prune_unused,
    remove_tree,
    remove_unlocked,
    remove_unused,
)
from opam_ci.clients.runners.sandbox.process import LastOutput, run_process
from opam_ci.clients.runners.slots.exec import NativeExecutor
from opam_ci.clients.runners.slots.machine import Machine
from opam_ci.clients.runners.slots.slot import Slot
from opam_ci.core.jobs.build import BuildSpec
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause

_COPY_TIMEOUT = 10 * 60.0


class NativeLayers:
    """The layers below one directory.

    Args:
        home: The directory.
        artifacts: Where base archives come from.
        keep: How many stay for each slot when a new one is made; those in use always stay.
    """

    def __init__(self, home: Path, artifacts: ArtifactSource, keep: int) -> None:
        self._home = home
        self._artifacts = artifacts
        self._keep = keep

    @asynccontextmanager
    async def use(
        self, machine: Machine, slot: Slot, spec: BuildSpec, output: Callable[[bytes], None]
    ) -> AsyncIterator[LayerManifest]:
        """Holds the layer of a job, and puts a copy of it into its slot.

        Args:
            machine: This machine.
            slot: The job's slot.
            spec: The job.
            output: Receives output of its making, for people.

        Raises:
            InfrastructureError: It cannot be made or copied.
        """
        switch = machine.switch(spec.platform)
        shown = mirrors.inside(spec.archive_mirrors)
        below = hashlib.sha256(repr((machine, switch, str(slot.home))).encode()).hexdigest()
        directory = self._home / await asyncio.to_thread(layer_key, below, spec, shown)

        async def find() -> Layer | None:
            manifest = read_manifest(directory / "manifest.json", LayerManifest)
            if manifest is None:
                return None
            return Layer(upper=directory / "root", manifest=manifest)

        async def make() -> None:
            async with own_directory(self._home, HALF_MADE, ROOT) as half_made:
                archive = half_made / "base.tar.gz"
                await self._artifacts.fetch(spec.repository.base_archive, archive)
                executor = NativeExecutor(slot, shown)
                making = LayerMaking(executor, shown, output, sandbox=machine.sandbox)
                manifest = await making.run(spec, archive, switch=switch)
                archive.unlink()
                await _keep(slot, half_made, directory)
                await remove_tree(directory, ROOT)
                await asyncio.to_thread(_complete, half_made, manifest, directory)
            await slot.renew()
            await self._prune()

        async with made_on_demand(
            directory.with_suffix(".lock"), find, make, waiting_line(output)
        ) as layer:
            await _copy(layer.upper, slot)
            yield layer.manifest

    async def sweep(self) -> None:
        """Removes layers that were being made, or removed, when their worker was killed."""
        await remove_unlocked(self._home, HALF_MADE, ROOT)
        await remove_unused(self._home, ROOT)

    async def _prune(self) -> None:
        complete = self._home.glob("*/manifest.json")
        await prune_unused(
            (mark for mark in complete if not mark.parent.name.startswith(HALF_MADE)),
            self._keep,
            lambda mark: mark.parent.with_suffix(".lock"),
            lambda mark: remove_tree(mark.parent, ROOT),
        )


async def _keep(slot: Slot, half_made: Path, directory: Path) -> None:
    """Moves the opam root of a slot into a layer, of which its user can only read."""
    root = half_made / "root"
    await asyncio.to_thread((slot.home / ".opam").rename, root)
    if slot.user is not None:
        await _call("the layer", "chown", "-R", "-h", f"{os.getuid()}:{os.getgid()}", str(root))
    await _call("the layer", "chmod", "-R", "go+rX", str(root))
    base = root / "repo" / "default"
    if base.is_dir():  # opam may keep it as an archive
        base.rename(half_made / "default")
        base.symlink_to(directory / "default")


async def _copy(root: Path, slot: Slot) -> None:
    target = slot.home / ".opam"
    # On file systems that can, files share their blocks until one is written to.
    copy = (programs.gnu("cp"), "--archive", "--reflink=auto", "--", str(root), str(target))
    await _call("the base layer", *copy)
    await slot.own(target)


async def _call(what: str, *argv: str) -> None:
    output = LastOutput()
    ended = await run_process(argv, output=output, time_limit=_COPY_TIMEOUT)
    if not ended.ok:
        raise InfrastructureError(
            f"{what} cannot be copied ({ended.how}): {output.text[-300:]}", cause=Cause.STORAGE
        )


def _complete(half_made: Path, manifest: LayerManifest, target: Path) -> None:
    (half_made / "manifest.json").write_text(manifest.model_dump_json())
    os.sync()
    half_made.rename(target)
