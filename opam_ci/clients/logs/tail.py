"""Following logs: in each process one reader of a growing log, for all who follow it."""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from opam_ci.clients.logs.format import LogChunk, LogEnd, notice
from opam_ci.clients.logs.reader import LogCursor, LogReader
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.watch import RENEWAL_INTERVAL, mark_key
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.logs.line_index import LineCounter
from opam_ci.core.logs.line_json import line_json
from opam_ci.core.logs.lines import LineCutter, RawLine
from opam_ci.core.model import Frozen

_log = logging.getLogger(__name__)

_BATCH_BYTES = 32 * 1024
_BATCHES_KEPT = 64
_SHORTEST_PAUSE = 0.01
"""Seconds between two looks at a store that takes longer than it should."""
_JSON_KEPT = 2
"""Batches whose JSON is kept as well: those that other followers are about to take."""

IsOver = Callable[[], Awaitable[bool]]
"""Whether the attempt is over of which the log is."""


class TailLimits(Frozen):
    """How logs are followed.

    Attributes:
        interval: Between looks at the store. With the writer's 300 ms, output is shown within a
            second.
        longest_interval: The same where a look takes many requests.
        requests_per_second: Of one log, apart from those of a single look; with the renewals of
            its mark, these are below four.
        buffer_bytes: Output of one log that is kept for its followers.
        linger: How long a log is read on after the last follower.
        over_interval: How often it is asked whether an attempt is over.
        over_grace: How long after its attempt a log may end: the end is uploaded last.
    """

    interval: timedelta = timedelta(milliseconds=400)
    longest_interval: timedelta = timedelta(seconds=1)
    requests_per_second: float = 3.8
    buffer_bytes: int = 128 * 1024
    linger: timedelta = timedelta(seconds=10)
    over_interval: timedelta = timedelta(seconds=5)
    over_grace: timedelta = timedelta(seconds=5)


@dataclass
class TailBatch:
    """Output that came at once.

    Attributes:
        chunk: The output; it may begin after `start`, if bytes were cut.
        start: Offset with which it continues the batch before.
        cutter: At its beginning.
        next_line: Offset of the line that is not complete after it.
    """

    chunk: LogChunk
    start: int
    cutter: LineCutter
    next_line: int
    _json: str | None = None

    @property
    def end(self) -> int:
        """Offset after its last byte."""
        return self.chunk.offset + len(self.chunk.data)

    @property
    def data(self) -> bytes:
        """Its output, with a line where bytes were cut."""
        return notice(self.chunk.offset - self.start) + self.chunk.data

    def lines(self) -> list[RawLine]:
        """Returns the lines that it completes, and the one that it does not, if there is one."""
        cutter = self.cutter.copy()
        lines = feed(cutter, self.chunk)
        return lines + ([cutter.partial] if cutter.partial else [])

    def json(self) -> str:
        """Returns its lines as a list in JSON, made once for all followers."""
        if self._json is None:
            self._json = json.dumps([line_json(line) for line in self.lines()])
        return self._json

    def forget_json(self) -> None:
        """Frees the memory of its JSON, which is made again if it is needed."""
        self._json = None


class LaggingError(Exception):
    """A follower is too slow: what it has not taken is only in the store by now."""


