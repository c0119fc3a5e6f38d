"""`opam-ci build`: one job of a work tree, without a pull request and without services."""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

import typer

from opam_ci.activities.boundary import outcome_of
from opam_ci.activities.repository import refusal
from opam_ci.app.connection import identity
from opam_ci.app.runners import make_runner
from opam_ci.app.settings import Settings
from opam_ci.cli.author.check import EXIT_CODES
from opam_ci.cli.author.platforms import chosen_table
from opam_ci.cli.output.render import make_view
from opam_ci.cli.output.tables import note, print_text
from opam_ci.cli.selection import command_options as opt
from opam_ci.clients import programs
from opam_ci.clients.git.exported import Exporter
from opam_ci.clients.git.repository import Repository
from opam_ci.clients.git.snapshot import Snapshot, snapshot
from opam_ci.clients.judge.judging import judge
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.runners.base import MachineRunner
from opam_ci.clients.runners.containers.registry import ImageResolver, UnknownImageError
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.build import (
    BuildProgress,
    BuildReport,
    BuildSpec,
    PhaseTimeouts,
    RepositoryRef,
    RevdepList,
    Source,
)
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.facts import BuildEnvironment
from opam_ci.core.jobs.job import REVDEP_KINDS, Job, JobKind
from opam_ci.core.jobs.outcome import Outcome
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.summary import JobState, JobStatus, Summary
from opam_ci.core.jobs.tally import counts_of_rows
from opam_ci.core.opam import version
from opam_ci.core.platforms.images import is_pinned
from opam_ci.core.platforms.model import Platform, Runner
from opam_ci.core.platforms.select import embedded, named
from opam_ci.core.submission.result import BUILT_KINDS
from opam_ci.core.text.status import verdict_line

Repo = Annotated[
    Path, typer.Option(help="A clone of opam-repository: its work tree counts, uncommitted or not.")
]
Package = Annotated[
    str, typer.Argument(metavar="PACKAGE", help="NAME.VERSION, or NAME for its newest version.")
]
OnPlatform = Annotated[
    str | None, typer.Option(help="On this platform; default: the first that needs no image.")
]
Base = Annotated[
    str | None,
    typer.Option(help="The branch on which the work tree is based; default: master, or else HEAD."),
]
OnlyMirrored = Annotated[
    bool, typer.Option(help="Build with no package whose sources are missing in the mirror.")
]

KINDS = (
    *(JobKind.BUILD, JobKind.TEST, JobKind.LOWER_BOUNDS),
    *(JobKind.REVDEP, JobKind.REVDEP_TEST),
)
_OF_REVDEP = {JobKind.BUILD: JobKind.REVDEP, JobKind.TEST: JobKind.REVDEP_TEST}
_NOT_SAFE = re.compile(r"[^A-Za-z0-9._+~-]+")


def one_platform(file: Path | None, name: str | None) -> Platform:
    """Returns the platform of that name or glob; without one, the first without an image.

    Raises:
        UsageError: There is none, there are several, or no runner of this version serves it.
    """
    table = chosen_table(file)
    found = (embedded(table),) if name is None else named(table.platforms, [name])
    if len(found) > 1:
        names = ", ".join(one.name for one in found[:3])
        raise UsageError(f"{len(found)} platforms match {name!r} ({names}, …): name one of them")
    return found[0]


def in_work_tree(repository: Repository, commit: str, package: str) -> str:
    """Returns a package of a commit with its version, the newest if none is named.

    Raises:
        UsageError: There is no such package; the message has similar names.
    """
    name, dot, _ = package.partition(".")
    known = repository.folders(commit, "packages")
    if name not in known:
        close = get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see its folder `packages`"
        raise UsageError(f"no such package in this repository: {name!r}; {hint}")
    versions = [each for each in repository.folders(commit, f"packages/{name}") if "." in each]
    newest_first = sorted(versions, key=_version_key, reverse=True)
    if not dot and newest_first:
        return newest_first[0]
    if package not in versions:
        newest = ", ".join(newest_first[:3]) or "none"
        raise UsageError(f"no such version in this repository: {package!r}; the newest: {newest}")
    return package


def _version_key(package: str) -> Any:
    return version.key(package.partition(".")[2])


def job_of(platform: str, package: str, kind: JobKind | None, revdep: str | None) -> Job:
    """Returns the job that the options name.

    Raises:
        UsageError: They contradict each other, or name a kind that builds nothing.
    """
    kind = kind or JobKind.BUILD
    if kind not in KINDS:
        raise UsageError(f"--kind {kind}: a build is one of {', '.join(KINDS)}")
    if revdep is not None:
        kind = _OF_REVDEP.get(kind, kind)
    if (revdep is not None) != (kind in REVDEP_KINDS):
        given = f"--kind {kind} builds no reverse dependency: leave out --revdep"
        raise UsageError(given if revdep is not None else f"--kind {kind} needs --revdep PACKAGE")
    return Job(platform=platform, package=package, kind=kind, revdep=revdep)


