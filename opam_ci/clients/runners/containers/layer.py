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
from typing import Any

from opam_ci.clients.runners.containers.box import Container, open_container
from opam_ci.clients.runners.containers.engine import Engine
from opam_ci.clients.runners.containers.exec import ContainerExecutor
from opam_ci.clients.runners.containers.registry import ImageResolver
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
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox.locks import made_on_demand, prune_unused
from opam_ci.clients.runners.sandbox.network import ContainerNetwork
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.clients.runners.sandbox.whole_file import write_whole
from opam_ci.core.jobs.build import BuildSpec
from opam_ci.core.jobs.errors import InfrastructureError, UnfitImageError
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.model import Frozen
from opam_ci.core.platforms import contents
from opam_ci.core.platforms.images import parse_image
from opam_ci.core.platforms.model import ARCHITECTURES, Architecture, Platform

_COMMIT_TIMEOUT = 10 * 60.0
_PULL_TIMEOUT = 30 * 60.0
_PULLED_KEPT = 7 * 86_400.0
"""Seconds for which an image that was pulled is kept unused: a digest is pinned for each head, and
newer ones come every week or so."""

_STATUS = "var/lib/dpkg/status"
_STATUS_LIMIT = 32 << 20
_LISTS = steps.Step(("sh", "-c", "ls /var/lib/apt/lists/*Packages*"))
_NAME = "localhost/opam-ci-layer"

# With what a shell has built in alone. The links of opam are as in opam-repo-ci.
_SURVEY = """
PATH="$1"; home="$2"; id="$3"; switch="$4"; opam="$5"; plain="$6"; shift 6
if [ -x "$opam" ]; then [ "$opam" = "$plain" ] || ln -f "$opam" "$plain"; else echo "$opam"; fi
for program; do command -v "$program" > /dev/null || echo "$program"; done
printf "" | tar --create --null --files-from=- --file=- > /dev/null 2>&1 || echo "GNU tar"
case "$(bwrap --help 2>&1)" in *--perms*) ;; *) echo "bubblewrap 0.5";; esac
user=
while IFS=: read -r name _ number _ _ place _; do
  if [ "$name:$number:$place" = "opam:$id:$home" ]; then user=found; fi
done < /etc/passwd
[ "$user" ] || echo "user opam with id $id and home $home"
[ -z "$switch" ] || [ -e "$home/.opam/config" ] || echo "opam root with a switch in $home/.opam"
true
"""


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

    async def image(self, name: str, arch: str | None, show: Callable[[str], None]) -> str:
        """Returns the id of an image, pulling it first if need be.

        Args:
            name: Reference of the image, or of a list of images by architecture.
            arch: Architecture, one of `ARCHITECTURES`; None for the engine's choice.
            show: Receives lines about progress, for people.

        Raises:
            UnfitImageError: It is for another architecture, its registry refuses it, or it is of no
                registry and not here.
            InfrastructureError: Cause `image`: it cannot be pulled.
        """
        wanted = None if arch is None else ARCHITECTURES[arch]
        reference = parse_image(name)
        key = hashlib.sha256(f"{name} {arch}".encode()).hexdigest()[:16]
        pulled = self._home / "pulled" / key
        # By id: an engine keeps one image of a name, of whatever architecture.
        known = pulled.read_text().splitlines()[1:] if pulled.exists() else [name]
        if reference.is_local and reference.digest:
            known.append(reference.digest)  # docker has its id there, and knows it by that alone
        found = None
        for each in known:
            found = found or await self._engine.inspect("image", each)
        if found and _fits(found, wanted):
            if pulled.exists():
                pulled.touch()
            return _id(found)
        if not reference.is_local:
            show(f"pulling {name}")
            await self._pull(name, wanted)
            found = await self._engine.inspect("image", name)
            if found is None:
                raise InfrastructureError(f"no such image after a pull: {name}", cause=Cause.IMAGE)
        if found is None:
            raise UnfitImageError(
                f"image {name}: {self._engine.client} of this machine does not have it: build or "
                "load it there, or correct `image` in the file of platforms"
            )
        if not _fits(found, wanted):
            raise UnfitImageError(
                f"image {name} is for {found.get('Architecture')}, not for {arch}: correct `image` "
                "in the file of platforms"
            )
        await asyncio.to_thread(write_whole, pulled, f"{name}\n{_id(found)}\n".encode())
        await self.sweep()
        return _id(found)

    async def _pull(self, name: str, arch: Architecture | None) -> None:
        system = () if arch is None else ("--platform", arch.system)
        code, _, errors = await self._engine.try_call(
            "pull", "--quiet", *system, name, time_limit=_PULL_TIMEOUT
        )
        if code == 0:
            return
        # The registry's own answer tells a refused login from a network that is down.
        await ImageResolver().digest(name)
        raise InfrastructureError(f"image {name} cannot be pulled: {errors}", cause=Cause.IMAGE)

    async def sweep(self) -> None:
        """Removes images that were pulled here and are not used any more.

        The engine keeps those of containers and of images that were made from them.
        """
        oldest = time.time() - _PULLED_KEPT
        for pulled in sorted(self._home.glob("pulled/*")):
            image = pulled.read_text().splitlines()[-1]
            if pulled.stat().st_mtime < oldest:
                await self._engine.try_call("rmi", image)
                if await self._engine.inspect("image", image) is not None:
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
            UnfitImageError: The image is another platform's.
            InfrastructureError: It cannot be made.
        """
        shown = mirrors.inside(spec.archive_mirrors)
        key = await asyncio.to_thread(layer_key, image, spec, shown)
        description = self._home / f"{key}.json"

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
            # Several platforms may have one image, and so one layer.
            _check(spec.platform, layer.manifest)
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
                await _survey(container, spec.platform)
                executor = ContainerExecutor(
                    container, shown, personality=spec.platform.personality
                )
                manifest = await LayerMaking(executor, shown, output).run(spec, archive)
                system = await self._system(executor, image, output)
                await self._engine.call(
                    *("commit", "--pause=false", container.name, name),
                    time_limit=_COMMIT_TIMEOUT,
                    cause=Cause.STORAGE,
                )
        layer = ContainerLayer(image=name, manifest=manifest, system=system)
        await asyncio.to_thread(write_whole, description, layer.model_dump_json().encode())

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


def _fits(image: dict[str, Any], arch: Architecture | None) -> bool:
    """Whether an image is for an architecture; of arm64's variants there is only one."""
    if arch is None:
        return True
    variant = image.get("Variant") if arch.variant else None
    return image.get("Architecture") == arch.oci and variant in {None, "", arch.variant}


