"""How kinds of jobs differ: the packages that opam is called for, and its options."""

import re

from opam_ci.clients.runners.phases.steps import Step
from opam_ci.core.jobs.build import BuildSpec
from opam_ci.core.jobs.job import REVDEP_KINDS, JobKind

BUILDS = frozenset(JobKind) - {JobKind.ANALYSIS, JobKind.LINT}
"""The kinds of jobs that runners run."""

_LOWEST = "+removed,+count[version-lag,solution]"
"""The criterion of opam-repo-ci for the oldest versions that a package allows. opam's
builtin-0install solver has it built in and takes 2 s; mccs takes 100 s."""

_AVOIDING = ",-count[avoid-version,solution]"
"""What makes builtin-0install take versions flagged `avoid-version` or `deprecated` only where it
must. opam's own criteria have it since 2.3, and all criteria that replace them need it. Earlier
ones do not know it, take avoided versions like all others, and with it would take the newest
instead of the oldest (source: `opamBuiltin0install.ml` of opam 2.2 and 2.3)."""
_NOT_AVOIDING = frozenset({"2.0", "2.1", "2.2"})
_SYSTEM_NOT_AVOIDING = frozenset({"debian-12"})
"""Distributions whose own opam is earlier than 2.3."""

_CRITERIA = ("OPAMCRITERIA", "OPAMFIXUPCRITERIA", "OPAMUPGRADECRITERIA")

_COMPILERS = frozenset({"ocaml-variants", "ocaml-base-compiler", "ocaml-compiler"})
"""Packages that replace the compiler of the switch (source: opam-repo-ci's
`opam_build.ml`)."""


def target(spec: BuildSpec) -> str:
    """Returns the package that the job tests: the reverse dependency, if it has one."""
    return spec.job.revdep or spec.job.package


def runs_tests(spec: BuildSpec) -> bool:
    """Returns whether the job runs the tests of its target."""
    return spec.job.kind in {JobKind.TEST, JobKind.REVDEP_TEST}


def expected(spec: BuildSpec) -> frozenset[str]:
    """Returns the packages that must be installed at the end of the job."""
    return frozenset({target(spec), spec.job.package})


def is_revdep(spec: BuildSpec) -> bool:
    """Returns whether the job builds a reverse dependency."""
    return spec.job.kind in REVDEP_KINDS


def tests(spec: BuildSpec) -> tuple[str, ...]:
    """Returns the option that includes dependencies of tests."""
    return ("--with-test",) if runs_tests(spec) else ()


def invariant(spec: BuildSpec) -> tuple[str, ...]:
    """Returns the option that lets a compiler package take the place of the switch's own."""
    name = target(spec).split(".", 1)[0]
    return ("--update-invariant",) if name in _COMPILERS else ()


def beside(spec: BuildSpec) -> str | None:
    """Returns the formula that the solver must fulfil beside installing the target, if any.

    The job's package is a formula, not a name: `--with-test` applies to all names, and a reverse
    dependency does not need the tests of the package, nor what they need.
    """
    if not is_revdep(spec):
        return None
    name, version = spec.job.package.split(".", 1)
    return f'"{name}" {{= "{version}"}}'


def knows_formulas(opam: str) -> bool:
    """Returns whether `opam install` has the option `--formula`.

    Args:
        opam: What `opam --version` prints; an unknown version counts as a new one.
    """
    found = re.match(r"([0-9]+)\.([0-9]+)", opam)
    return found is None or (int(found[1]), int(found[2])) >= (2, 2)


def criteria(spec: BuildSpec) -> tuple[tuple[str, str], ...]:
    """Returns the solver's environment: opam's own, but for the oldest versions."""
    if spec.job.kind is not JobKind.LOWER_BOUNDS:
        return ()
    opam, distribution = spec.platform.opam, spec.platform.distribution
    is_early = opam in _NOT_AVOIDING or (opam == "system" and distribution in _SYSTEM_NOT_AVOIDING)
    return tuple((name, _LOWEST + ("" if is_early else _AVOIDING)) for name in _CRITERIA)


def beforehand(spec: BuildSpec, *options: str) -> tuple[Step, ...]:
    """Returns the installation of the package that a reverse dependency is built against.

    It comes first and by name, because opam would not install an optional dependency of the
    reverse dependency by itself.
    """
    if not is_revdep(spec):
        return ()
    return (Step(("opam", "install", *options, spec.job.package), report=True),)
