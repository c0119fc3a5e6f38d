"""The dependencies of one job, taken from the cache or built for it.

See docs/adr/0005-build-cache.md. In short: each dependency is built once, alone over its own
dependencies, before anything but its own closure has run in that root; and it becomes a read-only
layer under the writes of every job that has the same one. The others are left to the job's plain
`opam install --deps-only`, which runs in any case and decides.
"""

import asyncio
import hashlib
import json
import platform
import re
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, Protocol, Self

from opam_ci.clients.runners.cache.failures import FailureStore
from opam_ci.clients.runners.cache.store import CacheEntry, CacheStore
from opam_ci.clients.runners.images.layer import Layer
from opam_ci.clients.runners.images.rootfs_exec import RootfsExecutor
from opam_ci.clients.runners.images.scratch import overlay
from opam_ci.clients.runners.phases import plan as phases
from opam_ci.clients.runners.phases import report
from opam_ci.clients.runners.phases.executor import Executor, read_one
from opam_ci.clients.runners.phases.phase_log import PhaseLog
from opam_ci.clients.runners.phases.steps import OPAM_ENVIRONMENT, Step
from opam_ci.clients.runners.phases.transcript import Excerpt
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox import safe_read as beneath
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.core.classify.exits import OpamExit
from opam_ci.core.jobs.build import BuildSpec
from opam_ci.core.jobs.build_keys import CachedBuild, cached_builds
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.known_failure import FailedAlone, KnownFailure
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.reuse.known_failures import beside, holds

_SWITCH_FILES: Final = f"{phases.OPAM_ROOT}/{phases.SWITCH}"

_RECORDS: Final = f"{_SWITCH_FILES}/.opam-switch"
_INSTALLED_CACHE: Final = f"{_RECORDS}/packages/cache"
_DPKG_STATUS: Final = "var/lib/dpkg/status"
_FILE_LIMIT: Final = 32 << 20
"""Bytes of a file that is read into memory, and of all files of a job's packages."""
_NUMBER_LIMIT: Final = 10_000
"""Number of these."""
_IRRELEVANT: Final = {
    *("pool", "otherwise", "timeouts"),
    *("lower_bounds", "revdeps", "only_direct_revdeps", "revdep_tests"),
}
"""What no build sees of its platform."""
_PATIENCE: Final = 20 * 60.0
"""Seconds to wait for another job that builds the same dependency."""

_LAYERS: Final = 100
"""Number of layers whose paths fit into an overlay's options, a page of 4096 bytes."""

_INSTALLED: Final = re.compile(r"^installed: (?:\[[^\]]*\]|\"[^\"]*\")", re.MULTILINE)

# opam's list of what is installed comes from standard input, and its cache of it is stale.
_WITH_STATE: Final = 'cat > "$1" && rm -f "$2" && shift 2 && exec "$@"'


class Run(Protocol):
    """Runs a step of the job."""

    async def __call__(
        self,
        step: Step,
        /,
        *,
        executor: Executor | None = None,
        stdin: IO[bytes],
        output: Callable[[bytes], None],
    ) -> tuple[ProcessResult, report.OpamReport | None]:
        """Runs it in the job's own root, or in another; its output is left out of the log."""


class _LeftToOpamError(Exception):
    """A dependency cannot be cached, for this reason."""


