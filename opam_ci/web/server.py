"""The HTTP server of the receiver and of pages, each in a process of its own, under guard."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from opam_ci.web.guard import Guard, GuardedConnection, GuardLimits
from opam_ci.web.webhook import Webhook, application

SHUTDOWN_TIMEOUT = 10
"""Seconds that the server waits for requests in flight when the process stops: GitHub's own
timeout for a delivery. What was not accepted is delivered again."""

_ACCEPTED_AT_ONCE = 64
"""Connections that are accepted before the guard can close others."""

_RESERVED = 256
"""Descriptors of the process for all but connections, and for those accepted at once."""

_BACKLOG = 4096
"""Connections that the kernel keeps until they are accepted (at most `net.core.somaxconn`): fewer,
and beside a flood GitHub's own would have to ask twice, a second later."""


class _Server(uvicorn.Server):
    """A server that installs no signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def receiving(
    webhook: Webhook, listener: socket.socket, limits: GuardLimits | None = None
) -> AsyncIterator[None]:
    """Receives webhooks for the time of a block.

    Args:
        webhook: Receives the requests.
        listener: Listens; closed at the end.
        limits: On all requests together.
    """
    async with serving(application(webhook), listener, limits):
        yield


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp, listener: socket.socket, limits: GuardLimits | None = None
) -> AsyncIterator[None]:
    """Serves an application for the time of a block.

    Args:
        app: Answers the requests.
        listener: Listens; closed at the end.
        limits: On all requests together.
    """
    guard = Guard(limits)
    config = uvicorn.Config(
        app,
        # uvicorn only calls it, with what a protocol's class takes.
        http=cast("type[GuardedConnection]", guard.protocol),
        ws="none",
        lifespan="off",
        # Strangers must not write our log either.
        log_level="error",
        access_log=False,
        server_header=False,
        backlog=_ACCEPTED_AT_ONCE,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT,
    )
    server = _Server(config)
    tasks = [asyncio.create_task(each) for each in (server.serve([listener]), _expire(guard))]
    while not server.started and not tasks[0].done():  # noqa: ASYNC110 - the server has no event
        await asyncio.sleep(0.01)
    # The loop accepts as many at once as it was told to keep, so it was told less.
    listener.listen(_BACKLOG)
    try:
        yield
    finally:
        # Requests in flight are answered first.
        server.should_exit = True
        await tasks[0]
        tasks[1].cancel()


def affordable(limits: GuardLimits) -> GuardLimits:
    """Raises this process's limit of descriptors to what limits need; lowers them if it cannot."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = max(soft, min(hard, limits.connections + _RESERVED))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return replace(limits, connections=min(limits.connections, max(soft - _RESERVED, 1)))


async def _expire(guard: Guard) -> None:
    while True:
        await asyncio.sleep(1)
        guard.expire()
