"""Following: one reader of a log for all who follow it, soon, cheaply, and to the last byte."""

import asyncio
import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from obstore.store import ObjectStore

from opam_ci.clients.logs import watch
from opam_ci.clients.logs.format import compressed, segment_key
from opam_ci.clients.logs.store import ArtifactStore, StoredObject
from opam_ci.clients.logs.tail import LaggingError, LogTails, TailLimits
from opam_ci.clients.logs.watch import Watch, mark_key
from opam_ci.clients.logs.writer import LogLimits, LogWriter
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.logs.lines import LineCutter

KEY = "logs/o/r/pr-1/abc/build,cppo.1/1-1"
QUICK = LogLimits(flush_interval=timedelta(milliseconds=10))
SOON = TailLimits(interval=timedelta(milliseconds=20), requests_per_second=100)


class Counting(ArtifactStore):
    """A store that counts its requests."""

    def __init__(self, backend: ObjectStore, url: str) -> None:
        super().__init__(backend, url)
        self.counts = Counter[str]()

    async def get(self, key: str) -> bytes:
        self.counts["get"] += 1
        return await super().get(key)

    async def put(self, key: str, data: bytes | Path) -> None:
        self.counts["put"] += 1
        await super().put(key, data)

    async def list(self, prefix: str, *, after: str | None = None) -> list[StoredObject]:
        self.counts["list"] += 1
        return await super().list(prefix, after=after)

    async def modified_at(self, key: str) -> datetime | None:
        self.counts["head"] += 1
        return await super().modified_at(key)


async def test_followers_share_the_requests_and_each_gets_every_byte(tmp_path: Path) -> None:
    writers, followers = (Counting.open(tmp_path.as_uri()) for _ in range(2))
    tails = LogTails(followers)

    async def followed() -> bytes:
        return b"".join([piece async for piece in tails.output(KEY)])

    started = time.monotonic()
    following = [asyncio.create_task(followed()) for _ in range(20)]
    written = b""
    async with LogWriter(writers, KEY) as log:
        for number in range(60):
            line = b"%d\n" % number
            log.write(line)
            written += line
            await asyncio.sleep(0.05)
    async with asyncio.timeout(30):
        outputs = await asyncio.gather(*following)
    seconds = time.monotonic() - started
    assert outputs == [written] * 20
    # A few at the end, when the log is closed, come at once.
    assert followers.counts.total() <= 4 * seconds + 6
    # The writer looked for the mark every two seconds.
    assert writers.counts["head"] <= seconds / 2 + 1
    await tails.close()


async def test_a_watched_log_is_uploaded_soon_and_another_one_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore.open(tmp_path.as_uri())
    limits = LogLimits(flush_interval=timedelta(seconds=60))
    other = f"{KEY}-other"
    await store.put(mark_key(KEY), b"")
    async with (
        LogWriter(store, other, limits=limits) as unwatched,
        LogWriter(store, KEY, limits=limits) as log,
    ):
        unwatched.write(b"x")
        log.write(b"x")
        async with asyncio.timeout(20):
            while not await store.exists(segment_key(KEY, 0)):  # noqa: ASYNC110  no event tells
                await asyncio.sleep(0.01)
        assert await store.list(other) == []
    monkeypatch.setattr(watch, "VALIDITY", timedelta(0))
    mark = Watch(store, KEY, timedelta(0))
    await store.put(mark_key(KEY), b"")
    await looked(mark)
    assert mark.was_watched
    assert not mark.is_watched


async def looked(mark: Watch) -> bool:
    """Looks for a mark; returns whether it woke the writer."""
    woken = asyncio.Event()
    mark.look(woken.set)
    assert mark._task is not None
    await mark._task
    return woken.is_set()


async def test_a_mark_counts_when_it_changes(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path.as_uri())
    mark = Watch(store, KEY, timedelta(0))
    seen = []
    for is_marked in (False, True, False, True):
        if is_marked:
            await store.put(mark_key(KEY), b"")
        seen.append((await looked(mark), mark.is_watched, mark._changed_at))
    woken, watched, changed = zip(*seen, strict=True)
    assert woken == (False, True, False, False)
    assert watched == (False, True, True, True)
    assert changed[0] < changed[1] == changed[2] < changed[3]


async def test_a_log_is_read_once_and_dropped_when_nobody_follows(tmp_path: Path) -> None:
    store = Counting.open(tmp_path.as_uri())
    tails = LogTails(store, SOON.model_copy(update={"linger": timedelta(seconds=0.1)}))
    log = LogWriter(store, KEY, limits=QUICK)
    await log.__aenter__()
    log.write(b"x\n")
    async with tails.tail(KEY) as first:
        async with tails.tail(KEY) as second:
            assert second is first
        await first.ready()
        await asyncio.sleep(0.2)
        async with tails.tail(KEY) as third:
            assert third is first
    await asyncio.sleep(0.3)
    assert tails._tails == {}
    before = store.counts["list"]
    await asyncio.sleep(0.2)
    assert store.counts["list"] == before
    assert store.counts["put"] == 1  # none of it asked for output to come soon
    await log.__aexit__(None, None, None)
    await tails.close()


