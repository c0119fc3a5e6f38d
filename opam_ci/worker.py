"""The composition root: from settings to running Temporal workers."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from temporalio.client import Client
from temporalio.worker import PollerBehaviorSimpleMaximum, UnsandboxedWorkflowRunner, Worker

from opam_ci.activities.backup_heartbeats import BACKUP_HEARTBEATS
from opam_ci.activities.build import BuildActivities
from opam_ci.activities.canary import CanaryActivities
from opam_ci.activities.images import ImageActivities
from opam_ci.activities.incidents import IncidentActivities
from opam_ci.activities.jobs import JobActivities
from opam_ci.activities.observe import ORCHESTRATION_POOL, Observer, ObservingInterceptor
from opam_ci.activities.record import RecordActivities
from opam_ci.activities.repository import RepositoryActivities
from opam_ci.activities.result_buffer import ResultBuffer
from opam_ci.activities.retention import RetentionActivities
from opam_ci.app.connection import LONG_RETRY, connect, ensure_search_attributes, identity
from opam_ci.app.monitoring import Instruments
from opam_ci.app.runners import make_runner, with_pools
from opam_ci.app.schedules import ensure_canary, ensure_retention, served_pools
from opam_ci.app.settings import Settings
from opam_ci.app.shutdown import polling, stop_on_signal
from opam_ci.clients import programs
from opam_ci.clients.index import Index
from opam_ci.clients.lint.opam import OpamLint
from opam_ci.clients.lint.program import HostProgram, RootProgram
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.platform_files import load_platforms
from opam_ci.clients.runners.cache.failures import failure_store
from opam_ci.clients.runners.containers.registry import ImageResolver
from opam_ci.clients.runners.sandbox.locks import temporary_files_in
from opam_ci.clients.threads import INDEX
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.platforms.model import Platform, Runner
from opam_ci.core.platforms.select import canary_platform
from opam_ci.health.slots import BuildSlots, MachineSlots, tuner
from opam_ci.metrics.telemetry import runtime_with_metrics
from opam_ci.workflows import options
from opam_ci.workflows.base_branch import BaseBranchWorkflow
from opam_ci.workflows.canary import CanaryWorkflow
from opam_ci.workflows.delivery import DeliveryWorkflow, ReconcileWorkflow
from opam_ci.workflows.health import HealthWorkflow
from opam_ci.workflows.incidents import IncidentWorkflow
from opam_ci.workflows.platform import PlatformWorkflow
from opam_ci.workflows.pull_request import PullRequestWorkflow
from opam_ci.workflows.retention import RetentionWorkflow

_log = logging.getLogger(__name__)

GRACEFUL_SHUTDOWN_TIMEOUT = timedelta(seconds=10)
"""How long a stopping worker waits for activities before it cancels them: a build takes
minutes, so it is retried by another worker instead."""

WORKFLOW_RUNNER = UnsandboxedWorkflowRunner()
"""Without Temporal's sandbox, which costs 0.1 s a workflow and some 50 µs a payload and protects
nothing in modules that are passed through, as ours must be. Its purpose, deterministic workflow
code, is ensured by import contracts, by a test that reads the code (tests/unit/test_house.py) and
by the replay of recorded histories."""

WORKFLOWS = [
    PullRequestWorkflow,
    PlatformWorkflow,
    IncidentWorkflow,
    CanaryWorkflow,
    DeliveryWorkflow,
    ReconcileWorkflow,
    HealthWorkflow,
    BaseBranchWorkflow,
    RetentionWorkflow,
]
"""All workflows."""

HEARTBEAT_THROTTLE = timedelta(seconds=1)
"""Responses to heartbeats carry cancellations, so they are sent every second and not, as by
default, at 80 % of the heartbeat timeout: a cancelled build must end within 5 seconds."""


def make_lint(
    settings: Settings, on_progress: Callable[[str], None], *, check_upstream: bool = False
) -> OpamLint:
    """Returns the `opam lint` of this machine.

    Args:
        settings: Of this process.
        on_progress: Receives progress messages while a root file system is made for it.
        check_upstream: Whether it downloads archives and compares their checksums.
    """
    program = (
        RootProgram(settings.cache, on_progress)
        if settings.lint_opam is None
        else HostProgram(settings.lint_opam)
    )
    return OpamLint(program, check_upstream=check_upstream)


def orchestration_worker(
    client: Client, activities: Sequence[Callable[..., Any]], observers: Sequence[Observer]
) -> Worker:
    """Returns the worker of workflows, and of activities on repository, index and GitHub."""
    worker = Worker(
        client,
        task_queue=options.ORCHESTRATION_QUEUE,
        workflows=WORKFLOWS,
        workflow_runner=WORKFLOW_RUNNER,
        activities=activities,
        interceptors=[ResultBuffer(), ObservingInterceptor(ORCHESTRATION_POOL, observers)],
        max_concurrent_activities=8,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        default_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=GRACEFUL_SHUTDOWN_TIMEOUT,
    )
    return BACKUP_HEARTBEATS.register(worker)


def build_worker(
    client: Client,
    pool: str,
    jobs: BuildActivities,
    slots: BuildSlots,
    observers: Sequence[Observer],
) -> Worker:
    """Returns the worker that builds for a pool."""
    worker = Worker(
        client,
        task_queue=options.build_queue(pool),
        activities=[jobs.run_job],
        # A build queue has no workflow tasks. Polling for them tells the server that the pool has
        # a worker while it takes no jobs (`app.connection.served`).
        workflows=[CanaryWorkflow],
        workflow_runner=WORKFLOW_RUNNER,
        max_cached_workflows=0,
        workflow_task_poller_behavior=PollerBehaviorSimpleMaximum(1),
        interceptors=[ResultBuffer(), ObservingInterceptor(pool, observers)],
        tuner=tuner(slots),
        # A pending poll cannot be withdrawn when the worker is quarantined, so there is only
        # one: it fetches a job in milliseconds.
        activity_task_poller_behavior=PollerBehaviorSimpleMaximum(1),
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        default_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=GRACEFUL_SHUTDOWN_TIMEOUT,
    )
    return BACKUP_HEARTBEATS.register(worker)


def _log_root(message: str) -> None:
    _log.info("root file system: %s", message)


def canary_platforms(settings: Settings) -> dict[str, Platform]:
    """Returns the pools that this worker serves, each with the platform of its canary.

    Raises:
        UsageError: The file of platforms is invalid, or has no such pool.
    """
    table = load_platforms(settings.platforms)
    return {pool: canary_platform(table, pool) for pool in settings.pools or ()}


async def _builders(
    settings: Settings,
    client: Client,
    store: ArtifactStore,
    instruments: Instruments,
    on_progress: Callable[[str], None],
) -> list[Worker]:
    """Returns a worker for each pool, after a preflight of the runners that they need.

    A machine that can build with one of them builds with that one; the others are quarantined.
    """
    by_runner: dict[Runner, dict[str, Platform]] = {}
    for pool, platform in canary_platforms(settings).items():
        by_runner.setdefault(platform.runner, {})[pool] = platform
    runners = {kind: make_runner(kind, settings, store) for kind in by_runner}
    for runner in runners.values():
        await runner.require()
    _log.info("serving the pools %s", ", ".join(settings.pools or ()))
    faults: dict[Runner, InfrastructureError] = {}
    for kind, runner in runners.items():
        try:
            if swept := await runner.sweep():
                _log.info("removed %d job roots that a killed worker left", swept)
            await runner.prepare(on_progress)
            await runner.preflight()
        except InfrastructureError as error:
            faults[kind] = error
            if len(faults) == len(runners):
                raise
            _log.warning("this machine cannot build with its %s runner: %s", kind, error)
    machine, running = MachineSlots(settings.builds), asyncio.Semaphore(settings.builds)
    workers = []
    for kind, platforms in by_runner.items():
        runner = runners[kind]
        health = instruments.watch_builds(
            runner, store, runner.needs, platforms, is_ready=kind not in faults
        )
        jobs = BuildActivities(runner, store, running, failure_store(settings.cache))
        observers = (*instruments.observers, health)
        workers += [
            build_worker(client, pool, jobs, BuildSlots(health, machine), observers)
            for pool in platforms
        ]
    return workers


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
    client: Client,
    instruments: Instruments | None = None,
    *,
    on_progress: Callable[[str], None] = _log_root,
) -> AsyncIterator[Sequence[Worker]]:
    """Runs this process's workers for the time of a block.

    Args:
        settings: Of this process.
        client: Connected.
        instruments: Metrics and health, made from the same settings; by default private ones,
            without a canary: a one-off check must not wait for one.
        on_progress: Receives progress messages while a root file system is made.

    Raises:
        UsageError: This machine lacks programs that builds need, or the store refuses it.
        InfrastructureError: This machine cannot build (preflight), or a store is unavailable.
    """
    settings = await with_pools(settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    store = ArtifactStore.open(settings.store_url)
    await store.require()
    if instruments is None:
        instruments = Instruments(settings.model_copy(update={"canary": False}))
    async with contextlib.AsyncExitStack() as stack:
        workers: list[Worker] = []
        builders: list[Worker] = []
        if settings.pools:
            builders = await _builders(settings, client, store, instruments, on_progress)
        if settings.orchestrate:
            if absent := programs.missing({"git": "git", "setpriv": "util-linux"}):
                raise UsageError(absent)
            lint = make_lint(settings, on_progress)
            await lint.program.require()
            # Workflows set them, so they must exist before workflows run.
            await ensure_search_attributes(client)
            index = await INDEX.run(Index.open, settings.index_url)
            stack.callback(index.close)
            repository = RepositoryActivities(
                store,
                lint,
                settings.clones,
                limits=settings.change_limits,
                on_recovery=instruments.metrics.clone_recovered,
            )
            listed = JobActivities(index, store, partial(served_pools, client))
            incidents = IncidentActivities(index)
            canary = CanaryActivities(store, instruments.canary_ended)
            activities: list[Callable[..., Any]] = [
                repository.analyse,
                repository.look_at_base,
                repository.lint,
                repository.find_effect,
                ImageActivities(ImageResolver(engine=settings.container_command)).pin_image,
                RecordActivities(index, settings.incident_intervals).record,
                *listed.all,
                incidents.look_at_incident,
                incidents.resolve_incident,
                canary.export_canary,
                canary.report_canary,
                RetentionActivities(index, store).prune,
            ]
            workers.append(orchestration_worker(client, activities, instruments.observers))
        workers += builders
        await stack.enter_async_context(instruments.watching())
        await stack.enter_async_context(polling(workers))
        yield workers


@contextlib.asynccontextmanager
async def measured(settings: Settings) -> AsyncIterator[tuple[Client, Instruments]]:
    """Runs this process's workers for the time of a block, with metrics and canaries.

    Yields:
        A client, and the instruments of this process.

    Raises:
        UsageError: Temporal is unavailable, the address for metrics is in use, or the store
            refuses this machine.
        InfrastructureError: This machine cannot build, or a store is unavailable.
    """
    settings = await with_pools(settings)
    canaries = canary_platforms(settings)
    runtime, sdk_url = runtime_with_metrics() if settings.metrics else (None, None)
    client = await connect(settings, runtime=runtime, retry=LONG_RETRY)
    instruments = Instruments(settings)
    async with (
        temporary_files_in(settings.home / "scratch"),
        running(settings, client, instruments),
        instruments.shown(client, sdk_url),
    ):
        for platform in canaries.values():
            await ensure_canary(client, platform, runs=settings.canary)
        if settings.orchestrate:
            await ensure_retention(client, settings.retention_days)
        yield client, instruments


async def serve(settings: Settings, *, ready: Callable[[], Any] = lambda: None) -> None:
    """Runs workers until the process gets SIGTERM or SIGINT.

    Args:
        settings: Of this process.
        ready: Called once the workers take jobs, or a first probe has found why they must not.

    Raises:
        UsageError: Temporal is unavailable.
        InfrastructureError: This machine cannot build.
    """
    stop = stop_on_signal()
    async with measured(settings) as (_, instruments):
        _log.info("worker %s polls %s", identity(), settings.temporal)
        stopped = asyncio.create_task(stop.wait())
        proven = asyncio.create_task(instruments.proven())
        await asyncio.wait((stopped, proven), return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            ready()
        proven.cancel()
        await stopped
        _log.info("stopping: running builds return to the queue")
