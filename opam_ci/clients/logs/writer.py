"""Writing logs of attempts: in segments as output comes, merged once the log is closed.

A log that is longer than its cap keeps its head and its tail. Offsets remain those of the
original output; a reader shows one line where bytes were cut, which takes up no offsets.
"""

import asyncio
import base64
import logging
from collections import deque
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from pydantic import Field, model_validator

from opam_ci.clients.logs.compaction import compact
from opam_ci.clients.logs.format import LogEnd, compressed, end_key, segment_key
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.watch import Watch
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.model import Frozen

_log = logging.getLogger(__name__)

_KIB = 1024
_MIB = 1024 * _KIB


class LogLimits(Frozen):
    """How much of a log is kept, and how it is cut into segments.

    Attributes:
        cap: Bytes of output kept at most.
        head: How many of them are the beginning; the others are the end.
        segment: Bytes of waiting output that cause an upload at once; until it has as many, the
            last segment is stored again with what follows.
        segment_max: Bytes that one segment holds at most, when output comes faster than
            it can be stored.
        inline_max: Bytes that `end.json` holds at most.
        flush_interval: How long output waits for more before it is uploaded.
        watched_interval: The same while somebody follows the log.
        close_timeout: How long closing may take, also when the job is cancelled.
    """

    cap: int = Field(default=64 * _MIB, gt=0)
    head: int = Field(default=16 * _MIB, ge=0)
    segment: int = Field(default=256 * _KIB, gt=0)
    segment_max: int = Field(default=4 * _MIB, gt=0)
    inline_max: int = Field(default=64 * _KIB, ge=0)
    flush_interval: timedelta = timedelta(seconds=2)
    watched_interval: timedelta = timedelta(milliseconds=300)
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
        self._grown = bytearray()
        self._grown_at = 0
        self._segments = 0
        self._watch = Watch(store, key, limits.flush_interval)
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
        self._watch.stop()
        try:
            await _finish(self._close(), self._limits.close_timeout)
        except InfrastructureError as failure:
            if error is None:
                raise
            if error is not failure:
                error.add_note(f"the log is incomplete: {failure}")
            return
        if error is None or isinstance(error, Exception):  # a cancelled job must end soon
            await self._compact()

    async def _compact(self) -> None:
        """Makes the closed log quick to read. It is complete without that: nothing is raised."""
        if self._segments <= 1 and not self._watch.was_watched:
            return  # a small log costs one request
        try:
            async with asyncio.timeout(self._limits.close_timeout.total_seconds()):
                await compact(self._store, self.key)
        except (InfrastructureError, TimeoutError) as error:
            _log.warning("the segments of %s are not merged: %r", self.key, error)

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
            self._watch.look(self._hasten)
            self._upload_after(self._interval)

    @property
    def _interval(self) -> timedelta:
        limits = self._limits
        if self._watch.is_watched:
            return min(limits.watched_interval, limits.flush_interval)
        return limits.flush_interval

    def _upload_after(self, interval: timedelta) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(interval.total_seconds(), self._upload_in_background)

    def _hasten(self) -> None:
        """Brings a planned upload forward: somebody follows the log."""
        soon = asyncio.get_running_loop().time() + self._interval.total_seconds()
        if self._timer is not None and self._timer.when() > soon:
            self._unplan_upload()
            self._upload_after(self._interval)

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
            await self._store_segment(buffer, offset)
            await self._trim()

    async def _store_segment(self, buffer: bytearray, offset: int) -> None:
        """Stores the beginning of waiting output, with the last segment while that is small.

        So a log that grows slowly has few segments, and a reader gets what is new by one request.
        """
        longest = self._piece(offset)
        grows = (
            len(self._grown) > 0
            and self._grown_at + len(self._grown) == offset
            and (offset < self._limits.head or self._grown_at >= self._limits.head)
            and len(self._grown) + len(buffer) <= min(self._limits.segment, longest)
        )
        if not grows:
            self._grown.clear()
            self._grown_at = offset
            self._segments += 1
        added = buffer[:longest]
        del buffer[: len(added)]
        self._grown += added
        data = bytes(self._grown)
        if offset >= self._limits.head:
            if grows:
                self._stored.pop()
                self._stored_bytes -= len(data) - len(added)
            self._stored.append((self._grown_at, len(data)))
            self._stored_bytes += len(data)
        if len(data) >= self._limits.segment:
            self._grown.clear()
        await self._store.put(segment_key(self.key, self._grown_at), await compressed(data))

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
            if offset == self._grown_at:
                self._grown.clear()
            await self._store.delete(segment_key(self.key, offset))


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