class DependencyCache:
    """One job's use of the cache.

    Args:
        store: The cache.
        executor: The job's build root.
        base: Its base layer.
        context: All that every build of the job depends on; see `cache_context`.
        phase_log: The job's log and time limits.
        failures: What is known to fail.

    Attributes:
        failed: Dependencies that failed where each was built alone.
    """

    def __init__(  # noqa: PLR0913 - the parts of a job
        self,
        store: CacheStore,
        executor: RootfsExecutor,
        base: Layer,
        context: str,
        phase_log: PhaseLog,
        *,
        failures: FailureStore,
    ) -> None:
        self._store = store
        self._failures = failures
        self._executor = executor
        self._base = base
        self._context = context
        self._note = phase_log.transcript.note
        self._phase_log = phase_log
        self._files: dict[str, dict[str, bytes]] = {}
        self._plain_bottom: tuple[Path, ...] = ()
        self._bottom: tuple[Path, ...] = ()
        self._found: dict[str, CachedBuild] = {}
        self._wanted: dict[str, CachedBuild] = {}
        self._target_name = ""
        self._target: CachedBuild | None = None
        self._have: dict[str, CacheEntry] = {}
        self.failed: list[FailedAlone] = []

    def __enter__(self) -> Self:
        """Takes nothing yet."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Releases all entries."""
        for entry in self._have.values():
            entry.close()

    async def seal_plain(self, solution: Collection[str]) -> None:
        """Seals the job's root before apt installs system packages for it.

        Dependencies that need no system packages are built over that, so that jobs with other
        system packages can use them.

        Args:
            solution: The packages that the job installs.
        """
        compiler = {package.partition(".")[0] for package in self._base.manifest.installed}
        if any(package.partition(".")[0] in compiler for package in solution):
            self._note("the solution changes the compiler: without the cache")
            return
        self._files = await asyncio.to_thread(_files, self._executor.root.upper, solution)
        self._plain_bottom = self._executor.seal()

    async def attach(self, target: str, run: Run) -> None:
        """Puts cached dependencies under the job's root.

        After apt, before anything of a package is fetched or run: every build for the cache lies
        over what the job wrote so far, or, of plain packages, before apt.

        Args:
            target: The package under test, which is always built by the job itself.
            run: Runs a step.
        """
        files = self._files
        if not files:
            return
        system = await read_one(self._executor, _DPKG_STATUS, limit=_FILE_LIMIT)
        self._bottom = self._executor.seal()
        found = await asyncio.to_thread(
            cached_builds,
            files,
            self._context,
            hashlib.sha256(system or b"").hexdigest(),
        )
        self._found = {build.package: build for build in found}
        self._wanted = {build.package: build for build in found if build.package != target}
        self._target_name, self._target = target, self._found.get(target)
        for build in found:
            if self._can_take(build):
                try:
                    self._take(build, await asyncio.to_thread(self._store.find, build.key))
                except OSError as error:
                    self._note(f"the cache's entry of {build.package} cannot be read: {error}")
        if self._have:
            self._note(f"from the cache: {', '.join(self._have)}")
            await self._put(run)

    async def known_failure(self) -> KnownFailure | None:
        """Returns what is known of a dependency that fails, None if none is known to."""
        now = datetime.now(UTC)
        for build in self._wanted.values():
            if build.package in self._have:
                continue
            known = await asyncio.to_thread(self._failures.find, build.key)
            if known is None or known.package != build.package:
                continue
            if holds(known, self._beside(build.package), now):
                return known
        return None

    def _beside(self, package: str) -> tuple[str, ...]:
        return beside(package, self._found, self._files, self._target_name)

    async def fill(self, run: Run) -> ProcessResult | None:
        """Builds the dependencies that the cache lacks, each alone, and keeps them.

        Args:
            run: Runs a step.

        Returns:
            How the phase ended if its time is over, None otherwise.
        """
        before = len(self._have)
        for build in self._wanted.values():
            if build.package in self._have or not self._can_take(build):
                continue
            try:
                if (too_late := await self._get(build, run)) is not None:
                    return too_late
            except (OSError, _LeftToOpamError) as error:
                self._note(f"{build.package} is left to opam: {error}")
        if len(self._have) > before:
            await self._put(run)
        return None

    async def keep_target(self) -> None:
        """Keeps the package under test too, for the jobs of its reverse dependencies.

        At the very end of a job that built the package and ran nothing else, since it takes the
        job's files. Only if the job's root never had more than the package needs, for then the
        package was as good as built alone.
        """
        target, root = self._target, self._executor.root
        if target is None or self._files.keys() != {target.package, *target.needs}:
            return
        if any(need not in self._have for need in target.needs):
            return
        if _installed(root.upper) != self._base.manifest.installed | set(self._files):
            return
        seconds = sum(run.duration for run in self._phase_log.runs if run.phase is Phase.BUILD)
        try:
            if (entry := await asyncio.to_thread(self._store.find, target.key)) is not None:
                entry.close()
                return
            await self._store.keep(
                root.upper.parent, target.key, target.package, seconds, root.lowers
            )
            await asyncio.to_thread(self._failures.forget, target.key)
        except (OSError, InfrastructureError) as error:
            self._note(f"{target.package} cannot be kept in the cache: {error}")

    @property
    def served(self) -> frozenset[str]:
        """The packages that the job has from the cache."""
        return frozenset(self._have)

    def _can_take(self, build: CachedBuild) -> bool:
        return (
            build.package in self._wanted
            and len(self._have) < _LAYERS
            and all(need in self._have for need in build.needs)
        )

    def _take(self, build: CachedBuild, entry: CacheEntry | None) -> bool:
        """Takes an entry, unless it has files in common with one that it does not need."""
        if entry is None:
            return False
        others = (have for name, have in self._have.items() if name not in build.needs)
        if any(entry.manifest.files.keys() & have.manifest.files.keys() for have in others):
            entry.close()
            return False
        self._have[build.package] = entry
        return True

    async def _put(self, run: Run) -> None:
        """Puts all entries under the job's root, and into opam's list of installed packages."""
        self._executor.put_between(self._layers(self._have))
        state = await self._state(self._have)
        ended, _ = await self._with_state(state, ("true",), run, None, output=lambda _: None)
        if not ended.ok:
            # Neither with these layers nor without them does the switch match opam's list now.
            raise InfrastructureError(
                f"opam's list of installed packages could not be written ({ended.how})",
                cause=Cause.STORAGE,
            )

    def _layers(self, packages: Iterable[str]) -> tuple[Path, ...]:
        """Returns the layers of packages, topmost first: each over those that it needs."""
        chosen = set(packages)
        return tuple(self._have[name].upper for name in reversed(self._wanted) if name in chosen)

    async def _state(self, packages: Iterable[str]) -> bytes:
        text = beneath.read(self._base.upper, phases.SWITCH_STATE, limit=report.STATE_LIMIT)
        names = sorted({*self._base.manifest.installed, *packages})
        listed = "\n".join(f'  "{name}"' for name in names)
        state, count = _INSTALLED.subn(f"installed: [\n{listed}\n]", (text or b"").decode())
        if count != 1:
            raise InfrastructureError(
                "the base layer's list of installed packages is missing or invalid",
                cause=Cause.OPAM_INTERNAL,
            )
        return state.encode()

    async def _with_state(  # noqa: PLR0913 - what a step consists of
        self,
        state: bytes,
        argv: tuple[str, ...],
        run: Run,
        executor: Executor | None,
        *,
        output: Callable[[bytes], None],
        read_only: tuple[tuple[Path, str], ...] = (),
    ) -> tuple[ProcessResult, report.OpamReport | None]:
        files = (f"/{phases.SWITCH_STATE}", f"/{_INSTALLED_CACHE}")
        command = ("sh", "-c", _WITH_STATE, "sh", *files, *argv)
        step = Step(command, report=executor is not None, read_only=read_only)
        with tempfile.TemporaryFile() as stdin:
            stdin.write(state)
            stdin.seek(0)
            return await run(step, executor=executor, stdin=stdin, output=output)

    async def _get(self, build: CachedBuild, run: Run) -> ProcessResult | None:
        """Builds a dependency, or waits for another job that does.

        Returns:
            How the build ended if the time of the phase is over, None otherwise.

        Raises:
            OSError: The dependency cannot be kept.
            _LeftToOpamError: The dependency cannot be cached.
        """
        waited = False

        def waiting() -> None:
            nonlocal waited
            waited = True
            self._note(f"waiting for another job that builds {build.package}")

        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await stack.enter_async_context(self._store.making(build.key, waiting))
            except TimeoutError:
                raise _LeftToOpamError("another job takes too long to build it") from None
            finally:
                if waited:
                    # The limit is for what the packages of this job do.
                    self._phase_log.restart_limit(Phase.DEPENDENCIES)
            if self._take(build, await asyncio.to_thread(self._store.find, build.key)):
                self._note(f"from the cache, meanwhile: {build.package}")
                return None
            return await self._build(build, run)

    async def _build(self, build: CachedBuild, run: Run) -> ProcessResult | None:
        begin = time.monotonic()
        # Its output is left out: if it fails alone, the plain run is judged.
        self._note(f"building for the cache: {build.package}")
        async with self._store.directory() as directory:
            bottom = self._plain_bottom if build.plain else self._bottom
            lowers = (*self._layers(build.needs), *bottom)
            alone = self._executor.over(overlay(directory, lowers))
            job = self._executor.root.upper
            downloads: tuple[tuple[Path, str], ...] = ()
            if beneath.is_directory(job, phases.DOWNLOADS):
                downloads = ((job / phases.DOWNLOADS, f"/{phases.DOWNLOADS}"),)
            output = Excerpt()
            ended, found = await self._with_state(
                await self._state(build.needs),
                ("opam", "install", build.package),
                run,
                alone,
                output=output.feed,
                read_only=downloads,
            )
            if ended.timed_out:
                return ended
            if not ended.ok:
                if _is_own_failure(build.package, ended, found):
                    self.failed.append(
                        FailedAlone(
                            package=build.package,
                            key=build.key,
                            beside=self._beside(build.package),
                            output=output.text,
                        )
                    )
                raise _LeftToOpamError(f"built alone, it fails ({ended.how})")
            expected = self._base.manifest.installed | {*build.needs, build.package}
            if (
                found is None
                or found.solution != (build.package,)
                or _installed(directory / "upper") != expected
            ):
                raise _LeftToOpamError("built alone, it installs other packages too")
            seconds = time.monotonic() - begin
            try:
                kept = await self._store.keep(directory, build.key, build.package, seconds, lowers)
            except (OSError, InfrastructureError) as error:
                # Only the work is lost.
                raise _LeftToOpamError(f"it cannot be kept: {error}") from error
        if not kept or not self._take(build, await asyncio.to_thread(self._store.find, build.key)):
            raise _LeftToOpamError("its files conflict with those of other packages")
        await asyncio.to_thread(self._failures.forget, build.key)
        self._note(f"built for the cache: {build.package} in {seconds:.1f} s")
        return None


