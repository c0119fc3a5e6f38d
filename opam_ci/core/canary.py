"""The canary: two packages of our own whose verdicts are known before they are built.

A pool that lets the good one pass and finds the bad one at fault can tell the two apart. All
else is the CI's own trouble, whatever the packages of submissions look like meanwhile.
"""

from collections.abc import Mapping

from opam_ci.core.health import Finding
from opam_ci.core.outcome import Cause, Errored, Failed, FailureReason, Outcome, Passed, label
from opam_ci.core.platforms import Platform
from opam_ci.core.requests import PullRequestRef

GOOD = "canary-good.1.0.0"
"""Compiles and installs a file."""

BAD = "canary-bad.1.0.0"
"""Its build command fails."""

OWNER, REPOSITORY = "opam-ci", "canary"
"""Under this name the canary's logs are kept; GitHub has no such repository of ours."""

_HEADER = """opam-version: "2.0"
synopsis: "A canary of the CI"
maintainer: "opam-ci <opam-ci@example.org>"
authors: "opam-ci"
license: "ISC"
homepage: "https://example.org"
bug-reports: "https://example.org/issues"
"""

_SYSTEM_COMPILER = "ocaml-system"


def reference(pool: str) -> PullRequestRef:
    """Returns what stands for a pull request in the jobs of a pool's canary."""
    return PullRequestRef(owner=OWNER, repo=REPOSITORY, branch=pool)


def is_canary(pull_request: PullRequestRef) -> bool:
    """Whether a job is the canary's and so counts with nobody's."""
    return (pull_request.owner, pull_request.repo) == (OWNER, REPOSITORY)


def base_files(platform: Platform) -> Mapping[str, str]:
    """Returns the files of a repository that holds nothing but the platform's compiler."""
    name, _, version = platform.compiler.partition(".")
    return {
        "repo": 'opam-version: "2.0"\n',
        **_package(
            f"{name}.{version or platform.ocaml + '.0'}",
            'flags: compiler\nconflict-class: "ocaml-core-compiler"\n',
        ),
    }


def submission_files(platform: Platform) -> Mapping[str, str]:
    """Returns the files of a repository that holds the two packages."""
    # Only the system's compiler is there without building one first.
    compiles = platform.compiler == _SYSTEM_COMPILER
    compile_ = '["sh" "-c" "echo \'let () = print_int 42\' > canary.ml"]\n'
    compile_ += '  ["ocamlc" "canary.ml" "-o" "canary"]\n'
    install = 'install: ["cp" "canary" "%{bin}%/opam-ci-canary"]\n'
    touch = '["touch" "canary"]\n'
    return {
        "repo": 'opam-version: "2.0"\n',
        **_package(GOOD, f"build: [\n  {compile_ if compiles else touch}]\n{install}"),
        **_package(BAD, 'build: ["sh" "-c" "echo Error: this canary always fails; exit 2"]\n'),
    }


def finding(package: str, outcome: Outcome) -> Finding | None:
    """Returns what a canary's outcome says about the CI, None if it is the right one.

    Args:
        package: `GOOD` or `BAD`.
        outcome: What its build came to.
    """
    match outcome:
        case Passed() if package == GOOD:
            return None
        case Failed(reason=FailureReason.BUILD) if package == BAD:
            return None
        case Errored():
            evidence = outcome.evidence
            return Finding(
                cause=outcome.cause,
                detail=f"canary build: {evidence.detail or evidence.rule}"[:300],
            )
        case _:
            wanted = "passed" if package == GOOD else "failed(build)"
            return Finding(
                cause=Cause.UNKNOWN,
                detail=f"{package} came out as {label(outcome)} instead of {wanted}",
            )


def _package(name: str, body: str) -> dict[str, str]:
    return {f"packages/{name.partition('.')[0]}/{name}/opam": _HEADER + body}
