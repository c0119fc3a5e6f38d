"""Base layers of the container runner: images with an opam root that knows one commit.

The same as the layers of the root-file-system runner, made by the same steps, kept by the
engine. What is known about each lies in a file of ours, behind a lock.
"""

import asyncio
import hashlib
import json
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opam_ci.clients.runners import mirrors, steps
from opam_ci.clients.runners.containerbox import open_box
from opam_ci.clients.runners.containerexec import ContainerExecutor
from opam_ci.clients.runners.engine import Engine
from opam_ci.clients.runners.executor import read_one
from opam_ci.clients.runners.image import ImageManifest, installed_packages
from opam_ci.clients.runners.layer import (
    LAYER_VERSION,
    ArtifactSource,
    LayerMaking,
    LayerManifest,
)
from opam_ci.clients.runners.locks import lock, try_lock
from opam_ci.core.build import BuildSpec
from opam_ci.core.job import Phase
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cause

_COMMIT_TIMEOUT = 10 * 60.0
_PULL_TIMEOUT = 30 * 60.0
_STATUS = "var/lib/dpkg/status"
_STATUS_LIMIT = 32 << 20
_LISTS = steps.Step(("sh", "-c", "ls /var/lib/apt/lists/*Packages*"))
_NAME = "localhost/opam-ci-layer"
_COMPILERS = frozenset({"ocaml", "ocaml-base-compiler", "ocaml-system", "ocaml-variants"})
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class ContainerLayer(Frozen):
    """A complete layer.

    Attributes:
        image: The engine's name of it.
        manifest: What its opam root holds.
        system: Its Debian packages; none for another distribution.
    """

    image: str
    manifest: LayerManifest
    system: ImageManifest


