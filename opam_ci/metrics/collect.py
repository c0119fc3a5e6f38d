"""Metrics of the whole system, read from the index and from Temporal every few seconds."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

from prometheus_client import Gauge
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError

from opam_ci.activities.observe import ORCHESTRATION_POOL
from opam_ci.clients.index.gauges import EVERY_POOL, IndexState
from opam_ci.clients.threads import INDEX
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.summary import UNDECIDED, State
from opam_ci.metrics.catalog import UNKNOWN, Metrics
from opam_ci.workflows import options

_log = logging.getLogger(__name__)

COLLECT_INTERVAL = timedelta(seconds=10)
"""Less than a usual scrape interval of 15 s, so that each scrape gets new values."""

Pools = Callable[[], Awaitable[frozenset[str]]]


class Collector:
    """Keeps the gauges of the whole system up to date.

    While a source cannot be read, its series are dropped: an old number would look current.

    Args:
        metrics: The metrics to set.
        read_index: Reads the index; blocks.
        client: To Temporal.
        pools: Returns the pools.
    """

    def __init__(
        self,
        metrics: Metrics,
        read_index: Callable[[], IndexState],
        client: Client,
        pools: Pools,
    ) -> None:
        self._metrics = metrics
        self._read_index = read_index
        self._client = client
        self._pools = pools

    async def run(self) -> None:
        """Collects until cancelled."""
        while True:
            await self.collect()
            await asyncio.sleep(COLLECT_INTERVAL.total_seconds())

    async def collect(self) -> None:
        """Collects once; a source that cannot be read is counted and logged."""
        await self._from("index", self._index)
        await self._from("temporal", self._queues)

    async def _from(self, source: str, read: Callable[[], Awaitable[None]]) -> None:
        try:
            await read()
        except (InfrastructureError, RPCError) as error:
            self._drop(source)
            self._metrics.collections.labels(source, "failed").inc()
            _log.warning("no metrics from %s: %s", source, error)
        else:
            self._metrics.collections.labels(source, "ok").inc()
            self._metrics.collected_at.labels(source).set(time.time())

    def _drop(self, source: str) -> None:
        metrics = self._metrics
        dropped: dict[str, tuple[Gauge, ...]] = {
            "index": (
                metrics.pull_requests,
                metrics.undecided,
                metrics.retries_pending,
                metrics.errored,
                metrics.incidents,
                metrics.audits,
                metrics.estimates,
            ),
            "temporal": (metrics.queue_age, metrics.queue_jobs, metrics.queue_workers),
        }
        for gauge in dropped[source]:
            gauge.clear()
        if source == "index":
            metrics.green_unbuilt.set(UNKNOWN)

    async def _index(self) -> None:
        state = await INDEX.run(self._read_index)
        metrics = self._metrics
        _set(metrics.pull_requests, {each.value: 0 for each in State} | state.pull_requests)
        _set(metrics.undecided, {each.value: 0 for each in UNDECIDED} | state.undecided)
        _set(metrics.retries_pending, {each.value: 0 for each in Cause} | state.retrying)
        _set(metrics.errored, {each.value: 0 for each in Cause} | state.errored)
        metrics.green_unbuilt.set(state.green_unbuilt)
        audits = state.audits
        same = audits.compared - audits.differed
        _set(metrics.audits, {"same": same, "other": audits.differed})
        _set(metrics.estimates, state.estimates.model_dump())
        # The pools of resolved incidents must go, so this one is made anew.
        metrics.incidents.clear()
        for cause in Cause:
            pools = state.incidents.get(cause.value) or {EVERY_POOL: 0}
            for pool, number in pools.items():
                metrics.incidents.labels(cause.value, pool).set(number)

    async def _queues(self) -> None:
        queues = {pool: options.build_queue(pool) for pool in await self._pools()}
        queues[ORCHESTRATION_POOL] = options.ORCHESTRATION_QUEUE
        for pool, queue in queues.items():
            description = await self._client.workflow_service.describe_task_queue(
                DescribeTaskQueueRequest(
                    namespace=self._client.namespace,
                    task_queue=TaskQueue(name=queue),
                    task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
                    report_stats=True,
                )
            )
            stats = description.stats
            age = stats.approximate_backlog_age.ToTimedelta().total_seconds()
            self._metrics.queue_age.labels(pool).set(age)
            self._metrics.queue_jobs.labels(pool).set(stats.approximate_backlog_count)
            self._metrics.queue_workers.labels(pool).set(
                len({poller.identity for poller in description.pollers})
            )


def _set(gauge: Gauge, values: Mapping[str, float]) -> None:
    for value, number in values.items():
        gauge.labels(value).set(number)
