"""Views of logs: any line of them, by number or by byte offset, and their search."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from datetime import timedelta
from typing import NamedTuple

from opam_ci.clients.logs.format import LogChunk, LogEnd, notice
from opam_ci.clients.logs.reader import LogReader
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.tail import IsOver, LogTails, feed
from opam_ci.clients.threads import STORE
from opam_ci.core.logs.line_index import LineCounter, LineIndex, LineMark
from opam_ci.core.logs.lines import LineCutter, RawLine
from opam_ci.core.logs.search import Hit, Searcher

_VIEWS_KEPT = 64
"""Views of closed logs whose index is kept: half a megabyte each at most."""

_SLICE_BYTES = 64 * 1024
"""Output that is cut or searched before others get their turn: about a thousand lines."""

_READ_ON_BYTES = 1024 * 1024
"""Output that is read on to the next wanted place, rather than found by the index."""

PAGE_BYTES = 1024 * 1024
"""Bytes of lines in one answer."""

MOST_HITS = 1000
SEARCH_TIME = timedelta(seconds=2)
_SEARCHES_AT_ONCE = 2


class BusyError(Exception):
    """Too many searches are under way."""


class Found(NamedTuple):
    """What a search found.

    Attributes:
        hits: Lines, in order.
        next_line: Where it has stopped, None if it searched the whole log.
    """

    hits: list[Hit]
    next_line: int | None


class LogView:
    """A log as it was when the view was made.

    Args:
        reader: Of logs.
        key: Of this log.
        closed: How it was closed, None if it was not (yet).
        index: Of its lines.
        searches: Bounds how many are under way.
    """

    def __init__(
        self,
        reader: LogReader,
        key: str,
        closed: LogEnd | None,
        index: LineIndex,
        searches: asyncio.Semaphore,
    ) -> None:
        self.key = key
        self.closed = closed
        self.index = index
        self._reader = reader
        self._searches = searches

    @property
    def size(self) -> int:
        """Bytes of its output."""
        return self.index.size

    @property
    def line_count(self) -> int:
        """Lines that it has."""
        return self.index.lines

    async def lines(self, first: int, count: int) -> list[RawLine]:
        """Returns lines from a number on: fewer at the end of the log, and where they are long.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        found: list[RawLine] = []
        size = 0
        async with aclosing(self.batches(self.index.at_line(first))) as batches:
            async for batch in batches:
                for line in batch:
                    if line.number >= first:
                        found.append(line)
                        size += len(line.data)
                    if len(found) >= count or size >= PAGE_BYTES:
                        return found
        return found

    async def last_lines(self, count: int) -> list[RawLine]:
        """Returns the last lines.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        return await self.lines(max(self.line_count - count + 1, 1), count)

    async def line_at(self, offset: int) -> int:
        """Returns the number of the line that has a byte, or of the last one after its end.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        return (await self.lines_at([offset]))[offset]

    async def lines_at(self, offsets: Iterable[int]) -> dict[int, int]:
        """Returns the numbers of the lines that have some bytes.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        found: dict[int, int] = {}
        wanted = deque(sorted(set(offsets)))
        while wanted and wanted[0] < self.size:
            async with aclosing(self.batches(self.index.at_offset(wanted[0]))) as batches:
                async for batch in batches:
                    for line in batch:
                        while wanted and wanted[0] < line.end:
                            found[wanted.popleft()] = line.number
                    if not wanted or (batch and wanted[0] > batch[-1].end + _READ_ON_BYTES):
                        break
                else:
                    break
        return found | dict.fromkeys(wanted, max(self.line_count, 1))

    async def excerpt(self, offset: int, *, before: int, after: int) -> list[RawLine]:
        """Returns the line that has a byte, with lines before and after it.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        number = await self.line_at(offset)
        first = max(number - before, 1)
        return await self.lines(first, number + after + 1 - first)

    async def batches(self, start: LineMark) -> AsyncGenerator[list[RawLine], None]:
        """Yields all lines from a mark on, a few thousand at a time.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        cutter = LineCutter(*start)
        async with aclosing(self.slices(start.offset)) as slices:
            async for chunk in slices:
                yield feed(cutter, chunk)
        if cut := self.size - cutter.position:
            yield cutter.gap(cut, notice(cut))
        if cutter.partial is not None:
            yield [cutter.partial]

    async def slices(self, start: int, end: int | None = None) -> AsyncGenerator[LogChunk, None]:
        """Yields output between two offsets in pieces that hold up no others.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        end = self.size if end is None else min(end, self.size)
        chunks = self._reader.chunks(self.key, start, end, self.closed, self.index.pieces)
        async for chunk in chunks:
            for at in range(0, len(chunk.data), _SLICE_BYTES):
                yield LogChunk(chunk.offset + at, chunk.data[at : at + _SLICE_BYTES])
                await asyncio.sleep(0)

    async def search(
        self,
        wanted: str,
        first: int = 1,
        *,
        most: int = MOST_HITS,
        time_limit: timedelta = SEARCH_TIME,
    ) -> Found:
        """Searches the log for a text, literally.

        Args:
            wanted: Not empty, and without line ends.
            first: Line with which it begins.
            most: Hits.
            time_limit: After which it stops.

        Raises:
            BusyError: Other searches have taken all of the time.
            InfrastructureError: The store cannot be read.
        """
        deadline = time.monotonic() + time_limit.total_seconds()
        try:
            async with asyncio.timeout(time_limit.total_seconds()):
                await self._searches.acquire()
        except TimeoutError as error:
            raise BusyError from error
        try:
            return await self._search(wanted, first, most, deadline)
        finally:
            self._searches.release()

    async def _search(self, wanted: str, first: int, most: int, deadline: float) -> Found:
        start = self.index.at_line(first)
        searcher = Searcher(wanted, start, first)
        position = start.offset
        hits: list[Hit] = []
        async with aclosing(self.slices(start.offset)) as slices:
            async for chunk in slices:
                if cut := chunk.offset - position:
                    hits += searcher.gap(cut)
                hits += await STORE.run(searcher.feed, chunk.data)
                position = chunk.offset + len(chunk.data)
                if len(hits) > most or time.monotonic() > deadline:
                    break
            else:
                hits += searcher.finish()
                return _first(hits, most, None)
        return _first(hits, most, searcher.number)


