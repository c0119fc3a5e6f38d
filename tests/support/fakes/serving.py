"""Applications on a real port, for other processes."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from tests.support.fakes.github import FakeGitHub
from tests.support.fakes.github_api import api


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serves an application on a thread of its own; yields its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serves an application on the event loop of the caller; yields its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done(), "the server did not start"
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@contextmanager
def silent_server() -> Iterator[int]:
    """Accepts connections and says nothing, until the end; yields its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        # The kernel accepts them: nobody reads, and nobody hangs up.
        yield listener.getsockname()[1]


def github_with_troubles(fake: FakeGitHub) -> Any:
    """Returns the fake's API with injected faults, as `Wire` has them in one process.

    A fault that breaks the connection is a 502, since a server cannot close it in the middle.
    """
    inner = api(fake)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        trouble = fake.next_trouble(scope["path"])
        if trouble is None:
            await inner(scope, receive, send)
            return
        if trouble.done:
            await inner(scope, receive, _swallow)
        pairs = [(k.encode(), v.encode()) for k, v in trouble.headers.items()]
        start = {"status": trouble.status or 502, "headers": pairs}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": trouble.body})

    return app


async def _swallow(_message: Any) -> None:
    """Takes a response that is lost."""
