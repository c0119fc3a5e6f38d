"""The canary's workflow: which ends are good, and what is told of the others."""

import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import activity
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from opam_ci.activities.build import BuildActivities
from opam_ci.activities.canary import CanaryActivities, CanaryResult
from opam_ci.activities.observe import AttemptBegan, AttemptEnded, ObservingInterceptor
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.build import RepositoryRef
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.records import RowBatch
from opam_ci.core.platforms.model import EMBEDDED, Platform
from opam_ci.worker import WORKFLOW_RUNNER
from opam_ci.workflows import options
from opam_ci.workflows.canary import CanaryWorkflow
from tests.support.fakes.runners import FakeRunner


class Heard:
    """Keeps what an observer hears."""

    def __init__(self) -> None:
        self.began: list[AttemptBegan] = []
        self.ended: list[AttemptEnded] = []

    def attempt_began(self, began: AttemptBegan) -> None:
        self.began.append(began)

    def attempt_ended(self, ended: AttemptEnded) -> None:
        self.ended.append(ended)

    def recorded(self, batch: RowBatch, rejudged: Sequence[JobKind]) -> None:
        raise AssertionError(batch, rejudged)


class Pool:
    """A pool of the test's own, with one worker."""

    def __init__(self, environment: WorkflowEnvironment, directory: Path) -> None:
        self.client = environment.client
        self.name = f"pool-{uuid.uuid4().hex[:8]}"
        self.runner = FakeRunner(duration=0)
        self.store = ArtifactStore.open((directory / "store").as_uri())
        self.told: list[CanaryResult] = []
        self.handled = Heard()

    @contextlib.asynccontextmanager
    async def working(self, *, builds: bool = True) -> AsyncIterator[None]:
        activities = CanaryActivities(self.store, self.told.append)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(
                Worker(
                    self.client,
                    task_queue=options.ORCHESTRATION_QUEUE,
                    workflows=[CanaryWorkflow],
                    workflow_runner=WORKFLOW_RUNNER,
                    activities=[activities.export_canary, activities.report_canary],
                )
            )
            if builds:
                await stack.enter_async_context(
                    Worker(
                        self.client,
                        task_queue=options.build_queue(self.name),
                        activities=[BuildActivities(self.runner, self.store).run_job],
                        interceptors=[ObservingInterceptor(self.name, [self.handled])],
                    )
                )
            yield

    async def run(self) -> CanaryResult:
        platform: Platform = EMBEDDED.model_copy(update={"pool": self.name})
        return await self.client.execute_workflow(
            CanaryWorkflow.run,
            platform,
            id=f"canary/{self.name}",
            task_queue=options.ORCHESTRATION_QUEUE,
        )


@pytest.fixture
def pool(environment: WorkflowEnvironment, tmp_path: Path) -> Pool:
    return Pool(environment, tmp_path)


async def test_both_verdicts_right_is_good_and_reported(pool: Pool) -> None:
    async with pool.working():
        result = await pool.run()
    assert result.finding is None
    assert pool.told == [result]
    assert {ended.outcome.kind for ended in pool.handled.ended if ended.outcome} == {
        "passed",
        "failed",
    }
    assert all(ended.is_canary and ended.is_last for ended in pool.handled.ended)
    assert [began.lost_before for began in pool.handled.began] == [False, False]


async def test_a_fault_is_the_finding_at_the_first_attempt(pool: Pool) -> None:
    pool.runner.broken = Cause.SANDBOX
    async with pool.working():
        result = await pool.run()
    assert result.finding is not None
    assert result.finding.cause is Cause.SANDBOX
    assert pool.runner.canaries == 2
    assert pool.told == [result]


async def test_a_dead_pool_is_a_finding_and_no_eternal_wait(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The time-skipping server does not skip over the time limits of activities.
    monkeypatch.setattr(options, "CANARY_TIMEOUT", timedelta(seconds=2))
    async with pool.working(builds=False):
        result = await pool.run()
    assert result.finding is not None
    assert re.search("schedule_to_(close|start) timeout", result.finding.detail)
    assert result.ended_at - result.started_at >= options.CANARY_TIMEOUT


async def test_a_store_that_is_away_is_a_finding(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(store: ArtifactStore, platform: Platform) -> RepositoryRef:
        activity.logger.info("no store %s for %s", store.url, platform.name)
        raise OSError("the store is away")

    monkeypatch.setattr("opam_ci.clients.canary.export", broken)
    async with pool.working():
        result = await pool.run()
    assert result.finding is not None
    assert "the store is away" in result.finding.detail
    assert not pool.runner.canaries
