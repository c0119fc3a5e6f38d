"""Logs of attempts: written in segments as they come, readable from anywhere meanwhile.

A log that is longer than its cap keeps its head and its tail. Offsets remain those of the
original output; a reader shows one line where bytes were cut, which takes up no offsets.
"""

import asyncio
import base64
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from types import TracebackType
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from opam_ci.clients.logs.format import (
    SEGMENT_NAME,
    LogChunk,
    LogEnd,
    Segment,
    clip,
    compressed,
    damaged,
    decompressed,
    end_key,
    inline,
    notice,
    segment_key,
)
from opam_ci.clients.logs.store import ArtifactStore, MissingKeyError
from opam_ci.core.batched import batched
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.model import Frozen

_KIB = 1024
_MIB = 1024 * _KIB
_CONCURRENT_READS = 8


class LogLimits(Frozen):
    """How much of a log is kept, and how it is cut into segments.

    Attributes:
        cap: Bytes of output kept at most.
        head: How many of them are the beginning; the others are the end.
        segment: Bytes of waiting output that cause an upload at once.
        segment_max: Bytes that one segment holds at most, when output comes faster than
            it can be stored.
        inline_max: Bytes that `end.json` holds at most.
        flush_interval: How long output waits for more before it is uploaded.
        close_timeout: How long closing may take, also when the job is cancelled.
    """

    cap: int = Field(default=64 * _MIB, gt=0)
    head: int = Field(default=16 * _MIB, ge=0)
    segment: int = Field(default=256 * _KIB, gt=0)
    segment_max: int = Field(default=4 * _MIB, gt=0)
    inline_max: int = Field(default=64 * _KIB, ge=0)
    flush_interval: timedelta = timedelta(seconds=2)
    close_timeout: timedelta = timedelta(seconds=30)

    @model_validator(mode="after")
    def _head_below_cap(self) -> Self:
        if self.head > self.cap:
            raise ValueError("the head of a log cannot be longer than its cap")
        return self

    @property
    def tail(self) -> int:
        """Bytes of the end that are kept."""
        return self.cap - self.head


DEFAULT_LIMITS = LogLimits()


