"""Buttons in a real Chromium: signing in, what would be done, what was done, by keyboard alone."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from opam_ci.clients.index import Index
from opam_ci.core.jobs.outcome import Cause, Errored, Evidence
from opam_ci.core.jobs.records import RevisionRecord, RowBatch
from opam_ci.core.jobs.selector import RestartUpdate
from opam_ci.web.addresses import job_name
from tests.support.fakes.ci_server import CiServer
from tests.support.fakes.command_line import DEBIAN, NOW, job, key, write
from tests.support.fakes.serving import served
from tests.support.worlds.browser import MODES, watched

pytestmark = pytest.mark.e2e

FULL = Errored(cause=Cause.DISK_FULL, evidence=Evidence(rule="enospc", worker="w1"))
PULL = "/o/r/pull/7"
WRONG = f"/o/r/commit/{7:040x}/job/{job_name(f'build {DEBIAN} a.1')}/wrong-verdict"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CiServer]:
    """A server with a pull request of alice's, who sits before the browser."""
    made = CiServer(tmp_path)
    write(made.index, key(7), (job("a.1"), FULL))
    record = RevisionRecord(key=key(7), base="b", author="alice", updated_at=NOW, sequence=2)
    made.index.record(RowBatch(key=key(7), revision=record, rows=(), sequence=2, updated_at=NOW))
    yield made
    made.close()


@pytest.fixture
def origin(server: CiServer) -> Iterator[str]:
    with served(server.oauth.app()) as github, server.running() as origin:
        server.sign_in._oauth = server.oauth.client(github)
        server.sign_in.origin = origin
        yield origin


async def test_somebody_signs_in_and_restarts_by_keyboard_alone(
    server: CiServer, origin: str, browser: Browser
) -> None:
    # Scripts are off: nothing of this needs any.
    async with watched(browser, origin, java_script_enabled=False) as found:
        page = found.page
        await found.open(PULL)
        await page.get_by_role("link", name="Restart errored jobs (1)…").press("Enter")
        await page.wait_for_url(f"{origin}{PULL}/restart?which=errored")
        await expect(page.get_by_role("heading", level=1)).to_have_text(
            "3 jobs of o/r/7 would be restarted."
        )
        assert all(update.preview for _, update in server.workflows.updates)
        await page.get_by_role("button", name="Restart 3 jobs").press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text(
            "3 jobs of o/r/7 are restarted."
        )
        (_, update) = server.workflows.updates[-1]
        assert isinstance(update, RestartUpdate)
        assert (update.preview, update.selector.head) == (False, f"{7:040x}")
        cookies = await page.context.cookies(origin)
        assert {(each["name"], each["httpOnly"], each["sameSite"]) for each in cookies} == {
            ("opam-ci", True, "Lax")
        }
        await page.get_by_role("button", name="Sign out").press("Enter")
        await page.wait_for_url(f"{origin}/")
        assert await page.context.cookies(origin) == []


async def test_another_site_presses_nothing(
    server: CiServer, origin: str, browser: Browser
) -> None:
    """A page of somebody else's knows the form, and even what it must bring back."""
    async with watched(browser, origin, java_script_enabled=False) as found:
        page = found.page
        await found.open(f"{PULL}/restart?which=errored")
        token = await page.locator("input[name=token]").get_attribute("value")
        server.workflows.updates.clear()
        evil = await page.context.new_page()
        await evil.route(
            "http://localhost/*",
            lambda route: route.fulfill(
                content_type="text/html",
                body=f'<form method="post" action="{origin}{PULL}/restart">'
                f'<input name="token" value="{token}"><input name="which" value="errored">'
                "<button>win</button></form>",
            ),
        )
        await evil.goto("http://localhost/")
        await evil.get_by_role("button").click()
        # The cookie does not come with it; if it did, the site would be told apart.
        await expect(evil.get_by_role("heading", level=1)).to_have_text("Sign in first")
        assert server.workflows.updates == []


@pytest.mark.parametrize("mode", MODES)
async def test_everybody_can_read_and_press(
    server: CiServer, origin: str, browser: Browser, mode: str
) -> None:
    server.github.roles["alice"] = "triage"
    async with watched(browser, origin, bypass_csp=True, **MODES[mode]) as found:
        for path in (f"{PULL}/restart?which=errored", WRONG, PULL):
            await found.open(path)
            assert await found.violations() == [], path
            wide = await found.page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert wide == 0, f"{path} scrolls sideways"


async def test_the_policy_of_pages_lets_a_report_through(
    server: CiServer, origin: str, browser: Browser
) -> None:
    server.github.roles["alice"] = "triage"
    async with watched(browser, origin) as found:
        page = found.page
        await found.open(WRONG)
        await page.get_by_label("It should be").select_option("failed(build)")
        await page.get_by_label("Why").fill("<b>ours</b>")
        await page.get_by_role("button", name="Keep the log").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text(
            "Thank you: the log is kept."
        )
        # Of the sign-in, and of nothing else.
        found.wrong = [each for each in found.wrong if "/login/oauth/authorize" not in each]
        await found.check()
    reports = await asyncio.to_thread(Index.wrong_verdicts, server.index)
    assert [each.comment for each in reports.items] == ["<b>ours</b>"]
