"""The root-file-system runner: real opam in a throwaway overlay over a clean Debian.

docs/builds.md describes how a job runs, docs/adr/0002-root-file-system-runner.md why so.
"""

import os
from asyncio import to_thread
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import cached_property
from platform import machine as machine_name

from opam_ci.clients.host import HostNeeds
from opam_ci.clients.runners.base import LogSink
from opam_ci.clients.runners.cache.dependencies import DependencyCache, cache_context, cache_store
from opam_ci.clients.runners.cache.failures import failure_store
from opam_ci.clients.runners.cache.sources import SourceStore
from opam_ci.clients.runners.images import apt_sources as aptsources
from opam_ci.clients.runners.images import layer
from opam_ci.clients.runners.images.image import Image, ImageStore
from opam_ci.clients.runners.images.layer import ArtifactSource
from opam_ci.clients.runners.images.rootfs_exec import RootfsExecutor
from opam_ci.clients.runners.images.scratch import JobRoots
from opam_ci.clients.runners.job import reproduction
from opam_ci.clients.runners.job.driver import JobRun
from opam_ci.clients.runners.phases import mirrors
from opam_ci.clients.runners.phases.kinds import BUILDS
from opam_ci.clients.runners.phases.phase_log import PhaseLog
from opam_ci.clients.runners.phases.transcript import Transcript
from opam_ci.clients.runners.preflight import (
    check_clock,
    check_limits,
    check_lists,
    check_room,
    limits_line,
    namespace_problem,
)
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox.cgroups import Cgroups
from opam_ci.clients.runners.sandbox.disk import DiskWatch
from opam_ci.clients.runners.sandbox.network import JobNetwork, configured, tun_problem
from opam_ci.clients.runners.sandbox.user_namespace import job_namespace
from opam_ci.clients.runners.settings import RootfsSettings, default_home
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.build import BuildProgress, BuildReport, BuildSpec
from opam_ci.core.jobs.errors import InfrastructureError, UnfitImageError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.platforms.debian import SUITES, DebianRoot, debian_root
from opam_ci.core.platforms.model import Platform, architectures

__all__ = ["ArtifactSource", "RootfsRunner", "RootfsSettings", "default_home"]


