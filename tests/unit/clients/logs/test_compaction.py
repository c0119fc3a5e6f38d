"""Closed logs are merged into a few pieces; whoever reads meanwhile finds every byte."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from opam_ci.clients.logs.compaction import PIECE_BYTES, compact
from opam_ci.clients.logs.format import end_key, lines_key
from opam_ci.clients.logs.reader import LogCursor, LogReader
from opam_ci.clients.logs.store import ArtifactStore, StoredObject
from opam_ci.clients.logs.watch import mark_key
from opam_ci.clients.logs.writer import LogLimits, LogWriter
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.logs.line_index import LineMark
from opam_ci.core.logs.lines import LineCutter

KEY = "logs/o/r/pr-1/abc/build,cppo.1/1-1"
SMALL = LogLimits(segment=1000, segment_max=1000, inline_max=100, flush_interval=timedelta(0))


class Unlisted(ArtifactStore):
    """A store in which logs are closed and not merged."""

    async def list(self, prefix: str, *, after: str | None = None) -> list[StoredObject]:
        raise InfrastructureError(f"{prefix} is not listed after {after}", cause=Cause.STORAGE)


class Kept(ArtifactStore):
    """A store in which merging ends before anything is deleted."""

    keeps = True

    async def delete(self, *keys: str) -> None:
        if self.keeps:
            raise InfrastructureError("kept", cause=Cause.STORAGE)
        await super().delete(*keys)


def numbered(count: int) -> bytes:
    return b"".join(b"%09d\n" % number for number in range(0, count, 10))


async def write(store: ArtifactStore, text: bytes, limits: LogLimits = SMALL) -> None:
    async with LogWriter(store, KEY, limits=limits) as log:
        for start in range(0, len(text), 900):
            log.write(text[start : start + 900])
            await asyncio.sleep(0)


async def names(store: ArtifactStore) -> list[str]:
    return [each.key.removeprefix(f"{KEY}/") for each in await store.list(KEY)]


async def test_a_closed_log_is_a_few_pieces_with_an_index(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path.as_uri())
    await store.put(mark_key(KEY), b"")
    text = numbered(9_000_000)
    await write(store, text, LogLimits(segment=100_000, segment_max=300_000))
    assert len(await names(store)) == 5
    assert [*await names(store)][-2:] == ["end.json", "lines.gz"]
    reader = LogReader(store)
    assert await reader.read(KEY) == text
    index = await reader.line_index(KEY)
    assert index is not None
    assert (index.lines, index.size, len(index.pieces)) == (900_000, 9_000_000, 3)
    assert all(each % 10 == 0 for each in index.pieces)
    assert index.at_line(500_000).offset == 10 * (index.at_line(500_000).line - 1)
    first, second, _ = index.pieces
    assert PIECE_BYTES <= second - first < PIECE_BYTES + 300_000


async def test_the_index_of_a_cut_log_has_the_lines_that_are_shown(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path.as_uri())
    limits = SMALL.model_copy(update={"cap": 30_000, "head": 10_000})
    await write(store, numbered(100_000), limits)
    reader = LogReader(store)
    closed, index = await reader.end(KEY), await reader.line_index(KEY)
    assert closed is not None
    assert index is not None
    assert closed.cut > 60_000
    assert len(index.pieces) == 2
    shown = (await reader.read(KEY)).splitlines()
    notice = next(at for at, line in enumerate(shown) if b"cut here" in line)
    before = index.at_offset(10_000 + closed.cut - 1)
    after = index.at_offset(10_000 + closed.cut)
    assert before.offset < 10_000
    assert after == LineMark(notice + 2, 10_000 + closed.cut, ())
    assert index.lines == len(shown)
    cutter = LineCutter(*after)
    async for chunk in reader.chunks(KEY, after[1], None, closed):
        lines = cutter.feed(chunk.data)
        assert all(each.data == shown[each.number - 1] for each in lines)


async def unmerged(folder: Path, text: bytes) -> ArtifactStore:
    """Writes a log that is closed and not merged."""
    await write(Unlisted.open(folder.as_uri()), text)
    store = ArtifactStore.open(folder.as_uri())
    assert len(await names(store)) >= len(text) // 1000
    return store


async def test_a_reader_that_listed_segments_lists_again(tmp_path: Path) -> None:
    text = numbered(50_000)
    store = await unmerged(tmp_path, text)
    reader = LogReader(store)
    closed = await reader.end(KEY)
    seen = b""
    async for chunk in reader.chunks(KEY, 0, None, closed):
        if not seen:
            await compact(store, KEY)
            assert len(await names(store)) == 3
        seen += chunk.data
    assert seen == text


@pytest.mark.parametrize("position", [0, 10_000, 40_000, 49_990])
async def test_whoever_follows_meanwhile_misses_nothing(tmp_path: Path, position: int) -> None:
    """The log is closed and merged between the listing and the reads, and between two looks."""
    text = numbered(50_000)
    store = await unmerged(tmp_path, text)
    closed = await store.get(end_key(KEY))
    await store.delete(end_key(KEY))
    cursor = LogCursor(LogReader(store), KEY)
    seen, merges = b"", 0
    while cursor.closed is None:
        async for chunk in cursor.poll():
            assert chunk.offset == len(seen)
            seen += chunk.data
            if len(seen) > position and not merges:
                merges += 1
                await store.put(end_key(KEY), closed)
                await compact(store, KEY)
        if not merges:
            merges += 1
            await store.put(end_key(KEY), closed)
            await compact(store, KEY)
    assert merges == 1
    assert seen == text


async def test_a_merge_that_was_stopped_leaves_a_whole_log(tmp_path: Path) -> None:
    """Pieces, and segments that they contain."""
    store = Kept.open(tmp_path.as_uri())
    text = numbered(50_000)
    await write(store, text)
    left = await names(store)
    assert lines_key(KEY).removeprefix(f"{KEY}/") in left
    reader = LogReader(store)
    assert await reader.read(KEY) == text
    store.keeps = False
    for name in left[1:20:2]:
        await store.delete(f"{KEY}/{name}")
    assert await reader.read(KEY) == text
    assert await reader.read(KEY, 12_340, 23_450) == text[12_340:23_450]
    await compact(store, KEY)
    assert await reader.read(KEY) == text
    assert len(await names(store)) == 3


async def test_a_cancelled_job_does_not_wait_for_the_merge(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path.as_uri())

    async def job() -> None:
        async with LogWriter(store, KEY, limits=SMALL) as log:
            for _ in range(50):
                log.write(b"x" * 999 + b"\n")
                await asyncio.sleep(0.001)
            asyncio.current_task().cancel()  # type: ignore[union-attr]
            await asyncio.sleep(1)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(job())
    assert lines_key(KEY) not in {each.key for each in await store.list(KEY)}
    assert await LogReader(store).size(KEY) == 50_000


class Torn(ArtifactStore):
    """A store of which one listing was made while a log was closed and merged."""

    listings = 0

    async def list(self, prefix: str, *, after: str | None = None) -> list[StoredObject]:
        self.listings += 1
        found = await super().list(prefix, after=after)
        missing = {end_key(KEY), found[5].key} if self.listings == 1 else set()
        return [each for each in found if each.key not in missing]


async def test_a_gap_in_a_torn_listing_is_not_a_cut(tmp_path: Path) -> None:
    text = numbered(20_000)
    await unmerged(tmp_path, text)
    cursor = LogCursor(LogReader(Torn.open(tmp_path.as_uri())), KEY)
    assert b"".join([chunk.data async for chunk in cursor.poll()]) == text
    assert cursor.closed is not None
