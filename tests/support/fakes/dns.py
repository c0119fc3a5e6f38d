"""A name server on the loopback interface that can be down."""

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_HEADER = struct.Struct(">HHHHHH")
_ANSWER, _IPV4, _INTERNET = 0x8580, 1, 1


class NameServer:
    """Resolves names, by default all of them to this machine.

    Args:
        address: Where it listens; by default an address of the loopback network.
        resolve: Returns the IPv4 address of a name.

    Attributes:
        address: Where it listens, on port 53: a resolver's configuration has no other port.
    """

    def __init__(
        self, address: str = "", resolve: Callable[[str], str] = lambda _: "127.0.0.1"
    ) -> None:
        # All of 127/8 is this machine: each process takes an address of its own.
        self.address = address or f"127.77.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
        self._resolve = resolve
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def configuration(self, path: Path) -> Path:
        """Writes a `resolv.conf` with this server."""
        path.write_text(f"nameserver {self.address}\noptions timeout:1 attempts:1\n")
        return path

    def start(self) -> None:
        """Starts to answer."""
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            server.bind((self.address, 53))
        except PermissionError:
            server.close()
            pytest.skip("only root can be a name server")
        server.settimeout(0.1)
        self._stopped.clear()
        self._thread = threading.Thread(target=self._serve, args=(server,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops: the port is closed."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _serve(self, server: socket.socket) -> None:
        with server:
            while not self._stopped.is_set():
                try:
                    question, origin = server.recvfrom(512)
                except TimeoutError:
                    continue
                server.sendto(_answer(question, self._resolve), origin)


def _answer(question: bytes, resolve: Callable[[str], str]) -> bytes:
    number = question[:2]
    end = question.index(b"\0", _HEADER.size) + 5
    asked = question[_HEADER.size : end]
    kind = struct.unpack(">H", asked[-4:-2])[0]
    found = kind == _IPV4
    head = number + struct.pack(">HHHHH", _ANSWER, 1, int(found), 0, 0)
    if not found:
        return head + asked
    labels, at = list[str](), 0
    while length := asked[at]:
        labels.append(asked[at + 1 : at + 1 + length].decode())
        at += 1 + length
    address = socket.inet_aton(resolve(".".join(labels)))
    # The name is that of the question, 12 bytes from the start.
    record = struct.pack(">HHHIH", 0xC00C, _IPV4, _INTERNET, 0, 4) + address
    return head + asked + record


@contextmanager
def name_server() -> Iterator[NameServer]:
    """Runs a name server for the time of a block."""
    server = NameServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()
