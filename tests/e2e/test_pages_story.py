"""One pull request from its opening to its merge, in a real Chromium, beside what GitHub has.

All parts are real but GitHub: `opam-ci serve` with webhooks, pages and sign-in, a Temporal server,
a build worker whose disk fills up, git. What it is to agree is said in `worlds/agreement.py`.
"""

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, Page, expect
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from opam_ci.cli import debian
from tests.support.fakes import opam_repository
from tests.support.fakes.github_oauth import CLIENT_ID, CLIENT_SECRET, FakeOAuth
from tests.support.fakes.serving import served
from tests.support.worlds.agreement import MAIN, Agreement
from tests.support.worlds.browser import Watched, watched
from tests.support.worlds.fleet import BROKEN, FleetWorld
from tests.support.worlds.github import LiveGitHub
from tests.support.worlds.machines import resize, small_disk

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PULL = "/ocaml/opam-repository/pull/1"
ATTEMPTS = 2
PASSED = "1 passed; analysis and lint passed"
STATIONS = {
    "failed", "building", "superseded", "retrying", "errored", "restarted", "passed", "merged"
}  # fmt: skip

# Writes until the disk is larger than at first: before that it fills up, whenever that is.
WRITES = """build: [
  "sh" "-c" "while [ $(stat -f -c %b .) -le 1400000 ]; do
    head -c 1000000 /dev/zero >> written || exit 1; sleep 0.3; done"
]
"""
LARGER = "size=6g"
ENDLESS = 'build: ["sleep" "10000"]\n'


