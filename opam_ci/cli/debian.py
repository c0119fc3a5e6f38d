"""Missing packages and subordinate ids of a Debian machine, and the commands that add them.

Imported by `./opam-ci` before there is a virtual environment: the standard library only.
"""

import os
import pwd
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

PACKAGES = Path(__file__).with_name("debian-packages.txt")
"""What the embedded installation needs: a package a line, with a program or file of it."""

SUBORDINATE_IDS = {
    "--add-subuids": Path("/etc/subuid"),
    "--add-subgids": Path("/etc/subgid"),
}
"""The files of subuid(5) and subgid(5), by the option of usermod(8) that adds to each."""

TUN = Path("/dev/net/tun")
"""The device of tun(4)."""

_FIRST_ID = 100_000
_ID_COUNT = 65_536
"""The start and the size of the ranges that useradd(8) assigns: see login.defs(5)."""


def missing() -> list[str]:
    """Returns the packages of the list that this user lacks, in its order."""
    lines = (line.partition("#")[0].split() for line in PACKAGES.read_text().splitlines())
    return [
        package
        for package, file, *users in filter(None, lines)
        if not (users and os.geteuid() == 0)
        if not (shutil.which(file) or ("/" in file and any(Path("/").glob(file.lstrip("/")))))
    ]


def device_commands() -> list[list[str]]:
    """Returns the command that opens the device of builds' network to this user, if it is closed.

    udev does so at each start; a machine without it has the kernel's mode.
    """
    if os.access(TUN, os.R_OK | os.W_OK) or not TUN.exists():
        return []
    return [["chmod", "666", str(TUN)]]


def id_commands() -> list[list[str]]:
    """Returns the command that adds subordinate ids for this user; none if it has them, or is root.

    User and group ids of a build root are this user's subordinate ids. The new range begins
    after all others: usermod itself does not ensure that.
    """
    if os.geteuid() == 0:
        return []
    uid = os.geteuid()
    user = next((entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == uid), str(uid))
    lacking = []
    first = _FIRST_ID
    for option, path in SUBORDINATE_IDS.items():
        ranges = [line.split(":") for line in _lines(path) if line.count(":") == 2]  # noqa: PLR2004 - owner:first:count
        if not {user, str(uid)} & {owner for owner, _, _ in ranges}:
            lacking.append(option)
        ends = [int(begin) + int(count) for _, begin, count in ranges if (begin + count).isdigit()]
        first = max([first, *ends])
    added = [each for option in lacking for each in (option, f"{first}-{first + _ID_COUNT - 1}")]
    return [["usermod", *added, user]] if added else []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def user_commands() -> list[list[str]]:
    """Returns the commands that give this user what it lacks besides packages."""
    return [*id_commands(), *device_commands()]


def has_apt() -> bool:
    """Returns whether this machine has Debian packages."""
    return shutil.which("apt-get") is not None


def may_install() -> bool:
    """Returns whether packages can be installed without a password."""
    return has_apt() and may_become_root()


def may_become_root() -> bool:
    """Returns whether this is root, or a user of sudo without a password."""
    if os.geteuid() == 0:
        return True
    if shutil.which("sudo") is None:
        return False
    done = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False)  # noqa: S607 - sudo of the path
    return done.returncode == 0


def command_for_people(packages: Sequence[str]) -> str:
    """Returns the one command for a person: it installs packages, and adds what a user lacks."""
    steps = user_commands()
    if packages:
        install = ["apt-get", "install", "--no-install-recommends", *packages]
        steps = [["apt-get", "update"], install, *steps]
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    return " && ".join(shlex.join([*sudo, *step]) for step in steps)


def commands(packages: Sequence[str]) -> list[list[str]]:
    """Returns the commands that do the same without questions, in order.

    They change nothing else: apt fails if it would have to upgrade or remove a package, and a
    person decides with `command_for_people`.
    """
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    careful = ["--yes", "--no-install-recommends", "--no-upgrade", "--no-remove"]
    install = [[*apt, "update"], [*apt, "install", *careful, *packages]] if packages else []
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    return [[*sudo, *step] for step in (*install, *user_commands())]