async def test_batches_have_the_lines_of_the_log(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path.as_uri())
    tails = LogTails(store, SOON)
    data = b"".join(
        b"\x1b[3%dmline %d" % (n % 8, n) + (b"\n" if n % 3 else b"\r") for n in range(900)
    )
    cutter = LineCutter()
    expected = cutter.feed(data)
    async with tails.tail(KEY, follows=True) as tail:
        await tail.ready()
        async with LogWriter(store, KEY, limits=QUICK) as log:
            for start in range(0, len(data), 700):
                log.write(data[start : start + 700])
                await asyncio.sleep(0.005)
        lines, place, position = [], tail.place_after(-1), 0
        async with asyncio.timeout(20):
            while (batch := await tail.batch(place)) is not None:
                assert batch.start == position
                lines += [each for each in batch.lines() if each.is_complete]
                assert batch.next_line == (lines[-1].end if lines else 0)
                position, place = batch.end, place + 1
        assert lines == expected
        assert tail.counter.lines == len(expected) == 600
    await tails.close()


async def test_who_is_too_slow_is_dropped_and_output_goes_on_from_the_store(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path.as_uri())
    tails = LogTails(store, SOON.model_copy(update={"buffer_bytes": 1_000}))
    data = b"".join(b"%09d\n" % number for number in range(0, 400_000, 10))
    async with LogWriter(store, KEY, limits=QUICK) as log:
        output = tails.output(KEY)
        log.write(data[:10])
        assert await anext(output) == data[:10]
        async with tails.tail(KEY) as tail:
            for start in range(10, len(data), 50_000):
                log.write(data[start : start + 50_000])
                await asyncio.sleep(0.05)
            async with asyncio.timeout(20):
                while tail.kept_from < 300_000:  # noqa: ASYNC110  no event tells
                    await asyncio.sleep(0.01)
            with pytest.raises(LaggingError):
                await tail.batch(1)
    rest = b"".join([piece async for piece in output])
    assert data[:10] + rest == data
    await tails.close()


async def test_a_lost_writer_ends_its_log(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path.as_uri())
    quick = {"over_interval": timedelta(0), "over_grace": timedelta(seconds=0.1)}
    tails = LogTails(store, SOON.model_copy(update=quick))
    log = await LogWriter(store, KEY, limits=QUICK).__aenter__()
    log.write(b"last words\n")
    asked = 0

    async def is_over() -> bool:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise InfrastructureError("the index is away", cause=Cause.STORAGE)
        return asked > 3

    async with asyncio.timeout(20):
        output = b"".join([piece async for piece in tails.output(KEY, is_over=is_over)])
    assert output == b"last words\n"
    await tails.close()
    await log.__aexit__(None, None, None)


class Away(ArtifactStore):
    """A store that does not answer for a while."""

    is_away = True

    async def list(self, prefix: str, *, after: str | None = None) -> list[StoredObject]:
        if self.is_away:
            raise InfrastructureError("the store is away", cause=Cause.STORAGE)
        return await super().list(prefix, after=after)


async def test_a_store_that_is_away_ends_the_following_until_one_follows_again(
    tmp_path: Path,
) -> None:
    store = Away.open(tmp_path.as_uri())
    tails = LogTails(store, SOON)
    async with LogWriter(store, KEY) as log:
        log.write(b"x\n")
        with pytest.raises(InfrastructureError, match="away"):
            await anext(tails.output(KEY))
        async with tails.tail(KEY) as tail:
            with pytest.raises(InfrastructureError, match="away"):
                await tail.ready()
        store.is_away = False
    assert [piece async for piece in tails.output(KEY)] == [b"x\n"]
    await tails.close()


async def test_a_store_that_takes_no_mark_only_delays(tmp_path: Path) -> None:
    class ReadOnly(ArtifactStore):
        async def put(self, key: str, data: bytes | Path) -> None:
            raise InfrastructureError(f"no right to store {data!r} at {key}", cause=Cause.STORAGE)

    async with LogWriter(ArtifactStore.open(tmp_path.as_uri()), KEY, limits=QUICK) as log:
        log.write(b"x\n")
        tails = LogTails(ReadOnly.open(tmp_path.as_uri()), SOON)
        output = tails.output(KEY)
        async with asyncio.timeout(20):
            assert await anext(output) == b"x\n"
    await tails.close()


async def test_a_small_log_costs_one_request_and_one_that_is_watched_leaves_no_mark(
    tmp_path: Path,
) -> None:
    store = Counting.open(tmp_path.as_uri())
    async with LogWriter(store, KEY) as log:
        log.write(b"x\n")
        await asyncio.sleep(0.1)  # it looked for the mark
    assert store.counts == {"put": 1, "head": 1}
    other = f"{KEY}-other"
    await store.put(mark_key(other), b"")
    async with LogWriter(store, other) as log:
        log.write(b"x\n")
        async with asyncio.timeout(20):
            while not log._watch.was_watched:  # noqa: ASYNC110  no event tells
                await asyncio.sleep(0.01)
    assert not await store.exists(mark_key(other))


async def test_segments_of_earlier_days_are_read_together(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path.as_uri())
    for number in range(100):
        await store.put(segment_key(KEY, number * 5), await compressed(b"%04d\n" % number))
    reads = 0

    class Gathered(Counting):
        async def get(self, key: str) -> bytes:
            nonlocal reads
            self.counts["now"] += 1
            reads = max(reads, self.counts["now"])
            await asyncio.sleep(0.005)
            self.counts["now"] -= 1
            return await super().get(key)

    tails = LogTails(Gathered.open(tmp_path.as_uri()), SOON)
    async with tails.tail(KEY) as tail:
        await tail.ready()
        assert tail.counter.lines == 100
    assert reads == 8
    await tails.close()