class ContainerLayers:
    """The layers that an engine keeps for us.

    Args:
        home: Directory of locks and descriptions.
        engine: Which keeps the images.
        artifacts: Where base archives come from.
        keep: How many stay when a new one is made.
        network: The engine's word for the network.
    """

    def __init__(
        self, home: Path, engine: Engine, artifacts: ArtifactSource, keep: int, network: str
    ) -> None:
        self._home = home
        self._engine = engine
        self._artifacts = artifacts
        self._keep = keep
        self._network = network

    async def image(self, name: str, tell: Callable[[str], None]) -> str:
        """Returns the id of an image, which is pulled if it is not there.

        Raises:
            InfrastructureError: Cause `image`: it cannot be had.
        """
        found = await self._engine.inspect("image", name)
        if found is None:
            tell(f"pulling {name}")
            await self._engine.call("pull", name, time_limit=_PULL_TIMEOUT, cause=Cause.IMAGE)
            found = await self._engine.inspect("image", name)
        if found is None:
            raise InfrastructureError(f"image {name} is not there", cause=Cause.IMAGE)
        return str(found["Id"]).removeprefix("sha256:")

    async def made_at(self, image: str) -> datetime | None:
        """Returns when an image was made, if it says so."""
        return _made_at(await self._engine.inspect("image", image))

    @asynccontextmanager
    async def use(
        self, image: str, spec: BuildSpec, output: Callable[[bytes], None]
    ) -> AsyncIterator[ContainerLayer]:
        """Holds the layer of a job, making it first if need be.

        Args:
            image: Id of the image below.
            spec: The job.
            output: Receives what a person watches while it is made.

        Raises:
            InfrastructureError: It cannot be made.
        """
        shown = mirrors.inside(spec.archive_mirrors)
        key = _key(image, spec, shown)
        self._home.mkdir(parents=True, exist_ok=True)

        def waiting() -> None:
            output(b"[opam-ci] waiting for another job that makes the same base layer\n")

        while True:
            async with lock(self._home / f"{key}.lock", shared=True, waiting=waiting):
                if (layer := await self._find(key)) is not None:
                    # Its age decides what is pruned.
                    os.utime(self._home / f"{key}.json")
                    yield layer
                    return
            async with lock(self._home / f"{key}.lock", waiting=waiting):
                if await self._find(key) is None:
                    await self._make(image, spec, shown, key, output)
            await self._prune(sparing=key)

    async def _find(self, key: str) -> ContainerLayer | None:
        try:
            text = (self._home / f"{key}.json").read_bytes()
        except FileNotFoundError:
            return None
        layer = ContainerLayer.model_validate_json(text)
        # Somebody else may tidy up the engine's images.
        return layer if await self._engine.inspect("image", layer.image) is not None else None

    async def _make(
        self,
        image: str,
        spec: BuildSpec,
        shown: mirrors.Mirrors,
        key: str,
        output: Callable[[bytes], None],
    ) -> None:
        name = f"{_NAME}:{key}"
        with tempfile.TemporaryDirectory(prefix="opam-ci-") as directory:
            archive = Path(directory) / "base.tar.gz"
            await self._artifacts.fetch(spec.repository.base_archive, archive)
            async with open_box(
                self._engine,
                image,
                f"opam-ci-layer-{key}-{os.getpid()}",
                network=self._network,
                mirrors=shown,
                limits=None,
            ) as box:
                executor = ContainerExecutor(box, shown)
                manifest = await LayerMaking(executor, shown, output).run(spec, archive)
                _check_compiler(spec, manifest)
                system = await _system(executor, image, await self._engine.inspect("image", image))
                await self._engine.call(
                    *("commit", "--pause=false", box.name, name),
                    time_limit=_COMMIT_TIMEOUT,
                    cause=Cause.STORAGE,
                )
        layer = ContainerLayer(image=name, manifest=manifest, system=system)
        await asyncio.to_thread(_write_whole, self._home / f"{key}.json", layer.model_dump_json())

    async def _prune(self, *, sparing: str) -> None:
        known = sorted(self._home.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in known[: -self._keep]:
            mine = None if path.stem == sparing else try_lock(self._home / f"{path.stem}.lock")
            if mine is None:
                continue
            try:
                path.unlink(missing_ok=True)
                # It fails while a job of another installation uses it: then that one prunes.
                await self._engine.try_call("rmi", f"{_NAME}:{path.stem}")
            finally:
                os.close(mine)


def _key(image: str, spec: BuildSpec, shown: mirrors.Mirrors) -> str:
    words = [
        LAYER_VERSION,
        image,
        spec.repository.base_commit,
        spec.platform.compiler,
        shown.digest if spec.only_mirrored else None,
    ]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]


def _write_whole(path: Path, text: str) -> None:
    new = path.with_suffix(f".new-{os.getpid()}")
    new.write_text(text)
    new.replace(path)


def _check_compiler(spec: BuildSpec, manifest: LayerManifest) -> None:
    found = sorted(
        package for package in manifest.installed if package.split(".", 1)[0] in _COMPILERS
    )
    versions = {package.split(".", 1)[1] for package in found}
    if not any(version.startswith(f"{spec.platform.ocaml}.") for version in versions):
        raise InfrastructureError(
            f"the image of {spec.platform.name} has {', '.join(found) or 'no OCaml'}",
            cause=Cause.IMAGE,
        )


def _made_at(described: dict[str, Any] | None) -> datetime | None:
    try:
        return datetime.fromisoformat(str((described or {}).get("Created", "")))
    except ValueError:
        return None


async def _system(
    executor: ContainerExecutor, image: str, described: dict[str, Any] | None
) -> ImageManifest:
    """Describes what the distribution of an image has installed."""
    status = await read_one(executor, _STATUS, limit=_STATUS_LIMIT) or b""
    lists = await executor.run(_LISTS, output=lambda _: None, phase=Phase.CHECKOUT)
    created = _made_at(described)
    return ImageManifest(
        digest=image,
        suite="",
        packages=installed_packages(status.decode(errors="replace")),
        # Without lists apt knows no package: they are fetched in the first job that asks.
        made_at=created if created is not None and lists.ok else _NEVER,
    )
