"""A registry of container images that has every image, and can fail."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

Server = TypeVar("Server", bound=ThreadingHTTPServer)


class Registry(ThreadingHTTPServer):
    """Answers every request for a digest.

    Attributes:
        answer: Status of the responses; None sends none until the end.
        digest: Of every image.
        asked: Number of requests.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: int | None = 200
        self.digest = "sha256:" + "5" * 64
        self.asked = 0
        self.over = threading.Event()

    @property
    def host(self) -> str:
        """Its address."""
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Registry

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base's name
        """Logs nothing."""

    def do_HEAD(self) -> None:
        self.server.asked += 1
        if self.server.answer is None:
            self.server.over.wait(60)
            return
        self.send_response(self.server.answer)
        self.send_header("Docker-Content-Digest", self.server.digest)
        self.end_headers()


@contextmanager
def registry() -> Iterator[Registry]:
    """Runs a registry."""
    with running(Registry()) as server:
        try:
            yield server
        finally:
            server.over.set()


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Runs a server on a thread of its own."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
