"""A worker on a broken machine steps back, and its jobs are done by others."""

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from opam_ci.activities.build import BuildActivities
from opam_ci.activities.jobs import JobActivities
from opam_ci.activities.record import RecordActivities
from opam_ci.app.monitoring import Instruments
from opam_ci.app.settings import Settings
from opam_ci.cli.local import services
from opam_ci.clients.host import HostNeeds
from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.plan import PlannedJob
from opam_ci.core.jobs.requests import CheckOptions, PullRequestRef, Revision
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.jobs.summary import Counts
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.core.workers.health import Health, HealthPolicy, WorkerState
from opam_ci.health.slots import BuildSlots, MachineSlots
from opam_ci.worker import WORKFLOW_RUNNER, build_worker
from opam_ci.workflows import options
from opam_ci.workflows.platform import PlatformWorkflow
from opam_ci.workflows.states import PlatformState
from tests.support.fakes.queue import all_served
from tests.support.fakes.runners import FakeRunner
from tests.support.samples.specs import REPOSITORY

pytestmark = pytest.mark.e2e

JOBS = 40
POLICY = HealthPolicy(first_quarantine=timedelta(seconds=1))


class BuildMachine:
    """A build worker of its own identity, with a runner that can be broken."""

    def __init__(self, name: str, pool: str, home: Path) -> None:
        self.name = name
        self.pool = pool
        self.runner = FakeRunner()
        settings = Settings(home=home, pools=(pool,), orchestrate=False, canary=True)
        self.instruments = Instruments(settings)
        self.store = ArtifactStore.open(settings.store_url)
        self.health = self.instruments.watch_builds(
            self.runner,
            self.store,
            HostNeeds(home=home, free_bytes=0, free_inodes=0, memory_bytes=0),
            {pool: EMBEDDED.model_copy(update={"pool": pool})},
            policy=POLICY,
        )

    @contextlib.asynccontextmanager
    async def working(self, address: str, builds: int) -> AsyncIterator[None]:
        client = await Client.connect(
            address, data_converter=pydantic_data_converter, identity=self.name
        )
        worker = build_worker(
            client,
            self.pool,
            BuildActivities(self.runner, self.store),
            BuildSlots(self.health, MachineSlots(builds)),
            (*self.instruments.observers, self.health),
        )
        async with self.instruments.watching(), worker:
            yield

    def metrics(self) -> str:
        return generate_latest(self.instruments.metrics.registry).decode()


async def build_all(client: Client, index: Index, pool: str, jobs: int) -> Counts:
    """Has jobs built as a pull request's PlatformWorkflow does."""
    platform = EMBEDDED.model_copy(update={"pool": pool})
    retry = RetrySettings(initial_interval=timedelta(seconds=1), maximum_attempts=5)
    state = PlatformState(
        pull_request=PullRequestRef(owner="o", repo="r", number=1),
        parent=None,
        revision=Revision(
            head="1" * 40,
            base="b" * 40,
            repository="/nowhere",
            options=CheckOptions(platforms=(platform,), retry=retry),
        ),
        opened_at=datetime.now(UTC),
        name=platform.name,
        platform=platform,
        repository=REPOSITORY,
    )
    rows = [
        PlannedJob(job=Job(platform=platform.name, package=f"p{n}.1", kind=JobKind.BUILD))
        for n in range(jobs)
    ]
    index.plan(state.key, rows, round_=1, origin=None, at=state.opened_at)
    return await client.execute_workflow(
        PlatformWorkflow.run,
        state,
        id=f"health-{uuid.uuid4()}",
        task_queue=options.ORCHESTRATION_QUEUE,
    )


