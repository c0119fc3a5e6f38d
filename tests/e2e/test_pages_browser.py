"""Pages in a real Chromium: read by people in every mode, by keyboard, without scripts, live."""

import asyncio
import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from playwright.async_api import Browser, expect

from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Evidence, Passed
from opam_ci.core.jobs.records import RevisionRecord, RowBatch
from opam_ci.core.jobs.summary import JobState, JobStatus, State
from opam_ci.web.addresses import job_path
from tests.support.worlds import pages as world
from tests.support.worlds.browser import MODES, pages_of, watched

pytestmark = pytest.mark.e2e

HEAD = f"/{world.REPOSITORY}/pull/{world.NUMBER}"
FAILED = Job(platform=world.PLATFORMS[0], package=world.PACKAGE, kind=JobKind.BUILD)
RECOVERED = Job(platform=world.PLATFORMS[2], package=world.PACKAGE, kind=JobKind.TEST)
JOB = job_path(HEAD, FAILED.id)
PATHS = (
    "/",
    HEAD,
    f"{HEAD}?q=is:failed",
    f"{HEAD}?q=nonsense:",
    f"{HEAD}/revdeps",
    f"/{world.REPOSITORY}/commit/{world.OLD[:8]}",
    JOB,
    job_path(HEAD, RECOVERED.id),
    "/package/cppo",
    "/platforms",
    "/incidents",
    "/ops",
    "/unknown/repository/pull/1",
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    index = Index.open(f"sqlite:///{tmp_path_factory.mktemp('index')}/index.sqlite")
    yield index
    index.close()


@pytest.fixture(scope="module")
def origin(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = ArtifactStore.open(tmp_path_factory.mktemp("store").as_uri())
    asyncio.run(world.store_logs(store, world.fill(index)))
    with pages_of(index, store) as address:
        yield address


@pytest.mark.parametrize("mode", MODES)
async def test_everybody_can_read_every_page(browser: Browser, origin: str, mode: str) -> None:
    # axe is a script of the test's, which the pages' own policy would not let run.
    async with watched(browser, origin, bypass_csp=True, **MODES[mode]) as found:
        for path in PATHS:
            await found.open(path)
            # The same document in other colours has the same structure.
            colours = mode in {"dark", "forced"}
            assert await found.violations(only_of_colours=colours) == [], path
            wide = await found.page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert wide == 0, f"{path} scrolls sideways"


async def test_the_pages_keep_their_own_policy(browser: Browser, origin: str) -> None:
    async with watched(browser, origin) as found:
        for path in PATHS:
            await found.open(path)
            await found.check()


async def test_a_story_by_keyboard_alone(browser: Browser, origin: str) -> None:
    async with watched(browser, origin) as found:
        page, keys = found.page, found.page.keyboard
        await found.open("/")
        await keys.press("j")
        await keys.press("Enter")
        await expect(page).to_have_url(origin + HEAD)
        # Past the incident, and both causes of the CI, to the one that the author can mend.
        link = page.get_by_role("link", name="2 jobs failed")
        for _ in range(10):
            await keys.press("j")
            if await link.evaluate("(link) => link === document.activeElement"):
                break
        await keys.press("j")
        await keys.press("k")
        await expect(link).to_be_focused()
        await keys.press("Enter")
        await expect(page.get_by_role("row")).to_have_count(3)
        await keys.press("/")
        await expect(page.get_by_role("searchbox")).to_be_focused()
        await keys.press("Control+a")
        await keys.type("is:errored")
        await keys.press("Enter")
        await expect(page.get_by_role("cell", name="errored")).to_be_visible()
        await keys.press("?")
        await expect(page.get_by_role("dialog")).to_be_visible()
        await keys.press("Escape")
        await expect(page.get_by_role("dialog")).to_be_hidden()
        await keys.press("j")
        await keys.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_contain_text("disk full")
        await found.check()


async def test_the_page_follows_the_index_without_a_reload(
    browser: Browser, origin: str, index: Index
) -> None:
    key = world.key_of("c" * 40, branch="live")
    job = Job(platform=world.PLATFORMS[0], package="a.1", kind=JobKind.BUILD)

    def record(minutes: int, row: JobStatus, state: State) -> None:
        at = key.opened_at + timedelta(minutes=minutes)
        revision = RevisionRecord(
            key=key, base=world.BASE, planned=True, state=state, updated_at=at, sequence=minutes
        )
        batch = RowBatch(key=key, revision=revision, rows=(row,), sequence=minutes, updated_at=at)
        index.record(batch)

    record(1, JobStatus(job=job), State.PENDING)
    async with watched(browser, origin) as found:
        page = found.page
        await page.clock.install()
        answers: list[int] = []
        page.on("response", lambda response: answers.append(response.status))
        await found.open("/local/clone/heads/live")
        await expect(page.get_by_role("heading", level=1)).to_contain_text("0")
        await page.evaluate("window.same = true")
        await page.get_by_role("link", name="1", exact=True).focus()
        for _ in range(2):
            async with page.expect_response("**/heads/live"):
                await page.clock.fast_forward(6000)
        assert answers[-1] == 304
        passed = Passed(evidence=Evidence(rule="installed"))
        done = JobStatus(
            job=job, state=JobState.DECIDED, attempt=1, outcome=passed, decided_at=key.opened_at
        )
        record(2, done, State.SUCCESS)
        async with page.expect_response("**/heads/live"):
            await page.clock.fast_forward(6000)
        await expect(page.get_by_role("heading", level=1)).to_contain_text("passed")
        assert await page.evaluate("window.same")
        await expect(page.get_by_role("link", name="1", exact=True).first).to_be_focused()
        await found.check()


async def test_everything_is_there_without_scripts(browser: Browser, origin: str) -> None:
    async with watched(browser, origin, java_script_enabled=False) as found:
        page = found.page
        await found.open(HEAD)
        await page.get_by_role("link", name="2 jobs failed").click()
        await page.get_by_role("link", name=FAILED.title).first.click()
        await expect(page.get_by_role("heading", level=1)).to_contain_text("Unbound value")
        await expect(page.get_by_role("heading", name="Attempts")).to_be_visible()


async def test_a_filter_that_does_not_parse_can_be_mended(browser: Browser, origin: str) -> None:
    async with watched(browser, origin) as found:
        page = found.page
        await found.open(f"{HEAD}?q=si:failed")
        await expect(page.get_by_role("heading", level=1)).to_have_text("This cannot be listed")
        await page.get_by_role("searchbox").fill("is:failed")
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(re.compile(r"q=is%3Afailed$"))
        assert await page.get_by_role("row").count() > 2


async def test_nothing_moves_for_those_who_want_that(browser: Browser, origin: str) -> None:
    async with watched(browser, origin, reduced_motion="reduce") as found:
        await found.open(HEAD)
        assert await found.page.evaluate("document.getAnimations().length") == 0
