"""Views of logs: the lines of the whole log, wherever one begins."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.tail import LogTails
from opam_ci.clients.logs.view import BusyError, LogViews
from opam_ci.clients.logs.writer import LogLimits, LogWriter
from opam_ci.core.logs.lines import LINE_BYTES, LineCutter, RawLine

KEY = "logs/o/r/pr-1/abc/build,cppo.1/1-1"
LIMITS = LogLimits(
    cap=400_000, head=100_000, segment=10_000, segment_max=30_000, inline_max=5_000,
    flush_interval=timedelta(0),
)  # fmt: skip


@pytest.fixture
async def views() -> AsyncIterator[LogViews]:
    store = ArtifactStore.open("memory:")
    tails = LogTails(store)
    yield LogViews(store, tails)
    await tails.close()


def build_output(count: int) -> bytes:
    """Lines of all kinds."""
    return b"".join(
        b"%d \x1b[3%dmstep\x1b[0m %s\r\n" % (number, number % 8, b"x" * (number % 90))
        if number % 400
        else b"y" * 20_000 + b"\n"
        for number in range(count)
    )


async def write(store: ArtifactStore, data: bytes) -> LogWriter:
    """Writes a log that is not closed."""
    log = await LogWriter(store, KEY, limits=LIMITS).__aenter__()
    for start in range(0, len(data), 7_000):
        log.write(data[start : start + 7_000])
        await asyncio.sleep(0.0005)
    return log


def cut(data: bytes) -> list[RawLine]:
    cutter = LineCutter()
    return cutter.feed(data) + ([cutter.partial] if cutter.partial else [])


async def test_any_line_of_a_closed_log_is_found(views: LogViews) -> None:
    data = build_output(5_000)[:390_000]
    log = await write(views._reader._store, data)
    await log.__aexit__(None, None, None)
    view = await views.view(KEY)
    lines = cut(data)
    assert (view.size, view.line_count) == (len(data), len(lines))
    assert view.index.pieces
    for first, count in ((1, 3), (2, 1), (255, 4), (1_000, 600), (len(lines) - 1, 9)):
        assert await view.lines(first, count) == lines[first - 1 : first - 1 + count]
    assert await view.lines(len(lines) + 1, 5) == []
    assert await view.last_lines(300) == lines[-300:]
    for line in lines[::97]:
        assert await view.line_at(line.offset) == await view.line_at(line.end - 1) == line.number
    shown = await view.excerpt(lines[700].offset + 3, before=20, after=20)
    assert shown == lines[680:721]
    assert await view.excerpt(0, before=20, after=2) == lines[:3]
    assert await views.view(KEY) is view


async def test_lines_are_few_where_they_are_long(views: LogViews) -> None:
    log = await LogWriter(views._reader._store, KEY).__aenter__()
    log.write((b"z" * LINE_BYTES + b"\n") * 200)
    await log.__aexit__(None, None, None)
    view = await views.view(KEY)
    assert len(await view.lines(1, 500)) == 64
    assert len(await view.lines(180, 500)) == 21


async def test_a_cut_log_has_a_line_where_bytes_are_missing(views: LogViews) -> None:
    data = build_output(15_000)
    log = await write(views._reader._store, data)
    await log.__aexit__(None, None, None)
    view = await views.view(KEY)
    assert view.closed is not None
    gap = range(100_000, 100_000 + view.closed.cut)
    lines = {each.offset: each for each in await view.lines(1, 100_000)}
    [notice] = [each for each in lines.values() if each.is_notice]
    assert (notice.offset, notice.end) == (gap.start, gap.stop)
    assert await view.line_at(150_000) == notice.number
    texts = {each.offset: each.data for each in cut(data)}
    whole = [each for each in lines.values() if each.offset in texts and each.end < gap.start]
    assert len(whole) > 500
    assert all(each.data == texts[each.offset] for each in whole)
    last = (await view.last_lines(400))[1:]
    assert [each.data for each in last] == [texts[each.offset] for each in last]


async def test_a_log_that_grows_or_was_never_closed_has_the_same_lines(views: LogViews) -> None:
    data = build_output(3_000)[:-10]
    log = await write(views._reader._store, data)
    async with asyncio.timeout(20):
        while (view := await views.view(KEY)).size < len(data):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    lines = cut(data)
    assert view.closed is None
    assert view.line_count == len(lines)
    assert await view.lines(800, 500) == lines[799:1299]
    assert (await view.last_lines(2))[-1].is_complete is False
    await log.__aexit__(None, None, None)
    async with asyncio.timeout(20):
        while (await views.view(KEY)).closed is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_search_covers_the_whole_log_and_stops_in_time(views: LogViews) -> None:
    data = build_output(4_000)[:380_000]
    log = await write(views._reader._store, data)
    await log.__aexit__(None, None, None)
    view = await views.view(KEY)
    lines = cut(data)
    found = await view.search("77 STEP ")
    expected = [each for each in lines if b"77 \x1b" in each.data]
    assert [hit.number for hit in found.hits] == [each.number for each in expected]
    assert found.next_line is None
    some = await view.search("step", most=10)
    assert len(some.hits) == 10
    assert some.next_line is not None
    more = await view.search("step", some.next_line, most=10_000)
    assert len(some.hits) + len(more.hits) == sum(b"step" in each.data for each in lines)
    stopped = await view.search("nothing", time_limit=timedelta(seconds=0.001))
    assert stopped.hits == []
    assert stopped.next_line is not None


async def test_searches_wait_for_each_other_and_not_for_ever(views: LogViews) -> None:
    log = await write(views._reader._store, b"text\n")
    await log.__aexit__(None, None, None)
    view = await views.view(KEY)
    for _ in range(2):
        await views._searches.acquire()
    with pytest.raises(BusyError):
        await view.search("text", time_limit=timedelta(seconds=0.01))
    views._searches.release()
    assert len((await view.search("text")).hits) == 1
