"""Fixtures of the workflow tests: one time-skipping server for all of them."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from opam_ci.connection import ensure_search_attributes
from opam_ci.core.requests import PullRequestRef
from tests.fakes.world import Script, World, workers

TEST_SERVER = Path(sys.executable).with_name("temporal-test-server")


@pytest.fixture(scope="session")
async def environment() -> AsyncIterator[WorkflowEnvironment]:
    env = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=str(TEST_SERVER), data_converter=pydantic_data_converter
    )
    async with env:
        await ensure_search_attributes(env.client)
        yield env


@pytest.fixture
async def world(environment: WorkflowEnvironment) -> AsyncIterator[World]:
    script = Script()
    async with workers(environment.client, script):
        yield World(environment, script)


@pytest.fixture
def ref(request: pytest.FixtureRequest) -> PullRequestRef:
    """A pull request of the test's own, so that tests share a server."""
    return PullRequestRef(owner="local", repo="r", branch=request.node.name[:200])
