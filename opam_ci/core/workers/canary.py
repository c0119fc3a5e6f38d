"""The canary: two packages of our own whose verdicts are known before they are built.

A pool in which the good one passes and the bad one fails can tell the two apart. Any other
outcome is a fault of the CI, whatever the packages of submissions look like meanwhile.
"""

from collections.abc import Mapping

from opam_ci.core.jobs.outcome import Cause, Errored, Failed, FailureReason, Outcome, Passed, label
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.platforms.model import Platform
from opam_ci.core.workers.health import Finding

GOOD = "canary-good.1.0.0"
"""Compiles and installs a file."""

BAD = "canary-bad.1.0.0"
"""Its build command fails."""

OWNER, REPOSITORY = "opam-ci", "canary"
"""The canary's logs are stored under this name; no such repository exists on GitHub."""

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
    """Returns the pull request that the jobs of a pool's canary are recorded under."""
    return PullRequestRef(owner=OWNER, repo=REPOSITORY, branch=pool)


def is_canary(pull_request: PullRequestRef) -> bool:
    """Whether a job is the canary's and so is not counted as a submission's."""
    return (pull_request.owner, pull_request.repo) == (OWNER, REPOSITORY)


def base_files(platform: Platform) -> Mapping[str, str]:
    """Returns the files of a repository that holds one package, the platform's compiler.

    An image with a switch of its own has its compiler there: it is another package then.
    """
    name, _, version = platform.compiler.partition(".")
    if not name:
        return {"repo": 'opam-version: "2.0"\n', **_package("canary-base.1.0.0", "")}
    return {
        "repo": 'opam-version: "2.0"\n',
        **_package(
            f"{name}.{version or platform.ocaml + '.0'}",
            'flags: compiler\nconflict-class: "ocaml-core-compiler"\n',
        ),
    }


def submission_files(platform: Platform) -> Mapping[str, str]:
    """Returns the files of a repository that holds the two packages."""
    # Only the system compiler is available without building one first.
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
    """Returns what is wrong with the CI by a canary's outcome, None if the outcome is right.

    Args:
        package: `GOOD` or `BAD`.
        outcome: Of its build.
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
                detail=f"{package}: {label(outcome)} instead of {wanted}",
            )


def _package(name: str, body: str) -> dict[str, str]:
    return {f"packages/{name.partition('.')[0]}/{name}/opam": _HEADER + body}
