"""Registries of container images: Debian's own, and one that has every image and can fail."""

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

LOGIN = ("opam", "open-sesame")
_HTPASSWD = "opam:$2y$05$abcdefghijklmnopqrstuutXu9KzOt.1yBoZUeFWoT/914/JfszCO\n"
"""Made with crypt(3)."""


@contextmanager
def docker_registry(folder: Path, *, login: bool = False) -> Iterator[str]:
    """Runs Debian's docker-registry, and yields its address.

    Args:
        folder: Empty; for its files.
        login: Whether it serves nobody but `LOGIN`.
    """
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    (folder / "htpasswd").write_text(_HTPASSWD)
    basic = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    configuration = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": host},
        **({"auth": basic} if login else {}),
    }
    # JSON is YAML.
    (folder / "config.yml").write_text(json.dumps(configuration))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log
        )
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as http:
            answer = http.get(f"http://{host}/v2/")
            assert answer.status_code == (401 if login else 200)
        yield host
    finally:
        process.kill()
        process.wait()


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
