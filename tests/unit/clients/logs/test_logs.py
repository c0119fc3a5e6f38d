"""Logs: what was written is what is read, live, capped, cancelled, killed."""

import asyncio
import json
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opam_ci.clients.logs.reader import LogReader
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.tail import LogTails, TailLimits
from opam_ci.clients.logs.writer import LogLimits, LogWriter
from opam_ci.clients.runners.base import LogSink
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause

KEY = "logs/o/r/pr-1/abc/build,cppo.1/1-1"
QUICK = LogLimits(flush_interval=timedelta(milliseconds=10))


@pytest.fixture
def store() -> ArtifactStore:
    return ArtifactStore.open("memory:")


def numbered(count: int) -> bytes:
    """Output of which every 10 bytes are their own offset."""
    return b"".join(b"%09d\n" % number for number in range(0, count, 10))


async def test_a_small_log_is_one_object(store: ArtifactStore) -> None:
    async with LogWriter(store, KEY) as log:
        sink: LogSink = log
        sink.write(b"hello\n")
        assert sink.size == 6
    reader = LogReader(store)
    assert [each.key for each in await store.list("logs")] == [f"{KEY}/end.json"]
    assert await reader.read(KEY) == b"hello\n"
    assert await reader.end(KEY) is not None


async def test_an_empty_log_is_complete_and_a_log_never_begun_is_not(store: ArtifactStore) -> None:
    async with LogWriter(store, KEY):
        pass
    reader = LogReader(store)
    assert await reader.read(KEY) == b""
    assert await reader.end(KEY) is not None
    assert await reader.read("logs/none") == b""
    assert await reader.end("logs/none") is None


async def test_any_range_of_a_long_log_can_be_read(store: ArtifactStore) -> None:
    text = numbered(1_000_000)
    async with LogWriter(store, KEY, limits=LogLimits(segment_max=65_536)) as log:
        for start in range(0, len(text), 7_777):
            log.write(text[start : start + 7_777])
            await asyncio.sleep(0)
    reader = LogReader(store)
    assert len(await store.list(KEY)) == 3  # merged, with an index of lines
    assert await reader.read(KEY) == text
    for start, end in ((0, 10), (65_530, 65_540), (500_000, 700_001), (999_990, 2_000_000)):
        assert await reader.read(KEY, start, end) == text[start:end]
    assert await reader.read(KEY, 999_990) == text[999_990:]
    assert await reader.read(KEY, 70, 70) == b""
    assert await reader.read(KEY, 999_975) == text[-25:]
    assert await reader.size(KEY) == 1_000_000


async def test_a_running_log_can_be_followed_until_it_is_closed(store: ArtifactStore) -> None:
    reader, seen = LogReader(store), asyncio.Event()
    tails = LogTails(store, TailLimits(interval=timedelta(milliseconds=5), requests_per_second=500))
    pieces: list[bytes] = []

    async def follow() -> None:
        async for piece in tails.output(KEY):
            pieces.append(piece)
            seen.set()

    follower = asyncio.create_task(follow())
    async with LogWriter(store, KEY, limits=QUICK) as log:
        for number in range(5):
            log.write(b"line %d\n" % number)
            await asyncio.wait_for(seen.wait(), 10)
            seen.clear()
        assert await reader.end(KEY) is None
        assert not follower.done()
        log.write(b"end\n")
    await follower
    await tails.close()
    assert b"".join(pieces) == b"line 0\nline 1\nline 2\nline 3\nline 4\nend\n"


async def test_a_capped_log_keeps_head_and_tail_and_true_offsets(store: ArtifactStore) -> None:
    limits = LogLimits(
        cap=10_000, head=3_000, segment=500, segment_max=1_000, inline_max=100,
        flush_interval=timedelta(milliseconds=1),
    )  # fmt: skip
    text = numbered(100_000)
    async with LogWriter(store, KEY, limits=limits) as log:
        for start in range(0, len(text), 130):
            log.write(text[start : start + 130])
            await asyncio.sleep(0)
        assert log.size == 100_000
    reader = LogReader(store)
    end = await reader.end(KEY)
    assert end is not None
    assert end.size == 100_000
    kept = 100_000 - end.cut
    assert 9_000 <= kept <= 10_000
    whole = await reader.read(KEY)
    note = b"\n[opam-ci: %d bytes of output cut here; " % end.cut
    assert whole.startswith(text[:3_000] + note)
    assert whole.count(b"opam-ci:") == 1
    assert whole.endswith(b"]\n" + text[3_000 + end.cut :])
    assert await reader.read(KEY, 99_000, 99_010) == b"000099000\n"
    assert await reader.read(KEY, 50_000, 50_010) == (
        b"\n[opam-ci: 10 bytes of output cut here; a log keeps its beginning and its end]\n"
    )
    tails = LogTails(store)
    assert b"".join([piece async for piece in tails.output(KEY)]) == whole
    await tails.close()


