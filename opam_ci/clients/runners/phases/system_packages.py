"""Installing system packages with the package manager of the build root's distribution.

opam decides which packages a solution needs (`opam list --external`) and to which family the
distribution belongs (`opam var os-family`). The commands here are those that opam 2.1 to 2.6 run
for that family (its src/state/opamSysInteract.ml). opam does not run them itself, because it

- passes names from opam files where the manager takes options, without `--`;
- exits 10 whatever the manager's exit code was, and 0 after an update that failed;
- needs sudo, which a job does not have, or leaves files of root in its own root.
"""

import re
from dataclasses import dataclass
from datetime import timedelta

from opam_ci.clients.runners.phases.executor import RunStep
from opam_ci.clients.runners.phases.steps import Step

LISTS_FRESH = timedelta(days=1)
"""Age up to which package lists are used: Debian's archive keeps a superseded version for about
that long."""

_UPDATE_SECONDS = 240
"""Limit of an update outside of the phase of system packages, within the limit of its phase."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._:@-]*(?<!-)")
"""A name that no manager takes for an option, a path, a URL, a group or a removal (`name-` of apt).
All names in opam-repository are like this but those of the next pattern, of taps of Homebrew, and
of variants of MacPorts."""

_ORIGIN = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9+._-]*/)?[A-Za-z0-9][A-Za-z0-9+._-]*(?<!-)")
"""A name of FreeBSD, with its category or without it."""

_FAMILY = ("opam", "var", "os-family")

_EPEL = "epel-release"
"""The package that enables a repository for the others: opam installs it first."""


@dataclass(frozen=True)
class Manager:
    """A package manager, by its commands.

    Attributes:
        families: Values of opam's variable `os-family`.
        update: Fetches the package lists; an error if any of them cannot be had.
        install: Installs without a question; names follow after `--`.
        after: Runs as root after an installation, if there is something to run.
        unknown_exit: Exit code of `install` that means just that there is no such package.
        as_root: Whether it runs as root.
        name: Names that it gets.
        environment: Further environment variables.
    """

    families: frozenset[str]
    update: tuple[str, ...]
    install: tuple[str, ...]
    after: tuple[str, ...] = ()
    unknown_exit: int | None = None
    as_root: bool = True
    name: re.Pattern[str] = _NAME
    environment: tuple[tuple[str, str], ...] = ()

    def names(self, listing: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Parses the output of `list_depexts`.

        Returns:
            The packages, sorted, and what cannot be the name of one: an opam file can contain
            anything.
        """
        lines = {line for line in listing.splitlines() if not line.startswith(("[", "#", " "))}
        lines.discard("")
        good = {line for line in lines if self.name.fullmatch(line)}
        return tuple(sorted(good)), tuple(sorted(lines - good))


APT = Manager(
    frozenset({"debian", "ubuntu"}),
    ("apt-get", "update", "-q", "-oAPT::Update::Error-Mode=any"),
    (
        *("apt-get", "install", "-qq", "-yy", "-oDpkg::Use-Pty=0"),
        # The build root is temporary: it need not survive a power failure.
        "-oDpkg::Options::=--force-unsafe-io",
    ),
    # The caches of the image are stale then, and opam's user may not write new ones.
    after=("apt-cache", "gencaches", "-qq"),
)

MANAGERS = (
    APT,
    Manager(frozenset({"alpine", "wolfi"}), ("apk", "update"), ("apk", "add")),
    Manager(
        frozenset({"arch", "archlinux"}),
        ("pacman", "-Sy", "--noconfirm"),
        ("pacman", "-Su", "--noconfirm", "--needed"),
    ),
    Manager(
        frozenset({"amzn", "centos", "fedora", "mageia", "ol", "oraclelinux", "rhel"}),
        # By default repositories may be left out, and then a package of one of them is unknown.
        ("dnf", "makecache", "--setopt=*.skip_if_unavailable=0"),
        ("dnf", "install", "-y"),
    ),
    Manager(
        frozenset({"opensuse", "suse"}),
        ("zypper", "--non-interactive", "refresh"),
        ("zypper", "--non-interactive", "install"),
        # ZYPPER_EXIT_INF_CAP_NOT_FOUND: see zypper(8), Exit codes.
        unknown_exit=104,
    ),
    # Of the runner without namespaces. opam takes no other system of the family `bsd` to it.
    Manager(frozenset({"bsd"}), ("pkg", "update"), ("pkg", "install", "-y"), name=_ORIGIN),
    # Not taps: they would run code of whoever an opam file names, with network.
    Manager(
        frozenset({"homebrew"}),
        ("brew", "update"),
        ("brew", "install"),
        as_root=False,
        environment=(("HOMEBREW_NO_AUTO_UPDATE", "yes"),),
    ),
)


def list_depexts(solution: tuple[str, ...]) -> Step:
    """Lists the system packages of a solution, one a line."""
    return Step(
        ("opam", "list", "--external", "--all-versions", *solution),
        shown="opam list --external (of the solution)",
    )


async def find_manager(run: RunStep) -> tuple[Manager | None, str]:
    """Returns the package manager of a build root, None if it is not supported, and its family.

    Args:
        run: Runs a command there.
    """
    output = bytearray()
    await run(Step(_FAMILY, shown=" ".join(_FAMILY)), output)
    family = (output.decode(errors="replace").split() or ["unknown"])[-1]
    return next((each for each in MANAGERS if family in each.families), None), family


def update(
    manager: Manager, options: tuple[tuple[str, str], ...], *, bounded: bool = False
) -> Step:
    """Fetches the package lists.

    Args:
        manager: The package manager.
        options: Options of apt, for no other.
        bounded: Whether it has a limit of its own, so that a mirror that hangs ends nothing else.
    """
    limit = ("timeout", "-k", "5", str(_UPDATE_SECONDS)) if bounded else ()
    return _step(manager, (*limit, *manager.update, *_apt(manager, options)), manager.update)


def install(
    manager: Manager, packages: tuple[str, ...], options: tuple[tuple[str, str], ...]
) -> tuple[Step, ...]:
    """Installs system packages as opam itself would."""
    first = tuple(package for package in packages if package == _EPEL)
    others = tuple(package for package in packages if package != _EPEL)
    command = (*manager.install, *_apt(manager, options), "--")
    return (
        *(
            _step(manager, (*command, *wanted), (*manager.install, *wanted))
            for wanted in (first, others)
            if wanted
        ),
        *((Step(manager.after, as_root=True),) if manager.after else ()),
    )


def _step(manager: Manager, command: tuple[str, ...], shown: tuple[str, ...]) -> Step:
    return Step(
        command,
        network=True,
        as_root=manager.as_root,
        # No package of an author has a file there, which some managers would install.
        directory="/",
        environment=manager.environment,
        shown=" ".join(shown),
    )


def _apt(manager: Manager, options: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    return tuple(f"-o{key}={value}" for key, value in options) if manager is APT else ()
