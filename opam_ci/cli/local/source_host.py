"""A source host on the loopback interface that can be broken."""

import threading
from collections.abc import Collection, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from opam_ci.cli.local.ports import LOOPBACK


class SourceHost(ThreadingHTTPServer):
    """Serves archives over HTTP, some of them as 503 until it is repaired.

    A context manager: it serves for the duration of the block.

    Args:
        archives: Contents by file name.
        broken: Names of the archives that are refused until `repair`.
    """

    def __init__(self, archives: Mapping[str, bytes], *, broken: Collection[str] = ()) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self._archives = archives
        self._broken = broken
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """Its URL, without a slash at the end."""
        return f"http://{LOOPBACK}:{self.server_port}"

    def repair(self) -> None:
        """Repairs the host: from now on it serves everything."""
        self._broken = ()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def response(self, name: str) -> tuple[HTTPStatus, bytes]:
        """Returns the status and the body for a file name."""
        if name in self._broken:
            return HTTPStatus.SERVICE_UNAVAILABLE, b"out of order\n"
        if name in self._archives:
            return HTTPStatus.OK, self._archives[name]
        return HTTPStatus.NOT_FOUND, b"no such archive\n"


class _Handler(BaseHTTPRequestHandler):
    server: SourceHost

    def do_GET(self) -> None:
        status, body = self.server.response(self.path.removeprefix("/"))
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Logs nothing."""