def _is_own_failure(package: str, ended: ProcessResult, found: report.OpamReport | None) -> bool:
    """Whether opam reports that commands of a package failed, and nothing else."""
    if ended.exit_code != OpamExit.PACKAGE_OPERATION_ERROR or found is None:
        return False
    failed = {(each.package, each.action) for each in found.actions if each.result == "failed"}
    return bool(failed) and failed <= {(package, "build"), (package, "install")}


def _files(upper: Path, solution: Iterable[str]) -> dict[str, dict[str, bytes]]:
    """Reads the directories of packages; that of a package beyond the limits is empty."""
    found: dict[str, dict[str, bytes]] = {}
    limit, number = _FILE_LIMIT, _NUMBER_LIMIT
    for package in solution:
        path = f"{phases.OPAM_ROOT}/repo/{phases.SOLUTION}/{phases.package_path(package)}"
        files = beneath.files(upper, path, limit=limit, number=number) or {}
        limit -= sum(map(len, files.values()))
        number -= len(files)
        found[package] = files
    return found


def _installed(upper: Path) -> frozenset[str] | None:
    """Reads which packages are installed, from a build root's own writes."""
    state = beneath.read(upper, phases.SWITCH_STATE, limit=report.STATE_LIMIT)
    return None if state is None else report.installed(state)


