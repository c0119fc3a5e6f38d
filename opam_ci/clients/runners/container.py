"""The container runner: the same jobs in containers of podman or docker.

docs/builds.md tells how a job runs, docs/adr/0006-container-runner.md why so.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from opam_ci.clients.host import HostNeeds
from opam_ci.clients.runners import aptsources, layer, mirrors, steps
from opam_ci.clients.runners.base import LogSink
from opam_ci.clients.runners.containerbox import open_box, remove
from opam_ci.clients.runners.containerexec import ContainerExecutor
from opam_ci.clients.runners.containerlayer import ContainerLayers
from opam_ci.clients.runners.disk import DiskWatch
from opam_ci.clients.runners.engine import Engine
from opam_ci.clients.runners.image import remove_unlocked
from opam_ci.clients.runners.jobroot import held_directory
from opam_ci.clients.runners.jobrun import JobRun
from opam_ci.clients.runners.layer import ArtifactSource
from opam_ci.clients.runners.perform import perform
from opam_ci.clients.runners.phasebook import PhaseBook
from opam_ci.clients.runners.preflight import check_clock, check_room, limits_line, utc_now
from opam_ci.clients.runners.reproduction import reproduction
from opam_ci.clients.runners.sandbox import ROOT
from opam_ci.clients.runners.settings import ContainerSettings
from opam_ci.clients.runners.transcript import Transcript
from opam_ci.core.build import BuildProgress, BuildReport, BuildSpec
from opam_ci.core.errors import InfrastructureError, UsageError
from opam_ci.core.job import JobKind, Phase
from opam_ci.core.outcome import Cause

_KINDS = frozenset(JobKind) - {JobKind.ANALYSIS, JobKind.LINT}
_PREFLIGHT_TIMEOUT = 60.0


class ContainerRunner:
    """Runs build jobs in containers; implements `base.Runner`.

    Any number of jobs may run at once, in one process or several, over one engine.

    Args:
        settings: How this machine builds.
        artifacts: Where the repositories of jobs come from.
    """

    def __init__(self, settings: ContainerSettings, artifacts: ArtifactSource) -> None:
        self._settings = settings
        self._artifacts = artifacts
        self._engine = Engine(settings)
        self._jobs = settings.home / "containers"
        self._layers = ContainerLayers(
            settings.home / "container-layers",
            self._engine,
            artifacts,
            settings.keep_layers,
            settings.network,
        )
        self._limits = settings.limits.on_this_machine(settings.slots)

    @property
    def needs(self) -> HostNeeds:
        """What this machine must have left before it takes jobs."""
        return HostNeeds(
            home=self._settings.home,
            free_bytes=self._settings.min_free_bytes,
            free_inodes=self._settings.min_free_inodes,
        )

    async def require(self) -> None:
        """Checks that the engine's client is installed.

        Raises:
            UsageError: The line says what to install.
        """
        if missing := self._engine.missing():
            raise UsageError(missing)

    async def prepare(self, tell: Callable[[str], None]) -> None:
        """Checks that the engine answers, and pulls the default image if there is one.

        Args:
            tell: Receives words that a person watches.

        Raises:
            InfrastructureError: Cause `sandbox` or `image`, and what to do.
        """
        self._engine.require()
        await self._engine.call("version")
        if self._settings.image is not None:
            await self._layers.image(self._settings.image, tell)

    async def sweep(self) -> int:
        """Removes the containers of workers that are gone; returns how many there were."""

        async def first(directory: Path) -> None:
            await remove(self._engine, _container(directory))

        self._engine.require()
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
            return  # Each platform names its own: the first job of each shows what it is.
        image = await self._layers.image(self._settings.image, lambda _: None)
        if (made_at := await self._layers.made_at(image)) is not None:
            check_clock(utc_now(), not_before=made_at)
        async with self._box(image, mirrors.Mirrors()) as (executor, _):
            said = bytearray()
            ended = await executor.run(
                steps.SELF_TEST,
                output=said.extend,
                phase=Phase.SETUP,
                time_limit=_PREFLIGHT_TIMEOUT,
            )
            if not ended.ok:
                last = (said.decode(errors="replace").strip().splitlines() or ["nothing"])[-1]
                raise InfrastructureError(
                    f"the sandbox of builds does not work in {self._settings.image} ({last}): "
                    "see docs/builds.md, Container runner",
                    cause=Cause.SANDBOX,
                )
            await layer.require_sandbox(executor)

    async def run(
        self, spec: BuildSpec, log: LogSink, progress: Callable[[BuildProgress], None]
    ) -> BuildReport:
        """Runs all phases of a job; see `base.Runner.run`."""
        transcript = Transcript(log, progress)
        name = spec.platform.image or self._settings.image
        if spec.job.kind not in _KINDS or name is None:
            what = "without an image" if name is None else f"of kind {spec.job.kind}"
            raise InfrastructureError(f"this worker runs no jobs {what}", cause=Cause.IMAGE)
        image = await self._layers.image(name, lambda words: transcript.plain(f"{words}\n"))
        transcript.plain(f"Image: {name} ({image})\n")
        distribution = spec.platform.distribution.removeprefix("debian-")
        transcript.plain(reproduction(spec, debian=distribution))
        book = PhaseBook(transcript, spec.timeouts)
        begun = book.begin(Phase.CHECKOUT, f"base {spec.repository.base_commit} and submission")
        shown = mirrors.inside(spec.archive_mirrors)
        async with (
            self._layers.use(image, spec, transcript.output) as base,
            self._box(base.image, shown) as (executor, limits),
        ):
            transcript.say(limits)
            environment = {}
            if self._settings.opam_jobs is not None:
                environment["OPAMJOBS"] = str(self._settings.opam_jobs)
            job = JobRun(
                spec,
                executor,
                base.manifest,
                base.system,
                book,
                apt_options=aptsources.read_host().options,
                environment=environment,
            )
            return await perform(spec, executor, job, book, begun, self._artifacts)

    @asynccontextmanager
    async def _box(
        self, image: str, shown: mirrors.Mirrors
    ) -> AsyncIterator[tuple[ContainerExecutor, str]]:
        async with (
            held_directory(self._jobs, "job-") as directory,
            open_box(
                self._engine,
                image,
                _container(directory),
                network=self._settings.network,
                mirrors=shown,
                limits=self._limits,
            ) as box,
        ):
            disk = DiskWatch(box.upper, self._limits, ROOT) if box.upper is not None else None
            yield ContainerExecutor(box, shown, disk=disk), limits_line(self._limits)


def _container(directory: Path) -> str:
    """Names the container of a job root."""
    return f"opam-ci-{directory.name}"
