"""The commands of each phase of a job, which depend on the job alone."""

from dataclasses import replace

from opam_ci.clients.runners.phases import kinds
from opam_ci.clients.runners.phases.mirrors import SOURCES, Mirrors
from opam_ci.clients.runners.phases.steps import Step
from opam_ci.core.jobs.build import BuildSpec
from opam_ci.core.jobs.job import Phase

SWITCH = "ci"
OPAM_ROOT = "home/opam/.opam"
"""opam's root, relative to the build root."""

DOWNLOADS = f"{OPAM_ROOT}/download-cache"

SWITCH_STATE = f"{OPAM_ROOT}/{SWITCH}/.opam-switch/switch-state"
"""opam's list of installed packages."""

_SWITCH_CONFIG = f"/{OPAM_ROOT}/{SWITCH}/.opam-switch/switch-config"

_ADD = 'opam repository add "$1" "$2" --kind=local --rank=1'
_UNPACK = (
    f'cd /{OPAM_ROOT}/repo && if [ -e "$1.tar.gz" ]; then '
    'tar --extract --gzip --file "$1.tar.gz" && rm "$1.tar.gz"; fi'
)
_SET_MIRRORS = r"""
set -e
sed -i -e '/^archive-mirrors: \[$/,/^\]$/d' -e '/^archive-mirrors:/d' "$1"
if [ -n "$2" ]; then echo "$2" >> "$1"; fi
"""
_DIGESTS = """
set -e
cd "$1"
test -z "$(find . ! -type f ! -type d -print)"
find . -type f -exec sha256sum {} +
find . -type f -perm -100 -exec sha256sum {} +
"""
_WITH_INVARIANT = r"""
set -e
file="$1"; echo "$2" > "$1.added"; shift 2
cp --archive "$file" "$file.plain"
sed -i 's/^invariant: \[/&\n/' "$file"
sed -i "/^invariant: \[\$/r $file.added" "$file"
grep -qFf "$file.added" "$file"
code=0; "$@" || code=$?
mv "$file.plain" "$file"
exit "$code"
"""
"""Runs a command while a formula is the first element of the invariant."""

_LINK = 'mkdir -p "$2" && exec cp -rs "$1/." "$2"'

SUBMISSION = "submission"
"""Name of the repository that holds what the merge changes."""

SOLUTION = "solution"
"""Name of the repository that holds just the packages of the solution."""

SUBMISSION_FILES = "/home/opam/submission"
SOLUTION_FILES = "/home/opam/solution"
REPORTS = "home/opam/.opam-ci-report"
SOURCE_FILES = "/home/opam/source"


def package_path(package: str) -> str:
    """Returns the path of a package (`name.version`) in an opam repository."""
    return f"packages/{package.partition('.')[0]}/{package}"


def submission_repository(mirrors: Mirrors) -> tuple[Step, ...]:
    """Puts the submission's packages before those of the base."""
    return (
        *((set_mirrors(mirrors),) if mirrors.urls else ()),
        _add_repository(SUBMISSION, SUBMISSION_FILES),
    )


def _add_repository(name: str, files: str) -> Step:
    return Step(
        ("sh", "-c", f"{_ADD} && {_UNPACK}", "sh", name, files),
        shown=f"opam repository add {name} {files}",
    )


def unpack_repository(name: str) -> Step:
    """Unpacks a repository of opam 2.1, which keeps each as an archive."""
    return Step(("sh", "-c", _UNPACK, "sh", name), shown=f"unpack the repository {name}")


def set_mirrors(mirrors: Mirrors) -> Step:
    """Sets opam's archive mirrors, or removes them.

    In the file itself: `opam option` of opam 2.1 refuses to.
    """
    setting = mirrors.setting if mirrors.urls else ""
    return Step(
        ("sh", "-c", _SET_MIRRORS, "sh", f"/{OPAM_ROOT}/config", setting),
        shown=setting or "archive-mirrors: []",
    )


def take_sources() -> Step:
    """Puts the archives that this machine has into opam's own cache of downloads."""
    return Step(("sh", "-c", _LINK, "sh", SOURCES, f"/{DOWNLOADS}"), shown="take these sources")


