"""The HTTP endpoint of a worker process: `/metrics` for Prometheus, `/healthz` for anybody."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from typing import Any

import httpx
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from opam_ci.core.errors import UsageError
from opam_ci.core.health import WorkerState
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cause
from opam_ci.metrics.catalog import Metrics

_SDK_TIMEOUT_SECONDS = 5.0
_HIGHEST_PORT = 65_535


class WorkerStatus(Frozen):
    """What `/healthz` says.

    Attributes:
        worker: Identity of the process, as evidence names it.
        pools: What it builds for; empty for an orchestration worker.
        state: What it does with jobs.
        cause: Why it takes none, or what the probe under way is to explain.
        detail: The same in words.
        until: Earliest end of its quarantine.
        strikes: Reasons for quarantines since a job passed.
    """

    worker: str
    pools: tuple[str, ...]
    state: WorkerState = WorkerState.HEALTHY
    cause: Cause | None = None
    detail: str | None = None
    until: datetime | None = None
    strikes: int = 0


def parse_address(text: str) -> tuple[str, int]:
    """Reads `HOST:PORT`; port 0 lets the system choose one.

    Raises:
        UsageError: It is no address.
    """
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        number = int(port)
    except ValueError:
        address, number = None, -1
    if address is None or not 0 <= number <= _HIGHEST_PORT:
        raise UsageError(
            f"OPAM_CI_METRICS={text!r} is no address: write an IP address and a port, such as "
            "127.0.0.1:9464"
        )
    return str(address), number


def application(
    metrics: Metrics, status: Callable[[], WorkerStatus], sdk_url: str | None = None
) -> Starlette:
    """Returns the application.

    Args:
        metrics: Of this process.
        status: Tells how the process is.
        sdk_url: Where the Temporal SDK shows its own metrics, which are added to ours.
    """

    async def show(_request: Request) -> Response:
        body = await asyncio.to_thread(generate_latest, metrics.registry)
        return Response(body + await _sdk_metrics(sdk_url), media_type=CONTENT_TYPE_LATEST)

    async def healthz(_request: Request) -> Response:
        now = status()
        code = 503 if now.state is WorkerState.QUARANTINED else 200
        return JSONResponse(now.model_dump(mode="json"), status_code=code)

    return Starlette(routes=[Route("/metrics", show), Route("/healthz", healthz)])


async def _sdk_metrics(url: str | None) -> bytes:
    if url is None:
        return b""
    try:
        async with httpx.AsyncClient(timeout=_SDK_TIMEOUT_SECONDS) as client:
            answer = await client.get(url)
    except httpx.HTTPError:
        # Ours are worth showing alone; the missing ones show as absent series.
        return b""
    return answer.content if answer.is_success else b""


class _Server(uvicorn.Server):
    """A server beside other work: signals are the process's own business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the process's signal handlers as they are."""
        yield


@contextlib.asynccontextmanager
async def serving(app: Starlette, address: tuple[str, int]) -> AsyncIterator[int]:
    """Serves for the time of a block.

    Yields:
        The port.

    Raises:
        UsageError: The port is taken or not ours to use.
    """
    host, port = address
    config = uvicorn.Config(
        app, host=host, port=port, log_config=None, access_log=False, lifespan="off"
    )
    server = _Server(config)
    try:
        sock = await asyncio.to_thread(_bind, host, port)
    except OSError as error:
        raise UsageError(
            f"cannot serve metrics on {host}:{port} ({error.strerror}): choose another address "
            "with OPAM_CI_METRICS"
        ) from error
    task: asyncio.Task[Any] = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        sock.close()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.set_inheritable(False)
    except OSError:
        sock.close()
        raise
    return sock
