"""Listing reverse dependencies: opam-repo-ci's three queries, in one opam state.

Source: `opam_build.ml` and `common.ml` of opam-repo-ci. The answer is all that the queries
name, without the package itself and without what the pull request builds anyway.
"""

from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum

from opam_ci.clients.runners.report import PACKAGE
from opam_ci.clients.runners.steps import Step
from opam_ci.clients.runners.supervise import Ended
from opam_ci.core.build import BuildSpec, Revdep

RunStep = Callable[[Step, bytearray], Awaitable[Ended]]
"""Runs one command and keeps its output."""


class Query(StrEnum):
    """Whom a query asks for; the value is for people."""

    DIRECT = "direct and optional"
    RECURSIVE = "of any depth"
    TESTING = "direct, optional and of tests"


_OPTIONS = {
    Query.DIRECT: ("--depopts",),
    Query.RECURSIVE: ("--recursive",),
    Query.TESTING: ("--with-test", "--depopts"),
}


def ask(spec: BuildSpec, query: Query, *, coinstallable: bool) -> Step:
    """Returns one query.

    Args:
        spec: The job.
        query: Which.
        coinstallable: Whether to keep only what can be installed together with the package:
            what costs nearly all of a query's time.
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
    """Reads an answer: a package a line."""
    words = listing.decode(errors="replace").split()
    return frozenset(word for word in words if PACKAGE.fullmatch(word))


def revdeps(spec: BuildSpec, answers: Mapping[Query, frozenset[str]]) -> tuple[Revdep, ...]:
    """Puts the answers together."""
    # `--recursive` names the package itself, too.
    found = frozenset().union(*answers.values()) - {spec.job.package, *spec.submitted}
    testing = answers[Query.TESTING]
    return tuple(Revdep(package=name, has_tests=name in testing) for name in sorted(found))


async def run(spec: BuildSpec, run_step: RunStep) -> tuple[Ended, tuple[Revdep, ...] | None]:
    """Asks all queries, one after the other.

    Returns:
        How the last command ended, and the answer if all of them succeeded.
    """
    answers = {}
    for query in Query:
        said = bytearray()
        # A second instead of five and more for the many packages that nobody depends on:
        # a coinstallable subset of nothing is nothing.
        ended = await run_step(ask(spec, query, coinstallable=False), said)
        if ended.ok and packages(said) - {spec.job.package}:
            said = bytearray()
            ended = await run_step(ask(spec, query, coinstallable=True), said)
        if not ended.ok:
            return ended, None
        answers[query] = packages(said)
    return ended, revdeps(spec, answers)