def _first(hits: list[Hit], most: int, next_line: int | None) -> Found:
    if len(hits) > most:
        return Found(hits[:most], hits[most].number)
    return Found(hits, next_line)


class LogViews:
    """The logs of a store, for those who look at them.

    Args:
        store: The store.
        tails: Of the same store.
    """

    def __init__(self, store: ArtifactStore, tails: LogTails) -> None:
        self.tails = tails
        self._reader = LogReader(store)
        self._searches = asyncio.Semaphore(_SEARCHES_AT_ONCE)
        self._closed = OrderedDict[str, LogView]()

    async def view(self, key: str, *, is_over: IsOver | None = None) -> LogView:
        """Returns a log as it is now; one of which nothing is stored is empty.

        Args:
            key: Of the log.
            is_over: Whether its attempt is over: then a log that was not closed is not followed.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        if (known := self._closed.get(key)) is not None:
            self._closed.move_to_end(key)
            return known
        if (closed := await self._reader.end(key)) is not None:
            return await self._view_of_closed(key, closed)
        async with self.tails.tail(key, is_over=is_over) as tail:
            await tail.ready()
            index = tail.counter.index()
            if tail.closed is None:
                return LogView(self._reader, key, None, index, self._searches)
        return await self._view_of_closed(key, tail.closed)

    async def _view_of_closed(self, key: str, closed: LogEnd) -> LogView:
        index = await self._reader.line_index(key) or await self._counted(key, closed)
        view = LogView(self._reader, key, closed, index, self._searches)
        self._closed[key] = view
        if len(self._closed) > _VIEWS_KEPT:
            self._closed.popitem(last=False)
        return view

    async def _counted(self, key: str, closed: LogEnd) -> LineIndex:
        """Makes the index of a log that was not merged, since it is small or of earlier days."""
        counter = LineCounter()
        async for chunk in self._reader.chunks(key, 0, None, closed):
            if cut := chunk.offset - counter.position:
                counter.gap(cut)
            await STORE.run(counter.feed, chunk.data)
        if cut := closed.size - counter.position:
            counter.gap(cut)
        return counter.index()