class Story:
    """What happens to the pull request, and what is waited for.

    Attributes:
        world: All parts.
        agreement: Compares their views all the time.
        pushed: Heads by name.
    """

    def __init__(self, world: FleetWorld, disk: Path, found: Watched, agreement: Agreement) -> None:
        self.world = world
        self.agreement = agreement
        self.pushed: dict[str, str] = {}
        self._disk = disk
        self._found = found
        self._sampling: asyncio.Task[None] | None = None

    @property
    def page(self) -> Page:
        """Shows the newest head, and renews itself."""
        return self._found.page

    async def begin(self) -> None:
        """Waits for the page of the pull request, shows it, and begins to compare."""

        def is_tested() -> bool:
            url = f"{self._found.origin}{PULL}"
            return httpx.get(url, trust_env=False, timeout=60).status_code == httpx.codes.OK

        await self.until(is_tested, "the pull request has a page")
        await self._found.open(PULL)
        self._sampling = asyncio.create_task(self.agreement.run())

    async def end(self) -> None:
        """Stops comparing."""
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.gather(self._sampling, return_exceptions=True)

    async def push(self, name: str, body: str) -> None:
        """Opens the pull request, or pushes a head to it: a package with this body."""
        files = opam_repository.package("story.1", body)
        head = self.world.commit(1, {path: text.encode() for path, text in files.items()})
        fake = self.world.fake
        await (fake.push(1, head) if self.pushed else fake.open(1, head))
        self.pushed[name] = head
        self.agreement.heads.append(head)

    async def station(self, name: str, state: str, text: str, *, head: str, quiet: bool) -> None:
        """Waits until all sides agree on a state, and compares them some more.

        Args:
            name: Of the station.
            state: Of the main context.
            text: Pattern of its text.
            head: Name of the head.
            quiet: Whether nothing happens until the story goes on.
        """
        agreement, sha = self.agreement, self.pushed[head]
        agreement.station = name
        # What was seen before does not count.
        agreement.views.pop(sha, None)

        def has_come() -> bool:
            views = agreement.views.get(sha)
            if views is None or views.differences:
                return False
            is_newest = agreement.heads[-1] == sha
            if is_newest and (views.page is None or views.workflow is None):
                return False
            shown = views.api[MAIN]
            return shown[0] == state and re.fullmatch(text, shown[1]) is not None

        await self.until(has_come, f"{name}: {state}, {text}")
        if not quiet:
            return
        agreement.is_quiet = True
        before = agreement.equal[name]
        await self.until(lambda: agreement.equal[name] >= before + 2 * len(agreement.heads), name)
        agreement.is_quiet = False

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
        """Waits until something is so, or fails with what all sides show."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    if self._sampling is not None and self._sampling.done():
                        await self._sampling
                    await asyncio.sleep(0.1)
        except TimeoutError:
            views = "\n".join(f"{each}: {found}" for each, found in self.agreement.views.items())
            log = (self.world.home / "serve.log").read_text()[-2000:]
            pytest.fail(f"not so after {seconds} s: {what}\n{views}\n{log}")

    async def estimates(self) -> None:
        """Checks that the page and the command line say when the head will be done."""
        until = self.page.get_by_text(re.compile(r"^done (in|within) .* UTC$"))
        await expect(until).to_be_visible(timeout=60_000)
        assert re.search(r"^note: done (in|within) .* UTC$", await self._status(), re.MULTILINE)

    async def says_the_same(self, name: str) -> None:
        """Checks the command line: it has the text of the status, too."""
        head = self.pushed[name]
        assert f"{head[:12]}: {self.world.fake.last_status(head)[1]}\n" in await self._status()

    async def _status(self) -> str:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "opam_ci.cli.main", "status", "ocaml/opam-repository/1"],
            env=self.world.environment, capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        return done.stdout

    async def shows_as_superseded(self, name: str) -> None:
        """Checks the page of an older head in the browser, which has a link to the newest one."""
        tab = await self.page.context.new_page()
        await tab.goto(f"{self._found.origin}/ocaml/opam-repository/commit/{self.pushed[name]}")
        await expect(tab.get_by_role("heading", level=1)).to_contain_text("Stopped: a newer head")
        await tab.get_by_role("link", name="A newer head is tested").click()
        await expect(tab).to_have_url(f"{self._found.origin}{PULL}")
        await tab.close()

    async def fill_disk(self) -> None:
        """Waits for a build that writes, and takes all space away from it."""
        await self.until(lambda: bool(self._written()), "a build writes")
        await asyncio.to_thread(resize, self._disk, spare=1_000_000)

    async def repair_disk(self) -> None:
        """Gives the space back."""
        await self.until(lambda: not self._written(), "what the build wrote is removed")
        await asyncio.to_thread(resize, self._disk, spare=None)

    async def enlarge_disk(self) -> None:
        """Gives more space than there was."""
        command = ["mount", "-o", f"remount,{LARGER}", str(self._disk)]
        await asyncio.to_thread(subprocess.run, command, check=True)

    def _written(self) -> list[Path]:
        while True:
            # A directory that is removed meanwhile is one that a search does not get over.
            with contextlib.suppress(FileNotFoundError):
                return list(self._disk.glob("jobs/job-*/upper/**/written"))


@pytest.fixture
def oauth() -> FakeOAuth:
    return FakeOAuth(person="alice")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as found:
        yield found


@pytest.fixture
def world(tmp_path: Path, disk: Path, oauth: FakeOAuth) -> Iterator[FleetWorld]:
    if missing := debian.missing():
        pytest.skip(f"not installed: {', '.join(missing)}; `./opam-ci test` installs them")
    fake = LiveGitHub()
    with served(oauth.app(fake)) as url, contextlib.ExitStack() as stack:
        found = FleetWorld(tmp_path, url, fake, ATTEMPTS)
        stack.callback(found.stop)
        found.machines = found.machines[:1]
        (tmp_path / "client-secret").write_text(CLIENT_SECRET)
        found.environment |= {
            "OPAM_CI_GITHUB_CLIENT_ID": CLIENT_ID,
            "OPAM_CI_GITHUB_CLIENT_SECRET_FILE": str(tmp_path / "client-secret"),
            "OPAM_CI_GITHUB_WEB_URL": url,
            # The button is to restart what was lost, and not the CI by itself.
            "OPAM_CI_INCIDENT_PROBE": "PT15M",
        }
        found.start_temporal()
        found.start()
        found.start_machines("--builds", "1", special={0: {"OPAM_CI_CACHE": str(disk)}})
        yield found


@pytest.fixture
async def story(world: FleetWorld, disk: Path, browser: Browser) -> AsyncIterator[Story]:
    origin = f"http://127.0.0.1:{world.pages_port}"
    client = await Client.connect(
        world.environment["OPAM_CI_TEMPORAL"], data_converter=pydantic_data_converter
    )
    handle = client.get_workflow_handle("pr/ocaml/opam-repository/1")
    async with watched(browser, origin) as found:
        made = Story(world, disk, found, Agreement(world.fake, handle, origin, found.page))
        yield made
        await made.end()


async def test_what_github_has_is_what_the_page_shows(story: Story) -> None:
    fake, station = story.world.fake, story.station
    await story.push("broken", BROKEN)
    await story.begin()
    failed = "1 failed; analysis and lint passed"
    await station("failed", "failure", failed, head="broken", quiet=True)
    await story.says_the_same("broken")

    await story.push("outdated", ENDLESS)
    await station("building", "pending", "0/1 done", head="outdated", quiet=True)
    await story.estimates()
    await story.push("newest", WRITES)
    stopped = r"Stopped: a newer head is tested \(1 cancelled\)"
    await station("superseded", "pending", stopped, head="outdated", quiet=False)
    await story.shows_as_superseded("outdated")

    await story.fill_disk()
    again = r"0/1 done; 1 retry, CI fault: disk full \(attempt 2 of 2 at \d\d:\d\d UTC\)"
    await station("retrying", "pending", again, head="newest", quiet=True)
    await story.repair_disk()
    await story.fill_disk()
    lost = r"Internal CI error, not your package: disk full \(1 errored\); it is restarted .*"
    await station("errored", "error", lost, head="newest", quiet=True)
    await story.says_the_same("newest")

    await restart(await story.page.context.new_page(), story.page.url)
    await station("restarted", "pending", "0/1 done", head="newest", quiet=True)
    await story.enlarge_disk()
    await station("passed", "success", PASSED, head="newest", quiet=True)
    await story.says_the_same("newest")

    await fake.close(1, merged=True)
    await story.agreement.handle.result()
    await station("merged", "success", PASSED, head="newest", quiet=True)
    await story.end()
    story.agreement.check_order()
    # Each of them waited for equal samples of its own.
    equal = story.agreement.equal
    numbers = {name: f"{equal[name]} of {each}" for name, each in story.agreement.samples.items()}
    print(f"samples without a difference: {numbers}")  # noqa: T201
    assert set(equal) >= STATIONS
    assert all(each["status_code"] in {200, 202} for each in fake.deliveries)


async def restart(page: Page, url: str) -> None:
    """Signs in as the author, and presses the button."""
    heading = page.get_by_role("heading", level=1)
    await page.goto(url)
    await page.get_by_role("link", name="Restart errored jobs (1)…").click()
    await expect(heading).to_have_text("1 job of ocaml/opam-repository/1 would be restarted.")
    await page.get_by_role("button", name="Restart 1 job").click()
    await expect(heading).to_have_text("1 job of ocaml/opam-repository/1 is restarted.")
    await page.close()
