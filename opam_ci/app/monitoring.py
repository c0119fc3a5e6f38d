"""Metrics and health of one worker process, and the endpoint for both."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from functools import partial
from typing import Any, NamedTuple

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
from opam_ci.core.platforms.model import Platform
from opam_ci.core.workers.health import Finding, HealthPolicy, WorkerState
from opam_ci.health.watch import WorkerHealth
from opam_ci.metrics.attempts import GOOD, AttemptMetrics
from opam_ci.metrics.catalog import Metrics
from opam_ci.metrics.collect import Collector
from opam_ci.metrics.health import HealthMetrics, MeteredHost
from opam_ci.metrics.server import RunnerStatus, WorkerStatus, application, parse_address, serving

_BUILT = tuple(kind for kind in JobKind if kind not in REPOSITORY_JOBS)

_log = logging.getLogger(__name__)


_BEST_FIRST = (
    WorkerState.HEALTHY,
    WorkerState.PROBATION,
    WorkerState.PROBING,
    WorkerState.QUARANTINED,
)


class _Builder(NamedTuple):
    """A runner of this process: its health, and its pools."""

    health: WorkerHealth
    pools: tuple[str, ...]

    @property
    def status(self) -> RunnerStatus:
        """Its part of the response of `/healthz`."""
        now = self.health.now
        # A fault that a probe is to explain is not `trouble` yet, but shown all the same.
        trouble = now.reason if now.state is WorkerState.PROBING else now.trouble
        return RunnerStatus(
            pools=self.pools,
            state=now.state,
            cause=trouble.cause if trouble is not None else None,
            detail=trouble.detail if trouble is not None else None,
            until=now.until,
            strikes=now.strikes,
        )


class Instruments:
    """Metrics and health of one worker process and, if it orchestrates, metrics of the system.

    Attributes:
        metrics: All metrics.
        observers: Observers of all of this process's attempts.

    Args:
        settings: Of this process, with the pools that it serves.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pools = settings.pools or ()
        self.metrics = Metrics()
        self.metrics.name_worker(identity())
        self._attempts = AttemptMetrics(self.metrics)
        self._builders: list[_Builder] = []
        self.observers: tuple[Observer, ...] = (self._attempts,)
        for pool in self._pools:
            self._attempts.declare(pool, _BUILT)
        if settings.orchestrate:
            self._attempts.declare(ORCHESTRATION_POOL, REPOSITORY_JOBS)
            self._attempts.declare_rejudged(_BUILT)
            for how in Recovery:
                self.metrics.clone_recoveries.labels(how.value)

    def watch_builds(  # noqa: PLR0913  what a runner is, needs and serves
        self,
        runner: Runner,
        store: ArtifactStore,
        needs: HostNeeds,
        platforms: Mapping[str, Platform],
        *,
        policy: HealthPolicy | None = None,
        is_ready: bool = True,
    ) -> WorkerHealth:
        """Returns the health of one runner of this process; `watching` updates it.

        Each runner has a health of its own: an engine that is broken does not stop the jobs in
        root file systems. It observes the attempts in the runner's pools alone.

        Args:
            runner: Builds the canary.
            store: For the canary's repository.
            needs: Free resources that the host must have.
            platforms: The runner's pools, each with the platform of its canary.
            policy: When to quarantine.
            is_ready: Whether the preflight has just succeeded.
        """

        async def probe() -> Finding | None:
            await runner.preflight()
            if not self._settings.canary:
                return None
            return await canary.build_good(runner, store, next(iter(platforms.values())))

        health = WorkerHealth(
            check_host=MeteredHost(self.metrics, needs).check,
            probe=probe,
            policy=policy,
            proven=is_ready and not self._settings.canary,
        )
        health.listen(HealthMetrics(self.metrics, tuple(platforms)).show)
        self._builders.append(_Builder(health, tuple(platforms)))
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
        here = WorkerStatus(worker=identity(), pools=self._pools)
        if not self._builders:
            return here
        runners = tuple(builder.status for builder in self._builders)
        best = min(runners, key=lambda each: _BEST_FIRST.index(each.state))
        return here.model_copy(update={**best.model_dump(exclude={"pools"}), "runners": runners})

    async def proven(self) -> None:
        """Waits until a runner takes jobs, or the first probe of each has ended.

        The first canary of an engine may pull an image, for which the others need not wait.
        """
        probes = {asyncio.create_task(each.health.proven()) for each in self._builders}
        try:
            while probes:
                _, probes = await asyncio.wait(probes, return_when=asyncio.FIRST_COMPLETED)
                if any(each.health.now.state is WorkerState.HEALTHY for each in self._builders):
                    return
        finally:
            for each in probes:
                each.cancel()

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Updates the health of the runners for the time of a block."""
        async with contextlib.AsyncExitStack() as stack:
            for each in self._builders:
                await stack.enter_async_context(_background(each.health.watch()))
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
