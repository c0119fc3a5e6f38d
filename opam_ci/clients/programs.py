"""Programs of the machine that this one runs."""

import os
import shutil
import sys
from collections.abc import Mapping

from opam_ci.core.errors import UsageError


def environment() -> dict[str, str]:
    """Returns the environment of such programs: nothing of our own, which may hold tokens."""
    # Some are in directories that are not on the path of ordinary users.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return {"PATH": path, "LC_ALL": "C.UTF-8"}


def gnu(name: str) -> str:
    """Returns the name of a GNU program: macOS and FreeBSD have others under the plain one."""
    return name if sys.platform == "linux" else f"g{name}"


def missing(packages: Mapping[str, str]) -> str | None:
    """Returns a message with missing programs and the command that installs them, None if none.

    Args:
        packages: The Debian package of each program.
    """
    path = environment()["PATH"]
    absent = sorted(
        {package for tool, package in packages.items() if shutil.which(tool, path=path) is None}
    )
    if not absent:
        return None
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"this machine lacks {', '.join(absent)}: {sudo}apt-get install {' '.join(absent)}"


def require(*names: str) -> None:
    """Checks that programs are installed whose Debian packages have their names.

    Raises:
        UsageError: Some are missing; the message has the command that installs them.
    """
    if line := missing({name: name for name in names}):
        raise UsageError(line)