@contextlib.asynccontextmanager
async def fleet(
    server: services.Embedded, home: Path, *, builds: int
) -> AsyncIterator[tuple[Client, Index, list[BuildMachine]]]:
    """Three build workers on a pool of the test's own, and a worker for the workflow."""
    pool = f"fleet-{uuid.uuid4().hex[:8]}"
    client = await Client.connect(server.address, data_converter=pydantic_data_converter)
    machines = [BuildMachine(f"{n}@machine", pool, home / str(n)) for n in range(3)]
    for machine in machines:
        (home / machine.name[0]).mkdir(exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        index = Index.open(f"sqlite:///{home}/index.sqlite3")
        stack.callback(index.close)
        await stack.enter_async_context(
            Worker(
                client,
                task_queue=options.ORCHESTRATION_QUEUE,
                workflows=[PlatformWorkflow],
                workflow_runner=WORKFLOW_RUNNER,
                activities=[
                    *JobActivities(index, machines[0].store, all_served).all,
                    RecordActivities(index).record,
                ],
            )
        )
        for machine in machines:
            await stack.enter_async_context(machine.working(server.address, builds))
        yield client, index, machines


@pytest.mark.parametrize("builds", [2, 8])
async def test_fast_failing_worker_takes_a_handful_of_jobs_and_others_do_them(
    server: services.Embedded, tmp_path: Path, builds: int
) -> None:
    async with fleet(server, tmp_path, builds=builds) as (client, index, machines):
        bad, *good = machines
        await until(lambda: all(m.health.now.state is WorkerState.HEALTHY for m in machines))
        bad.runner.broken = Cause.SANDBOX
        counts = await build_all(client, index, machines[0].pool, JOBS)
        assert counts == Counts(passed=JOBS)
        # It had the chance to take far more: it answers a job within milliseconds.
        assert 1 <= len(bad.runner.ran) <= 5
        assert bad.health.now.state is WorkerState.QUARANTINED
        assert bad.instruments.status().cause is Cause.SANDBOX
        assert sum(len(machine.runner.ran) for machine in good) == JOBS
        assert all(machine.health.now.state is WorkerState.HEALTHY for machine in good)
        shown = bad.metrics()
        faults = f'opam_ci_infrastructure_faults_total{{cause="sandbox",pool="{bad.pool}"}}'
        assert f"{faults} {len(bad.runner.ran)}.0" in shown
        assert f'opam_ci_worker_trouble{{cause="sandbox",pool="{bad.pool}"}} 1.0' in shown
        assert not re.search(r"^opam_ci_package_failures_total\{.* [1-9]", shown, re.MULTILINE)
        # Repaired, it comes back by itself: first its canary, then one job, then all of them.
        bad.runner.broken = None
        await until(lambda: bad.health.now.state is WorkerState.PROBATION)
        before = len(bad.runner.ran)
        await build_all(client, index, machines[0].pool, JOBS)
        assert len(bad.runner.ran) > before
        assert bad.health.now == Health()


async def test_worker_that_fails_its_first_canary_takes_no_job_at_all(
    server: services.Embedded, tmp_path: Path
) -> None:
    pool = f"fleet-{uuid.uuid4().hex[:8]}"
    machine = BuildMachine("0@machine", pool, tmp_path)
    machine.runner.broken = Cause.IMAGE
    client = await Client.connect(server.address, data_converter=pydantic_data_converter)
    index = Index.open(f"sqlite:///{tmp_path}/index.sqlite3")
    workflows = Worker(
        client,
        task_queue=options.ORCHESTRATION_QUEUE,
        workflows=[PlatformWorkflow],
        workflow_runner=WORKFLOW_RUNNER,
        activities=[
            *JobActivities(index, machine.store, all_served).all,
            RecordActivities(index).record,
        ],
    )
    with contextlib.closing(index):
        async with workflows, machine.working(server.address, 2):
            building = asyncio.create_task(build_all(client, index, pool, 3))
            await until(lambda: machine.runner.canaries >= 2)
            assert not machine.runner.ran
            assert machine.instruments.status().state is WorkerState.QUARANTINED
            machine.runner.broken = None
            assert await building == Counts(passed=3)
            assert len(machine.runner.ran) == 3


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Waits until something is so, or fails the test."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  several objects change, none has an event
            await asyncio.sleep(0.05)
