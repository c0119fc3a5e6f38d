"""Debian packages: which ones are missing, and the commands that install them.

Imported by `./opam-ci` before there is a virtual environment: the standard library only.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

PACKAGES = Path(__file__).with_name("debian-packages.txt")
"""What the embedded default needs: a package a line, with the program or file it brings."""


def missing() -> list[str]:
    """Returns the packages of the list that are not there, in its order."""
    lines = (line.partition("#")[0].split() for line in PACKAGES.read_text().splitlines())
    return [
        package
        for package, sign in (words for words in lines if words)
        if not (shutil.which(sign) or ("/" in sign and Path(sign).exists()))
    ]


def has_apt() -> bool:
    """Tells whether this machine has Debian packages at all."""
    return shutil.which("apt-get") is not None


def may_install() -> bool:
    """Tells whether packages can be installed without a question: as root, or by sudo."""
    if not has_apt():
        return False
    if os.geteuid() == 0:
        return True
    if shutil.which("sudo") is None:
        return False
    answer = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False)  # noqa: S607 - sudo of the path
    return answer.returncode == 0


def command_for_people(packages: Sequence[str]) -> str:
    """Returns the one command that installs packages, to be copied into a terminal."""
    apt = "apt-get" if os.geteuid() == 0 else "sudo apt-get"
    return f"{apt} update && {apt} install --no-install-recommends {shlex.join(packages)}"


def commands(packages: Sequence[str]) -> list[list[str]]:
    """Returns the commands that install packages and ask nothing, in order.

    They change nothing else: where apt would have to upgrade or remove a package of the
    machine's owner, it stops, and a person decides with `command_for_people`.
    """
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    apt = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    careful = ["--yes", "--no-install-recommends", "--no-upgrade", "--no-remove"]
    return [[*apt, "update"], [*apt, "install", *careful, *packages]]
