"""Reading logs: whole, in part, and as they grow."""

import asyncio
from collections.abc import AsyncIterator
from itertools import zip_longest

from pydantic import ValidationError

from opam_ci.clients.logs.format import (
    SEGMENT_NAME,
    LogChunk,
    LogEnd,
    Segment,
    clip,
    damaged,
    decompressed,
    end_key,
    inline,
    lines_key,
    notice,
    segment_key,
)
from opam_ci.clients.logs.store import ArtifactStore, MissingKeyError, StoredObject
from opam_ci.core.batched import batched
from opam_ci.core.logs.line_index import LineIndex

_CONCURRENT_READS = 8
_CONCURRENT_BYTES = 1024 * 1024
"""Compressed bytes that are read at the same time."""
_LISTINGS = 100
"""Of one read at most: each begins where a segment vanished after the last one."""


class LogReader:
    """Reads logs, also while they are written and when their writer was killed.

    A log of which nothing is stored reads as empty: its writer may just have started. Segments
    that vanish while they are read were merged, or cut: the rest is listed again.
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

    async def line_index(self, key: str) -> LineIndex | None:
        """Returns the index of the lines of a log whose segments were merged, None for others.

        Raises:
            InfrastructureError: The store cannot be read, or holds something else.
        """
        try:
            data = await self._store.get(lines_key(key))
        except MissingKeyError:
            return None
        try:
            return LineIndex.model_validate_json(await decompressed(data, lines_key(key)))
        except ValidationError as error:
            raise damaged(lines_key(key), error) from error

    async def size(self, key: str) -> int:
        """Returns the length of the original output, as far as it is stored.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        if (end := await self.end(key)) is not None:
            return end.size
        position = 0
        for segment in (await self.segments(key))[-1:]:
            position = segment.offset + len(await self.load(segment.key) or b"")
        return position

    async def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Returns the output between two offsets, with one line where bytes were cut.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        closed = await self.end(key)
        known_end = min(closed.size if end is None else end, closed.size) if closed else 0
        position, pieces = start, list[bytes]()
        async for chunk in self.chunks(key, start, end, closed):
            pieces += (notice(chunk.offset - position), chunk.data)
            position = chunk.offset + len(chunk.data)
        return b"".join((*pieces, notice(known_end - position)))

    async def chunks(
        self,
        key: str,
        start: int,
        end: int | None,
        closed: LogEnd | None,
        pieces: tuple[int, ...] = (),
    ) -> AsyncIterator[LogChunk]:
        """Yields what is stored between two offsets, in order and without overlaps.

        Args:
            key: Of the log.
            start: The first offset.
            end: Offset after the last one, None for all.
            closed: How the log was closed, None if it was not (yet).
            pieces: Offsets of the merged pieces, if they are known: nothing is listed then.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        position = start
        if closed is None or start < closed.last_offset:
            async for chunk in self._stored(key, start, end, closed, pieces):
                position = chunk.offset + len(chunk.data)
                yield chunk
        if closed is not None and closed.last_gzip:
            data = await inline(closed, end_key(key))
            if piece := clip(closed.last_offset, data, position, end):
                yield piece

    async def _stored(
        self,
        key: str,
        position: int,
        end: int | None,
        closed: LogEnd | None,
        pieces: tuple[int, ...],
    ) -> AsyncIterator[LogChunk]:
        """Yields what segments hold; a closed log with gaps may have been merged meanwhile."""
        accepts_gaps = closed is None
        for _ in range(_LISTINGS):
            segments = _merged(key, pieces) if pieces else await self.segments(key)
            is_whole = True
            async for segment, data in self.loaded(_wanted(segments, position, end)):
                piece = clip(segment.offset, data or b"", position, end)
                has_gap = data is None or (piece is not None and piece.offset > position)
                if has_gap and not pieces and (data is None or not accepts_gaps):
                    is_whole = False
                    break
                if piece is not None:
                    position = piece.offset + len(piece.data)
                    yield piece
            if closed is not None and not accepts_gaps:
                last = closed.last_offset if end is None else min(end, closed.last_offset)
                is_whole = is_whole and position >= last
            if is_whole or (pieces and closed is not None):
                return
            index = await self.line_index(key) if closed is not None else None
            pieces = index.pieces if index is not None else ()
            accepts_gaps = True

    async def loaded(self, segments: list[Segment]) -> AsyncIterator[tuple[Segment, bytes | None]]:
        """Yields segments with their output, see `load`, some of them read at the same time.

        Raises:
            InfrastructureError: The store cannot be read, or a segment is damaged.
        """
        size = Segment.size_of
        for batch in batched(segments, _CONCURRENT_READS, weight=size, most=_CONCURRENT_BYTES):
            contents = await asyncio.gather(*(self.load(each.key) for each in batch))
            for each in zip(batch, contents, strict=True):
                yield each

    async def segments(self, key: str) -> list[Segment]:
        """Lists the segments of a log.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        return segments_of(key, await self._store.list(key))

    async def listed(self, key: str, after: str | None) -> list[StoredObject]:
        """Lists what is stored of a log.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        return await self._store.list(key, after=after)

    async def load(self, key: str) -> bytes | None:
        """Returns a segment's output, None if it was merged or cut since it was listed.

        Raises:
            InfrastructureError: The store cannot be read, or the segment is damaged.
        """
        try:
            data = await self._store.get(key)
        except MissingKeyError:
            return None
        return await decompressed(data, key)


class LogCursor:
    """A place in a growing log: what is new there costs a listing and the last segment.

    Args:
        reader: Of logs.
        key: Of this log.
        position: Offset with which it begins.

    Attributes:
        position: Offset of the next byte.
        closed: How the log was closed, None while it was not; then all of it has been yielded.
        requests: How many the last poll took.
    """

    def __init__(self, reader: LogReader, key: str, position: int = 0) -> None:
        self.position = position
        self.closed: LogEnd | None = None
        self.requests = 0
        self._reader = reader
        self._key = key
        self._after: str | None = None
        self._last: StoredObject | None = None

    async def poll(self) -> AsyncIterator[LogChunk]:
        """Yields what was stored since the last poll, without overlaps.

        A chunk that begins after the position follows bytes that were cut.

        Raises:
            InfrastructureError: The store cannot be read.
        """
        self.requests = 1
        found = await self._reader.listed(self._key, self._after)
        closed = None
        if any(each.key == end_key(self._key) for each in found):
            closed = await self._end()
        if closed is None:
            async for chunk in self._new(found):
                if chunk.offset > self.position and (closed := await self._end()) is not None:
                    break  # not cut: closed since the listing, and merged
                self._advance(chunk)
                yield chunk
        if closed is not None:
            async for chunk in self._reader.chunks(self._key, self.position, None, closed):
                self._advance(chunk)
                yield chunk
            self.closed = closed

    async def _new(self, found: list[StoredObject]) -> AsyncIterator[LogChunk]:
        stored = {each.key: each for each in found}
        wanted = _wanted(segments_of(self._key, found), self.position, None)
        changed = [each for each in wanted if stored[each.key] != self._last]
        async for segment, data in self._reader.loaded(changed):
            self.requests += 1
            if data is None:
                return  # merged or cut: the next listing has what is there instead
            self._last = stored[segment.key]
            # The last one may grow.
            before = segment.offset - 1
            self._after = segment_key(self._key, before) if before >= 0 else None
            if piece := clip(segment.offset, data, self.position, None):
                yield piece

    async def _end(self) -> LogEnd | None:
        self.requests += 1
        return await self._reader.end(self._key)

    def _advance(self, chunk: LogChunk) -> None:
        self.position = chunk.offset + len(chunk.data)


def segments_of(key: str, found: list[StoredObject]) -> list[Segment]:
    """Returns the segments among the objects of a log, in order."""
    named = ((each, SEGMENT_NAME.fullmatch(each.key, len(key) + 1)) for each in found)
    return [Segment(int(name[1]), each.key, each.size) for each, name in named if name]


def _merged(key: str, pieces: tuple[int, ...]) -> list[Segment]:
    # One at a time: who wants a line needs no further piece.
    return [Segment(offset, segment_key(key, offset), _CONCURRENT_BYTES) for offset in pieces]


def _wanted(segments: list[Segment], start: int, end: int | None) -> list[Segment]:
    """Returns the segments between two offsets; where each ends is known by the next one."""
    return [
        each
        for each, after in zip_longest(segments, segments[1:])
        if (after is None or after.offset > start) and (end is None or each.offset < end)
    ]