def cache_store(home: Path, limit: int) -> CacheStore:
    """Returns the cache of a machine.

    Args:
        home: Directory of its images, layers and job roots.
        limit: Size of the cache in bytes.
    """
    return CacheStore(home / "cache", _SWITCH_FILES, limit, sandbox.rights())


def cache_context(spec: BuildSpec, image_digest: str, base: Layer) -> str:
    """Returns all that every build of a job depends on besides packages, as one text.

    Args:
        spec: The job.
        image_digest: Digest of the root file system.
        base: The base layer, of which the compiler matters, not the commit.
    """
    compiler = hashlib.sha256()
    for path in (f"{_RECORDS}/packages", f"{_RECORDS}/config"):
        files = beneath.files(base.upper, path, limit=_FILE_LIMIT, number=_NUMBER_LIMIT) or {}
        # The form of opam's own cache of these files varies.
        described = {name: data.hex() for name, data in files.items() if name != "cache"}
        compiler.update(json.dumps(described, sort_keys=True).encode())
    settings = beneath.read(base.upper, f"{phases.OPAM_ROOT}/config", limit=_FILE_LIMIT)
    return json.dumps(
        [
            image_digest,
            platform.machine(),
            spec.platform.model_dump(mode="json", exclude=_IRRELEVANT),
            sorted(base.manifest.installed),
            compiler.hexdigest(),
            hashlib.sha256(settings or b"").hexdigest(),
            OPAM_ENVIRONMENT,
        ],
        sort_keys=True,
    )