class LogTail:
    """One log that is being read as it grows.

    Attributes:
        counter: Has the marks of all lines so far.
        closed: How the log was closed, None while it was not.
        is_lost: Whether its attempt is over and it was not closed: its writer was killed.
        followers: How many follow it: while there are any, the writer uploads more often.
        is_over: Whether its attempt is over, None if not known here.
    """

    def __init__(self, store: ArtifactStore, key: str, limits: TailLimits) -> None:
        self.key = key
        self.counter = LineCounter()
        self.closed: LogEnd | None = None
        self.is_lost = False
        self.followers = 0
        self.is_over: IsOver | None = None
        self._store = store
        self._limits = limits
        self._cursor = LogCursor(LogReader(store), key)
        self._cutter = LineCutter()
        self._batches = deque[TailBatch]()
        self._first = 0
        self._buffered = 0
        self._is_ready = False
        self._error: InfrastructureError | None = None
        self._changed = asyncio.Event()
        self._marked_at = float("-inf")
        self._asked_at = float("-inf")
        self._over_at: float | None = None
        self._task = asyncio.create_task(self._run())

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.closed is not None or self.is_lost

    @property
    def has_failed(self) -> bool:
        """Whether the store failed."""
        return self._error is not None

    @property
    def kept_from(self) -> int:
        """Offset from which on output is kept here."""
        return self._batches[0].start if self._batches else self._cutter.position

    @property
    def lines_from(self) -> int:
        """Offset of the first line that is kept here whole."""
        return (self._batches[0].cutter if self._batches else self._cutter).line_offset

    async def ready(self) -> None:
        """Waits until all that is stored has been read once.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        while not self._is_ready:
            await self._change()

    def place_after(self, offset: int) -> int:
        """Returns the place of the first batch that ends after an offset; `batch` waits for it."""
        for at, each in enumerate(self._batches):
            if each.end > offset:
                return self._first + at
        return self._first + len(self._batches)

    async def batch(self, place: int) -> TailBatch | None:
        """Waits for a batch.

        Args:
            place: How many came before it.

        Returns:
            The batch, None if the log ended.

        Raises:
            LaggingError: It is not kept any more.
            InfrastructureError: The store cannot be read.
        """
        while place >= self._first + len(self._batches):
            if self.has_ended:
                return None
            await self._change()
        if place < self._first:
            raise LaggingError
        return self._batches[place - self._first]

    async def stop(self) -> None:
        """Ends the reading."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _change(self) -> None:
        if self._error is not None:
            raise self._error
        await self._changed.wait()
        if self._error is not None:
            raise self._error

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self) -> None:
        try:
            while not self.has_ended:
                started = time.monotonic()
                period = self._period(await self._look())
                self._is_ready = True
                self._notify()
                await asyncio.sleep(max(started + period - time.monotonic(), _SHORTEST_PAUSE))
        except InfrastructureError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - the followers of a bug must not wait for ever
            _log.exception("following %s", self.key)
            self._error = InfrastructureError(f"cannot follow {self.key}", cause=Cause.STORAGE)
            self._error.__cause__ = error
        self._notify()

    def _period(self, requests: int) -> float:
        """Returns the seconds from one look to the next, by how many requests it took."""
        limits = self._limits
        period = max(limits.interval.total_seconds(), requests / limits.requests_per_second)
        return 0 if self.has_ended else min(period, limits.longest_interval.total_seconds())

    async def _look(self) -> int:
        async for chunk in self._cursor.poll():
            for start in range(0, len(chunk.data), _BATCH_BYTES):
                data = chunk.data[start : start + _BATCH_BYTES]
                self._append(LogChunk(chunk.offset + start, data))
                await asyncio.sleep(0)
        self.closed = self._cursor.closed
        if self.closed is None:
            await self._ask()
            await self._mark()
        return self._cursor.requests

    def _append(self, chunk: LogChunk) -> None:
        start = self._cutter.position
        before = self._cutter.copy()
        feed(self._cutter, chunk)
        if cut := chunk.offset - start:
            self.counter.gap(cut)
        self.counter.feed(chunk.data)
        self._batches.append(TailBatch(chunk, start, before, self._cutter.line_offset))
        self._buffered += len(chunk.data)
        while len(self._batches) > _BATCHES_KEPT or (
            self._buffered > self._limits.buffer_bytes and len(self._batches) > 1
        ):
            self._buffered -= len(self._batches.popleft().chunk.data)
            self._first += 1
        if len(self._batches) > _JSON_KEPT:
            self._batches[-1 - _JSON_KEPT].forget_json()
        self._notify()

    async def _mark(self) -> None:
        """Lets the writer know that somebody follows, unless the attempt is over."""
        now = time.monotonic()
        is_new = now - self._marked_at < RENEWAL_INTERVAL.total_seconds()
        if not self.followers or self._over_at is not None or is_new:
            return
        self._marked_at = now
        try:
            await self._store.put(mark_key(self.key), b"")
        except InfrastructureError as error:
            self._marked_at = float("inf")  # not again
            _log.warning("the log %s is shown late: %s", self.key, error)

    async def _ask(self) -> None:
        """Finds out whether the attempt is over: a killed writer closes no log."""
        now = time.monotonic()
        if self._over_at is not None:
            self.is_lost = now - self._over_at >= self._limits.over_grace.total_seconds()
        elif self.is_over and now - self._asked_at >= self._limits.over_interval.total_seconds():
            self._asked_at = now
            # The log is in the store, and may be closed there meanwhile.
            with suppress(InfrastructureError):
                self._over_at = now if await self.is_over() else None


