"""Logs for the command line: of the store, or of a server."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import httpx

from opam_ci.cli.selection.server import is_server_named, named_server
from opam_ci.clients.logs.find import find_log
from opam_ci.clients.logs.reader import LogReader
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.tail import LogTails
from opam_ci.clients.remote.server import Server
from opam_ci.core.jobs.records import AttemptRecord
from opam_ci.web.addresses import commit_path, job_path

_RECONNECT_INTERVAL = 1.0
"""Seconds; a server that stops ends its streams."""

_SILENCE_TIMEOUT = 60.0
"""Seconds; a server that has nothing to add says so every fifteen."""

_NOTHING = (404, 410)


class Logs(Protocol):
    """Where logs are."""

    async def find(self, attempt: AttemptRecord) -> str | None:
        """Returns what identifies an attempt's log, None if nothing of it is stored (yet)."""

    async def read(self, log: str) -> bytes:
        """Returns what is stored of a log; nothing if that is nothing."""

    def output(self, log: str) -> AsyncGenerator[bytes, None]:
        """Yields the output of a log from its beginning, as it comes, until it ends."""


class StoredLogs:
    """Logs of a store; identified by their keys."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._tails = LogTails(store)

    async def find(self, attempt: AttemptRecord) -> str | None:
        """Returns the key of an attempt's log, None if nothing of it is stored (yet)."""
        return await find_log(self._store, attempt)

    async def read(self, log: str) -> bytes:
        """Returns what is stored of a log; nothing if that is nothing."""
        reader = LogReader(self._store)
        return await reader.read(log) if await reader.size(log) else b""

    def output(self, log: str) -> AsyncGenerator[bytes, None]:
        """Yields the output of a log from its beginning, as it comes, until it ends."""
        return self._tails.output(log)

    async def close(self) -> None:
        """Ends what follows logs."""
        await self._tails.close()


class ServerLogs:
    """Logs of a server; identified by their addresses."""

    def __init__(
        self, server: Server, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._server = server
        self._http = httpx.AsyncClient(transport=transport, timeout=_SILENCE_TIMEOUT)

    async def find(self, attempt: AttemptRecord) -> str | None:
        """Returns the address of an attempt's log, None if nothing of it is stored (yet)."""
        head = commit_path(attempt.revision.repository, attempt.revision.head)
        job = job_path(head, attempt.job.id)
        log = f"{self._server.api}{job}/log/{{}}?attempt={attempt.round}-{attempt.number}"
        return log if await self._bytes(log, 0, 1) else None

    async def read(self, log: str) -> bytes:
        """Returns what is stored of a log; nothing if that is nothing."""
        return await self._bytes(log, 0, None)

    async def output(self, log: str) -> AsyncGenerator[bytes, None]:
        """Yields the output of a log from its beginning, as it comes, until it ends."""
        position = 0
        while True:
            async for name, offset in self._events(log, position):
                if offset > position:
                    yield await self._bytes(log, position, offset)
                    position = offset
                if name == "end":
                    return
            await asyncio.sleep(_RECONNECT_INTERVAL)

    async def close(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    async def _bytes(self, log: str, start: int, end: int | None) -> bytes:
        url = f"{log.format('raw')}&start={start}" + ("" if end is None else f"&end={end}")
        with self._server.responding():
            response = await self._http.get(url)
        if response.status_code in _NOTHING:
            return b""
        return self._server.checked(response).content

    async def _events(self, log: str, position: int) -> AsyncIterator[tuple[str, int]]:
        """Yields the names of events, each with the offset up to which it has the log."""
        url, name = f"{log.format('events')}&offset={position}", ""
        try:
            async with self._http.stream("GET", url) as response:
                if not response.is_success:
                    await response.aread()
                    self._server.checked(response)
                async for line in response.aiter_lines():
                    field, _, value = line.partition(": ")
                    if field == "event":
                        name = value
                    elif field == "id" and value.isdecimal():
                        yield name, int(value)
        except httpx.TransportError:
            return  # the server ended or dropped it: it is connected again


@asynccontextmanager
async def opened_logs(store_url: str) -> AsyncIterator[Logs]:
    """Opens the store, or a server in its place, for the time of a block.

    Raises:
        UsageError: It is not the URL of a store, or of a server.
    """
    async with AsyncExitStack() as stack:
        logs: StoredLogs | ServerLogs
        if is_server_named():
            logs = ServerLogs(stack.enter_context(named_server()))
        else:
            logs = StoredLogs(ArtifactStore.open(store_url))
        stack.push_async_callback(logs.close)
        yield logs
