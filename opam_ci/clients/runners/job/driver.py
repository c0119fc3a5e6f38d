"""One job from its checkout to its report, the same for every runner."""

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from opam_ci.clients.runners.cache.dependencies import DependencyCache
from opam_ci.clients.runners.cache.sources import JobSources
from opam_ci.clients.runners.images import layer
from opam_ci.clients.runners.images.apt_sources import Archives
from opam_ci.clients.runners.images.image import NEVER, ImageManifest
from opam_ci.clients.runners.job.accept_failures import accepts_failure
from opam_ci.clients.runners.listing import coinstall
from opam_ci.clients.runners.listing.revdeps import revdep_list
from opam_ci.clients.runners.phases import (
    checksums,
    kinds,
    mirrors,
    network_probe,
    report,
    steps,
    system_packages,
)
from opam_ci.clients.runners.phases import plan as phases
from opam_ci.clients.runners.phases.executor import Executor, read_one
from opam_ci.clients.runners.phases.failure_facts import sandbox_works, sources_fixed
from opam_ci.clients.runners.phases.phase_log import PhaseLog
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.core.batched import batched
from opam_ci.core.classify.exits import OpamExit
from opam_ci.core.classify.preparation import (
    DEPEXTS_INSTALLED,
    SYSTEM_LISTS,
    SYSTEM_PACKAGE_NAMES,
    SYSTEM_PACKAGES_KNOWN,
)
from opam_ci.core.classify.sources import CHECKSUM_REPEATS, NETWORK_WORKS
from opam_ci.core.jobs.archives import Archive, archives
from opam_ci.core.jobs.build import BuildReport, BuildSpec, RepositoryRef, RevdepList
from opam_ci.core.jobs.errors import InfrastructureError, UnfitImageError
from opam_ci.core.jobs.facts import BuildEnvironment, BuildFacts, OpamAction
from opam_ci.core.jobs.job import PACKAGE_PHASES, REVDEP_KINDS, JobKind, Phase
from opam_ci.core.jobs.known_failure import KnownFailure
from opam_ci.core.jobs.known_verdict import KnownVerdict
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.requests import Surroundings
from opam_ci.core.opam.explanation import rests_on_hidden
from opam_ci.core.opam.file import opam_text
from opam_ci.core.reuse.verdict_key import verdict_key
from opam_ci.core.text.known_failure import known_failure_lines
from opam_ci.core.text.known_verdict import known_verdict_lines

_OPAM_FILE_LIMIT = 1 << 20

_CAPTURE_LIMIT = 32 << 20
"""Bytes of output of a command that are kept in memory; a list of all real packages has 1 MB."""

_FILES_AT_ONCE = 200
"""Opam files that are read in one go, so that a cancelled job soon reads no more."""

_BASE = f"{phases.OPAM_ROOT}/repo/default"
_SUBMISSION = f"{phases.OPAM_ROOT}/repo/{phases.SUBMISSION}"
_SOLUTION = f"{phases.OPAM_ROOT}/repo/{phases.SOLUTION}"


def check_repository(
    base: layer.LayerManifest, submitted: frozenset[str], expected: RepositoryRef
) -> None:
    """Counts packages, since a repository that lost some makes opam report unknown packages.

    Args:
        base: The base layer.
        submitted: The packages of the overlay that opam has.
        expected: The exported repository.

    Raises:
        InfrastructureError: Cause `repository_state`: there are too few or too many.
    """
    count = len(base.packages | submitted) + base.hidden
    # Packages that the merge deletes are in the overlay, as unavailable, but not in the merge;
    # hidden packages that the submission has too are counted twice. A package can be both.
    surplus = count - expected.package_count
    counted_twice = min(base.hidden, len(submitted - base.packages))
    if len(submitted) != expected.overlay_packages or not (
        0 <= surplus <= expected.overlay_packages + counted_twice
    ):
        raise InfrastructureError(
            f"opam has {count} packages, {len(submitted)} of them submitted; the merge has "
            f"{expected.package_count}, {expected.overlay_packages} submitted",
            cause=Cause.REPOSITORY_STATE,
            phase=Phase.SETUP,
        )


def _archives(files: Mapping[str, bytes]) -> dict[str, tuple[Archive, ...]]:
    """Returns the archives of those packages whose sources are all fixed."""
    return {name: found for name, text in files.items() if (found := archives(text)) is not None}


