"""Base layers of the container runner: images with an opam root with one commit.

The same as the layers of the root-file-system runner, made by the same steps, kept by the
engine. The description of each is in a file of ours, under a lock.
"""

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from opam_ci.clients.runners.containers.box import open_container
from opam_ci.clients.runners.containers.engine import Engine
from opam_ci.clients.runners.containers.exec import ContainerExecutor
from opam_ci.clients.runners.images.image import (
    NEVER,
    ImageManifest,
    installed_packages,
    read_manifest,
)
from opam_ci.clients.runners.images.layer import (
    ArtifactSource,
    LayerMaking,
    LayerManifest,
    layer_key,
    waiting_line,
)
from opam_ci.clients.runners.phases import mirrors, steps, system_packages
from opam_ci.clients.runners.phases.executor import read_one
from opam_ci.clients.runners.sandbox.locks import made_on_demand, prune_unused
from opam_ci.clients.runners.sandbox.network import ContainerNetwork
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.core.jobs.build import BuildSpec
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.model import Frozen

_COMMIT_TIMEOUT = 10 * 60.0
_PULL_TIMEOUT = 30 * 60.0
_PULLED_KEPT = 7 * 86_400.0
"""Seconds for which an image that was pulled is kept unused: a digest is pinned for each head, and
newer ones come every week or so."""

_STATUS = "var/lib/dpkg/status"
_STATUS_LIMIT = 32 << 20
_LISTS = steps.Step(("sh", "-c", "ls /var/lib/apt/lists/*Packages*"))
_NAME = "localhost/opam-ci-layer"
_COMPILERS = frozenset({"ocaml", "ocaml-base-compiler", "ocaml-system", "ocaml-variants"})


class ContainerLayer(Frozen):
    """A complete layer.

    Attributes:
        image: The engine's name of it.
        manifest: Content of its opam root.
        system: Its Debian packages; none for another distribution.
    """

    image: str
    manifest: LayerManifest
    system: ImageManifest


