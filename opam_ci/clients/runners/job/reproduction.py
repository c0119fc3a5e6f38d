"""The commands that reproduce a job by hand: the beginning of every log."""

import re
import shlex

from opam_ci.clients.runners.phases import kinds
from opam_ci.clients.runners.phases import plan as phases
from opam_ci.core.jobs.build import BuildSpec
from opam_ci.core.jobs.job import JobKind

_IN_EVERY_SWITCH = re.compile(r"(?:ocaml|ocaml-config|ocaml-system|base-[a-z]+)\.")
"""What `opam switch create` installs: it is built only when it is reinstalled."""


def reproduction(spec: BuildSpec, *, debian: str) -> str:
    """Returns the text about how to reproduce a job by hand."""
    lines = [
        f"To reproduce locally, on Debian {debian} with the packages opam and ocaml, in a",
        "clone of the opam repository where the pull request is merged into its base:",
        "",
        *(f"    {line}" for line in commands(spec)),
    ]
    return "\n".join(lines) + "\n"


def commands(spec: BuildSpec) -> tuple[str, ...]:
    """Returns the commands, one a line, for a shell in a clone of the merged repository."""
    lines = [
        "export OPAMROOT=$(mktemp -d) OPAMYES=1 OPAMERRLOGLEN=0 OPAMPRECISETRACKING=1",
        "opam init --bare --no-setup --kind=local default .",
        "opam option --global solver=builtin-0install",
        f"opam switch create {phases.SWITCH} {spec.platform.compiler}",
    ]
    package = shlex.quote(spec.job.package)
    if spec.job.kind is JobKind.LIST_REVDEPS:
        query = f"opam list -s --all-versions --depends-on {package} --coinstallable-with {package}"
        return (
            *lines,
            f"{query} --depopts",
            f"{query} --recursive",
            f"{query} --with-test --depopts",
        )
    if kinds.criteria(spec):
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in kinds.criteria(spec))
        lines.append(f"export {settings}")
    if kinds.is_revdep(spec):
        version = shlex.quote(spec.job.package.split(".", 1)[1])
        lines += [
            # The solver must not change this version for the reverse dependency.
            f"opam pin add --kind=version --no-action {package} {version}",
            f"opam install --depext-only {package}",
            f"opam install {package}",
        ]
    options = "".join(f" {word}" for word in kinds.invariant(spec))
    tests = "".join(f" {word}" for word in kinds.tests(spec))
    target = shlex.quote(kinds.target(spec))
    lines += [
        f"opam install --depext-only{tests}{options} {target}",
        f"opam install --deps-only{tests}{options} {target}",
        f"opam {_verb(spec)} --verbose{options} {target}",
    ]
    if kinds.runs_tests(spec):
        lines.append(f"opam reinstall --with-test --verbose{options} {target}")
    return tuple(lines)


def _verb(spec: BuildSpec) -> str:
    return "reinstall" if _IN_EVERY_SWITCH.match(kinds.target(spec)) else "install"
