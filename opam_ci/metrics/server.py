"""The HTTP endpoint of a worker process: `/metrics` for Prometheus, and `/healthz`."""

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
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.model import Frozen
from opam_ci.core.workers.health import WorkerState
from opam_ci.metrics.catalog import Metrics

_SDK_TIMEOUT_SECONDS = 5.0
_HIGHEST_PORT = 65_535


class RunnerStatus(Frozen):
    """Whether a runner of a worker takes jobs.

    Attributes:
        pools: Its pools.
        state: Whether it takes jobs.
        cause: Why it takes none, or the fault that the present probe is to explain.
        detail: The same as a sentence.
        until: Earliest end of its quarantine.
        strikes: Reasons for quarantines since a job passed.
    """

    pools: tuple[str, ...]
    state: WorkerState = WorkerState.HEALTHY
    cause: Cause | None = None
    detail: str | None = None
    until: datetime | None = None
    strikes: int = 0


class WorkerStatus(RunnerStatus):
    """The response of `/healthz`: the state of the runner that is best, and each for itself.

    It has all pools of the process; none for an orchestration worker.

    Attributes:
        worker: Identity of the process, as in evidence.
        runners: Its runners.
    """

    worker: str
    runners: tuple[RunnerStatus, ...] = ()


def parse_address(text: str) -> tuple[str, int]:
    """Parses `HOST:PORT`; for port 0 the system chooses one.

    Raises:
        UsageError: The address is invalid.
    """
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        number = int(port)
    except ValueError:
        address, number = None, -1
    if address is None or not 0 <= number <= _HIGHEST_PORT:
        raise UsageError(
            f"OPAM_CI_METRICS={text!r} is not an address: use an IP address and a port, such as "
            "127.0.0.1:9464"
        )
    return str(address), number


def application(
    metrics: Metrics, status: Callable[[], WorkerStatus], sdk_url: str | None = None
) -> Starlette:
    """Returns the application.

    Args:
        metrics: Of this process.
        status: Returns the state of the process.
        sdk_url: URL of the Temporal SDK's own metrics, which are appended to ours.
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
            response = await client.get(url)
    except httpx.HTTPError:
        # Ours are useful without them; the missing ones are absent series.
        return b""
    return response.content if response.is_success else b""


class _Server(uvicorn.Server):
    """A server within a process that handles signals itself."""

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
        UsageError: The port is in use or not permitted.
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
