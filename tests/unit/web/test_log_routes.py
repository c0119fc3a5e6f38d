"""Logs over HTTP: what is asked for, or a status code and a sentence."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import Send

from opam_ci.clients.judge import judged
from opam_ci.clients.logs.format import segment_key
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.tail import LogTails, TailLimits
from opam_ci.clients.logs.view import LogViews
from opam_ci.clients.logs.writer import LogLimits, LogWriter
from opam_ci.core.classify.replay import Judged
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.facts import BuildFacts
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Cause, Evidence, Failed, FailureReason
from opam_ci.web import log_routes as module
from opam_ci.web.log_routes import LogPlace, LogRefusalError, log_routes
from tests.support.fakes.serving import serving as serving_app

CLOSED = LogPlace("logs/closed", is_over=True, is_fixed=True, verdict="failed(build)")
PLACES = {
    "closed": CLOSED,
    "latest": CLOSED._replace(is_fixed=False),
    "open": LogPlace("logs/open", is_over=False, is_fixed=True),
    "lost": LogPlace("logs/open", is_over=True, is_fixed=True, verdict="errored(worker_lost)"),
    "cut": CLOSED._replace(key="logs/cut"),
    "queued": LogPlace(None, is_over=False, is_fixed=True),
    "begun": LogPlace("logs/none", is_over=False, is_fixed=True),
    "gone": LogPlace("logs/none", is_over=True, is_fixed=True),
    "empty": CLOSED._replace(key="logs/empty"),
    "torn": CLOSED._replace(key="logs/torn"),
}
QUICK = LogLimits(flush_interval=timedelta(milliseconds=10))
TEXT = b"".join(b"\x1b[3%dmline %d\x1b[0m\n" % (number % 8, number) for number in range(1, 1201))
FACTS = BuildFacts(job=Job(platform="p", package="a.1", kind=JobKind.BUILD), phases=())
FAILED = Failed(reason=FailureReason.TEST, evidence=Evidence(rule="exit-31"))


async def resolve(request: Request) -> LogPlace:
    name = request.path_params["job"]
    if name not in PLACES:
        raise LogRefusalError(404, "no such job")
    return PLACES[name]


class Fragile(ArtifactStore):
    """A store that may be away."""

    is_away = False

    async def get(self, key: str) -> bytes:
        if self.is_away:
            raise InfrastructureError("cannot read: secret-host:9000 refused", cause=Cause.STORAGE)
        return await super().get(key)


@pytest.fixture
async def store(tmp_path: Path) -> Fragile:
    made = Fragile.open(tmp_path.as_uri())
    async with LogWriter(made, "logs/closed") as log:
        log.write(TEXT)
        judged.keep(log, Judged(facts=FACTS, outcome=FAILED))
    async with LogWriter(made, "logs/cut", limits=LogLimits(cap=2_000, head=1_000)) as log:
        log.write(b"%0999d\n" * 10 % (*range(10),))
    async with LogWriter(made, "logs/empty"):
        pass
    async with LogWriter(made, "logs/torn", limits=LogLimits(inline_max=0)) as log:
        log.write(TEXT)
    await made.put(segment_key("logs/torn", 0), b"\0" * 100)
    return made


@pytest.fixture
async def views(store: ArtifactStore) -> AsyncIterator[LogViews]:
    quick = TailLimits(
        interval=timedelta(milliseconds=20),
        requests_per_second=1000,
        buffer_bytes=2_000,
        over_grace=timedelta(seconds=0.2),
    )
    tails = LogTails(store, quick)
    yield LogViews(store, tails)
    await tails.close()


@asynccontextmanager
async def serving(views: LogViews) -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(routes=log_routes(views, resolve, "/job/{job}/log"))
    async with (
        serving_app(app) as url,
        httpx.AsyncClient(base_url=f"{url}/job/", timeout=30) as made,
    ):
        yield made


@pytest.fixture
async def client(views: LogViews) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(views) as made:
        yield made


async def is_stored(store: ArtifactStore, key: str) -> None:
    async with asyncio.timeout(20):
        while not await store.exists(segment_key(key, 0)):  # noqa: ASYNC110  no event tells
            await asyncio.sleep(0.01)


async def events_of(response: httpx.Response) -> AsyncIterator[tuple[str, str, Any]]:
    """Yields id, name and data of each event."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "data" in fields:
            yield fields["id"], fields["event"], json.loads(fields["data"])
            fields = {}