class JobRun:
    """One job, over its base layer; its checkout has begun.

    Args:
        spec: The job.
        executor: Its build root.
        base: Its base layer.
        image: The Debian packages below that.
        phase_log: Its log and phases.
        archives: Debian's archives of this machine, with options of apt in phases with network;
            None on a machine that has another package manager of its own.
        environment: Environment variables of every command.
        cache: Compiled dependencies, if it may use them.
        sources: Archives of sources that the machine keeps, if it keeps any.
        depexts_check: opam's command that checks for system packages, where none may be
            installed: it exits with 10 if some are not.
        image_name: What identifies the image for people; its digest by default.
    """

    def __init__(  # noqa: PLR0913 - the parts of a job
        self,
        spec: BuildSpec,
        executor: Executor,
        base: layer.LayerManifest,
        image: ImageManifest,
        phase_log: PhaseLog,
        *,
        archives: Archives | None,
        environment: dict[str, str],
        cache: DependencyCache | None = None,
        sources: JobSources | None = None,
        depexts_check: steps.Step | None = None,
        image_name: str = "",
    ) -> None:
        self._depexts_check = depexts_check
        self._image_name = image_name
        self._spec = spec
        self._executor = executor
        self._base = base
        self._image = image
        self._phase_log = phase_log
        self._transcript = phase_log.transcript
        self._apt_options = archives.options if archives is not None else ()
        self._own_hosts = (
            *spec.archive_mirrors,
            *(archives.direct if archives is not None else ()),
        )
        self._environment = environment
        self._cache = cache
        self._sources = sources
        self._archives: dict[str, tuple[Archive, ...]] = {}
        self._mirrors = mirrors.inside(spec.archive_mirrors)
        # `opam install` does nothing for a package that the base layer has installed.
        self._reinstall = kinds.target(spec) in base.installed
        self._solution: tuple[str, ...] = ()
        self._changed: tuple[str, ...] = ()
        self._opam_file = ""
        # So is what has no sources.
        self._is_fixed = True
        self._steps = 0
        # Facts by name: `package_known` after the solver's exit code 5; `checksum_repeats` after
        # opam refused a source for its checksum; those of `network_probe` after any other failed
        # download; `opam_sandbox` after package code failed;
        # `sources_fixed` after it wanted a source again; those of system packages as in
        # `preparation.py`.
        self._probes: dict[str, bool] = {}
        self._hidden: tuple[str, ...] = ()
        self._installed: bool | None = None
        self._listing: RevdepList | None = None
        self._known_failure: KnownFailure | None = None
        self._verdict_key: str | None = None
        self._known_verdict: KnownVerdict | None = None

    async def run(self, artifacts: layer.ArtifactSource) -> BuildReport:
        """Runs the phases, in order, until one fails, and collects the facts.

        Args:
            artifacts: Where the submission comes from.

        Raises:
            InfrastructureError: There is nothing to judge.
        """
        await self._check_out(artifacts)
        finished = await self._run_phases()
        if finished:
            self._transcript.finish()
        facts = BuildFacts(
            job=self._spec.job,
            phases=tuple(self._phase_log.runs),
            installed=self._installed,
            finished=finished,
            host=await self._executor.host(),
            probes=self._probes,
            accepts_failure=await self._accepts_failure(),
            hidden=self._hidden,
            known_failure=self._known_failure,
            verdict_key=self._verdict_key,
            known_verdict=self._known_verdict,
            environment=self._built_with,
        )
        return BuildReport(
            facts=facts,
            logs=self._transcript.texts,
            listing=self._listing,
            sources=None if self._sources is None else self._sources.counts,
            failed_alone=() if self._cache is None else tuple(self._cache.failed),
        )

    @property
    def _built_with(self) -> BuildEnvironment:
        return BuildEnvironment(
            image=self._image_name or self._image.digest,
            opam=self._base.opam_version,
            compiler=tuple(sorted(self._base.installed)),
            solution=self._solution,
            changed=self._changed,
            is_fixed=self._is_fixed,
            opam_file=self._opam_file,
        )

    async def _check_out(self, artifacts: layer.ArtifactSource) -> None:
        """Unpacks the overlay repository within the build root."""
        key = self._spec.repository.overlay_archive
        with tempfile.TemporaryDirectory(prefix="opam-ci-") as directory:
            archive = Path(directory) / "submission.tar.gz"
            await artifacts.fetch(key, archive)
            with archive.open("rb") as stream:
                # The making of a base layer, which has its own limits, is over.
                self._phase_log.restart_limit(Phase.CHECKOUT)
                ended = await self._step(steps.unpack(phases.SUBMISSION_FILES), stdin=stream)
        if not self._phase_log.end(ended):
            raise InfrastructureError(
                f"the submission's archive {key} cannot be unpacked",
                cause=Cause.STORAGE,
                phase=Phase.CHECKOUT,
            )

    async def _run_phases(self) -> bool:
        """Runs the phases after the checkout; returns whether all of them succeeded."""
        if self._spec.job.kind is JobKind.LIST_REVDEPS:
            return await self._setup() and await self._list_revdeps()
        if not await self._setup() or not await self._solve():
            return False
        reinstall = self._reinstall
        if not await self._prepare_system(None if reinstall else self._cache):
            return False
        self._environment = {**self._environment, **steps.WITHOUT_DEPEXTS}
        sources = phases.fetch_again(self._solution) if reinstall else phases.fetch(self._spec)
        if not await self._fetch(sources):
            return False
        wanted = [Phase.DEPENDENCIES, Phase.BUILD]
        if kinds.runs_tests(self._spec):
            wanted.append(Phase.TEST)
        for phase in wanted:
            if not await self._phase(
                phase, *phases.install(phase, self._spec, reinstall=reinstall)
            ):
                return False
        await self._verify()
        if self._cache is not None and self._spec.job.kind is JobKind.BUILD:
            await self._cache.keep_target()
        return True

    async def _prepare_system(self, cache: DependencyCache | None) -> bool:
        """Installs system packages, and puts cached dependencies over them."""
        files = await self._opam_files(*self._solution)
        # A package without a file may be anything.
        self._archives = await asyncio.to_thread(_archives, files)
        self._is_fixed = len(self._archives) == len(self._solution)
        if self._spec.job.kind in REVDEP_KINDS:
            # Before package code runs: it is what the merge has.
            self._opam_file = opam_text(files.get(kinds.target(self._spec), b""))
        if await self._has_known_verdict():
            return False
        if cache is not None:
            await cache.seal_plain(self._solution)
        # A package without a file may have any.
        needs_depexts = any(b"depexts" in files.get(each, b"depexts") for each in self._solution)
        if needs_depexts and not await self._depexts():
            return False
        if cache is not None:
            self._phase_log.restart_limit(Phase.SETUP)
            await cache.attach(kinds.target(self._spec), self._for_cache)
            if not self._spec.builds_known_failures:
                return not await self._is_known_to_fail(cache)
        return True

    async def _has_known_verdict(self) -> bool:
        """Returns whether a job with the same solution has a verdict, and explains it in the log.

        False as well for a job that is to be compared with that.
        """
        self._verdict_key = await self._key()
        known = self._spec.known_verdict(self._verdict_key)
        ran = None if known is None else known.outcome.evidence.reused
        if ran is None or self._spec.builds_known_failures:
            return False
        for line in known_verdict_lines(ran):
            self._transcript.note(line)
        self._known_verdict = known
        return True

    async def _key(self) -> str | None:
        if self._built_with.fingerprint is None:
            return None
        self._phase_log.restart_limit(Phase.SETUP)
        output = bytearray()
        ended = await self._step(phases.DIGESTS, keep=output, instead=lambda _: None)
        if not ended.ok or len(output) >= _CAPTURE_LIMIT:
            return None
        return verdict_key(
            self._spec.job,
            self._spec.platform,
            Surroundings(
                archive_mirrors=self._spec.archive_mirrors,
                only_mirrored=self._spec.only_mirrored,
            ),
            self._built_with,
            output.decode(errors="surrogateescape").splitlines(),
        )

    async def _is_known_to_fail(self, cache: DependencyCache) -> bool:
        """Returns whether a dependency is known to fail, and explains that in the log."""
        known = await cache.known_failure()
        if known is None:
            return False
        # The lines of its evidence are in another log: here these explain it.
        place = self._transcript.size
        for line in known_failure_lines(known):
            self._transcript.note(line)
        evidence = known.outcome.evidence
        lines = tuple(line.model_copy(update={"offset": place}) for line in evidence.lines)
        shown = evidence.model_copy(update={"lines": lines})
        self._known_failure = known.model_copy(
            update={"outcome": known.outcome.model_copy(update={"evidence": shown}), "beside": ()}
        )
        return True

    async def _setup(self) -> bool:
        await layer.require_sandbox(self._executor, self._base.sandbox)
        added = phases.submission_repository(self._mirrors)
        self._phase_log.begin(Phase.SETUP, " && ".join(step.title for step in added))
        ended, _ = await self._series(added)
        if ended.ok and self._image.made_at == NEVER:
            # The solver asks the package manager what exists. A job that needs none goes on.
            manager, _ = await system_packages.find_manager(self._captured)
            if manager is not None:
                await self._refresh_lists(manager, bounded=True)
        if not self._phase_log.end(ended):
            return False
        submitted = await self._executor.packages(_SUBMISSION)
        check_repository(self._base, submitted, self._spec.repository)
        return True

    async def _solve(self) -> bool:
        step = phases.solve(self._spec, reinstall=self._reinstall, opam=self._base.opam_version)
        self._phase_log.begin(Phase.SOLVE, step.title)
        ended = await self._step(step)
        found = await self._read_report(step)
        if ended.exit_code == OpamExit.NOT_FOUND:
            known = await self._step(phases.is_known(self._spec))
            self._probes["package_known"] = known.ok
        if found is not None and found.conflicts:
            self._hidden = rests_on_hidden(
                kinds.target(self._spec), found.conflicts, self._base.hidden_packages
            )
        if ended.ok:
            self._solution = found.solution if found is not None else ()
            await self._freeze()
        return self._phase_log.end(ended, found)

    async def _list_revdeps(self) -> bool:
        self._phase_log.begin(Phase.SOLVE, f"reverse dependencies of {self._spec.job.package}")
        known = await self._step(phases.is_known(self._spec))
        if not known.ok:
            # opam would list nothing for a package that it does not know, and exit 0.
            self._probes["package_known"] = False
            return self._phase_log.end(known)
        ended, found = await coinstall.run(
            self._spec, self._listed, self._executor.read, self._phase_log
        )
        if found is not None:
            self._listing = await self._described(found)
            self._transcript.note(self._listing.summary)
        return self._phase_log.end(ended)

    async def _described(self, packages: tuple[str, ...]) -> RevdepList:
        """Reads the opam files of reverse dependencies: a file takes 1.5 ms, dune has 10,000."""
        parts = []
        for batch in batched(packages, _FILES_AT_ONCE):
            files = await self._opam_files(*batch, repository=_BASE)
            # What the merge changes counts, and not what the base has.
            files |= await self._opam_files(*batch, repository=_SUBMISSION)
            known = [(package, files.get(package)) for package in batch]
            tests = self._spec.platform.revdep_tests
            parts.append(await asyncio.to_thread(revdep_list, known, tests=tests))
        return RevdepList(
            revdeps=tuple(revdep for part in parts for revdep in part.revdeps),
            flagged=tuple(package for part in parts for package in part.flagged),
        )

    async def _freeze(self) -> None:
        submitted = await self._executor.packages(_SUBMISSION)
        self._changed = tuple(package for package in self._solution if package in submitted)
        wanted = sorted({*self._solution, *self._base.installed})
        freeze = phases.freeze(
            tuple(p for p in wanted if p not in submitted and p in self._base.packages),
            tuple(p for p in wanted if p in submitted),
        )
        for step in freeze:
            ended = await self._step(step)
            if not ended.ok:
                raise InfrastructureError(
                    f"the solution could not be frozen: {step.title} failed ({ended.how})",
                    cause=Cause.OPAM_INTERNAL,
                    phase=Phase.SOLVE,
                )

    async def _opam_files(self, *packages: str, repository: str = _SOLUTION) -> dict[str, bytes]:
        """Reads the opam files of those packages that a repository has."""
        paths = {
            package: f"{repository}/{phases.package_path(package)}/opam" for package in packages
        }
        found = await self._executor.read(*paths.values(), limit=_OPAM_FILE_LIMIT)
        return {package: found[path] for package, path in paths.items() if path in found}

    async def _accepts_failure(self) -> bool:
        """Returns whether a package that failed in the last phase accepts that on this platform.

        As in opam-repo-ci, the field of a failing dependency counts too. Unlike there it counts
        for every exit code: the judge decides whether a failure is a package's, and accepts no
        other.
        """
        if self._known_verdict is not None:
            # It was accepted when it was judged, or not.
            return False
        last = self._phase_log.runs[-1]
        failed = [action.package for action in last.actions if action.result == "failed"]
        if self._known_failure is not None:
            failed = [self._known_failure.package]
        wanted = failed or [kinds.target(self._spec)]
        files = await self._opam_files(*wanted)
        if not files:
            files = await self._opam_files(*wanted, repository=_SUBMISSION)
        return any(
            accepts_failure(files.get(package), self._spec.platform.distribution)
            for package in wanted
        )

    async def _depexts(self) -> bool:
        self._phase_log.begin(Phase.DEPEXTS, "system packages of the solution")
        if self._depexts_check is not None:
            ended = await self._step(self._depexts_check)
            if ended.exit_code == OpamExit.ABORTED:
                self._probes[DEPEXTS_INSTALLED] = False
            return self._phase_log.end(ended)
        listing = bytearray()
        ended = await self._listed(system_packages.list_depexts(self._solution), listing)
        if ended.ok:
            ended = await self._install_system(listing.decode(errors="replace"))
        return self._phase_log.end(ended)

    async def _install_system(self, listing: str) -> ProcessResult:
        manager, family = await system_packages.find_manager(self._captured)
        if manager is None:
            raise UnfitImageError(
                f"opam-ci knows no package manager for opam's os-family {family!r}: use an image "
                "of a distribution that docs/builds.md lists under System packages",
                phase=Phase.DEPEXTS,
            )
        packages, refused = manager.names(listing)
        if refused:
            self._probes[SYSTEM_PACKAGE_NAMES] = False
            self._transcript.note(f"not a system package: {', '.join(map(ascii, refused))[:400]}")
            return ProcessResult(exit_code=1)
        present = self._image.packages
        if all(package.partition(":")[0] in present for package in packages):
            return ProcessResult()
        fresh = datetime.now(UTC) - self._image.made_at <= system_packages.LISTS_FRESH
        if not fresh and not self._probes.get(SYSTEM_LISTS):
            ended = await self._refresh_lists(manager)
            if not ended.ok:
                return ended
        ended, _ = await self._series(system_packages.install(manager, packages, self._apt_options))
        if manager.unknown_exit is not None and ended.exit_code == manager.unknown_exit:
            self._probes[SYSTEM_PACKAGES_KNOWN] = False
        return ended

    async def _refresh_lists(
        self, manager: system_packages.Manager, *, bounded: bool = False
    ) -> ProcessResult:
        ended = await self._step(
            system_packages.update(manager, self._apt_options, bounded=bounded)
        )
        self._probes[SYSTEM_LISTS] = ended.ok
        return ended

    async def _fetch(self, fetches: tuple[steps.Step, ...]) -> bool:
        self._phase_log.begin(Phase.FETCH, " && ".join(step.title for step in fetches))
        if self._sources is None:
            return self._phase_log.end(*await self._download(fetches))
        served = frozenset[str]() if self._cache is None else self._cache.served
        wanted = {name: found for name, found in self._archives.items() if name not in served}
        # The author of a package under test learns that its source is gone.
        own = () if kinds.is_revdep(self._spec) else wanted.get(kinds.target(self._spec), ())
        note = self._transcript.note
        everything = (archive for found in wanted.values() for archive in found)
        async with self._sources.fetching(everything, own, note):
            # The limit is for what this job fetches itself.
            self._phase_log.restart_limit(Phase.FETCH)
            first = (phases.take_sources(),) if self._sources.has_some else ()
            if self._sources.has_all and self._is_fixed and not self._reinstall:
                # A run of opam would unpack all of them, to be unpacked again where they are built.
                note("all sources are on this machine: nothing to fetch")
                fetches = ()
            ended, found = await self._download(fetches, first)
            await self._sources.keep(self._executor.read, note)
            await self._sources.record(
                ok=ended.ok,
                actions=found.actions if found is not None else (),
                network_works=self._probes.get(NETWORK_WORKS),
            )
        return self._phase_log.end(ended, found)

    async def _download(
        self, fetches: tuple[steps.Step, ...], first: tuple[steps.Step, ...] = ()
    ) -> tuple[ProcessResult, report.OpamReport | None]:
        ended, found = await self._series((*first, *fetches))
        if ended.exit_code == OpamExit.SYNC_ERROR and found is not None:
            again = await checksums.repeats(found.actions, fetches, self._captured)
            if again is not None:
                self._probes[CHECKSUM_REPEATS] = again
            else:
                self._probes |= await network_probe.probe(self._own_hosts, self._captured)
        return ended, found

    async def _phase(self, phase: Phase, *commands: steps.Step) -> bool:
        self._phase_log.begin(phase, " && ".join(step.title for step in commands))
        if phase is Phase.DEPENDENCIES and self._cache is not None:
            too_late = await self._cache.fill(self._for_cache)
            if too_late is not None:
                return self._phase_log.end(too_late)
        ended, found = await self._series(commands)
        if phase in PACKAGE_PHASES and not (ended.ok or ended.timed_out or ended.stopped):
            self._probes |= await sources_fixed(ended, found, self._opam_files)
            self._probes |= await sandbox_works(
                self._executor,
                self._transcript,
                own_processes=self._base.own_processes,
                sandbox=self._base.sandbox,
            )
        return self._phase_log.end(ended, found)

    async def _series(
        self, commands: tuple[steps.Step, ...]
    ) -> tuple[ProcessResult, report.OpamReport | None]:
        """Runs commands until one fails; returns how it ended, and opam's actions in all."""
        ended, found = ProcessResult(), None
        done: tuple[OpamAction, ...] = ()
        for step in commands:
            ended = await self._step(step)
            if (found := await self._read_report(step)) is not None:
                done += found.actions
                found = found.model_copy(update={"actions": done})
            if not ended.ok:
                break
        return ended, found

    async def _verify(self) -> None:
        expected = kinds.expected(self._spec)
        package = ", ".join(sorted(expected))
        self._phase_log.begin(Phase.VERIFY, f"installation of {package}")
        found = await layer.read_installed(self._executor)
        if found is None:
            raise InfrastructureError(
                "opam's switch state after the build is missing or invalid",
                cause=Cause.OPAM_INTERNAL,
                phase=Phase.VERIFY,
            )
        self._installed = expected <= found
        self._transcript.note(
            f"{package} is {'installed' if self._installed else 'not installed'}; installed: "
            + ", ".join(sorted(found))
        )
        self._phase_log.end(ProcessResult())

    async def _for_cache(
        self,
        step: steps.Step,
        *,
        executor: Executor | None = None,
        stdin: IO[bytes],
        output: Callable[[bytes], None],
    ) -> tuple[ProcessResult, report.OpamReport | None]:
        """Implements `dependency_cache.Run`."""
        executor = executor or self._executor
        ended = await self._step(step, stdin=stdin, executor=executor, instead=output)
        return ended, await self._read_report(step, executor)

    def _report_path(self) -> str:
        return f"{phases.REPORTS}-{self._steps}.json"

    async def _read_report(
        self, step: steps.Step, executor: Executor | None = None
    ) -> report.OpamReport | None:
        """Reads the report of the last step; a killed opam leaves none."""
        if not step.report:
            return None
        data = await read_one(
            executor or self._executor, self._report_path(), limit=report.REPORT_LIMIT
        )
        return None if data is None else await asyncio.to_thread(report.parse_report, data)

    async def _captured(self, step: steps.Step, output: bytearray) -> ProcessResult:
        """Implements `executor.RunStep`; keeps the beginning of the output."""
        return await self._step(step, keep=output)

    async def _listed(self, step: steps.Step, output: bytearray) -> ProcessResult:
        """Implements `executor.RunStep` for output that is of no use if some is missing."""
        ended = await self._captured(step, output)
        if len(output) >= _CAPTURE_LIMIT:
            raise InfrastructureError(
                f"{step.title} printed over {_CAPTURE_LIMIT} bytes",
                cause=Cause.OPAM_INTERNAL,
                phase=self._transcript.phase,
            )
        return ended

    async def _step(
        self,
        step: steps.Step,
        *,
        stdin: IO[bytes] | None = None,
        keep: bytearray | None = None,
        executor: Executor | None = None,
        instead: Callable[[bytes], None] | None = None,
    ) -> ProcessResult:
        if step.shown:
            self._transcript.note(step.shown)

        def output(data: bytes) -> None:
            (self._transcript.output if instead is None else instead)(data)
            if keep is not None:
                keep.extend(data[: _CAPTURE_LIMIT - len(keep)])

        self._steps += 1
        variables = {**self._environment, **dict(step.environment)}
        if step.report:
            variables["OPAMJSON"] = f"/{self._report_path()}"
        ended = await (executor or self._executor).run(
            replace(step, environment=tuple(variables.items())),
            output=output,
            phase=self._transcript.phase,
            time_limit=self._phase_log.time_left,
            stdin=stdin,
        )
        if not ended.started and not ended.timed_out:
            raise InfrastructureError(
                f"the sandbox of the build root did not start: {self._transcript.last_line}",
                cause=Cause.SANDBOX,
                phase=self._transcript.phase,
            )
        return ended
