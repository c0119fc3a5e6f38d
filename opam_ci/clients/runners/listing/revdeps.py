"""Listing reverse dependencies: opam-repo-ci's three queries, in one opam state.

Source: `opam_build.ml` and `common.ml` of opam-repo-ci. The result is the union of the queries,
without the package itself and those that the pull request builds anyway.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType

from opam_ci.clients.runners.phases.executor import RunStep
from opam_ci.clients.runners.phases.report import PACKAGE
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.core.jobs.build import BuildSpec, Revdep, RevdepList
from opam_ci.core.opam.errors import OcamlFailure, OpamSyntaxError
from opam_ci.core.opam.file import parse
from opam_ci.core.opam.metadata import Opam, read


class Query(StrEnum):
    """The reverse dependencies of a query; the value is for people."""

    DIRECT = "direct and optional"
    RECURSIVE = "of any depth"
    TESTING = "direct, optional and of tests"


_OPTIONS = {
    Query.DIRECT: ("--depopts",),
    Query.RECURSIVE: ("--recursive",),
    Query.TESTING: ("--with-test", "--depopts"),
}


def command(spec: BuildSpec, query: Query, *, coinstallable: bool) -> Step:
    """Returns the command of a query.

    Args:
        spec: The job.
        query: The query.
        coinstallable: Whether to keep only packages that can be installed together with the
            job's, which takes nearly all of a query's time.
    """
    package = spec.job.package
    together = (f"--coinstallable-with={package}",) if coinstallable else ()
    return Step(
        (
            *("opam", "list", "--short", "--all-versions", f"--depends-on={package}"),
            *together,
            *_OPTIONS[query],
        ),
        shown=f"opam list --depends-on {package} {' '.join((*together, *_OPTIONS[query]))}",
    )


def packages(listing: bytes | bytearray) -> frozenset[str]:
    """Parses the output of a query: a package a line."""
    words = listing.decode(errors="replace").split()
    return frozenset(word for word in words if PACKAGE.fullmatch(word))


def queries(spec: BuildSpec) -> tuple[Query, ...]:
    """Returns the queries that the platform's policy asks for."""
    left_out = {Query.RECURSIVE} if spec.platform.only_direct_revdeps else set()
    return tuple(query for query in Query if query not in left_out)


def merged(
    spec: BuildSpec,
    results: Mapping[Query, frozenset[str]],
    dependents: Mapping[str, int] = MappingProxyType({}),
) -> tuple[str, ...]:
    """Merges the results of the queries, in the order in which the packages are built.

    What the package breaks shows in those that use it themselves, and matters most in those that
    others need: direct ones come first, then those with the most dependents, then by name.

    Args:
        spec: The job.
        results: The packages that each query found.
        dependents: How many names need a name, as far as that is known.
    """
    found = frozenset[str]().union(*(results[query] for query in queries(spec)))
    direct = results[Query.DIRECT] | results[Query.TESTING]

    def place(package: str) -> tuple[bool, int, str]:
        return package not in direct, -dependents.get(package.partition(".")[0], 0), package

    # `--recursive` lists the package itself, too.
    return tuple(sorted(found - {spec.job.package, *spec.submitted}, key=place))


def revdep_list(files: Iterable[tuple[str, bytes | None]], *, tests: bool) -> RevdepList:
    """Decides by their opam files which reverse dependencies are built and tested.

    opam-repo-ci tests all of them, and builds flagged ones too: an empty test of a package without
    tests, and a failure of a version that nobody is to install, tell an author nothing.

    Args:
        files: The packages, in order, with the content of each one's opam file; None if opam has
            the package and its file cannot be read.
        tests: Whether tests of reverse dependencies run here.
    """
    built, flagged = [], []
    for package, data in files:
        opam = _read(data)
        if opam is not None and not _AVOIDED.isdisjoint(opam.flags):
            flagged.append(package)
        else:
            built.append(Revdep(package=package, has_tests=tests and _has_tests(opam)))
    return RevdepList(revdeps=tuple(built), flagged=tuple(flagged))


_AVOIDED = frozenset({"avoid-version", "deprecated"})


def _read(data: bytes | None) -> Opam | None:
    try:
        return None if data is None else read(parse(data, filename="opam"))
    except OpamSyntaxError:
        return None


def _has_tests(opam: Opam | None) -> bool:
    """Whether a package has tests: one whose file cannot be read may have some."""
    try:
        return opam is None or opam.has_tests
    except OcamlFailure:
        return True


async def run(spec: BuildSpec, run_step: RunStep) -> tuple[ProcessResult, tuple[str, ...] | None]:
    """Runs all queries, one after the other.

    Returns:
        How the last command ended, and the packages found if all of them succeeded.
    """
    results = {}
    for query in queries(spec):
        output = bytearray()
        # A second instead of five and more for the many packages without reverse dependencies:
        # no coinstallability to decide.
        ended = await run_step(command(spec, query, coinstallable=False), output)
        if ended.ok and packages(output) - {spec.job.package}:
            output = bytearray()
            ended = await run_step(command(spec, query, coinstallable=True), output)
        if not ended.ok:
            return ended, None
        results[query] = packages(output)
    return ended, merged(spec, results)
