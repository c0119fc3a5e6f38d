"""Fixtures of the workflow tests: a time-skipping server for most, a real one for stories."""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from opam_ci.app.connection import ensure_search_attributes
from opam_ci.cli.local import services
from opam_ci.core.github.debounce import Debounce
from opam_ci.core.jobs.requests import CheckOptions, PullRequestRef
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.workflows import options
from tests.support.fakes import github_api
from tests.support.fakes.github_stage import Stage, policy_for, staged
from tests.support.fakes.github_wire import Description
from tests.support.fakes.world import Script, World, workers
from tests.support.ports import free_port
from tests.support.worlds.github import LiveGitHub

FIRST_IDS = itertools.count(0, 10_000)

CHECKS = CheckOptions(
    retry=RetrySettings(
        initial_interval=timedelta(seconds=0.3), backoff_coefficient=1, maximum_attempts=3
    ),
    heartbeat_timeout=timedelta(seconds=5),
)

TEST_SERVER = Path(sys.executable).with_name("temporal-test-server")


@pytest.fixture
async def environment() -> AsyncIterator[WorkflowEnvironment]:
    """A server for each test: what one leaves running would stand still the clock of the next."""
    env = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=str(TEST_SERVER), data_converter=pydantic_data_converter
    )
    async with env:
        await ensure_search_attributes(env.client)
        yield env


@pytest.fixture(scope="session")
async def real_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A client to a real server, for what the time-skipping one does not bear.

    That one stops its clock for as long as any activity runs, be it one that nobody waits for any
    more: all that waits for a timer then hangs.
    """
    home = tmp_path_factory.mktemp("temporal")
    server = await asyncio.to_thread(
        services.start_temporal, home, port=free_port(), ui_port=free_port()
    )
    try:
        yield await Client.connect(server.address, data_converter=pydantic_data_converter)
    finally:
        await asyncio.to_thread(services.stop, home)


@pytest.fixture
async def real_client(real_server: Client) -> AsyncIterator[Client]:
    """The same, and nothing of a test goes on in the next one."""
    yield real_server
    for _ in range(200):
        running = [each async for each in real_server.list_workflows("ExecutionStatus='Running'")]
        if not running:
            return
        for each in running:
            with contextlib.suppress(RPCError):
                handle = real_server.get_workflow_handle(each.id)
                await handle.terminate("the test is over")
        await asyncio.sleep(0.05)
    pytest.fail("workflows cannot be ended")


@pytest.fixture
async def world(environment: WorkflowEnvironment) -> AsyncIterator[World]:
    script = Script()
    async with workers(environment.client, script):
        yield World(environment, script)


@pytest.fixture
def ref(request: pytest.FixtureRequest) -> PullRequestRef:
    """A pull request of the test's own, so that tests share a server."""
    return PullRequestRef(owner="local", repo="r", branch=request.node.name[:200])


@pytest.fixture(scope="session")
def description() -> Description | None:
    """GitHub's own description, where it is at hand: it then judges every request."""
    shared = Path(__file__).resolve().parents[2] / ".." / "shared"
    file = shared / "github" / "api.github.com-trimmed.json"
    return Description(file) if file.is_file() else None


@pytest.fixture
async def stage(
    real_client: Client,
    description: Description | None,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Stage]:
    """A stage for a story, on a real server, at which every request is judged."""
    # What takes GitHub minutes takes seconds here.
    quick = RetryPolicy(
        initial_interval=timedelta(seconds=0.2), maximum_interval=timedelta(seconds=1)
    )
    monkeypatch.setattr(options, "GITHUB_RETRY", quick)
    # Many heads within seconds; the limits have tests of their own.
    monkeypatch.setattr(github_api, "CREATIONS_A_MINUTE", 10**6)
    monkeypatch.setattr(github_api, "POINTS_A_MINUTE", 10**6)
    fake = LiveGitHub(full_name=f"ocaml/{request.node.name[:80]}")
    # The server remembers the deliveries of other stories.
    fake.counter = next(FIRST_IDS)
    policy = policy_for(checks=CHECKS, debounce=Debounce(interval=timedelta(seconds=0.3)))
    async with staged(
        real_client, fake, Script(), clones=tmp_path, policy=policy, description=description
    ) as made:
        yield made
    assert made.wire.violations == []
