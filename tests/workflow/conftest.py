"""Fixtures of the workflow tests: one time-skipping server for all of them."""

import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from opam_ci.connection import ensure_search_attributes
from opam_ci.core.requests import PullRequestRef
from opam_ci.worker import WORKFLOW_RUNNER
from opam_ci.workflows import options
from opam_ci.workflows.platform import PlatformWorkflow
from opam_ci.workflows.pull_request import PullRequestWorkflow
from tests.fakes.world import Script, World

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
    async with (
        Worker(
            environment.client,
            task_queue=options.ORCHESTRATION_QUEUE,
            workflows=[PullRequestWorkflow, PlatformWorkflow],
            workflow_runner=WORKFLOW_RUNNER,
            activities=[script.analyse, script.lint, script.record],
            max_heartbeat_throttle_interval=timedelta(seconds=1),
        ),
        Worker(
            environment.client,
            task_queue=options.build_queue("linux-amd64"),
            activities=[script.run_job],
            max_heartbeat_throttle_interval=timedelta(seconds=1),
        ),
    ):
        yield World(environment, script)


@pytest.fixture
def ref(request: pytest.FixtureRequest) -> PullRequestRef:
    """A pull request of the test's own, so that tests share a server."""
    return PullRequestRef(owner="local", repo="r", branch=request.node.name[:200])
