"""What the embedded default needs of the machine it runs on."""

import subprocess
import sys
from collections.abc import Callable

from opam_ci.cli import debian
from opam_ci.clients.runners import sandbox
from opam_ci.clients.runners.preflight import namespace_trouble
from opam_ci.core.errors import UsageError
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.outcome import Cause


def require() -> None:
    """Checks that this user can build here, for commands that install nothing.

    Raises:
        UsageError: Debian packages, subordinate ids or user namespaces are missing; its text
            holds the one command to run first.
    """
    packages = debian.missing()
    if packages or debian.id_commands():
        raise UsageError(_complaint(packages))
    if trouble := namespace_trouble(sandbox.rights()):
        raise UsageError(trouble)


def install(tell: Callable[[str], None]) -> None:
    """Installs Debian packages and adds subordinate ids, for commands that set a machine up.

    Args:
        tell: Receives a line before anything is changed.

    Raises:
        UsageError: This user may not, or user namespaces are forbidden, which is for the
            machine's owner to change; its text holds the one command to run first.
        InfrastructureError: A command failed; its own words are on stderr.
    """
    packages = debian.missing()
    if packages or debian.id_commands():
        if not (debian.may_install() if packages else debian.may_become_root()):
            raise UsageError(_complaint(packages))
        by_hand = debian.command_for_people(packages)
        tell(f"installing {_lacking(packages)}")
        for words in debian.commands(packages):
            _run(words, by_hand)
    if still := debian.missing():
        raise InfrastructureError(
            f"apt-get reports success, and yet these are missing: {' '.join(still)}",
            cause=Cause.PACKAGE_MIRROR,
        )
    require()


def _run(words: list[str], by_hand: str) -> None:
    # Its output belongs with the progress, not with a command's result.
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)  # noqa: S603 - fixed words
    if done.returncode != 0:
        raise InfrastructureError(
            f"`{' '.join(words)}` ended with {done.returncode}; run this by hand: {by_hand}",
            cause=Cause.PACKAGE_MIRROR if "apt-get" in words else Cause.SANDBOX,
        )


def _lacking(packages: list[str]) -> str:
    """Names what is missing."""
    ids = "subordinate ids for this user (/etc/subuid, /etc/subgid)"
    names = [f"the Debian packages {' '.join(packages)}"] if packages else []
    return " and ".join([*names, *([ids] if debian.id_commands() else [])])


def _complaint(packages: list[str]) -> str:
    if packages and not debian.has_apt():
        return (
            f"{', '.join(packages)} missing, and there is no apt-get to install them with: "
            "the embedded default runs on Debian and Ubuntu"
        )
    return (
        f"this machine lacks {_lacking(packages)}; run this first: "
        f"{debian.command_for_people(packages)}"
    )
