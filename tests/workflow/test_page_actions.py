"""A story of buttons: what people press on a page, until GitHub shows what became of it."""

import html
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import SecretStr

from opam_ci.clients.platform_files import load_platforms
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.web.action_service import routes_beside_pages
from opam_ci.web.actions import Actions
from opam_ci.web.pages import application
from opam_ci.web.sign_in import SignIn
from opam_ci.web.site import Site
from opam_ci.web.sources import PageSources
from opam_ci.web.tokens import Tokens
from tests.support.fakes.github_oauth import FakeOAuth
from tests.support.fakes.github_stage import Stage
from tests.support.fakes.world import PASSED, for_ever
from tests.workflow.test_github import full_disk

HEAD = "1" * 40
BUILD = f"build {EMBEDDED.name} a.1"
URL = "http://127.0.0.1"


class Browser:
    """Somebody's browser: it goes to GitHub and comes back."""

    def __init__(self, stage: Stage) -> None:
        self.oauth = FakeOAuth()
        oauth = self.oauth.client()
        sources = PageSources(index_url="", store=stage.store, platforms=load_platforms(None))
        sources._index = stage.script.index.real
        actions = Actions(
            sources=sources,
            updates=stage.pull_requests,
            github=stage.github,
            sign_in=SignIn(oauth, SecretStr("a secret"), url=URL),
            tokens=Tokens(oauth),
            tracked=stage.tracked,
        )
        self.sources = sources
        site = Site(sources, acts_on=stage.tracked.repository)
        app = application(site, routes_beside_pages(site, actions))
        self.ci = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=URL)
        self.github = httpx.AsyncClient(transport=httpx.ASGITransport(app=self.oauth.app()))
        self.page = ""

    async def close(self) -> None:
        await self.ci.aclose()
        await self.github.aclose()

    async def go(self, path: str) -> str:
        """Opens a page, by way of GitHub if one is to sign in; returns its heading."""
        response = await self.ci.get(path)
        while response.is_redirect:
            to = httpx.URL(URL).join(response.headers["location"])
            there = self.github if to.host == "github.com" else self.ci
            response = await there.get(to)
        return self._heading(response)

    async def press(self) -> str:
        """Presses the button of the page; returns the heading of what follows."""
        (action,) = re.findall(
            r'<form method="post" action="(/[^"]*/(?:restart|cancel))">', self.page
        )
        found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', self.page)
        fields = {name: html.unescape(value) for name, value in found}
        headers = {"origin": URL, "sec-fetch-site": "same-origin"}
        return self._heading(await self.ci.post(action, data=fields, headers=headers))

    def link(self, text: str) -> str:
        (found,) = re.findall(rf'<a [^>]*href="([^"]*)">{re.escape(text)}', self.page)
        return html.unescape(found)

    def _heading(self, response: httpx.Response) -> str:
        self.page = response.text
        (found,) = re.findall(r"<h1>(.*?)</h1>", self.page, re.DOTALL)
        return " ".join(re.sub(r"<[^>]*>", " ", found).split())


@pytest.fixture
async def browser(stage: Stage) -> AsyncIterator[Browser]:
    made = Browser(stage)
    yield made
    await made.close()


async def test_jobs_are_restarted_and_cancelled_by_buttons(stage: Stage, browser: Browser) -> None:
    stage.script.steps[BUILD] = [*full_disk(3), for_ever]
    stage.reconfigure(author_restarts=1)
    await stage.fake.open(1, HEAD, author="alice")
    await stage.until_said(HEAD, "error")
    name = f"{stage.tracked.repository}/1"
    page = f"/{stage.tracked.repository}/pull/1"

    browser.oauth.person = "mallory"
    await browser.go(page)
    restart = browser.link("Restart errored jobs")
    assert await browser.go(restart) == "Not allowed"

    browser.ci.cookies.clear()
    browser.oauth.person = "alice"
    # The test follows from the build.
    assert await browser.go(restart) == f"2 jobs of {name} would be restarted."
    assert "Restart 2 jobs" in browser.page
    assert (BUILD, 2, 1) not in stage.script.started
    assert await browser.press() == f"2 jobs of {name} are restarted."
    await stage.until(lambda: (BUILD, 2, 1) in stage.script.started)

    await browser.go(page)
    cancel = browser.link("Cancel undecided jobs")
    assert await browser.go(cancel) == f"2 jobs of {name} would be cancelled."
    assert await browser.press() == f"2 jobs of {name} are cancelled."
    await stage.until_said(HEAD, "Stopped on request")

    # An author has restarts in an hour, and others with rights have any number.
    assert await browser.go(restart) == "Nothing was done"
    assert "an author may restart jobs 1 times an hour: repeat it after" in browser.page.lower()
    stage.fake.roles["alice"] = "triage"
    stage.script.steps[BUILD] = [PASSED]
    assert await browser.go(restart) == f"2 jobs of {name} would be restarted."
    assert await browser.press() == f"2 jobs of {name} are restarted."
    await stage.until_said(HEAD, "success")

    listed = (await browser.ci.get("/api/v1/audit")).json()["items"]
    assert [(each["login"], each["role"], each["action"], each["taken"]) for each in listed] == [
        ("alice", "triage", "restart", 2),
        ("alice", "author", "cancel", 2),
        ("alice", "author", "restart", 2),
    ]