class ContainerLayers:
    """The layers that an engine keeps for us.

    Args:
        home: Directory of locks and descriptions.
        engine: The engine that keeps the images.
        artifacts: Where base archives come from.
        keep: How many stay when a new one is made; those in use always stay.
        network: Of the steps that have one.
        apt_options: Options of apt in these.
    """

    def __init__(  # noqa: PLR0913 - what a layer is made with
        self,
        home: Path,
        engine: Engine,
        artifacts: ArtifactSource,
        keep: int,
        network: ContainerNetwork,
        *,
        apt_options: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._home = home
        self._engine = engine
        self._artifacts = artifacts
        self._keep = keep
        self._network = network
        self._apt_options = apt_options

    async def image(self, name: str, show: Callable[[str], None]) -> str:
        """Returns the id of an image, pulling it first if need be.

        Raises:
            InfrastructureError: Cause `image`: it cannot be pulled.
        """
        pulled = self._home / "pulled" / hashlib.sha256(name.encode()).hexdigest()[:16]
        found = await self._engine.inspect("image", name)
        if found is None:
            show(f"pulling {name}")
            await self._engine.call("pull", name, time_limit=_PULL_TIMEOUT, cause=Cause.IMAGE)
            found = await self._engine.inspect("image", name)
            pulled.parent.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(_write_whole, pulled, name)
            await self.sweep()
        elif pulled.exists():
            pulled.touch()
        if found is None:
            raise InfrastructureError(f"no such image after a pull: {name}", cause=Cause.IMAGE)
        return str(found["Id"]).removeprefix("sha256:")

    async def sweep(self) -> None:
        """Removes images that were pulled here and are not used any more.

        The engine keeps those of containers and of images that were made from them.
        """
        oldest = time.time() - _PULLED_KEPT
        for pulled in sorted(self._home.glob("pulled/*")):
            name = pulled.read_text()
            if pulled.stat().st_mtime < oldest:
                await self._engine.try_call("rmi", name)
                if await self._engine.inspect("image", name) is not None:
                    continue
                pulled.unlink()

    async def made_at(self, image: str) -> datetime | None:
        """Returns when an image was made, None if its description lacks that."""
        described = await self._engine.inspect("image", image) or {}
        try:
            return datetime.fromisoformat(str(described.get("Created", "")))
        except ValueError:
            return None

    @asynccontextmanager
    async def use(
        self, image: str, spec: BuildSpec, output: Callable[[bytes], None]
    ) -> AsyncIterator[ContainerLayer]:
        """Holds the layer of a job, making it first if need be.

        Args:
            image: Id of the image below.
            spec: The job.
            output: Receives output of its making, for people.

        Raises:
            InfrastructureError: It cannot be made.
        """
        shown = mirrors.inside(spec.archive_mirrors)
        description = self._home / f"{layer_key(image, spec, shown)}.json"

        async def find() -> ContainerLayer | None:
            layer = read_manifest(description, ContainerLayer)
            # The engine's images may be removed without our locks.
            if layer is None or await self._engine.inspect("image", layer.image) is None:
                return None
            return layer

        async def make() -> None:
            await self._make(image, spec, shown, description, output)
            await prune_unused(self._home.glob("*.json"), self._keep, _lock_file, self._remove)

        async with made_on_demand(
            _lock_file(description), find, make, waiting_line(output)
        ) as layer:
            yield layer

    async def _remove(self, description: Path) -> None:
        # It fails while a job of another installation uses the image: then that one prunes.
        await self._engine.try_call("rmi", f"{_NAME}:{description.stem}")

    async def _make(
        self,
        image: str,
        spec: BuildSpec,
        shown: mirrors.Mirrors,
        description: Path,
        output: Callable[[bytes], None],
    ) -> None:
        key = description.stem
        name = f"{_NAME}:{key}"
        with tempfile.TemporaryDirectory(prefix="opam-ci-") as directory:
            archive = Path(directory) / "base.tar.gz"
            await self._artifacts.fetch(spec.repository.base_archive, archive)
            async with open_container(
                self._engine,
                image,
                f"opam-ci-layer-{key}-{os.getpid()}",
                network=self._network.and_to(spec.archive_mirrors),
                mirrors=shown,
                limits=None,
            ) as container:
                executor = ContainerExecutor(container, shown)
                manifest = await LayerMaking(executor, shown, output).run(spec, archive)
                _check_compiler(spec, manifest)
                system = await self._system(executor, image, output)
                await self._engine.call(
                    *("commit", "--pause=false", container.name, name),
                    time_limit=_COMMIT_TIMEOUT,
                    cause=Cause.STORAGE,
                )
        layer = ContainerLayer(image=name, manifest=manifest, system=system)
        await asyncio.to_thread(_write_whole, description, layer.model_dump_json())

    async def _system(
        self, executor: ContainerExecutor, image: str, output: Callable[[bytes], None]
    ) -> ImageManifest:
        """Describes the system packages of an image, whose lists are refreshed if they are old.

        As in opam-repo-ci, whatever comes of it: most jobs need no system package.
        """

        async def run(step: steps.Step, kept: bytearray) -> ProcessResult:
            return await executor.run(step, output=kept.extend, phase=Phase.CHECKOUT)

        status = await read_one(executor, _STATUS, limit=_STATUS_LIMIT) or b""
        lists = await run(_LISTS, bytearray())
        made_at = (await self.made_at(image) if lists.ok else None) or NEVER
        manager, _ = await system_packages.find_manager(run)
        if manager is not None and datetime.now(UTC) - made_at > system_packages.LISTS_FRESH:
            step = system_packages.update(manager, self._apt_options, bounded=True)
            output(f"[opam-ci] {step.title}\n".encode())
            updated = await executor.run(step, output=output, phase=Phase.CHECKOUT)
            made_at = datetime.now(UTC) if updated.ok else made_at
        return ImageManifest(
            digest=image,
            suite="",
            packages=installed_packages(status.decode(errors="replace")),
            made_at=made_at,
        )


def _lock_file(description: Path) -> Path:
    return description.with_suffix(".lock")


def _write_whole(path: Path, text: str) -> None:
    """Writes a file that is there as a whole or not at all, also after a power cut."""
    new = path.with_suffix(f".new-{os.getpid()}")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _check_compiler(spec: BuildSpec, manifest: LayerManifest) -> None:
    found = sorted(
        package for package in manifest.installed if package.split(".", 1)[0] in _COMPILERS
    )
    versions = {package.split(".", 1)[1] for package in found}
    if not any(version.startswith(f"{spec.platform.ocaml}.") for version in versions):
        raise InfrastructureError(
            f"the image of {spec.platform.name} has {', '.join(found) or 'no OCaml'}, not OCaml "
            f"{spec.platform.ocaml}",
            cause=Cause.IMAGE,
        )