class LogWriter:
    """Writes one log: the LogSink of a running job. Use it as `async with`.

    A key is written once: the caller ensures that (`records.log_key`). Output is uploaded in
    the background. When an upload fails, the next `write`, or else the end of the `async with`
    block, raises that InfrastructureError; when the block ends with an exception, that one
    is raised and gets a note. Waiting output is bounded by the cap.

    Not thread-safe: use it on the thread of its event loop.

    Attributes:
        key: Where it is stored.
        note: A short text that is stored with the end of the log.
    """

    def __init__(
        self, store: ArtifactStore, key: str, *, limits: LogLimits = DEFAULT_LIMITS
    ) -> None:
        self.key = key
        self.note = ""
        self._store = store
        self._limits = limits
        self._size = 0
        self._head = bytearray()
        self._tail = bytearray()
        self._stored = deque[tuple[int, int]]()
        self._stored_bytes = 0
        self._error: InfrastructureError | None = None
        self._is_open = False
        self._timer: asyncio.TimerHandle | None = None
        self._upload_task: asyncio.Task[None] | None = None

    @property
    def size(self) -> int:
        """Bytes written so far, cut or not: the offset of the next one."""
        return self._size

    def write(self, data: bytes) -> None:
        """Takes output; it is visible to readers some seconds later.

        Raises:
            InfrastructureError: An earlier upload failed, or the log is not open.
        """
        if self._error is not None:
            raise self._error
        if not self._is_open:
            raise InfrastructureError(f"log {self.key} is not open", cause=Cause.STORAGE)
        room = max(self._limits.head - self._size, 0)
        self._head += data[:room]
        self._tail += data[room:]
        self._size += len(data)
        if (excess := len(self._tail) - self._limits.tail) > 0:
            del self._tail[:excess]
        self._plan_upload()

    async def __aenter__(self) -> Self:
        self._is_open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_open = False
        self._unplan_upload()
        try:
            await _finish(self._close(), self._limits.close_timeout)
        except InfrastructureError as failure:
            if error is None:
                raise
            if error is not failure:
                error.add_note(f"the log is incomplete: {failure}")

    def _plan_upload(self) -> None:
        """Schedules the upload of waiting output: soon, or now if there is much of it.

        A job that ends before that needs neither a task nor an upload of its own.
        """
        waiting = len(self._head) + len(self._tail)
        if not self._is_open or not waiting or self._upload_task is not None:
            return
        if waiting >= self._limits.segment:
            self._upload_in_background()
        elif self._timer is None:
            interval = self._limits.flush_interval.total_seconds()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(interval, self._upload_in_background)

    def _unplan_upload(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _upload_in_background(self) -> None:
        self._unplan_upload()
        self._upload_task = asyncio.create_task(self._upload_waiting())

    async def _upload_waiting(self) -> None:
        try:
            await self._upload(leave=0, until=self._size)
        except InfrastructureError as error:
            self._error = error
            self._head.clear()
            self._tail.clear()
        # Not in a `finally`: a bug stays in the task, and the end of the log raises it.
        self._upload_task = None
        self._plan_upload()

    async def _close(self) -> None:
        if self._upload_task is not None:
            await self._upload_task
        if self._error is not None:
            raise self._error
        await self._upload(leave=self._limits.inline_max, until=self._size)
        await self._trim()
        last = bytes(self._head or self._tail)
        kept_tail = self._stored_bytes + len(self._tail)
        end = LogEnd(
            size=self._size,
            cut=max(self._size - self._limits.head, 0) - kept_tail,
            closed_at=datetime.now(UTC),
            last_offset=self._size - len(last),
            last_gzip=base64.b64encode(await compressed(last)).decode() if last else "",
            note=self.note,
        )
        await self._store.put(end_key(self.key), end.model_dump_json().encode())

    async def _upload(self, *, leave: int, until: int) -> None:
        """Uploads waiting output up to an offset, but leaves a single piece of that size."""
        while len(self._head) + len(self._tail) > leave or (self._head and self._tail):
            buffer = self._head or self._tail
            end = min(self._size, self._limits.head) if self._head else self._size
            offset = end - len(buffer)
            if offset >= until:
                return
            data = bytes(buffer[: self._piece(offset)])
            del buffer[: len(data)]
            if offset >= self._limits.head:
                self._stored.append((offset, len(data)))
                self._stored_bytes += len(data)
            await self._store.put(segment_key(self.key, offset), await compressed(data))
            await self._trim()

    def _piece(self, offset: int) -> int:
        """Returns how long a segment at an offset may be.

        The tail is trimmed segment by segment: a segment as long as the tail would leave nothing.
        """
        if offset < self._limits.head:
            return self._limits.segment_max
        return min(self._limits.segment_max, max(self._limits.tail // 8, 1))

    async def _trim(self) -> None:
        """Removes the oldest segments of the tail that no longer fit below the cap."""
        while self._stored and self._stored_bytes + len(self._tail) > self._limits.tail:
            offset, length = self._stored.popleft()
            self._stored_bytes -= length
            await self._store.delete(segment_key(self.key, offset))


class LogReader:
    """Reads logs, also while they are written and when their writer was killed.

    A log of which nothing is stored reads as empty: its writer may just have started.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    async def end(self, key: str) -> LogEnd | None:
        """Returns what was written when the log was closed, None if it was not closed (yet).

        The log of a killed writer is never closed.

        Raises:
            InfrastructureError: The store cannot be read, or holds something else.
        """
        try:
            text = await self._store.get(end_key(key))
        except MissingKeyError:
            return None
        try:
            return LogEnd.model_validate_json(text)
        except ValidationError as error:
            raise damaged(end_key(key), error) from error

    async def size(self, key: str) -> int:
        """Returns the length of the original output, as far as it is stored.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        if (end := await self.end(key)) is not None:
            return end.size
        position = 0
        for segment in (await self._segments(key))[-1:]:
            position = segment.offset + len(await self._load(segment.key) or b"")
        return position

    async def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Returns the output between two offsets, with one line where bytes were cut.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        closed = await self.end(key)
        known_end = min(closed.size if end is None else end, closed.size) if closed else 0
        position, pieces = start, list[bytes]()
        async for chunk in self._chunks(key, start, end, closed):
            pieces += (notice(chunk.offset - position), chunk.data)
            position = chunk.offset + len(chunk.data)
        return b"".join((*pieces, notice(known_end - position)))

    async def follow(
        self, key: str, start: int = 0, *, poll_interval: timedelta = timedelta(seconds=1)
    ) -> AsyncIterator[bytes]:
        """Yields output from an offset on, as it comes, until the log is closed.

        The log of a killed writer is never closed: the caller must know from elsewhere when
        to stop, such as from the end of the attempt in the index.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        position, after = start, None
        while True:
            closed = await self.end(key)  # before the listing, so that nothing is missed
            async for chunk in self._chunks(key, position, None, closed, after=after):
                yield notice(chunk.offset - position) + chunk.data
                position = chunk.offset + len(chunk.data)
                after = segment_key(key, position - 1)
            if closed is not None:
                return
            await asyncio.sleep(poll_interval.total_seconds())

    async def _chunks(
        self, key: str, start: int, end: int | None, closed: LogEnd | None, after: str | None = None
    ) -> AsyncIterator[LogChunk]:
        """Yields what is stored between two offsets, in order."""
        if closed is None or start < closed.last_offset:
            segments = await self._segments(key, after)
            wanted = [
                each
                for each, following in zip_longest(segments, segments[1:])
                if (following is None or following.offset > start)
                and (end is None or each.offset < end)
            ]
            for batch in batched(wanted, _CONCURRENT_READS):
                contents = await asyncio.gather(*(self._load(each.key) for each in batch))
                for each, data in zip(batch, contents, strict=True):
                    if piece := clip(each.offset, data, start, end):
                        yield piece
        if closed is not None and closed.last_gzip:
            data = inline(closed, end_key(key))
            if piece := clip(closed.last_offset, data, start, end):
                yield piece

    async def _segments(self, key: str, after: str | None = None) -> list[Segment]:
        found = await self._store.list(key, after=after)
        named = ((each.key, SEGMENT_NAME.fullmatch(each.key, len(key) + 1)) for each in found)
        return [Segment(int(name[1]), each) for each, name in named if name is not None]

    async def _load(self, key: str) -> bytes:
        """Returns a segment's output; nothing if it was cut since it was listed."""
        try:
            data = await self._store.get(key)
        except MissingKeyError:
            return b""
        return decompressed(data, key)


async def _finish(work: Coroutine[Any, Any, None], limit: timedelta) -> None:
    """Waits until work ends, even if the caller is cancelled meanwhile, within bounded time."""
    task = asyncio.create_task(work)
    clock = asyncio.get_running_loop().time
    deadline = clock() + limit.total_seconds()
    cancelled: asyncio.CancelledError | None = None
    while not task.done() and (left := deadline - clock()) > 0:
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
    failure: BaseException | None
    if task.done():
        failure = task.exception()
    else:
        task.cancel()
        failure = InfrastructureError(
            f"storing the end of a log took over {limit.total_seconds():g} s",
            cause=Cause.STORAGE,
        )
    if cancelled is not None:
        if failure is not None:
            cancelled.add_note(f"the log is incomplete: {failure}")
        raise cancelled
    if failure is not None:
        raise failure