class RootfsRunner:
    """Runs build jobs on a Linux machine; implements `base.MachineRunner`.

    Any number of jobs may run at once, in one process or several, over one `home`.

    Args:
        settings: How this machine builds.
        artifacts: Where the repositories of jobs come from.
    """

    def __init__(self, settings: RootfsSettings, artifacts: ArtifactSource) -> None:
        self._settings = settings
        self._artifacts = artifacts
        self._rights = sandbox.rights()
        self._images = ImageStore(settings.home / "images", self._rights)
        self._layers = layer.LayerStore(
            settings.home / "layers",
            artifacts,
            settings.keep_layers,
            self._rights,
        )
        self._jobs = JobRoots(settings.home / "jobs", self._rights)
        self.cache = cache_store(settings.home, settings.build_cache_bytes)
        self._sources = SourceStore(settings.home, settings.source_store_bytes)
        self._failures = failure_store(settings.home)
        archives = aptsources.read_host()
        if settings.mirror is not None:
            archives = archives.model_copy(update={"main": settings.mirror, "security": None})
        self._archives = archives
        self._allowed = (
            *settings.network_allow,
            *configured((*archives.urls, *sandbox.proxy_environment().values())),
        )
        self._limits = settings.limits.on_this_machine(settings.slots)

    @cached_property
    def _cgroups(self) -> Cgroups:
        return Cgroups.here(self._limits)

    @property
    def needs(self) -> HostNeeds:
        """What this machine must have left before it takes jobs."""
        return self._settings.needs

    async def require(self) -> None:
        """Checks for the programs and the user's namespaces; see `base.MachineRunner.require`."""
        trouble = (
            sandbox.missing_tools(sandbox.NETWORK_TOOLS)
            or await to_thread(namespace_problem, self._rights)
            or tun_problem()
        )
        if trouble is not None:
            raise UsageError(trouble)

    async def prepare(self, show: Callable[[str], None]) -> Image:
        """Makes the root file system of the first platform if there is none yet (40 s to 3 min).

        The others are made for their first jobs.

        Args:
            show: Receives lines about progress, for people.

        Raises:
            InfrastructureError: Cause `image` or `sandbox`, and what to do.
        """
        sandbox.require_tools(sandbox.NETWORK_TOOLS)
        return await self._image_of(self._settings.platform, show)

    async def sweep(self) -> int:
        """Removes leftovers of killed workers; returns how many job roots there were.

        What live workers use, of this process or another, stays.
        """
        await self._images.sweep(_root_of(self._settings.platform), self._archives)
        await self._layers.sweep()
        await self.cache.sweep()
        await self._sources.sweep()
        return await self._jobs.sweep()

    async def preflight(self) -> None:
        """Checks that this machine can build; makes the image if there is none.

        Raises:
            InfrastructureError: With the cause and what to do about it.
        """
        sandbox.require_tools(sandbox.NETWORK_TOOLS)
        self._settings.home.mkdir(parents=True, exist_ok=True)
        check_room(self.needs)
        check_limits(self._cgroups, self._limits)
        image = await self.prepare(lambda _: None)
        check_clock(datetime.now(UTC), not_before=image.manifest.made_at)
        check_lists(image.root)
        async with (
            self._jobs.open((image.root,)) as root,
            self._cgroups.open(root.upper.parent) as groups,
            job_namespace(self._rights) as rights,
        ):
            executor = RootfsExecutor(
                root,
                mirrors.Mirrors(),
                rights,
                groups=groups,
                personality=self._settings.platform.personality,
            )
            await layer.check_sandbox(executor, "here", _advice)

    async def run(
        self, spec: BuildSpec, log: LogSink, progress: Callable[[BuildProgress], None]
    ) -> BuildReport:
        """Runs all phases of a job; see `base.Runner.run`."""
        transcript = Transcript(log, progress)
        if spec.job.kind not in BUILDS:
            raise InfrastructureError(
                f"this worker does not run {spec.job.kind} jobs", cause=Cause.IMAGE
            )

        def show(line: str) -> None:
            transcript.plain(f"[opam-ci] {line}\n")
            now = BuildProgress(phase=transcript.phase, log_bytes=log.size, note="root file system")
            progress(now)

        try:
            image = await self._image_of(spec.platform, show)
        except InfrastructureError as error:
            own = _root_of(self._settings.platform)
            if error.cause is not Cause.IMAGE or _root_of(spec.platform) == own:
                raise
            # The jobs of other platforms go on.
            raise UnfitImageError(str(error)) from error
        transcript.plain(await self.reproduction(spec))
        phase_log = PhaseLog(transcript, spec.timeouts)
        phase_log.begin_checkout(spec)
        async with (
            self._layers.use(image, spec, transcript.output) as base,
            self._jobs.open((base.upper, image.root)) as root,
            self._cgroups.open(root.upper.parent) as groups,
            job_namespace(self._rights) as rights,
            AsyncExitStack() as stack,
        ):
            allowed = (*self._allowed, *configured(spec.archive_mirrors))
            network = await stack.enter_async_context(
                JobNetwork(root.upper.parent, allowed, rights)
            )
            shown = mirrors.inside(spec.archive_mirrors)
            sources = self._sources.of_job(root.upper.parent, shown)
            executor = RootfsExecutor(
                root,
                shown if sources is None else sources.mirrors,
                rights,
                groups=groups,
                # Root sees more of processes outside of their namespace than within it.
                disk=DiskWatch(
                    root.upper,
                    self._limits,
                    rights if self._rights.prefix else self._rights,
                    groups.processes,
                ),
                network=network,
                personality=spec.platform.personality,
            )
            transcript.note(limits_line(self._limits, self._cgroups.missing))
            cache = None
            if self._settings.build_cache and spec.build_cache:
                context = cache_context(spec, image.manifest.digest, base)
                cache = stack.enter_context(
                    DependencyCache(
                        self.cache, executor, base, context, phase_log, failures=self._failures
                    )
                )
            job = JobRun(
                spec,
                executor,
                base.manifest,
                image.manifest,
                phase_log,
                archives=self._archives,
                environment=self._settings.environment,
                cache=cache,
                sources=sources,
            )
            return await job.run(self._artifacts)

    async def reproduction(self, spec: BuildSpec) -> str:
        """Returns what reproduces a job by hand; see `base.MachineRunner.reproduction`."""
        return reproduction.in_root(spec, debian=_root_of(spec.platform))

    async def _image_of(self, platform: Platform, show: Callable[[str], None]) -> Image:
        """Returns the root file system of a platform, making it first if need be.

        Raises:
            InfrastructureError: Cause `image`: it cannot be made.
            UnfitImageError: There is none for this platform on this machine, or its OCaml or opam
                is not the platform's.
        """
        image = await self._images.ensure(_root_of(platform), self._archives, show)
        have = image.manifest
        what = f"{platform.distribution}/{platform.arch}"
        if (platform.ocaml, platform.variant) != (have.ocaml, None):
            raise UnfitImageError(
                f"{what} has OCaml {have.ocaml}, not {platform.release}: correct "
                f"{platform.name} in the file of platforms"
            )
        if platform.opam not in {"system", "dev", have.opam}:
            raise UnfitImageError(
                f"{what} has opam {have.opam}, not {platform.opam}: correct {platform.name} in "
                "the file of platforms"
            )
        return image


def _root_of(platform: Platform) -> DebianRoot:
    """Returns what a platform's root file system is made of.

    Raises:
        UnfitImageError: There is none on this machine.
    """
    machine = machine_name()
    debian = debian_root(platform)
    if debian is None:
        raise UnfitImageError(
            f"no root file system is made of {platform.distribution}, only of {', '.join(SUITES)}: "
            f"give {platform.name} another runner in the file of platforms"
        )
    if platform.arch not in architectures(machine):
        raise UnfitImageError(
            f"this machine ({machine}) does not run {platform.arch}: a job on {platform.name} "
            "belongs into the pool of other machines"
        )
    return debian


def _advice(output: str) -> str:
    if "mount:" in output:
        return (
            "the home directory must be on a file system that overlayfs can write to, and the "
            "kernel must have overlayfs"
        )
    if os.geteuid() != 0:
        return "run the worker as root, or give its user ranges in /etc/subuid and /etc/subgid"
    if "namespace" in output:
        return "user namespaces must be allowed: sysctl -w user.max_user_namespaces=15000"
    return "see docs/builds.md, Preflight"