async def test_output_faster_than_the_store_takes_bounded_memory(store: ArtifactStore) -> None:
    async with LogWriter(store, KEY, limits=LogLimits(cap=300_000, head=100_000)) as log:
        for _ in range(1_000):
            log.write(b"x" * 10_000)
        assert len(log._head) + len(log._tail) <= 300_000
    end = await LogReader(store).end(KEY)
    assert end is not None
    assert (end.size, end.cut) == (10_000_000, 9_700_000)


@settings(max_examples=60)
@given(
    pieces=st.lists(st.binary(max_size=60), max_size=40),
    kept=st.tuples(st.integers(0, 80), st.integers(1, 120)),
    segment_max=st.integers(1, 50),
    inline_max=st.integers(0, 60),
    yields=st.integers(0, 3),
)
async def test_whatever_is_kept_is_where_it_was(
    pieces: list[bytes], kept: tuple[int, int], segment_max: int, inline_max: int, yields: int
) -> None:
    store = ArtifactStore.open("memory:")
    head, tail = kept
    limits = LogLimits(
        cap=head + tail, head=head, segment=20, segment_max=segment_max, inline_max=inline_max,
        flush_interval=timedelta(0),
    )  # fmt: skip
    async with LogWriter(store, KEY, limits=limits) as log:
        for piece in pieces:
            log.write(piece)
            for _ in range(yields):
                await asyncio.sleep(0)
    text = b"".join(pieces)
    reader = LogReader(store)
    end = await reader.end(KEY)
    assert end is not None
    whole = await reader.read(KEY)
    assert end.size == len(text)
    if len(text) <= limits.cap:
        assert end.cut == 0
        assert whole == text
    else:
        assert len(text) - limits.cap <= end.cut <= len(text) - limits.cap + segment_max
        assert whole.startswith(text[:head] + b"\n[opam-ci: %d bytes" % end.cut)
        assert whole.endswith(b"]\n" + text[head + end.cut :])


class Slow(ArtifactStore):
    """A store that takes its time."""

    async def put(self, key: str, data: bytes | Path) -> None:
        await asyncio.sleep(0.05)
        await super().put(key, data)


async def test_a_cancelled_job_keeps_its_log() -> None:
    async def job() -> None:
        async with LogWriter(store, KEY) as log:
            log.write(b"before\n")
            started.set()
            await asyncio.sleep(60)

    store = Slow.open("memory:")
    started = asyncio.Event()
    task = asyncio.create_task(job())
    await started.wait()
    task.cancel()
    await asyncio.sleep(0.01)
    task.cancel()  # once more, while the log is being closed
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.exists(f"{KEY}/end.json")
    assert await LogReader(store).read(KEY) == b"before\n"


async def test_a_cancellation_while_the_log_is_closed_is_not_lost() -> None:
    async def job() -> None:
        async with LogWriter(store, KEY):
            closing.set()

    store = Slow.open("memory:")
    closing = asyncio.Event()
    task = asyncio.create_task(job())
    await closing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await LogReader(store).end(KEY) is not None


async def test_the_last_words_do_not_drive_the_tail_out(store: ArtifactStore) -> None:
    limits = LogLimits(
        cap=20_000, head=10_000, segment=1, inline_max=0, flush_interval=timedelta(0)
    )
    async with LogWriter(store, KEY, limits=limits) as log:
        log.write(numbered(30_000))
        async with asyncio.timeout(10):
            while await LogReader(store).size(KEY) < 30_000:  # noqa: ASYNC110  no event tells
                await asyncio.sleep(0.01)
        log.write(b"the end")
    text = await LogReader(store).read(KEY)
    assert text.endswith(b"000029990\nthe end")
    assert len(text) > 18_000


async def raising_job(store: ArtifactStore) -> None:
    async with LogWriter(store, KEY) as log:
        log.write(b"before\n")
        raise ZeroDivisionError


async def test_a_job_that_raises_keeps_its_log_and_its_exception(store: ArtifactStore) -> None:
    with pytest.raises(ZeroDivisionError):
        await raising_job(store)
    assert await LogReader(store).read(KEY) == b"before\n"


