"""What the embedded default needs of the machine it runs on."""

import subprocess
import sys
from collections.abc import Callable

from opam_ci.cli import debian
from opam_ci.core.errors import InfrastructureError, UsageError
from opam_ci.core.outcome import Cause


def require() -> None:
    """Checks that the Debian packages are there, for commands that install nothing.

    Raises:
        UsageError: Some are missing; its text holds the one command that installs them.
    """
    if packages := debian.missing():
        raise UsageError(_complaint(packages))


def install(tell: Callable[[str], None]) -> None:
    """Installs the Debian packages that are missing, for commands that set a machine up.

    Args:
        tell: Receives a line before anything is changed.

    Raises:
        UsageError: This user may not; its text holds the one command to run first.
        InfrastructureError: apt-get failed; its own words are on stderr.
    """
    packages = debian.missing()
    if not packages:
        return
    if not debian.may_install():
        raise UsageError(_complaint(packages))
    tell(f"installing the Debian packages {' '.join(packages)}")
    for words in debian.commands(packages):
        # apt-get's output belongs with the progress, not with a command's result.
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)  # noqa: S603 - fixed words
        if done.returncode != 0:
            raise InfrastructureError(
                f"`{' '.join(words)}` ended with {done.returncode}; "
                f"run this by hand: {debian.command_for_people(packages)}",
                cause=Cause.PACKAGE_MIRROR,
            )
    if still := debian.missing():
        raise InfrastructureError(
            f"apt-get reports success, and yet these are missing: {' '.join(still)}",
            cause=Cause.PACKAGE_MIRROR,
        )


def _complaint(packages: list[str]) -> str:
    if not debian.has_apt():
        return (
            f"{', '.join(packages)} missing, and there is no apt-get to install them with: "
            "the embedded default runs on Debian and Ubuntu"
        )
    return (
        f"Debian packages are missing ({', '.join(packages)}); run this first: "
        f"{debian.command_for_people(packages)}"
    )
