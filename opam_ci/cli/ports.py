"""Whether a port of this machine is free, and who has it if not."""

import contextlib
import socket
import time
from datetime import timedelta
from pathlib import Path

from opam_ci.core.errors import UsageError

LOOPBACK = "127.0.0.1"

GRACE = timedelta(seconds=1)
"""A killed server's port is free only once the kernel has ended all of its threads."""

_LISTEN = "0A"
"""TCP_LISTEN as proc(5) writes it."""


def require_free(port: int, *, option: str) -> None:
    """Checks that a server can listen on a port of the loopback interface.

    Args:
        port: The port.
        option: The command-line option that chooses another one.

    Raises:
        UsageError: It is taken, or not for us to use.
    """
    deadline = time.monotonic() + GRACE.total_seconds()
    while (error := _refusal(port)) is not None:
        if isinstance(error, PermissionError):
            raise UsageError(
                f"port {port} needs more rights; choose one above 1023 with {option}"
            ) from error
        if time.monotonic() > deadline:
            raise UsageError(
                f"port {port} is taken by {holder(port)}; "
                f"choose another with {option}, or end that program"
            ) from error
        time.sleep(0.05)


def _refusal(port: int) -> OSError | None:
    with socket.socket() as probe:
        # As servers do: connections that are just winding down hold nothing.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            return error
    return None


def holder(port: int) -> str:
    """Names who listens on a port, as far as this user may see."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and sockets & _open_files(process):
            try:
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
            except FileNotFoundError:  # it has just ended
                continue
    return f"a program of another user (as root, `ss -ltnp sport = :{port}` names it)"


def _listening(port: int) -> set[str]:
    inodes = set()
    # There is no tcp6 on a machine without IPv6.
    for table in Path("/proc/net").glob("tcp*"):
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes


def _open_files(process: Path) -> set[str]:
    """Returns what a process has open; nothing for another user's, or one that has ended."""
    found = set()
    with contextlib.suppress(OSError):
        for entry in (process / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found.add(str(entry.readlink()))
    return found