class LogTails:
    """The logs that this process follows.

    Args:
        store: Of logs.
        limits: On each of them.
    """

    def __init__(self, store: ArtifactStore, limits: TailLimits | None = None) -> None:
        self._store = store
        self._limits = limits or TailLimits()
        self._tails: dict[str, LogTail] = {}
        self._users: dict[LogTail, int] = {}
        self._stopping = set[asyncio.Task[None]]()

    @asynccontextmanager
    async def tail(
        self, key: str, *, follows: bool = False, is_over: IsOver | None = None
    ) -> AsyncIterator[LogTail]:
        """Reads a log for the time of a block, together with others who do.

        Args:
            key: Of the log.
            follows: Whether its writer should upload more often.
            is_over: Whether its attempt is over.
        """
        tail = self._tails.get(key)
        if tail is None or tail.has_failed:
            tail = self._tails[key] = LogTail(self._store, key, self._limits)
            self._users[tail] = 0
        self._users[tail] += 1
        tail.followers += follows
        if follows or tail.is_over is None:
            tail.is_over = is_over or tail.is_over
        try:
            yield tail
        finally:
            tail.followers -= follows
            if tail in self._users:
                self._users[tail] -= 1
            linger = self._limits.linger.total_seconds()
            asyncio.get_running_loop().call_later(linger, self._drop, tail)

    async def output(
        self, key: str, *, is_over: IsOver | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yields the output of a log from its beginning, as it comes, until it ends.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        reader, position = LogReader(self._store), 0
        async with self.tail(key, follows=True, is_over=is_over) as tail:
            while True:
                await tail.ready()
                if position < tail.kept_from:
                    until, closed = tail.kept_from, await reader.end(key)
                    async for chunk in reader.chunks(key, position, until, closed):
                        yield notice(chunk.offset - position) + chunk.data
                        position = chunk.offset + len(chunk.data)
                    yield notice(until - position)
                    position = until
                with suppress(LaggingError):
                    place = tail.place_after(position)
                    while (batch := await tail.batch(place)) is not None:
                        yield batch.data[max(position - batch.start, 0) :]
                        position, place = batch.end, place + 1
                    return

    async def close(self) -> None:
        """Ends all reading."""
        tails, self._tails, self._users = self._tails, {}, {}
        await asyncio.gather(*(tail.stop() for tail in tails.values()), *self._stopping)

    def _drop(self, tail: LogTail) -> None:
        if self._users.get(tail) != 0:
            return
        del self._users[tail]
        if self._tails.get(tail.key) is tail:
            del self._tails[tail.key]
        task = asyncio.create_task(tail.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)


def feed(cutter: LineCutter, chunk: LogChunk) -> list[RawLine]:
    """Cuts a chunk into lines, after a line where bytes before it were cut."""
    cut = chunk.offset - cutter.position
    before = cutter.gap(cut, notice(cut)) if cut > 0 else []
    return [*before, *cutter.feed(chunk.data)]
