"""A source host on the loopback interface that can be broken."""

import threading
from collections.abc import Collection, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from opam_ci.cli.ports import LOOPBACK


class SourceHost:
    """Serves archives over HTTP, some of them as 503 until it is repaired.

    A context manager: it serves for the duration of the block.
    """

    def __init__(self, archives: Mapping[str, bytes], *, broken: Collection[str] = ()) -> None:
        """Opens a port.

        Args:
            archives: Contents by file name.
            broken: Names of the archives that are refused until `repair`.
        """
        self._archives = dict(archives)
        self._broken = frozenset(broken)
        self._lock = threading.Lock()
        self._refused = 0
        self._server = ThreadingHTTPServer((LOOPBACK, 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """Its URL, without a slash at the end."""
        return f"http://{LOOPBACK}:{self._server.server_address[1]}"

    @property
    def refused(self) -> int:
        """The number of refused requests."""
        with self._lock:
            return self._refused

    def repair(self) -> None:
        """Repairs the host: from now on it serves everything."""
        with self._lock:
            self._broken = frozenset()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _response(self, name: str) -> tuple[HTTPStatus, bytes]:
        with self._lock:
            if name in self._broken:
                self._refused += 1
                return HTTPStatus.SERVICE_UNAVAILABLE, b"out of order\n"
        if name in self._archives:
            return HTTPStatus.OK, self._archives[name]
        return HTTPStatus.NOT_FOUND, b"no such archive\n"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        response = self._response

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = response(self.path.removeprefix("/"))
                self.send_response(status)
                self.send_header("Content-Type", "application/octet-stream")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Logs nothing."""

        return Handler