@contextmanager
def opened(repo: Path, base: str | None) -> Iterator[tuple[Repository, Snapshot, str]]:
    """Opens a work tree for the time of a block.

    Args:
        repo: The clone.
        base: The branch on which the work tree is based; None for master, or `HEAD` in a clone
            that has none. opam's root is made of the commit at which the two part.

    Yields:
        A repository that has the work tree as a commit, that commit, and the commit on which it is
        based.

    Raises:
        UsageError: It is not a clone of opam-repository, or has no such branch.
    """
    with snapshot(repo) as taken, Repository.open(taken.clone) as repository:
        repository.require_packages(taken.commit)
        with Repository.open(repo) as clone:
            try:
                fork = clone.merge_base(clone.resolve(base or "master"), taken.head)
            except UsageError:
                if base is not None:
                    raise
                fork = None
        yield repository, taken, fork or taken.head


class Ran(NamedTuple):
    """What came of a job.

    Attributes:
        summary: Its state.
        listing: Of a `list-revdeps` job.
        environment: With what it was built; None if that is not known.
    """

    summary: Summary
    listing: RevdepList | None
    environment: BuildEnvironment | None

    @property
    def outcome(self) -> Outcome:
        """What it ended with."""
        (row,) = self.summary.jobs
        assert row.outcome is not None  # noqa: S101 - for mypy: it has ended
        return row.outcome


