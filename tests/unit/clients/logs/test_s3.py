"""The store on a real S3 server: logs, following, merging, retention, and what refuses to work."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import httpx
import pytest
from moto.server import ThreadedMotoServer
from temporalio.client import Client

from opam_ci import worker
from opam_ci.app.settings import Settings
from opam_ci.clients.index import Index
from opam_ci.clients.logs.reader import LogReader
from opam_ci.clients.logs.store import ArtifactStore, MissingKeyError
from opam_ci.clients.logs.tail import LogTails, TailLimits
from opam_ci.clients.logs.view import LogViews
from opam_ci.clients.logs.watch import mark_key
from opam_ci.clients.logs.writer import LogLimits, LogWriter
from opam_ci.clients.retention import prune
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, log_key
from tests.support.fakes.written import write

URL = "s3://bucket/some/prefix"
OLD = datetime(2025, 5, 4, 12, 0, tzinfo=UTC)
TESTING = RevisionKey(repository="o/r", number=1, head="a" * 40, opened_at=OLD)
JOB = Job(platform="p", package="a.1", kind=JobKind.BUILD)
KEY = log_key(TESTING, JOB, run="run", round_=1, attempt=1)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of the server."""
    running = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of the server, which has one bucket."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    httpx.post(f"{server}/moto-api/reset").raise_for_status()
    httpx.put(f"{server}/bucket").raise_for_status()
    return server


@pytest.mark.usefixtures("bucket")
async def test_objects(tmp_path: Path) -> None:
    store = ArtifactStore.open(URL)
    await store.require()
    assert await store.list("logs") == []
    await store.put("d/1", b"one")
    (tmp_path / "file").write_bytes(b"x" * 20_000_000)
    await store.put("d/2", tmp_path / "file")
    listed = await store.list("d")
    assert [(each.key, each.size) for each in listed] == [("d/1", 3), ("d/2", 20_000_000)]
    assert [each.key for each in await store.list("d", after="d/1")] == ["d/2"]
    await store.fetch("d/2", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"x" * 20_000_000
    assert await store.get("d/1") == b"one"
    await store.delete("d/1", "d/2", "d/3")
    assert not await store.exists("d/1")
    with pytest.raises(MissingKeyError):
        await store.get("d/1")


@pytest.mark.usefixtures("bucket")
async def test_a_log_is_written_followed_merged_and_deleted(tmp_path: Path) -> None:
    store = ArtifactStore.open(URL)
    limits = LogLimits(
        segment=20_000, segment_max=30_000, flush_interval=timedelta(milliseconds=20)
    )
    text = b"".join(b"line %d\n" % number for number in range(20_000))
    tails = LogTails(store, TailLimits(interval=timedelta(milliseconds=50)))

    async def followed() -> bytes:
        return b"".join([piece async for piece in tails.output(KEY)])

    following = asyncio.create_task(followed())
    async with LogWriter(store, KEY, limits=limits) as log:
        for start in range(0, len(text), 5_000):
            log.write(text[start : start + 5_000])
            await asyncio.sleep(0.02)
        async with asyncio.timeout(20):
            while not await store.exists(mark_key(KEY)):  # noqa: ASYNC110  no event tells
                await asyncio.sleep(0.05)
    async with asyncio.timeout(20):
        assert await following == text
    names = [each.key.removeprefix(f"{KEY}/") for each in await store.list(KEY)]
    assert names == ["000000000000.gz", "end.json", "lines.gz"]
    assert await LogReader(store).read(KEY) == text
    view = await LogViews(store, tails).view(KEY)
    assert [line.data for line in await view.lines(15_001, 1)] == [b"line 15000"]
    assert [hit.number for hit in (await view.search("line 19999")).hits] == [20_000]
    await tails.close()

    await store.put(mark_key(KEY), b"")  # of a follower who came too late
    index = Index.open(f"sqlite:///{tmp_path}/index.sqlite")
    write(index, RevisionRecord(key=TESTING, base="b", is_open=False, updated_at=OLD, sequence=1))
    await prune(index, store, OLD + timedelta(days=1), now=OLD + timedelta(days=100))
    index.close()
    assert await store.list("logs") == []


@pytest.mark.usefixtures("bucket")
async def test_a_missing_bucket_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="create it, or correct OPAM_CI_STORE") as caught:
        await ArtifactStore.open("s3://nothing/prefix").require()
    assert str(caught.value).startswith("the store s3://nothing/prefix does not exist")


@pytest.fixture
def refusing(bucket: str) -> Iterator[None]:
    """The server refuses all credentials."""
    httpx.post(f"{bucket}/moto-api/reset-auth", content=b"0").raise_for_status()
    yield
    httpx.post(f"{bucket}/moto-api/reset-auth", content=b"inf").raise_for_status()


@pytest.mark.usefixtures("refusing")
async def test_refused_credentials_are_one_sentence() -> None:
    with pytest.raises(UsageError, match="AWS_SECRET_ACCESS_KEY") as caught:
        await ArtifactStore.open(URL).require()
    text = str(caught.value)
    assert text.startswith(f"the store {URL} refuses this process: give it credentials")
    assert len(text.splitlines()) == 1


@pytest.mark.usefixtures("bucket")
async def test_a_worker_does_not_start_without_its_store(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, store="s3://nothing/prefix", pools=())
    without_temporal = cast("Client", None)
    with pytest.raises(UsageError, match="s3://nothing/prefix does not exist"):
        await worker.running(settings, without_temporal).__aenter__()
