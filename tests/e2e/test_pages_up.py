"""`opam-ci up`, its example built for real, and the pages that it serves, in a real Chromium.

With OPAM_CI_SCREENSHOTS=docs/pages the pages are kept as images:
`OPAM_CI_SCREENSHOTS=docs/pages ./opam-ci test tests/e2e/test_pages_up.py`.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, expect

from opam_ci.cli import debian
from opam_ci.cli.operator import example
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.web.addresses import job_path
from tests.support.ports import free_port
from tests.support.worlds.browser import Watched, watched

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

HEAD = "/local/example/heads/example"
SIZE = {"width": 1000, "height": 1250}


def path_of(package: str) -> str:
    job = Job(platform=EMBEDDED.name, package=package, kind=JobKind.BUILD)
    return job_path(HEAD, job.id)


class Up:
    """What `opam-ci up` has started.

    Attributes:
        origin: Address of its pages.
        said: What it printed.
        notes: What the last command printed to standard error.
    """

    notes = ""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._environment = os.environ | {"OPAM_CI_HOME": str(home)}
        ports = ("--port", str(free_port()), "--ui-port", str(free_port()))
        self.said = self.run("up", *ports)
        found = re.search(r"^Pages +(http://127\.0\.0\.1:\d+)$", self.said, re.MULTILINE)
        assert found is not None, self.said
        self.origin = found[1]

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "opam_ci.cli.main", *words],
            env=self._environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        self.notes = done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    if missing := debian.missing():
        pytest.skip(f"not installed: {', '.join(missing)}; `./opam-ci test` installs them")
    found = Up(tmp_path_factory.mktemp("up"))
    yield found
    found.run("down")


async def test_the_example_is_explained_to_a_stranger(up: Up, browser: Browser) -> None:
    assert f"{up.origin}{HEAD}" in up.said
    async with watched(browser, up.origin) as found:
        page = found.page
        await found.open("/")
        await page.get_by_role("link", name="local/example:example").click()
        sentence = page.get_by_role("heading", level=1)
        await expect(sentence).to_contain_text("fail")
        # The command line says the same.
        said = up.run("status", "local/example/branch-example")
        assert (await sentence.inner_text()).lstrip("✘ ").rstrip(".").lower() in said.lower()
        # Why: the compiler's own words, then the log, at that line.
        await expect(page.locator(".card.failed .evidence")).to_contain_text("Error")
        await page.locator(".card.failed").get_by_role("link", name="First log").click()
        await expect(page).to_have_url(up.origin + path_of(example.FAILS))
        await expect(page.locator("#log-viewer li.at")).to_contain_text("Error")
        await expect(page.get_by_role("button", name="Copy the script")).to_be_visible()
        # The attempt that the CI lost is there too, and is not the author's.
        await found.open(path_of(example.RECOVERS))
        await expect(sentence).to_contain_text("assed")
        await expect(page.get_by_role("row", name=re.compile("errored"))).to_have_count(1)
        await found.check()


def test_a_check_prints_the_address_of_its_page(up: Up) -> None:
    words = ("--repo", str(up.home / "example"), "--branch", example.BASE, "--base", example.BASE)
    up.run("check", *words, "--lint-only")
    address = f"{up.origin}/local/example/heads/{example.BASE}"
    assert f"page: {address}\n" in up.notes
    page = httpx.get(address, trust_env=False, timeout=60)
    assert "Nothing" in page.text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where images are kept."""
    found = Path(os.environ.get("OPAM_CI_SCREENSHOTS", tmp_path))
    found.mkdir(parents=True, exist_ok=True)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_screenshots(up: Up, browser: Browser, scheme: str, folder: Path) -> None:
    options: dict[str, Any] = {"color_scheme": scheme, "viewport": SIZE}
    async with watched(browser, up.origin, **options) as found:
        await keep(found, "/", folder / f"overview-{scheme}.png", "table")
        await keep(found, HEAD, folder / f"head-{scheme}.png", ".card.failed")
        await keep(found, path_of(example.FAILS), folder / f"job-{scheme}.png", "#log-viewer li.at")
        await keep(found, "/incidents", folder / f"incidents-{scheme}.png", "h1")


async def keep(found: Watched, path: str, file: Path, shown: str) -> None:
    """Takes an image of a page once a part of it is there, and no higher than it is read."""
    await found.open(path)
    await expect(found.page.locator(shown).first).to_be_visible()
    height = await found.page.evaluate(
        "document.querySelector('.foot').getBoundingClientRect().bottom"
    )
    clip: Any = {"x": 0, "y": 0, "width": SIZE["width"], "height": min(height, SIZE["height"])}
    image = await found.page.screenshot(path=file, clip=clip, animations="disabled")
    assert 5_000 < len(image) < 250_000
