"""The log viewer in a real Chromium: lines on demand, search, addresses, and a log that grows."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest
from playwright.async_api import Browser, Route, expect

from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.writer import LogWriter
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Evidence, Failed, FailureReason, LogLine, Outcome
from opam_ci.core.jobs.records import RevisionRecord, RowBatch
from opam_ci.core.jobs.summary import JobState, JobStatus
from opam_ci.web.addresses import job_path
from tests.support.worlds import pages as world
from tests.support.worlds.browser import Watched, pages_of, watched

pytestmark = pytest.mark.e2e

HEAD = "/local/clone/heads/log"
KEY = world.key_of(world.NEW, branch="log")
LINES = 200_000
"""Taller than any screen, and more than a page may have in its document."""

WIDE = b"x" * 5_000_000


def job_of(package: str) -> Job:
    return Job(platform=world.PLATFORMS[0], package=package, kind=JobKind.BUILD)


def path_of(package: str) -> str:
    return job_path(HEAD, job_of(package).id)


def record(index: Index, package: str, outcome: Outcome | None, sequence: int = 1) -> None:
    """Writes a job with one attempt."""
    row = JobStatus(
        job=job_of(package), state=JobState.DECIDED if outcome else JobState.RUNNING, attempt=1,
        outcome=outcome, log=f"logs/{package}", started_at=KEY.opened_at,
        attempt_started_at=KEY.opened_at, decided_at=KEY.opened_at if outcome else None,
        worker="builder-1",
    )  # fmt: skip
    at = KEY.opened_at + timedelta(minutes=sequence)
    revision = RevisionRecord(
        key=KEY, base=world.BASE, planned=True, updated_at=at, sequence=sequence
    )
    batch = RowBatch(key=KEY, revision=revision, rows=(row,), sequence=sequence, updated_at=at)
    index.record(batch)


def failed(offset: int, text: str) -> Failed:
    evidence = Evidence(rule="compile-error", lines=(LogLine(offset=offset, text=text),))
    return Failed(reason=FailureReason.BUILD, evidence=evidence)


def large_log() -> tuple[bytes, int]:
    """Returns a log, and the offset of the line that says why the job failed."""
    lines = [b"line %d \x1b[32mok\x1b[0m\n" % number for number in range(1, LINES + 1)]
    lines[99_999] = b"\x1b[1;31mError: this is why\x1b[0m\n"
    lines[149_999] = WIDE + b"\n"
    lines[3] = b"\xe2\x80\xae<b>turned</b>\x1b]0;title\x07\x00\n"
    return b"".join(lines), sum(map(len, lines[:99_999]))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    index = Index.open(f"sqlite:///{tmp_path_factory.mktemp('index')}/index.sqlite")
    yield index
    index.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore.open(tmp_path_factory.mktemp("store").as_uri())


@pytest.fixture(scope="module")
def origin(index: Index, store: ArtifactStore) -> Iterator[str]:
    text, offset = large_log()
    record(index, "large.1", failed(offset, "Error: this is why"))
    record(index, "gone.1", failed(0, "gone"))

    async def write() -> None:
        async with LogWriter(store, "logs/large.1") as log:
            log.write(text)

    asyncio.run(write())
    with pages_of(index, store) as address:
        yield address


@pytest.fixture
async def viewer(browser: Browser, origin: str) -> AsyncIterator[Watched]:
    async with watched(browser, origin) as found:
        yield found
        await found.check()


async def test_it_opens_at_the_evidence_and_holds_only_what_is_in_view(viewer: Watched) -> None:
    page = viewer.page
    await viewer.open(f"{path_of('large.1')}#log")
    await expect(page.locator("#log-viewer li.at")).to_contain_text("Error: this is why")
    await expect(page.locator("#log-viewer li.at")).to_be_in_viewport()
    await expect(page.locator("#log-viewer li.at i.sgr31")).to_have_count(1)
    assert await page.locator("#log-viewer li").count() < 200
    await expect(page.locator("#log-state")).to_have_text("200,000 lines")
    await page.get_by_role("button", name="To the end").click()
    await expect(page.locator(f"#log-viewer a[href='#L{LINES}']")).to_be_in_viewport()
    await page.get_by_role("button", name="To the evidence").click()
    await expect(page.locator("#log-viewer li.at")).to_be_in_viewport()


async def test_an_address_names_lines_or_a_byte(viewer: Watched) -> None:
    page = viewer.page
    await viewer.open(f"{path_of('large.1')}#L120-122")
    await expect(page.locator("#log-viewer li.hit")).to_have_count(3)
    await expect(page.locator("#log-viewer li.hit").first).to_contain_text("line 120 ok")
    await expect(page.locator("#log-viewer li.hit").first).to_be_in_viewport()
    await page.evaluate("location.hash = '#b1048576'")
    await expect(page.locator("#log-viewer li.hit")).to_have_count(1)
    await expect(page.locator("#log-viewer li.hit")).to_be_in_viewport()
    await page.evaluate("location.hash = '#L900000'")
    await expect(page.locator("#log-state")).to_contain_text("no line 900000")


async def test_the_whole_log_is_searched(viewer: Watched) -> None:
    page = viewer.page
    await viewer.open(f"{path_of('large.1')}#L1")
    await page.get_by_role("searchbox", name="Search the whole log").fill("line 19999")
    await page.keyboard.press("Enter")
    await expect(page.locator("#log-state")).to_have_text("Hit 1 of 11")
    await expect(page.locator("#log-viewer a[href='#L19999']")).to_be_in_viewport()
    await page.get_by_role("button", name="Next hit").click()
    await expect(page.locator("#log-viewer a[href='#L199990']")).to_be_in_viewport()
    await page.get_by_role("searchbox", name="Search the whole log").fill("no such text")
    await page.keyboard.press("Enter")
    await expect(page.locator("#log-state")).to_have_text("No line has this text")


async def test_a_search_may_be_faster_than_the_log(viewer: Watched) -> None:
    async def late(route: Route) -> None:
        await asyncio.sleep(1)
        await route.continue_()

    page = viewer.page
    await page.route(re.compile(r"/lines\?"), late)
    await viewer.open(f"{path_of('large.1')}#L1")
    await page.get_by_role("searchbox", name="Search the whole log").fill("line 19999")
    await page.keyboard.press("Enter")
    await expect(page.locator("#log-state")).to_have_text("Hit 1 of 11")
    await expect(page.locator("#log-viewer a[href='#L19999']")).to_be_in_viewport()


async def test_hidden_characters_are_shown_and_long_lines_cut(viewer: Watched) -> None:
    page = viewer.page
    await viewer.open(f"{path_of('large.1')}#L4")
    await expect(page.locator("#log-viewer li.hit > span")).to_have_text("<U+202E><b>turned</b>␀")
    await page.evaluate("location.hash = '#L150000'")
    await expect(page.locator("#log-viewer li.hit > span")).to_contain_text(
        "all 5,000,001 bytes of this line"
    )
    link = await page.locator("#log-viewer li.hit > span > a").get_attribute("href")
    response = await page.request.get(f"{viewer.origin}{link}")
    assert (await response.body()).strip() == WIDE


async def test_without_scripts_the_evidence_and_the_end_are_there(
    browser: Browser, origin: str
) -> None:
    async with watched(browser, origin, java_script_enabled=False) as found:
        await found.open(path_of("large.1"))
        await expect(found.page.locator("li.at")).to_contain_text("Error: this is why")
        await expect(found.page.locator(f"a[href$='#L{LINES}']")).to_be_visible()
        assert len(await found.page.content()) < 150_000
        raw = found.page.get_by_role("link", name="The whole log as it is")
        assert await raw.get_attribute("href")


async def test_a_log_that_is_gone_says_so(viewer: Watched) -> None:
    await viewer.open(path_of("gone.1"))
    await expect(viewer.page.locator(".banner")).to_contain_text("not stored any more")


async def test_a_running_log_is_followed_to_its_verdict(
    viewer: Watched, index: Index, store: ArtifactStore
) -> None:
    page = viewer.page
    record(index, "live.1", None)
    async with LogWriter(store, "logs/live.1") as log:
        log.write(b"first\n")
        while not await store.list("logs/live.1"):  # noqa: ASYNC110 - a store has no event
            await asyncio.sleep(0.05)
        await viewer.open(f"{path_of('live.1')}#log")
        await expect(page.locator("#log-viewer")).to_contain_text("first")
        log.write(b"second\nthi")
        await expect(page.locator("#log-viewer")).to_contain_text("second")
        log.write(b"rd\n" + b"more\n" * 300 + b"last\n")
        await expect(page.locator("#log-viewer")).to_contain_text("last")
        await expect(page.locator("#log-viewer a[href='#L304']")).to_be_in_viewport()
        record(index, "live.1", failed(6, "second"), sequence=2)
    await expect(page.locator("#log-state")).to_contain_text("Ended: failed(build)")
    # The page around the log has the verdict too, and the log is where it was.
    await expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("second"))
    await expect(page.locator("#log-viewer a[href='#L304']")).to_be_in_viewport()
