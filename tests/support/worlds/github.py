"""A whole CI for one fake GitHub: `opam-ci serve`, a Temporal server, a remote with git."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from opam_ci.app.shutdown import PROCESS_TIMEOUT
from opam_ci.cli.local import services
from tests.support.fakes.clone import Clone, Content
from tests.support.fakes.github import FakeGitHub, private_pem
from tests.support.fakes.serving import github_with_troubles, served
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[3]


class LiveGitHub(FakeGitHub):
    """The fake with a clock that goes, can be put forward, and can be held."""

    _ahead = timedelta(0)
    _held: datetime | None = None

    @property
    def now(self) -> datetime:
        return self._held or datetime.now(UTC) + self._ahead

    @now.setter
    def now(self, _at: datetime) -> None: ...

    def advance(self, **how: float) -> None:
        self._ahead += timedelta(**how)

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """Lets everything in a block happen at the same time."""
        self._held = self.now
        try:
            yield
        finally:
            self._held = None


class GitHubWorld:
    """All parts, and ways to kill them. People act through `do`.

    Attributes:
        words: How `opam-ci serve` is started.
    """

    words: tuple[str, ...] = ("--lint-only",)

    def __init__(self, home: Path, api_url: str, fake: LiveGitHub) -> None:
        self.home = home
        self.fake = fake
        self.remote = Clone(home / "remote.git")
        self.base = self.remote.commit("master", {"packages/a/a.1/opam": opam()})
        self.port, self.pages_port = free_port(), free_port()
        self.temporal_port, self.temporal_ui = free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.kills = 0
        (home / "key.pem").write_bytes(private_pem())
        (home / "secret").write_bytes(fake.secret + b"\n")
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "OPAM_CI_HOME": str(home / "ci"),
            "OPAM_CI_TEMPORAL": f"127.0.0.1:{self.temporal_port}",
            "OPAM_CI_GITHUB_REPOSITORY": fake.full_name,
            "OPAM_CI_GITHUB_APP_ID": str(fake.app_id),
            "OPAM_CI_GITHUB_PRIVATE_KEY_FILE": str(home / "key.pem"),
            "OPAM_CI_GITHUB_WEBHOOK_SECRET_FILE": str(home / "secret"),
            "OPAM_CI_GITHUB_API_URL": api_url,
            "OPAM_CI_GITHUB_CLONE_URL": self.remote.path.as_uri(),
            "OPAM_CI_GITHUB_CHECKS": "true",
            "OPAM_CI_NETWORK_ALLOW": "127.0.0.1",
            "OPAM_CI_GITHUB_RECONCILE_INTERVAL": "PT10S",
            "OPAM_CI_GITHUB_REQUEST_TIMEOUT": "PT5S",
            "OPAM_CI_GITHUB_TEMPORAL_UI": f"http://127.0.0.1:{self.temporal_ui}",
        }
        fake.listener = self._deliver

    async def _deliver(self, headers: dict[str, str], body: bytes) -> int:
        try:
            async with httpx.AsyncClient(timeout=10) as http:
                url = f"http://127.0.0.1:{self.port}/webhook"
                return (await http.post(url, headers=headers, content=body)).status_code
        except httpx.HTTPError:
            return 0

    # The machines.

    def start_temporal(self) -> None:
        self.temporal = services.start_temporal(
            self.home / "temporal", port=self.temporal_port, ui_port=self.temporal_ui
        )

    def kill_temporal(self) -> None:
        os.kill(self.temporal.temporal_pid, signal.SIGKILL)
        self.kills += 1
        time.sleep(0.2)

    def start(self, *words: str) -> None:
        ready = self.home / f"ready-{self.kills}"
        ready.unlink(missing_ok=True)
        log = (self.home / "serve.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "opam_ci.cli.main", "serve", *self.words),
                    *("--port", str(self.port), "--pages-port", str(self.pages_port), *words),
                ],
                env=self.environment | {services.READY_FILE: str(ready)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.wait(lambda: ready.exists() or self._ended(), 90)
        if self._ended():
            pytest.fail((self.home / "serve.log").read_text()[-3000:])

    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.kills += 1

    def stop(self) -> None:
        """Stops the processes as an operator would.

        Raises:
            AssertionError: The CI did not end, or not well.
        """
        try:
            if self.process is not None and self.process.poll() is None:
                self.process.terminate()
                try:
                    self.process.wait(PROCESS_TIMEOUT.total_seconds() + 15)
                finally:
                    self.kill()
                assert self.process.returncode == 0, (self.home / "serve.log").read_text()[-5000:]
        finally:
            services.stop(self.home / "temporal")

    # The people.

    def commit(self, number: int, files: Mapping[str, Content]) -> str:
        """Pushes a head for a pull request: to the remote, as hosts keep it."""
        return self.remote.commit(f"refs/pull/{number}/head", files, parents=(self.base,))

    def do(self, act: object) -> None:
        asyncio.run(act)  # type: ignore[arg-type]  # any coroutine of the fake's

    def said(self, head: str, context: str = "opam-ci") -> str:
        all_of = self.fake.statuses.get((head, context), [])
        return f"{all_of[-1]['state']}: {all_of[-1]['description']}" if all_of else "nothing"

    def wait(self, so: Callable[[], bool], seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not so():
            if time.monotonic() > end:
                said = {
                    f"{head[:7]} {context}": self.said(head, context)
                    for head, context in list(self.fake.statuses)
                }
                log = (self.home / "serve.log").read_text()[-3000:]
                pytest.fail(f"not so after {seconds} s; GitHub has {said}\n{log}")
            time.sleep(0.1)

    def wait_said(self, head: str, words: str, context: str = "opam-ci") -> None:
        self.wait(lambda: words in self.said(head, context))


def opam(more: str = "") -> bytes:
    """An opam file that lint finds nothing wrong with."""
    return f"""opam-version: "2.0"
synopsis: "A package"
maintainer: "Someone <someone@example.org>"
authors: "Someone"
license: "ISC"
homepage: "https://example.org"
bug-reports: "https://example.org/issues"
depends: ["ocaml" {{>= "4.08"}}]
build: ["true"]
{more}
""".encode()


@contextmanager
def github_world(home: Path) -> Iterator[GitHubWorld]:
    """A world whose servers run; `start` starts the CI."""
    fake = LiveGitHub()
    with served(github_with_troubles(fake)) as url:
        world = GitHubWorld(home, url, fake)
        try:
            world.start_temporal()
            yield world
        finally:
            world.stop()
