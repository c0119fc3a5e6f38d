"""What the embedded installation needs of its machine."""

import subprocess
import sys
from collections.abc import Callable

from opam_ci.cli import debian
from opam_ci.clients.runners.preflight import namespace_problem
from opam_ci.clients.runners.sandbox import bubblewrap as sandbox
from opam_ci.clients.runners.sandbox.network import tun_problem
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause


def require() -> None:
    """Checks that this user can build here, for commands that install nothing.

    Raises:
        UsageError: Debian packages, subordinate ids or user namespaces are missing; its text
            has the one command to run first.
    """
    packages = debian.missing()
    if packages or debian.user_commands():
        raise UsageError(_problem(packages))
    if trouble := namespace_problem(sandbox.rights()) or tun_problem():
        raise UsageError(trouble)


def install(report: Callable[[str], None]) -> None:
    """Installs Debian packages and adds subordinate ids, for commands that set a machine up.

    Args:
        report: Receives a line before anything is changed.

    Raises:
        UsageError: This user may not, or user namespaces are disabled, which only the machine's
            owner can change; the text has the one command to run first.
        InfrastructureError: A command failed; its output is on stderr.
    """
    packages = debian.missing()
    if packages or debian.user_commands():
        if not (debian.may_install() if packages else debian.may_become_root()):
            raise UsageError(_problem(packages))
        by_hand = debian.command_for_people(packages)
        report(f"installing {_lacking(packages)}")
        for command in debian.commands(packages):
            _run(command, by_hand)
    if still := debian.missing():
        raise InfrastructureError(
            f"apt-get succeeded, but these packages are missing: {' '.join(still)}",
            cause=Cause.PACKAGE_MIRROR,
        )
    require()


def _run(command: list[str], by_hand: str) -> None:
    # Its output is progress: stdout is for the result of the command.
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)  # noqa: S603 - fixed arguments
    if done.returncode != 0:
        raise InfrastructureError(
            f"`{' '.join(command)}` ended with {done.returncode}; run this by hand: {by_hand}",
            cause=Cause.PACKAGE_MIRROR if "apt-get" in command else Cause.SANDBOX,
        )


def _lacking(packages: list[str]) -> str:
    """Names what is missing."""
    names = [f"the Debian packages {' '.join(packages)}"] if packages else []
    if debian.id_commands():
        names.append("subordinate ids for this user (/etc/subuid, /etc/subgid)")
    if debian.device_commands():
        names.append(f"access of this user to {debian.TUN}")
    return " and ".join(names)


def _problem(packages: list[str]) -> str:
    if packages and not debian.has_apt():
        return (
            f"these packages are missing: {', '.join(packages)}; they cannot be installed without "
            "apt-get: the embedded installation needs Debian or Ubuntu"
        )
    return (
        f"this machine lacks {_lacking(packages)}; run this first: "
        f"{debian.command_for_people(packages)}"
    )
