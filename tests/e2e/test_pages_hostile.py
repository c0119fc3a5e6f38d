"""Hostile texts in every field of index and store, shown in a real Chromium: data they stay."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from urllib.parse import quote
from xml.etree import ElementTree as ET

import httpx
import pytest
from playwright.async_api import Browser, expect

from opam_ci.clients.index import Index, Place
from opam_ci.clients.lint.findings import store_findings
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.logs.writer import LogWriter
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import (
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    LogLine,
    Outcome,
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch
from opam_ci.core.jobs.summary import JobState, JobStatus, State
from opam_ci.core.lint.finding import CheckId, LintFinding, Severity
from opam_ci.web.addresses import job_path, target_path
from opam_ci.web.site import newest_path
from tests.support.samples.markup import PAYLOADS
from tests.support.worlds import pages as world
from tests.support.worlds.browser import Watched, pages_of, watched

pytestmark = pytest.mark.e2e

HEAD = target_path(world.REPOSITORY, f"pull/{world.NUMBER}")
LOG = "logs/hostile"
CAUSES = tuple(Cause)


def test_there_are_enough_of_them() -> None:
    assert len(PAYLOADS) >= 500


def job_of(number: int, payload: str) -> Job:
    """Returns a job with hostile names, each number of another kind."""
    kinds = (JobKind.BUILD, JobKind.LINT, JobKind.REVDEP)
    kind = kinds[number % 3]
    return Job(
        platform="" if kind is JobKind.LINT else payload if number % 2 else world.PLATFORMS[0],
        package=payload,
        kind=kind,
        revdep=payload if kind is JobKind.REVDEP else None,
    )


def outcome_of(number: int, payload: str) -> Outcome:
    evidence = Evidence(
        rule=payload,
        phase=Phase.BUILD,
        lines=(LogLine(offset=number, text=payload),),
        worker=payload,
        detail=payload,
    )
    match number % 4:
        case 0:
            return Skipped(reason=SkipReason.NO_SOLUTION, evidence=evidence)
        case 1:
            return Errored(cause=CAUSES[number // 4 % len(CAUSES)], evidence=evidence)
        case _:
            return Failed(reason=FailureReason.BUILD, evidence=evidence, blame=payload)


def fill(index: Index) -> RevisionKey:
    """Writes a head with a job for each payload, and a pull request or branch for each."""
    key = world.key_of(world.NEW)
    rows = tuple(
        JobStatus(
            job=job_of(number, payload), state=JobState.DECIDED, attempt=1, worker=payload,
            outcome=outcome_of(number, payload), log=LOG, attempt_started_at=key.opened_at,
            decided_at=key.opened_at,
        )
        for number, payload in enumerate(PAYLOADS)
    )  # fmt: skip
    batches = [RowBatch(key=key, rows=rows, sequence=1, updated_at=key.opened_at)]
    for number, payload in enumerate(PAYLOADS, 1):
        other = key.model_copy(
            update={"number": number}
            if number % 4
            else {"number": None, "branch": payload, "repository": "local/clone"}
        )
        batches.append(RowBatch(key=other, rows=(), sequence=1, updated_at=key.opened_at))
    for payload, batch in zip((PAYLOADS[0], *PAYLOADS), batches, strict=True):
        at = key.opened_at + timedelta(seconds=1)
        record = RevisionRecord(
            key=batch.key, base=world.BASE, planned=True, state=State.FAILURE, title=payload,
            author=payload, updated_at=at, sequence=1,
        )  # fmt: skip
        index.record(batch.model_copy(update={"revision": record}))
    return key


async def store(artifacts: ArtifactStore, key: RevisionKey) -> None:
    async with LogWriter(artifacts, LOG) as log:
        for payload in PAYLOADS:
            log.write(payload.encode() + b"\n")
    findings = [
        LintFinding(
            package=world.PACKAGE, check=CheckId.SOURCES, severity=Severity.ERROR, message=payload,
            explanation=payload, file=payload, line=number,
        )
        for number, payload in enumerate(PAYLOADS)
    ]  # fmt: skip
    await store_findings(artifacts, key, (world.PACKAGE,), findings)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    index = Index.open(f"sqlite:///{tmp_path_factory.mktemp('index')}/index.sqlite")
    yield index
    index.close()


@pytest.fixture(scope="module")
def origin(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    artifacts = ArtifactStore.open(tmp_path_factory.mktemp("store").as_uri())
    asyncio.run(store(artifacts, fill(index)))
    with pages_of(index, artifacts) as address:
        yield address


@pytest.fixture
async def hostile(browser: Browser, origin: str) -> AsyncIterator[Watched]:
    async with watched(browser, origin) as found:
        yield found
        await found.check()


UNEXPECTED = """
() => [...document.querySelectorAll('*')].flatMap((element) =>
  [...element.attributes].filter(({ name, value }) => {
    // The viewer of logs gives itself a height and a place.
    if (name === 'style') return !element.matches('.viewer-space, .viewer-lines');
    if (name.startsWith('on') || name === 'srcdoc') return true;
    if (!['href', 'src', 'action', 'data', 'xlink:href', 'content'].includes(name)) return false;
    if (name === 'content') return element.httpEquiv !== '';
    const url = new URL(value, location.href);
    return ![location.origin, 'https://github.com'].includes(url.origin);
  }).map(({ name, value }) => `${element.tagName} ${name}=${value}`)
).concat([...document.querySelectorAll(
  'main :is(script, style, iframe, object, embed, img, link, base, meta, math, template, video)'
)].map((element) => element.outerHTML))
"""
"""What no page has, whatever was written into it."""


async def look(hostile: Watched, path: str) -> str:
    """Opens a page, and returns its text once nothing unexpected is in it."""
    response = await hostile.page.goto(hostile.origin + path)
    assert response is not None
    assert response.status < 500, path
    assert await hostile.page.evaluate(UNEXPECTED) == [], path
    await hostile.check()
    return await hostile.page.inner_text("main")


async def look_at_all(hostile: Watched, path: str) -> str:
    """Opens all pages of a list."""
    texts = [await look(hostile, path)]
    while await hostile.page.locator("a.button").count():
        following = await hostile.page.locator("a.button").get_attribute("href")
        assert following is not None
        texts.append(await look(hostile, following))
    return "".join(texts)


def as_shown(payload: str) -> str:
    """Returns what is left of a text on a page: no control characters, and single spaces."""
    return " ".join("".join(char if char.isprintable() else " " for char in payload).split())


async def test_in_lists_they_are_text(hostile: Watched) -> None:
    text = " ".join((await look_at_all(hostile, "/")).split())
    assert [each for each in PAYLOADS if as_shown(each) not in text] == []
    text = " ".join((await look_at_all(hostile, f"{HEAD}?q=")).split())
    # A name is in the title of its job, in front of what that does.
    assert len([each for each in PAYLOADS if as_shown(each) in text]) > 500
    await look_at_all(hostile, f"{HEAD}/revdeps")


async def test_on_the_page_of_a_head_they_are_text(hostile: Watched) -> None:
    text = await look(hostile, HEAD)
    assert "more causes" in text
    assert "findings" in text
    await look(hostile, "/incidents")
    assert "Is the CI well?" in await look(hostile, "/ops")


async def test_on_pages_of_jobs_they_are_text(hostile: Watched) -> None:
    shown = 0
    for number, payload in list(enumerate(PAYLOADS))[::20]:
        path = job_path(HEAD, job_of(number, payload).id)
        shown += as_shown(payload) in " ".join((await look(hostile, path)).split())
    assert shown >= 25


async def test_in_logs_they_are_text(hostile: Watched, browser: Browser, origin: str) -> None:
    path = job_path(HEAD, job_of(1, PAYLOADS[1]).id)
    await look(hostile, f"{path}#L1")
    for number in range(1, len(PAYLOADS), 40):
        await hostile.page.evaluate("(line) => { location.hash = `L${line}` }", number)
        line = hostile.page.locator(f"#log-viewer li.hit:has(a[href='#L{number}'])")
        await expect(line).to_be_in_viewport()
        assert await hostile.page.evaluate(UNEXPECTED) == []
    async with watched(browser, origin, java_script_enabled=False) as found:
        await found.open(path)
        assert await found.page.evaluate(UNEXPECTED) == []
        assert await found.page.locator(".log li").count() > 300


async def test_as_names_of_branches_they_are_text(hostile: Watched, index: Index) -> None:
    found = index.revisions(place=Place(limit=2000)).items
    branches = [each.key for each in found if each.key.branch is not None]
    assert len(branches) > 150
    for key in branches[::8]:
        await look(hostile, newest_path(key))


async def test_as_parts_of_addresses_they_are_refused_or_text(hostile: Watched) -> None:
    for payload in PAYLOADS[::60]:
        name = quote(payload, safe="")
        for path in (f"/package/{name}", f"{HEAD}?q={name}", f"/?q={name}", f"/{name}/x/pull/1"):
            await look(hostile, path)


def test_in_the_feed_they_are_text(origin: str) -> None:
    feed = ET.fromstring(httpx.get(f"{origin}/incidents.atom", trust_env=False, timeout=60).content)  # noqa: S314
    names = {each.tag.rpartition("}")[2] for each in feed.iter()}
    assert names <= {
        "feed", "id", "title", "updated", "link", "entry", "published", "author", "name", "summary"
    }  # fmt: skip
    assert len(feed.findall("{*}entry")) > 10