def solve(spec: BuildSpec, *, reinstall: bool, opam: str = "") -> Step:
    """Calls the solver for the whole solution of the job, tests included.

    Args:
        spec: The job.
        reinstall: Whether its target is installed already.
        opam: Version of opam.
    """
    command = ("opam", _verb(reinstall), "--show-actions", *kinds.tests(spec))
    argv = (*command, *kinds.invariant(spec), kinds.target(spec))
    shown = ""
    beside = kinds.beside(spec)
    if beside is not None and kinds.knows_formulas(opam):
        argv = (*argv, f"--formula={beside}")
    elif beside is not None:
        # The solver must fulfil the invariant of the switch as well.
        shown = f"{' '.join(argv)} (with {beside} in the switch's invariant)"
        argv = ("sh", "-c", _WITH_INVARIANT, "sh", _SWITCH_CONFIG, beside, *argv)
    return Step(argv, report=True, environment=kinds.criteria(spec), shown=shown)


def is_known(spec: BuildSpec) -> Step:
    """Checks whether opam knows the package at all: exit code 5 does not distinguish that."""
    return Step(("opam", "show", "--field=version", kinds.target(spec)))


def freeze(base: tuple[str, ...], submitted: tuple[str, ...]) -> tuple[Step, ...]:
    """Reduces the switch's repositories to the packages of the solution.

    Every further opam run then acts on the solution that the solver found, and takes 0.4 s
    instead of 2.5 s, most of which loads a universe of 18,000 packages.

    Args:
        base: Packages to take from the base repository.
        submitted: Packages to take from the submission.
    """
    steps = [Step(("mkdir", "-p", SOLUTION_FILES), shown="freeze the solution")]
    for repository, packages, files in (
        # Without the file with the version of the format, opam converts the packages from 1.2.
        ("default", base, ("repo",)),
        (SUBMISSION, submitted, ()),
    ):
        paths = (*files, *map(package_path, packages))
        if paths:
            copy = ("cp", "--archive", "--parents", f"--target-directory={SOLUTION_FILES}", "--")
            steps.append(
                Step(
                    (*copy, *paths),
                    directory=f"/{OPAM_ROOT}/repo/{repository}",
                    shown=f"copy {len(packages)} packages of {repository}",
                )
            )
    return (
        *steps,
        _add_repository(SOLUTION, SOLUTION_FILES),
        Step(("opam", "repository", "remove", SUBMISSION, "default")),
    )


DIGESTS = Step(
    ("sh", "-c", _DIGESTS, "sh", f"/{OPAM_ROOT}/repo/{SOLUTION}/packages"),
    shown="digests of the files of the solution",
)
"""Prints a line for each file of the packages in the switch, for one that is executable two; fails
if there is anything else but directories."""


def depexts_by_opam(spec: BuildSpec) -> tuple[str, ...]:
    """Returns opam's own command for system packages; it exits with 10 if some are missing."""
    formula = kinds.beside(spec)
    besides = () if formula is None else (f"--formula={formula}",)
    return ("opam", "install", "--depext-only", *kinds.tests(spec), kinds.target(spec), *besides)


def fetch(spec: BuildSpec) -> tuple[Step, ...]:
    """Downloads every source of the solution; the only opam runs with network."""
    download = ("opam", "install", "--download-only")
    options = (*kinds.tests(spec), *kinds.invariant(spec))
    return (
        *(replace(step, network=True) for step in kinds.beforehand(spec, "--download-only")),
        Step((*download, *options, kinds.target(spec)), network=True, report=True),
    )


def fetch_again(solution: tuple[str, ...]) -> tuple[Step, ...]:
    """Downloads the sources of installed packages, for which `install` would do nothing."""
    return tuple(
        Step(("opam", "source", f"--dir={SOURCE_FILES}/{package}", package), network=True)
        for package in solution
    )


def install(phase: Phase, spec: BuildSpec, *, reinstall: bool) -> tuple[Step, ...]:
    """Returns the commands of a phase that runs package code."""
    package = kinds.target(spec)
    invariant = kinds.invariant(spec)
    match phase:
        case Phase.DEPENDENCIES:
            command = ("opam", "install", "--deps-only", *kinds.tests(spec), *invariant, package)
            return (*kinds.beforehand(spec), Step(command, report=True))
        case Phase.BUILD:
            # Verbose, so that a live log shows what the package does, and the log of a lost or
            # endless build shows where it was.
            command = ("opam", _verb(reinstall), "--verbose", *invariant, package)
            return (Step(command, report=True),)
        case Phase.TEST:
            command = ("opam", "reinstall", "--with-test", "--verbose", *invariant, package)
            return (Step(command, report=True),)
        case _:
            raise ValueError(f"no package code runs in phase {phase}")


def _verb(reinstall: bool) -> str:  # noqa: FBT001 - the callers pass a variable of this name
    return "reinstall" if reinstall else "install"
