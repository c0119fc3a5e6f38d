"""Whether a port of this machine is free, and which program listens on it if not."""

import contextlib
import socket
import time
from datetime import timedelta

import psutil

from opam_ci.core.errors import UsageError

LOOPBACK = "127.0.0.1"

GRACE = timedelta(seconds=1)
"""A killed server's port is free only once the kernel has ended all of its threads."""


def require_free(port: int, *, option: str) -> None:
    """Checks that a server can listen on a port of the loopback interface.

    Args:
        port: The port.
        option: The command-line option that chooses another one.

    Raises:
        UsageError: The port is in use, or needs more rights than this user has.
    """
    deadline = time.monotonic() + GRACE.total_seconds()
    while (error := _bind_error(port)) is not None:
        if isinstance(error, PermissionError):
            raise UsageError(
                f"port {port} needs more rights; choose one above 1023 with {option}"
            ) from error
        if time.monotonic() > deadline:
            raise UsageError(
                f"port {port} is in use by {listener(port)}; "
                f"choose another with {option}, or end that program"
            ) from error
        time.sleep(0.05)


def free_port(preferred: int) -> int:
    """Returns a port of the loopback interface that is free at the moment: this one, if it is."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0 if _bind_error(preferred) else preferred))
        port: int = probe.getsockname()[1]
        return port


def _bind_error(port: int) -> OSError | None:
    with socket.socket() as probe:
        # As servers do: closed connections in TIME_WAIT do not occupy the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            return error
    return None


def listener(port: int) -> str:
    """Returns the name and pid of the program that listens on a port, if this user may know."""
    for found in psutil.net_connections("tcp"):
        is_it = found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port
        if is_it and found.pid:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                return f"{psutil.Process(found.pid).name()} (pid {found.pid})"
    return f"a program of another user (as root, `ss -ltnp sport = :{port}` names it)"
