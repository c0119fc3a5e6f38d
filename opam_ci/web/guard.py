"""What strangers may cost the receiver: connections, time, and bytes of what is not signed yet.

Whoever has the secret sends requests that arrive whole within moments. So nothing is refused that
comes, which would refuse GitHub beside a flood; where there is too much, what has been incomplete
for longest goes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

_HEAD_PIECE = 4096
"""Bytes that are parsed at a time until a request's head is complete."""


@dataclass(frozen=True)
class GuardLimits:
    """Limits on all requests together.

    Attributes:
        connections: Open at the same time.
        unread_bytes: Of requests that have not arrived whole: only then can a signature be
            checked. More than the largest body.
        request_timeout: For a request to arrive; GitHub itself gives up after ten seconds.
        answer_timeout: From then on, for the client to take the response.
    """

    connections: int = 1000
    unread_bytes: int = 32 << 20
    request_timeout: timedelta = timedelta(seconds=10)
    answer_timeout: timedelta = timedelta(seconds=10)


class Guard:
    """Keeps the connections of a server within limits."""

    def __init__(
        self, limits: GuardLimits | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits or GuardLimits()
        self._clock = clock
        # Each with the time at which it began to wait for a request; the oldest first.
        self._open: dict[GuardedConnection, float] = {}
        self._unread = 0

    def protocol(self, **of_uvicorn: Any) -> "GuardedConnection":
        """Returns the protocol of a new connection."""
        return GuardedConnection(self, **of_uvicorn)

    def opened(self, connection: "GuardedConnection") -> None:
        """Adds a connection, in place of another one if there are too many."""
        if len(self._open) >= self.limits.connections and not self._refuse_oldest():
            connection.refuse("503 Service Unavailable")
        else:
            self._open[connection] = self._clock()

    def received(self, connection: "GuardedConnection", count: int) -> None:
        """Counts bytes of a request."""
        connection.unread += count
        self._unread += count
        while self._unread > self.limits.unread_bytes and self._refuse_oldest():
            pass

    def arrived(self, connection: "GuardedConnection") -> None:
        """Forgets the bytes of a request that is whole, or of one that will never be."""
        self._unread -= connection.unread
        connection.unread = 0

    def answered(self, connection: "GuardedConnection") -> None:
        """Begins to wait for the next request of a connection."""
        if self._open.pop(connection, None) is not None:
            self._open[connection] = self._clock()

    def closed(self, connection: "GuardedConnection") -> None:
        """Forgets a connection."""
        self._open.pop(connection, None)
        self.arrived(connection)

    def expire(self) -> None:
        """Refuses what takes too long; to be called every second."""
        begun = self._clock() - self.limits.request_timeout.total_seconds()
        answered = begun - self.limits.answer_timeout.total_seconds()
        for connection, since in list(self._open.items()):
            if since < (begun if connection.is_incomplete else answered):
                connection.refuse("408 Request Timeout")

    def _refuse_oldest(self) -> bool:
        oldest = next((each for each in self._open if each.is_incomplete), None)
        if oldest is None:
            return False
        oldest.refuse("503 Service Unavailable")
        return True


class GuardedConnection(H11Protocol):
    """A connection of uvicorn's, under guard.

    Attributes:
        unread: Bytes of its request, until that is whole.
    """

    def __init__(self, guard: Guard, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self.unread = 0
        self._guard = guard

    @property
    def is_incomplete(self) -> bool:
        """Whether a request is to come, or the rest of one."""
        cycle = self._cycle
        return cycle is None or cycle.response_complete or cycle.more_body

    @property
    def _cycle(self) -> RequestResponseCycle | None:
        return self.cycle  # None before the first request, which its type does not say

    def connection_made(self, transport: Any) -> None:
        """Called by asyncio."""
        super().connection_made(transport)
        self._guard.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._guard.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._guard.received(self, len(data))
        while data and not self.transport.is_closing():
            if not self.is_incomplete:
                self.transport.abort()  # a request before the response to the last: nobody does so
                return
            # One read holds 256 KiB, which in chunks of a byte take 0.12 s to parse: 50 MB/s, 24 s.
            # Nobody needs chunks, so the head is looked at before the rest is parsed.
            is_head = (cycle := self._cycle) is None or cycle.response_complete
            piece = _HEAD_PIECE if is_head else len(data)
            super().data_received(data[:piece])
            data = data[piece:]
            if self.headers and any(name == b"transfer-encoding" for name, _ in self.headers):
                self.refuse("411 Length Required")
        if not self.is_incomplete:
            self._guard.arrived(self)

    def on_response_complete(self) -> None:
        """Called by uvicorn, also if the request has not been read to its end."""
        if self.cycle.more_body:
            self.transport.close()
        self._guard.arrived(self)
        self._guard.answered(self)
        super().on_response_complete()

    def refuse(self, status: str) -> None:
        """Ends the connection, with a response if it has sent something."""
        has_spoken = self.unread > 0
        self._guard.closed(self)
        if (cycle := self._cycle) is not None and cycle.response_started:
            self.transport.abort()
            return
        if has_spoken:
            text = f"HTTP/1.1 {status}\r\nretry-after: 10\r\nconnection: close\r\n"
            self.transport.write(f"{text}content-length: 0\r\n\r\n".encode())
        self.transport.close()
