"""Listening sockets of commands that serve."""

import contextlib
import socket
from collections.abc import Iterator

from opam_ci.core.errors import UsageError


@contextlib.contextmanager
def listening(
    host: str, port: int, *, options: str = "--host or --port"
) -> Iterator[socket.socket]:
    """Listens on an address for the time of a block.

    Args:
        host: The address.
        port: The port; 0 for a free one.
        options: Those that choose another one, for the message.

    Raises:
        UsageError: The port is taken, or this user may not listen there.
    """
    try:
        listener = socket.create_server((host, port), backlog=512)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another {options}"
        ) from error
    with listener:
        yield listener


def address_of(listener: socket.socket) -> str:
    """Returns where a socket listens, as it is in URLs."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
