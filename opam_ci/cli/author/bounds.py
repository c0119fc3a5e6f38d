"""`opam-ci bounds`: the lower bounds that the opam file of a package lacks, by builds."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import typer

from opam_ci.app.settings import Settings
from opam_ci.cli.author.build import (
    Base,
    OneJob,
    OnlyMirrored,
    OnPlatform,
    Package,
    Ran,
    Repo,
    in_work_tree,
    one_platform,
    opened,
)
from opam_ci.cli.output.json_lines import print_line
from opam_ci.cli.output.tables import note, print_text
from opam_ci.cli.selection import command_options as opt
from opam_ci.clients import programs
from opam_ci.clients.git.repository import Repository
from opam_ci.clients.git.snapshot import with_file
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.bound_search import (
    MOST_BUILDS,
    Answer,
    Candidate,
    Step,
    candidates,
    likely_first,
    search,
)
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Errored, Failed, Passed
from opam_ci.core.lint.subject import package_directory
from opam_ci.core.opam.bounds import Bound, NoBoundError, bounded, dependencies
from opam_ci.core.opam.package import Package as PackageId
from opam_ci.core.opam.patch import patch
from opam_ci.core.opam.suggestion import suggested
from opam_ci.core.text.bound_search import bounds_line, ended, step_line
from opam_ci.core.text.result import reason_line

_ATTEMPTS: Final = 3
"""Of a build that meets an infrastructure fault."""


@dataclass(frozen=True)
class _Builds:
    """Builds of the package with bounds.

    Attributes:
        plain: Its lower-bounds job.
        path: Of its opam file.
        text: Its opam file.
        show: Prints a line on a build: its text, its event as JSON.
    """

    plain: OneJob
    path: str
    text: bytes
    show: Callable[[str, dict[str, object]], None]

    async def bounds(self, known: Callable[[str], list[str]], only: str | None) -> dict[str, str]:
        """Returns the lower bounds that are missing; none if it passes without.

        Args:
            known: Returns the versions of a dependency.
            only: The dependency that is at fault; None to find out.

        Raises:
            NoBoundError: No bounds help.
            UsageError: There is no such dependency.
            InfrastructureError: The CI itself is at fault, again and again.
        """
        direct = dependencies(self.text, self._package)
        if only is not None and only not in direct:
            close = ", ".join(direct) or "none"
            raise UsageError(
                f"{self._package} does not depend on {only!r}; its dependencies: {close}"
            )
        oldest = await self._run(self.plain, "oldest dependencies")
        outcome = oldest.outcome
        if isinstance(outcome, Passed):
            return {}
        if not isinstance(outcome, Failed):
            raise NoBoundError(
                f"{self._package} {ended(outcome)} with its oldest dependencies: nothing was "
                "built, so that nothing is known of its bounds"
            )
        job = self.plain.job.model_copy(update={"kind": JobKind.BUILD})
        newest = await self._run(replace(self.plain, job=job), "newest dependencies")
        if not isinstance(newest.outcome, Passed):
            raise NoBoundError(
                f"{self._package} {ended(newest.outcome)} with its newest dependencies, too: "
                "that is not a matter of lower bounds"
            )
        found = candidates(
            [only] if only is not None else direct,
            _versions(oldest),
            _versions(newest),
            {name: known(name) for name in direct},
        )
        lines = "\n".join(line.text for line in outcome.evidence.lines)
        blame = outcome.blame and outcome.blame.partition(".")[0]
        return await self._searched(likely_first(found, lines, blame))

    async def _searched(self, found: tuple[Candidate, ...]) -> dict[str, str]:
        names = ", ".join(each.name for each in found)
        if not found:
            raise NoBoundError("no direct dependency is older with lower bounds than without")
        steps = search(found)
        try:
            step = next(steps)
            for _ in range(MOST_BUILDS):
                step = steps.send(await self._answer(step))
        except StopIteration as end:
            result: dict[str, str] | None = end.value
            if result is None:
                raise NoBoundError(
                    f"it fails with the newest versions of {names}, too: an indirect dependency "
                    "may be too old"
                ) from None
            return result
        raise NoBoundError(
            f"no bounds found in {MOST_BUILDS} builds: name one of {names} with --dependency"
        )

    async def _answer(self, step: Step) -> Answer:
        text = self.edited(step.bounds)
        taken = with_file(self.plain.taken, self.path, text)
        name = "".join(f" {each}-{version}" for each, version in step.bounds.items())
        ran = await self._run(replace(self.plain, taken=taken, edited=name), step)
        return Answer(passes=isinstance(ran.outcome, Passed), installed=_versions(ran))

    async def _run(self, job: OneJob, what: Step | str) -> Ran:
        """Runs a build; an infrastructure fault proves nothing, and leads to another attempt."""
        for attempt in range(1, _ATTEMPTS + 1):
            ran = await job.run(lambda _: None)
            self._show(ran, what)
            if not isinstance(ran.outcome, Errored):
                return ran
            if attempt == _ATTEMPTS:
                detail = reason_line(ran.outcome)
                raise InfrastructureError(detail, cause=ran.outcome.cause)
        raise AssertionError

    def _show(self, ran: Ran, what: Step | str) -> None:
        (log,) = ran.summary.notices
        event: dict[str, object] = {"event": "build", "log": log.removeprefix("log: ")}
        event["outcome"] = ran.outcome.model_dump(mode="json")
        if isinstance(what, str):
            self.show(f"{what}: {ended(ran.outcome)}; {log}", {**event, "with": what})
        else:
            self.show(step_line(what, ran.outcome), {**event, **what.model_dump()})

    def edited(self, bounds: Mapping[str, str]) -> bytes:
        """Returns the opam file with lower bounds."""
        text = self.text
        for name, version in bounds.items():
            text = bounded(text, self._package, Bound(name, ">=", version))
        return text

    @property
    def _package(self) -> PackageId:
        return PackageId.parse(self.plain.job.package)


def _versions(ran: Ran) -> dict[str, str]:
    solution = ran.environment.solution if ran.environment is not None else ()
    parts = (each.partition(".") for each in solution)
    return {name: version for name, _, version in parts}


def bounds(
    package: Package,
    repo: Repo = Path(),
    platform: OnPlatform = None,
    dependency: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The dependency at fault; default: find out which."),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the bounds into the opam file of the work tree.")
    ] = False,
    suggestion: Annotated[
        bool,
        typer.Option(
            "--suggestion", help="Print suggestions for a review on GitHub instead of the patch."
        ),
    ] = False,
    platforms: opt.PlatformFile = None,
    base: Base = None,
    mirror: opt.Mirror = None,
    only_mirrored: OnlyMirrored = False,
    as_json: opt.Json = False,
) -> None:
    """Finds the lower bounds that a package of a work tree lacks, by builds.

    It builds the package with its oldest dependencies. If that fails, it finds out which dependency
    is too old by raising some of them, then the oldest version that will do by bisection. The
    patch of the opam file is printed, for `git apply`; what is under way goes to standard error.

    With `--suggestion` Markdown is printed instead, for a pull request that has this opam file:
    each block is for a comment on the lines named before it. Press "Add a suggestion" there, and
    put the block in place of the one that appears.

    Exits 0 if it has bounds or lacks none, 1 if no bounds help, 2 for a usage error, and 3 for an
    internal CI error, which is tried again twice and never counts as a failure of the package.

    \b
        opam-ci bounds cppo                             the newest version of cppo here
        opam-ci bounds cppo.1.8.0 --dependency dune     only bisect the versions of dune
        opam-ci bounds cppo --write && opam-ci build cppo --kind lower-bounds
        opam-ci bounds cppo --suggestion
    """  # noqa: D301 - \b, the character, makes click keep the lines as they are
    if write and suggestion:
        raise UsageError("give either --write or --suggestion")
    programs.require("git")
    where = one_platform(platforms, platform)
    with opened(repo, base) as (repository, taken, base_id):
        wanted = in_work_tree(repository, taken.commit, package)
        plain = OneJob(
            settings=Settings(),
            taken=taken,
            base=base_id,
            job=Job(platform=where.name, package=wanted, kind=JobKind.LOWER_BOUNDS),
            platform=where,
            mirrors=tuple(mirror or ()),
            only_mirrored=only_mirrored,
        )
        path = f"{package_directory(wanted)}/opam"
        builds = _Builds(
            plain=plain,
            path=path,
            text=repository.read(taken.commit, path) or b"",
            show=_print_event if as_json else lambda line, _: note(f"{wanted}: {line}"),
        )
        try:
            found = asyncio.run(
                builds.bounds(lambda name: _known(repository, taken.commit, name), dependency)
            )
            text = builds.edited(found)
        except NoBoundError as error:
            note(f"opam-ci: {error}")
            raise typer.Exit(1) from None
        diff = patch(path, builds.text, text).decode()
        comments = suggested(path, builds.text.decode(), text.decode())
        if write and found:
            _write(taken.directory, path, builds.text, text)
    line = f"lacks {bounds_line(found)}" if found else "lacks no lower bound"
    if as_json:
        result = {"package": wanted, "bounds": found, "patch": diff, "suggestion": comments}
        print_line({"event": "result", **result})
        return
    note(f"{wanted}: {line}")
    if diff:
        print_text((comments if suggestion else diff).removesuffix("\n"))


def _print_event(_: str, event: dict[str, object]) -> None:
    print_line(event)


def _known(repository: Repository, commit: str, name: str) -> list[str]:
    """Returns the versions of a package, in any order."""
    if not repository.exists(commit, f"packages/{name}"):
        return []
    folders = repository.folders(commit, f"packages/{name}")
    return [each.removeprefix(f"{name}.") for each in folders if each.startswith(f"{name}.")]


def _write(directory: Path | None, path: str, before: bytes, after: bytes) -> None:
    """Writes an opam file, unless it was changed while builds ran.

    Raises:
        UsageError: It was, or there is no work tree.
    """
    if directory is None or (directory / path).read_bytes() != before:
        raise UsageError(f"{path} was changed meanwhile: it is not written")
    (directory / path).write_bytes(after)