def _id(image: dict[str, Any]) -> str:
    return str(image["Id"]).removeprefix("sha256:")


def _lock_file(description: Path) -> Path:
    return description.with_suffix(".lock")


async def _survey(container: Container, platform: Platform) -> None:
    """Checks that an image has what its jobs need, and links the platform's opam.

    Raises:
        UnfitImageError: It lacks something.
        InfrastructureError: Cause `sandbox`: the engine fails.
    """
    arguments = (
        *(dict(sandbox.environment())["PATH"], sandbox.HOME, str(sandbox.USER)),
        "" if platform.compiler else "wanted",
        *(contents.opam_binary(platform), contents.OPAM, *contents.programs(platform)),
    )
    command = ("exec", "--user", "0:0", container.name, "sh", "-c", _SURVEY, "sh", *arguments)
    lacking = (await container.engine.call(*command)).decode(errors="replace").splitlines()
    if lacking:
        raise UnfitImageError(
            f"the image of {platform.name} lacks {', '.join(dict.fromkeys(lacking))}: use one that "
            "has what docs/builds.md lists under Container runner"
        )


def _check(platform: Platform, manifest: LayerManifest) -> None:
    """Checks that opam and OCaml are the platform's.

    Raises:
        UnfitImageError: They are not.
    """
    problem = contents.opam_problem(platform, manifest.opam_version) or contents.compiler_problem(
        platform, manifest.installed
    )
    if problem is not None:
        raise UnfitImageError(
            f"the image of {platform.name} is another platform's: {problem}; correct `image`, "
            "`ocaml`, `variant` or `opam` in the file of platforms"
        )