class _LogFile:
    """A log that is a file; implements `base.LogSink`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0

    def write(self, data: bytes) -> None:
        self.size += len(data)
        self._file.write(data)
        self._file.flush()


@dataclass(frozen=True)
class OneJob:
    """One job of a work tree.

    Attributes:
        settings: Of this process.
        taken: The work tree.
        base: Commit on which it is based.
        job: The job.
        platform: Where to build.
        mirrors: URLs of archive mirrors.
        only_mirrored: As in `BuildSpec`.
        build_cache: As in `BuildSpec`.
        edited: What the commit has that the work tree has not, for the name of the log; empty if
            it is the work tree as it is.
    """

    settings: Settings
    taken: Snapshot
    base: str
    job: Job
    platform: Platform
    mirrors: tuple[str, ...] = ()
    only_mirrored: bool = False
    build_cache: bool = True
    edited: str = ""

    async def reproduction(self) -> str:
        """Returns what reproduces the job by hand; nothing is built or exported for it."""
        nothing = RepositoryRef(
            base_commit=self.base,
            base_archive="",
            overlay_archive="",
            overlay_packages=0,
            package_count=0,
        )
        return await self._runner().reproduction(await self._spec(nothing))

    async def run(self, show: Callable[[Summary], None]) -> Ran:
        """Runs the job.

        Args:
            show: Receives its state at each phase's start, and now and then.

        Raises:
            UsageError: This machine lacks programs that builds need.
            SubmissionError: The analysis refuses what the work tree changes.
            InfrastructureError: The work tree cannot be exported, or this machine cannot build.
        """
        runner = self._runner()
        await runner.require()
        await runner.prepare(note)
        store = self._store()
        spec = await self._exported(store)
        path = (
            self.settings.home / "builds" / f"{_NOT_SAFE.sub('-', self.job.id + self.edited)}.log"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        row = JobStatus(
            job=self.job, state=JobState.RUNNING, attempt=1, started_at=datetime.now(UTC)
        )

        def progress(now: BuildProgress) -> None:
            show(self._summary(row.model_copy(update={"phase": now.phase}), path))

        try:
            with path.open("wb") as file:
                outcome, report = await _judged(runner, spec, _LogFile(file), progress)
        finally:
            # Of this run alone, unlike the base.
            await store.delete(spec.repository.overlay_archive)
        decided = {"state": JobState.DECIDED, "outcome": outcome, "decided_at": datetime.now(UTC)}
        return Ran(
            self._summary(row.model_copy(update=decided), path),
            None if report is None else report.listing,
            None if report is None else report.facts.environment,
        )

    def _runner(self) -> MachineRunner:
        if self.platform.runner is Runner.NATIVE:
            raise UsageError(
                f"{self.platform.name} is built by a worker of its pool, {self.platform.pool}: "
                "name another one with --platform"
            )
        return make_runner(self.platform.runner, self.settings, self._store())

    def _store(self) -> ArtifactStore:
        self.settings.home.mkdir(parents=True, exist_ok=True)
        return ArtifactStore.open(self.settings.store_url)

    async def _exported(self, store: ArtifactStore) -> BuildSpec:
        exporter = Exporter(store, self.settings.change_limits)
        testing = RevisionKey(
            repository=self._title,
            branch="work-tree",
            head=self.taken.commit,
            opened_at=datetime.now(UTC),
        )
        prepared = await exporter.prepare(
            self.taken.clone, testing, self.base, self.taken.commit, unchanged=True
        )
        analysis, merged = prepared.analysis, prepared.merged
        if analysis.failure is not None or merged is None:
            raise refusal(analysis.failure or "nothing of the work tree was exported")
        submitted = tuple(each.package for each in analysis.packages if each.kind in BUILT_KINDS)
        spec = await self._spec(merged)
        return spec.model_copy(update={"submitted": submitted})

    async def _spec(self, repository: RepositoryRef) -> BuildSpec:
        platform = self.platform
        if platform.image is not None and not is_pinned(platform):
            try:
                resolver = ImageResolver(engine=self.settings.container_command)
                image = await resolver.resolve(platform.image)
                platform = platform.model_copy(update={"image": image})
            except UnknownImageError as error:
                # The engine may have it, or credentials for it.
                note(str(error))
        tree = self.taken.directory
        source: Source | None = Source(url=str(tree))
        if self.edited:
            source = None
        elif tree is None:
            source = Source(url=str(self.taken.clone), base=self.base, head=self.taken.commit)
        return BuildSpec(
            job=self.job,
            platform=platform,
            repository=repository,
            timeouts=PhaseTimeouts().with_limits(platform.timeouts),
            archive_mirrors=self.mirrors,
            only_mirrored=self.only_mirrored,
            build_cache=self.build_cache,
            source=source,
            builds_known_failures=True,
        )

    @property
    def _title(self) -> str:
        name = (self.taken.directory or self.taken.clone).name.removesuffix(".git")
        return f"local/{_NOT_SAFE.sub('-', name) or 'repository'}"

    def _summary(self, row: JobStatus, log: Path) -> Summary:
        return Summary(
            pull_request=self._title,
            head=self.taken.head,
            base=self.base,
            planned=True,
            tallies=counts_of_rows((row,)),
            jobs=(row,),
            notices=(f"log: {log}",),
            updated_at=datetime.now(UTC),
        )


async def _judged(
    runner: MachineRunner,
    spec: BuildSpec,
    log: _LogFile,
    progress: Callable[[BuildProgress], None],
) -> tuple[Outcome, BuildReport | None]:
    try:
        report = await runner.run(spec, log, progress)
        outcome = await judge(report.facts, report.logs, worker=identity(), attempt=1)
    except InfrastructureError as error:
        return outcome_of(error), None
    log.write(verdict_line(outcome).encode())
    return outcome, report


def build(
    package: Package,
    repo: Repo = Path(),
    platform: OnPlatform = None,
    kind: Annotated[
        JobKind | None,
        typer.Option(metavar="KIND", help=f"One of {', '.join(KINDS)}; default: build."),
    ] = None,
    revdep: Annotated[
        str | None,
        typer.Option(help="Build, or test, this reverse dependency with the package."),
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Only print how to do it by hand, with no opam-ci.")
    ] = False,
    platforms: opt.PlatformFile = None,
    base: Base = None,
    mirror: opt.Mirror = None,
    only_mirrored: OnlyMirrored = False,
    cache: Annotated[
        bool,
        typer.Option("--cache/--no-cache", help="Reuse compiled dependencies of earlier builds."),
    ] = True,
    as_json: opt.Json = False,
) -> None:
    """Builds one package of a work tree, as a pull request with it would be built.

    Nothing need be committed, and no service runs. Exits 0 if it passed or was skipped, 1 for a
    package failure, 2 for a usage error, and 3 for an internal CI error.

    \b
        opam-ci build cppo                              the newest version of cppo here
        opam-ci build cppo.1.8.0 --kind lower-bounds
        opam-ci build cppo.1.8.0 --kind test --revdep ppx_tools
        opam-ci build cppo --platform debian-13-ocaml-5.4/amd64 --print
    """  # noqa: D301 - \b, the character, makes click keep the lines as they are
    programs.require("git")
    where = one_platform(platforms, platform)
    with opened(repo, base) as (repository, taken, base_id):
        commit = taken.commit
        job = job_of(where.name, package, kind, revdep)
        found = {
            "package": in_work_tree(repository, commit, package),
            "revdep": revdep and in_work_tree(repository, commit, revdep),
        }
        one = OneJob(
            settings=Settings(),
            taken=taken,
            base=base_id,
            job=job.model_copy(update=found),
            platform=where,
            mirrors=tuple(mirror or ()),
            only_mirrored=only_mirrored,
            build_cache=cache,
        )
        if only_print:
            print_text(asyncio.run(one.reproduction()).rstrip())
            return
        view = make_view(as_json=as_json)
        try:
            summary = asyncio.run(one.run(view.show)).summary
        finally:
            view.stop()
        view.close(summary)
    raise typer.Exit(EXIT_CODES[summary.state])
