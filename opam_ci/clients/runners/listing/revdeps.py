"""Listing reverse dependencies: opam-repo-ci's three queries, in one opam state.

Source: `opam_build.ml` and `common.ml` of opam-repo-ci. The result is the union of the queries,
without the package itself and those that the pull request builds anyway.
"""

from collections.abc import Mapping
from enum import StrEnum

from opam_ci.clients.runners.phases.executor import RunStep
from opam_ci.clients.runners.phases.report import PACKAGE
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.clients.runners.sandbox.process import ProcessResult
from opam_ci.core.jobs.build import BuildSpec, Revdep


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


def revdeps(spec: BuildSpec, results: Mapping[Query, frozenset[str]]) -> tuple[Revdep, ...]:
    """Merges the results of the queries."""
    # `--recursive` lists the package itself, too.
    found = frozenset().union(*results.values()) - {spec.job.package, *spec.submitted}
    testing = results[Query.TESTING]
    return tuple(Revdep(package=name, has_tests=name in testing) for name in sorted(found))


async def run(
    spec: BuildSpec, run_step: RunStep
) -> tuple[ProcessResult, tuple[Revdep, ...] | None]:
    """Runs all queries, one after the other.

    Returns:
        How the last command ended, and the result if all of them succeeded.
    """
    results = {}
    for query in Query:
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
    return ended, revdeps(spec, results)
