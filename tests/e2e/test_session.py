"""`check` beside a build worker that is there and takes no jobs yet."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client

from opam_ci.app.connection import connect, has_pollers, served
from opam_ci.app.settings import Settings
from opam_ci.cli.author.check import with_workers
from opam_ci.cli.local import services, session, system
from opam_ci.core.errors import UsageError
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.workflows import options
from tests.e2e.test_worker_health import BuildMachine

pytestmark = pytest.mark.e2e


class Proving:
    """A build worker in its first probe, and what a check that begins meanwhile does.

    Attributes:
        end: Ends the probe, well.
        told: What the check tells.
        started: Pools of workers that it starts itself.
    """

    def __init__(self, server: services.Embedded, home: Path) -> None:
        self.settings = Settings(home=home, temporal=server.address)
        self.pool = f"proving-{uuid.uuid4().hex[:8]}"
        self.end = asyncio.Event()
        self.told: list[str] = []
        self.on_told: Callable[[], None] = lambda: None
        self.started: list[str] = []

    @property
    def queue(self) -> str:
        return options.build_queue(self.pool)

    @asynccontextmanager
    async def running(
        self, settings: Settings, _client: Client, **_: object
    ) -> AsyncIterator[None]:
        """Stands for the workers in the check's own process."""
        self.started += settings.pools or ()
        yield

    def tell(self, words: str) -> None:
        self.told.append(words)
        self.on_told()

    @asynccontextmanager
    async def worker(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
        async def preflight() -> None:
            await self.end.wait()

        machine = BuildMachine("0@machine", self.pool, self.settings.home)
        monkeypatch.setattr(machine.runner, "preflight", preflight)
        monkeypatch.setattr(session, "running", self.running)
        monkeypatch.setattr(system, "require", lambda: None)
        client = await connect(self.settings)
        async with machine.working(self.settings.temporal, 1):
            async with asyncio.timeout(30):
                while not await served(client, self.queue):  # noqa: ASYNC110  the server says nothing by itself
                    await asyncio.sleep(0.05)
            assert not await has_pollers(client, self.queue)
            yield client

    @asynccontextmanager
    async def check(self) -> AsyncIterator[None]:
        pools = frozenset({self.pool})
        address = self.settings.temporal
        async with session.working(self.settings, temporal=address, pools=pools, report=self.tell):
            yield


async def test_it_reports_and_waits_for_a_worker_that_does_not_poll_yet(
    server: services.Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proving = Proving(server, tmp_path)
    proving.on_told = proving.end.set
    async with proving.worker(monkeypatch) as client, proving.check():
        assert await has_pollers(client, proving.queue)
    assert proving.told[0].startswith(f"waiting for the worker of pool {proving.pool} at ")
    assert proving.started == []


async def test_it_waits_for_a_limited_time_and_then_builds_itself(
    server: services.Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_FIRST_CANARY_TIMEOUT", timedelta(seconds=1))
    proving = Proving(server, tmp_path)
    async with proving.worker(monkeypatch), proving.check():
        assert proving.started == [proving.pool]
    assert "the worker still takes no jobs: see its log and /healthz" in proving.told


async def test_it_does_not_wait_without_a_worker(
    server: services.Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proving = Proving(server, tmp_path)
    monkeypatch.setattr(session, "running", proving.running)
    monkeypatch.setattr(system, "require", lambda: None)
    async with proving.check():
        assert proving.started == [proving.pool]
    assert not [words for words in proving.told if "waiting" in words]


async def test_a_worker_that_does_not_poll_yet_counts_as_a_worker_of_its_pool(
    server: services.Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proving = Proving(server, tmp_path)
    async with proving.worker(monkeypatch) as client:
        here = EMBEDDED.model_copy(update={"pool": proving.pool})
        gone = EMBEDDED.model_copy(update={"pool": f"no-{proving.pool}", "ocaml": "4.14"})
        either = gone.model_copy(update={"otherwise": (here,)})
        assert await with_workers(client, (here, gone), frozenset()) == (here, gone)
        assert await with_workers(client, (either,), frozenset()) == (here,)
        with pytest.raises(UsageError, match=r"no worker builds for the pool no-.* \(why\): run"):
            await with_workers(client, (gone,), frozenset(), {gone.pool: "why"})
