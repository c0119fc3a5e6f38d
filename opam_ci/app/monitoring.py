"""Metrics and health of one worker process, and the endpoint for both."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from typing import Any

from temporalio.client import Client

from opam_ci.activities.canary import CanaryResult
from opam_ci.activities.observe import ORCHESTRATION_POOL, Observer
from opam_ci.app import schedules
from opam_ci.app.connection import identity
from opam_ci.app.settings import Settings
from opam_ci.clients import canary
from opam_ci.clients.git.healing import Recovery
from opam_ci.clients.host import HostNeeds
from opam_ci.clients.index.gauges import IndexGauges
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.clients.runners.base import Runner
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.summary import REPOSITORY_JOBS
from opam_ci.core.platforms.model import EMBEDDED, Platform
from opam_ci.core.workers.health import Finding, HealthPolicy, WorkerState
from opam_ci.health.watch import WorkerHealth
from opam_ci.metrics.attempts import GOOD, AttemptMetrics
from opam_ci.metrics.catalog import Metrics
from opam_ci.metrics.collect import Collector
from opam_ci.metrics.health import HealthMetrics, MeteredHost
from opam_ci.metrics.server import WorkerStatus, application, parse_address, serving

_BUILT = tuple(kind for kind in JobKind if kind not in REPOSITORY_JOBS)

_log = logging.getLogger(__name__)


def canary_platform(pool: str) -> Platform:
    """Returns the platform on which a pool's canary is built."""
    return EMBEDDED.model_copy(update={"pool": pool})


class Instruments:
    """Metrics and health of one worker process and, if it orchestrates, metrics of the system.

    Attributes:
        metrics: All metrics.
        observers: Observers of this process's attempts.

    Args:
        settings: Of this process.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.metrics = Metrics()
        self.metrics.name_worker(identity())
        self._attempts = AttemptMetrics(self.metrics)
        self._health: WorkerHealth | None = None
        self.observers: tuple[Observer, ...] = (self._attempts,)
        for pool in settings.pools:
            self._attempts.declare(pool, _BUILT)
        if settings.orchestrate:
            self._attempts.declare(ORCHESTRATION_POOL, REPOSITORY_JOBS)
            self._attempts.declare_rejudged(_BUILT)
            for how in Recovery:
                self.metrics.clone_recoveries.labels(how.value)

    def watch_builds(
        self,
        runner: Runner,
        store: ArtifactStore,
        needs: HostNeeds,
        *,
        policy: HealthPolicy | None = None,
    ) -> WorkerHealth:
        """Returns the health of this process as a build worker; `watching` updates it.

        Args:
            runner: Builds the canary.
            store: For the canary's repository.
            needs: Free resources that the host must have.
            policy: When to quarantine.
        """

        async def probe() -> Finding | None:
            await runner.preflight()
            if not self._settings.canary:
                return None
            platform = canary_platform(self._settings.pools[0])
            return await canary.build_good(runner, store, platform)

        health = WorkerHealth(
            check_host=MeteredHost(self.metrics, needs).check,
            probe=probe,
            policy=policy,
            # The caller has just run the preflight.
            proven=not self._settings.canary,
        )
        health.listen(HealthMetrics(self.metrics, self._settings.pools).show)
        self._health = health
        self.observers = (*self.observers, health)
        return health

    def canary_ended(self, result: CanaryResult) -> None:
        """Updates metrics at the end of a pool's canary."""
        self._attempts.declare_canary(result.pool)
        self._attempts.canary_ended(
            result.pool,
            result.finding.cause.value if result.finding is not None else GOOD,
            (result.ended_at - result.started_at).total_seconds(),
        )

    def status(self) -> WorkerStatus:
        """Returns the response of `/healthz`."""
        here = WorkerStatus(worker=identity(), pools=self._settings.pools)
        if self._health is None:
            return here
        now = self._health.now
        # A fault that a probe is to explain is not `trouble` yet, but shown all the same.
        trouble = now.reason if now.state is WorkerState.PROBING else now.trouble
        return here.model_copy(
            update={
                "state": now.state,
                "cause": trouble.cause if trouble is not None else None,
                "detail": trouble.detail if trouble is not None else None,
                "until": now.until,
                "strikes": now.strikes,
            }
        )

    async def proven(self) -> None:
        """Waits until a build worker's first probe has ended, with any result."""
        if self._health is not None:
            await self._health.proven()

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Updates the worker's health for the time of a block."""
        if self._health is None:
            yield
            return
        async with _background(self._health.watch()):
            yield

    @contextlib.asynccontextmanager
    async def shown(self, client: Client, sdk_url: str | None) -> AsyncIterator[None]:
        """Serves the endpoint for the time of a block, if one is configured.

        Args:
            client: To Temporal.
            sdk_url: URL of the SDK's own metrics.

        Raises:
            UsageError: The address is invalid or in use.
        """
        if not self._settings.metrics:
            yield
            return
        address = parse_address(self._settings.metrics)
        async with contextlib.AsyncExitStack() as stack:
            port = await stack.enter_async_context(
                serving(application(self.metrics, self.status, sdk_url), address)
            )
            _log.info("metrics at http://%s:%d/metrics", address[0], port)
            if self._settings.orchestrate:
                gauges = IndexGauges(self._settings.index_url)
                stack.callback(gauges.close)
                collector = Collector(
                    self.metrics, gauges.read, client, partial(schedules.pools, client)
                )
                await stack.enter_async_context(_background(collector.run()))
            yield


@contextlib.asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs a task for the time of a block; an exception that ends it early is logged at once."""
    task = asyncio.create_task(work)
    task.add_done_callback(_log_crash)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _log_crash(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a task of the worker ended by a bug", exc_info=error)