async def test_lines_of_a_closed_log(client: httpx.AsyncClient) -> None:
    response = await client.get("closed/log/lines")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert response.headers["x-content-type-options"] == "nosniff"
    page = response.json()
    assert page["lines"][1] == {"number": 2, "offset": 16, "spans": [["line 2", "sgr32"]]}
    assert (len(page["lines"]), page["next"], page["total"]) == (500, 501, 1200)
    assert page["closed"] is True
    assert page["size"] == len(TEXT)
    last = (await client.get("closed/log/lines?from=1199&count=2")).json()
    assert [each["number"] for each in last["lines"]] == [1199, 1200]
    assert (last["next"], last["events_from"]) == (None, len(TEXT))
    around = (await client.get(f"closed/log/lines?offset={TEXT.index(b'line 700')}&count=5")).json()
    assert [each["number"] for each in around["lines"]] == [698, 699, 700, 701, 702]
    latest = await client.get("latest/log/lines")
    assert latest.headers["cache-control"] == "no-store"
    empty = (await client.get("empty/log/lines")).json()
    assert (empty["lines"], empty["total"], empty["next"]) == ([], 0, None)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("closed/log/lines?from=0", 400, "invalid from '0': give a whole number from 1 to"),
        ("closed/log/lines?from=-1", 400, "invalid from"),
        ("closed/log/lines?from=x", 400, "invalid from 'x'"),
        ("closed/log/lines?from=%00%1b", 400, "invalid from"),
        ("closed/log/lines?from=1e3", 400, "invalid from"),
        ("closed/log/lines?from=٣", 400, "invalid from"),
        ("closed/log/lines?from=" + "9" * 5000, 400, "invalid from"),
        ("closed/log/lines?count=0", 400, "invalid count"),
        ("closed/log/lines?count=2001", 400, "from 1 to 2000"),
        ("closed/log/lines?from=1201", 404, "no line 1201: the log has 1200"),
        ("closed/log/lines?offset=9999999", 404, "no byte 9999999"),
        ("closed/log/search", 400, "invalid q"),
        ("closed/log/search?q=" + "x" * 201, 400, "invalid q"),
        ("closed/log/search?q=a%0Ab", 400, "invalid q"),
        ("closed/log/search?q=a&from=x", 400, "invalid from"),
        ("closed/log/raw?start=x", 400, "invalid start"),
        ("closed/log/events?offset=-1", 400, "invalid offset"),
        ("closed/log/events?offset=9999999", 404, "no byte"),
        ("none/log/lines", 404, "no such job"),
        ("queued/log/lines", 404, "nothing of this log is stored yet"),
        ("begun/log/events", 404, "nothing of this log is stored yet"),
        ("gone/log/raw", 410, "not stored any more"),
        ("torn/log/lines", 502, "damaged part of this log"),
        ("torn/log/search?q=x", 502, "damaged"),
    ],
)
async def test_what_cannot_be_given_is_a_sentence(
    client: httpx.AsyncClient, path: str, status: int, words: str
) -> None:
    response = await client.get(path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert words in response.json()["detail"]
    assert "logs/" not in response.text


async def test_a_store_that_is_away_is_a_sentence(
    client: httpx.AsyncClient, store: Fragile
) -> None:
    store.is_away = True
    for name in ("lines", "search?q=x", "raw", "events"):
        response = await client.get(f"closed/log/{name}")
        assert response.status_code == 503
        assert "does not answer" in response.json()["detail"]
        assert "secret-host" not in response.text


async def test_raw_bytes_and_ranges(client: httpx.AsyncClient) -> None:
    whole = await client.get("closed/log/raw")
    assert whole.content == TEXT
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert (await client.get("closed/log/raw?start=10&end=20")).content == TEXT[10:20]
    for wanted, part in (("5-9", TEXT[5:10]), ("19000-", TEXT[19000:]), ("-7", TEXT[-7:])):
        response = await client.get("closed/log/raw", headers={"range": f"bytes={wanted}"})
        assert (response.status_code, response.content) == (206, part)
        first = TEXT.index(part) if wanted != "-7" else len(TEXT) - 7
        expected = f"bytes {first}-{first + len(part) - 1}/{len(TEXT)}"
        assert response.headers["content-range"] == expected
    for wanted in ("9999999-", "9-5", "-0"):
        response = await client.get("closed/log/raw", headers={"range": f"bytes={wanted}"})
        assert response.status_code == 416
        assert response.headers["content-range"] == f"bytes */{len(TEXT)}"
    for wanted in ("bytes=1-2,4-5", "lines=1-2", "bytes=-", "x" * 1000):
        response = await client.get("closed/log/raw", headers={"range": wanted})
        assert response.status_code == 200


async def test_a_cut_log_says_where(client: httpx.AsyncClient) -> None:
    page = (await client.get("cut/log/lines")).json()
    [notice] = [each for each in page["lines"] if each.get("notice")]
    assert "8000 bytes of output cut here" in notice["spans"][0][0]
    whole = await client.get("cut/log/raw")
    assert b"[opam-ci: 8000 bytes of output cut here" in whole.content
    inside = await client.get("cut/log/raw", headers={"range": "bytes=900-1100"})
    assert inside.status_code == 416
    before = await client.get("cut/log/raw", headers={"range": "bytes=900-949"})
    assert (before.status_code, before.content) == (206, b"0" * 50)


async def test_search_answers_with_lines(client: httpx.AsyncClient) -> None:
    response = await client.get("closed/log/search", params={"q": "LINE 1200"})
    offset = TEXT.rindex(b"\x1b[30mline 1200")
    assert response.json() == {
        "hits": [{"number": 1200, "offset": offset, "text": "line 1200"}],
        "more": False,
        "next": None,
    }
    many = (await client.get("closed/log/search", params={"q": "line"})).json()
    assert (len(many["hits"]), many["more"], many["next"]) == (1000, True, 1001)
    rest = (await client.get("closed/log/search", params={"q": "line", "from": 1001})).json()
    assert [each["number"] for each in rest["hits"]] == [*range(1001, 1201)]
    literal = (await client.get("closed/log/search", params={"q": ".*"})).json()
    assert literal["hits"] == []


async def test_events_of_a_closed_log_are_its_lines_and_its_verdict(
    client: httpx.AsyncClient,
) -> None:
    async with client.stream("GET", "closed/log/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [each async for each in events_of(response)]
    *lines, (_, name, end) = events
    numbers = [line["number"] for _, _, data in lines for line in data["lines"]]
    assert numbers == [*range(1, 1201)]
    assert name == "end"
    expected = {"verdict": "failed(test)", "closed": True, "total": 1200, "size": len(TEXT)}
    assert end == expected
    last = lines[0][0]
    async with client.stream("GET", "closed/log/events", headers={"last-event-id": last}) as again:
        resumed = [each async for each in events_of(again)]
    assert resumed == events[1:]
    bad = await client.get("closed/log/events", headers={"last-event-id": "12x"})
    assert bad.status_code == 400


async def test_a_growing_log_is_streamed_to_its_end_also_to_who_comes_back(
    client: httpx.AsyncClient, store: ArtifactStore
) -> None:
    """The buffer of the tail is 2,000 bytes: who is behind goes on from the store."""
    lines: dict[int, str] = {}

    async def follow() -> dict[str, Any]:
        last = "0"
        for _ in range(1000):
            headers = {"last-event-id": last}
            async with client.stream("GET", "open/log/events", headers=headers) as response:
                assert response.status_code == 200
                async for last, name, data in events_of(response):  # noqa: B007
                    if name == "end":
                        return data  # type: ignore[no-any-return]
                    for line in data["lines"]:
                        lines[line["number"]] = "".join(each[0] for each in line["spans"])
                    if len(lines) % 7 == 0:
                        break  # the connection is lost
        raise AssertionError

    async with LogWriter(store, "logs/open", limits=QUICK) as log:
        log.write(TEXT[:100])
        await is_stored(store, "logs/open")
        following = asyncio.create_task(follow())
        for start in range(100, len(TEXT), 300):
            log.write(TEXT[start : start + 300])
            await asyncio.sleep(0.01)
        log.write(b"no line end")
    async with asyncio.timeout(30):
        end = await following
    assert [*lines] == [*range(1, 1202)]
    assert [*lines.values()] == [*(f"line {number}" for number in range(1, 1201)), "no line end"]
    assert end == {"verdict": "", "closed": True, "total": 1201, "size": len(TEXT) + 11}


async def test_an_unfinished_line_is_shown_and_shown_again(
    client: httpx.AsyncClient, store: ArtifactStore
) -> None:
    async with LogWriter(store, "logs/open", limits=QUICK) as log:
        log.write(b"done\n10%")
        await is_stored(store, "logs/open")
        async with client.stream("GET", "open/log/events") as response:
            events = events_of(response)
            first = await anext(events)
            log.write(b"\r50%")
            second = await anext(events)
    assert [each["number"] for each in first[2]["lines"]] == [1, 2]
    assert second[2]["lines"] == [{"number": 2, "offset": 5, "spans": [["50%"]], "partial": True}]
    assert second[0] == "5"


async def test_the_log_of_a_lost_worker_ends_with_what_the_index_has(
    client: httpx.AsyncClient, store: ArtifactStore
) -> None:
    log = await LogWriter(store, "logs/open", limits=QUICK).__aenter__()
    log.write(b"last words\n")
    await is_stored(store, "logs/open")
    async with asyncio.timeout(30), client.stream("GET", "lost/log/events") as response:
        events = [each async for each in events_of(response)]
    assert events[-1][1:] == (
        "end",
        {"verdict": "errored(worker_lost)", "closed": False, "total": 1, "size": 11},
    )
    await log.__aexit__(None, None, None)


async def test_a_silent_log_keeps_the_connection(
    client: httpx.AsyncClient, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KEEP_ALIVE", timedelta(milliseconds=50))
    async with LogWriter(store, "logs/open", limits=QUICK) as log:
        log.write(b"x\n")
        await is_stored(store, "logs/open")
        async with asyncio.timeout(30), client.stream("GET", "open/log/events") as response:
            async for line in response.aiter_lines():
                if line.startswith(":"):
                    break


async def test_a_client_that_takes_nothing_is_dropped(
    views: LogViews, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SEND_TIMEOUT", timedelta(milliseconds=200))
    dropped = asyncio.Event()
    stream = module.EventStream.stream_response

    async def watched(self: module.EventStream, send: Send) -> None:
        await stream(self, send)
        dropped.set()

    monkeypatch.setattr(module.EventStream, "stream_response", watched)
    async with LogWriter(store, "logs/large") as log:
        for _ in range(400):
            log.write(b"x" * 50_000 + b"\n")
    monkeypatch.setitem(PLACES, "large", CLOSED._replace(key="logs/large"))
    async with serving(views) as client:
        port = client.base_url.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /job/large/log/events HTTP/1.1\r\nhost: x\r\n\r\n")
        received = 0
        async with asyncio.timeout(30):
            await dropped.wait()
            while data := await reader.read(1 << 20):
                received += len(data)
        writer.close()
    view = await views.view("logs/large")
    assert 0 < received < 10_000_000
    assert view.size > 20_000_000
