"""The container runner: the same jobs in containers of podman or docker.

docs/builds.md describes how a job runs, docs/adr/0006-container-runner.md why so.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from opam_ci.clients import programs
from opam_ci.clients.host import HostNeeds
from opam_ci.clients.runners.base import LogSink
from opam_ci.clients.runners.cache.sources import JobSources, SourceStore
from opam_ci.clients.runners.containers.box import open_container, remove
from opam_ci.clients.runners.containers.engine import Engine
from opam_ci.clients.runners.containers.exec import ContainerExecutor
from opam_ci.clients.runners.containers.layer import ContainerLayers
from opam_ci.clients.runners.images import apt_sources as aptsources
from opam_ci.clients.runners.images.layer import ArtifactSource, check_sandbox
from opam_ci.clients.runners.images.scratch import job_directory
from opam_ci.clients.runners.job import reproduction
from opam_ci.clients.runners.job.driver import JobRun
from opam_ci.clients.runners.phases import mirrors
from opam_ci.clients.runners.phases.kinds import BUILDS
from opam_ci.clients.runners.phases.phase_log import PhaseLog
from opam_ci.clients.runners.phases.transcript import Transcript
from opam_ci.clients.runners.preflight import (
    check_clock,
    check_room,
    limits_line,
)
from opam_ci.clients.runners.sandbox.bubblewrap import (
    NETWORK_TOOLS,
    ROOT,
    proxy_environment,
)
from opam_ci.clients.runners.sandbox.disk import DiskWatch
from opam_ci.clients.runners.sandbox.locks import remove_unlocked
from opam_ci.clients.runners.sandbox.network import ContainerNetwork, tun_problem
from opam_ci.clients.runners.settings import ContainerSettings
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.build import BuildProgress, BuildReport, BuildSpec
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause


class ContainerRunner:
    """Runs build jobs in containers; implements `base.MachineRunner`.

    Any number of jobs may run at once, in one process or several, over one engine.

    Args:
        settings: How this machine builds.
        artifacts: Where the repositories of jobs come from.
    """

    def __init__(self, settings: ContainerSettings, artifacts: ArtifactSource) -> None:
        self._settings = settings
        self._artifacts = artifacts
        self._engine = Engine(settings.command, settings.runtime)
        self._jobs = settings.home / "containers"
        self._sources = SourceStore(settings.home, settings.source_store_bytes)
        self._archives = aptsources.read_host()
        self._network = ContainerNetwork(settings.network, settings.network_allow).and_to(
            (*self._archives.urls, *proxy_environment().values())
        )
        self._layers = ContainerLayers(
            settings.home / "container-layers",
            self._engine,
            artifacts,
            settings.keep_layers,
            self._network,
            apt_options=self._archives.options,
        )
        self._limits = settings.limits.on_this_machine(settings.slots)

    @property
    def needs(self) -> HostNeeds:
        """What this machine must have left before it takes jobs."""
        return self._settings.needs

    async def require(self) -> None:
        """Checks that what it needs is installed; see `base.MachineRunner.require`."""
        problem = self._engine.missing() or self._network_problem()
        if problem is not None:
            raise UsageError(problem)

    def _network_problem(self) -> str | None:
        if self._settings.network is not None:
            return None
        return programs.missing(NETWORK_TOOLS) or tun_problem()

    async def prepare(self, show: Callable[[str], None]) -> None:
        """Checks that the engine answers, and pulls the default image if there is one.

        Args:
            show: Receives lines about progress, for people.

        Raises:
            InfrastructureError: Cause `sandbox` or `image`, and what to do.
        """
        self._engine.require()
        await self._engine.call("version")
        if self._settings.image is not None:
            await self._layers.image(self._settings.image, None, show)

    async def sweep(self) -> int:
        """Removes containers of dead workers, and old images; returns how many containers."""

        async def first(directory: Path) -> None:
            await remove(self._engine, _container_name(directory))

        self._engine.require()
        await self._layers.sweep()
        await self._sources.sweep()
        return await remove_unlocked(self._jobs, "job-", ROOT, first=first)

    async def preflight(self) -> None:
        """Checks that this machine can build.

        Raises:
            InfrastructureError: With the cause and what to do about it.
        """
        await self.prepare(lambda _: None)
        self._settings.home.mkdir(parents=True, exist_ok=True)
        check_room(self.needs)
        if self._settings.image is None:
            return  # Each platform has its own: the first job of each is its test.
        image = await self._layers.image(self._settings.image, None, lambda _: None)
        if (made_at := await self._layers.made_at(image)) is not None:
            check_clock(datetime.now(UTC), not_before=made_at)
        async with self._open(image, mirrors.Mirrors(), self._network) as (executor, _):
            await check_sandbox(
                executor,
                f"in {self._settings.image}",
                lambda _: "see docs/builds.md, Container runner",
            )

    async def run(
        self, spec: BuildSpec, log: LogSink, progress: Callable[[BuildProgress], None]
    ) -> BuildReport:
        """Runs all phases of a job; see `base.Runner.run`."""
        transcript = Transcript(log, progress)
        name = spec.platform.image or self._settings.image
        if spec.job.kind not in BUILDS or name is None:
            what = "without an image" if name is None else f"of kind {spec.job.kind}"
            raise InfrastructureError(f"this worker runs no jobs {what}", cause=Cause.IMAGE)
        image = await self._layers.image(
            name, spec.platform.arch, lambda line: transcript.plain(f"{line}\n")
        )
        transcript.plain(f"Image: {name} ({image})\n")
        transcript.plain(await self.reproduction(spec))
        phase_log = PhaseLog(transcript, spec.timeouts)
        phase_log.begin_checkout(spec)
        async with (
            self._layers.use(image, spec, transcript.output) as base,
            self._open(
                base.image,
                mirrors.inside(spec.archive_mirrors),
                self._network.and_to(spec.archive_mirrors),
                spec.platform.personality,
            ) as (executor, sources),
        ):
            transcript.note(limits_line(self._limits))
            job = JobRun(
                spec,
                executor,
                base.manifest,
                base.system,
                phase_log,
                archives=self._archives,
                environment=self._settings.environment,
                sources=sources,
                image_name=name,
            )
            return await job.run(self._artifacts)

    async def reproduction(self, spec: BuildSpec) -> str:
        """Returns what reproduces a job by hand; see `base.MachineRunner.reproduction`."""
        image = spec.platform.image or self._settings.image or ""
        return reproduction.in_image(spec, image=image)

    @asynccontextmanager
    async def _open(
        self,
        image: str,
        shown: mirrors.Mirrors,
        network: ContainerNetwork,
        personality: str | None = None,
    ) -> AsyncIterator[tuple[ContainerExecutor, JobSources | None]]:
        async with AsyncExitStack() as stack:
            directory = await stack.enter_async_context(job_directory(self._jobs, "job-"))
            sources = self._sources.of_job(directory, shown)
            shown = shown if sources is None else sources.mirrors
            container = await stack.enter_async_context(
                open_container(
                    self._engine,
                    image,
                    _container_name(directory),
                    network=network,
                    mirrors=shown,
                    limits=self._limits,
                )
            )
            disk = None
            if container.upper is not None:
                disk = DiskWatch(container.upper, self._limits, ROOT, container.processes)
            executor = ContainerExecutor(container, shown, personality=personality, disk=disk)
            yield executor, sources


def _container_name(directory: Path) -> str:
    """Returns the name of the container of a job root."""
    return f"opam-ci-{directory.name}"
