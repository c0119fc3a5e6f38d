"""Debian's Chromium, and pages on a real port for it."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.platform_files import load_platforms
from opam_ci.web.pages import application
from opam_ci.web.site import Site
from opam_ci.web.sources import PageSources
from tests.support.fakes.serving import served

MODES: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "narrow": {"viewport": {"width": 320, "height": 640}},
    "forced": {"forced_colors": "active"},
}
"""How people look at pages, as options of a browser's context."""

expect.set_options(timeout=30_000)

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()

_VIOLATIONS = """
window.blocked = [];
addEventListener('securitypolicyviolation',
  (event) => window.blocked.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Runs the browser; without one the test is skipped."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        await browser.close()


@contextmanager
def pages_of(index: Index, store: ArtifactStore) -> Iterator[str]:
    """Serves the pages of an index and a store; yields their address."""
    url = index._engine.url.render_as_string(hide_password=False)
    sources = PageSources(index_url=url, store=store, platforms=load_platforms(None))
    try:
        with served(application(Site(sources))) as address:
            # The server opens its index at the first request.
            httpx.get(address, trust_env=False, timeout=60).raise_for_status()
            yield address
    finally:
        asyncio.run(sources.close())


@dataclass
class Watched:
    """A page, and all that it did that it must not do.

    Attributes:
        page: The page.
        origin: Where everything must come from.
        wrong: What it did.
    """

    page: Page
    origin: str
    wrong: list[str] = field(default_factory=list)

    async def check(self) -> None:
        """Fails if anything was wrong, on this page or on those before."""
        self.wrong += await self.page.evaluate("window.blocked")
        assert self.wrong == []

    async def open(self, path: str) -> None:
        await self.page.goto(self.origin + path)

    async def violations(self, *, only_of_colours: bool = False) -> list[str]:
        """Returns what axe finds, of any impact.

        Args:
            only_of_colours: Only by the rules that depend on colours.
        """
        await self.page.evaluate(AXE)
        options: dict[str, object] = {"resultTypes": ["violations"]}
        if only_of_colours:
            options["runOnly"] = ["color-contrast", "link-in-text-block"]
        found = await self.page.evaluate("(options) => axe.run(options)", options)
        return [
            f"{each['id']} ({each['impact']}): {node['html']} {node['failureSummary']}"
            for each in found["violations"]
            for node in each["nodes"]
        ]


@asynccontextmanager
async def watched(browser: Browser, origin: str, **options: Any) -> AsyncIterator[Watched]:
    """Opens a page in a context of its own."""
    context = await browser.new_context(**options)
    await context.add_init_script(_VIOLATIONS)
    page = await context.new_page()
    found = Watched(page, origin)

    async def dismiss(dialog: Any) -> None:
        found.wrong.append(f"dialog {dialog.message}")
        await dialog.dismiss()

    page.on("dialog", dismiss)
    page.on("pageerror", lambda error: found.wrong.append(f"error {error}"))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(origin) else found.wrong.append(f"request {request.url}")
        ),
    )
    try:
        yield found
    finally:
        await context.close()