class Broken(ArtifactStore):
    """A store on which nothing can be put."""

    stalls = False

    async def put(self, key: str, data: bytes | Path) -> None:
        assert isinstance(data, bytes)
        if self.stalls:
            await asyncio.sleep(60)
        raise InfrastructureError(f"cannot store {len(data)} at {key}", cause=Cause.DISK_FULL)


async def test_a_failed_upload_surfaces_at_the_end() -> None:
    with pytest.raises(InfrastructureError, match="cannot store") as caught:
        async with LogWriter(Broken.open("memory:"), KEY) as log:
            log.write(b"x")
    assert caught.value.cause is Cause.DISK_FULL


async def test_a_failed_upload_surfaces_at_the_next_write() -> None:
    async def endless_job() -> None:
        async with LogWriter(Broken.open("memory:"), KEY, limits=QUICK) as log:
            while True:
                log.write(b"x")
                await asyncio.sleep(0.001)

    with pytest.raises(InfrastructureError, match="cannot store") as caught:
        await endless_job()
    assert not hasattr(caught.value, "__notes__")


async def test_a_failed_upload_is_noted_on_what_ended_the_job() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        await raising_job(Broken.open("memory:"))
    [note] = caught.value.__notes__
    assert note.startswith("the log is incomplete: cannot store ")
    assert note.endswith(f" at {KEY}/end.json")


async def test_closing_takes_bounded_time() -> None:
    store = Broken.open("memory:")
    store.stalls = True
    limits = LogLimits(close_timeout=timedelta(milliseconds=20))
    with pytest.raises(InfrastructureError, match=r"took over 0.02 s") as caught:
        async with LogWriter(store, KEY, limits=limits):
            pass
    assert caught.value.cause is Cause.STORAGE


async def test_output_after_the_end_is_refused(store: ArtifactStore) -> None:
    async with LogWriter(store, KEY) as log:
        pass
    with pytest.raises(InfrastructureError, match="not open"):
        log.write(b"x")


@pytest.mark.parametrize("name", ["end.json", "000000000000.gz"])
async def test_a_damaged_log_is_the_stores_fault(name: str, store: ArtifactStore) -> None:
    async with LogWriter(store, KEY, limits=LogLimits(inline_max=0)) as log:
        log.write(b"text")
    await store.put(f"{KEY}/{name}", b"garbage")
    with pytest.raises(InfrastructureError, match="damaged") as caught:
        await LogReader(store).read(KEY)
    assert caught.value.cause is Cause.STORAGE


_WRITER = """
import asyncio, sys
from datetime import timedelta
from opam_ci.clients.logs.writer import LogLimits, LogWriter
from opam_ci.clients.logs.store import ArtifactStore
async def main():
    limits = LogLimits(flush_interval=timedelta(milliseconds=20))
    async with LogWriter(ArtifactStore.open(sys.argv[1]), sys.argv[2], limits=limits) as log:
        for number in range(100_000):
            log.write(b"%09d\\n" % number)
            await asyncio.sleep(0.001)
asyncio.run(main())
"""


@pytest.fixture
def killed_writer(tmp_path: Path) -> str:
    """URL of a store that holds the log of a killed writer."""
    url = tmp_path.as_uri()
    with subprocess.Popen([sys.executable, "-c", _WRITER, url, KEY]) as writer:
        stored = set[int]()
        while len(stored) < 5:  # the last segment grows
            assert writer.poll() is None
            stored |= {each.stat().st_size for each in tmp_path.glob("logs/**/*.gz")}
            time.sleep(0.01)
        writer.kill()
    return url


async def test_the_log_of_a_killed_writer_is_readable_and_says_that_it_has_no_end(
    killed_writer: str,
) -> None:
    reader = LogReader(ArtifactStore.open(killed_writer))
    text = await reader.read(KEY)
    assert await reader.end(KEY) is None
    assert len(text) >= 50
    assert text == b"".join(b"%09d\n" % number for number in range(len(text) // 10))
    assert await reader.size(KEY) == len(text)
    assert await reader.read(KEY, len(text) - 10) == text[-10:]


async def test_the_end_is_readable_json(store: ArtifactStore) -> None:
    async with LogWriter(store, KEY) as log:
        log.write(b"x")
    end = json.loads(await store.get(f"{KEY}/end.json"))
    assert (end["size"], end["cut"], end["last_offset"]) == (1, 0, 0)
