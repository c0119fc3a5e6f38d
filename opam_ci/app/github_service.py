"""The GitHub part of a process: client, worker, schedule."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.request import getproxies, proxy_bypass

import httpx
from temporalio.client import Client, ScheduleActionStartWorkflow
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.worker import Worker

from opam_ci.activities.github import GitHubActivities
from opam_ci.activities.result_buffer import ResultBuffer
from opam_ci.app.github_settings import GitHubSettings
from opam_ci.app.pull_requests import PullRequests, temporal_errors
from opam_ci.app.schedules import ensure_health, ensure_schedule
from opam_ci.app.settings import Settings
from opam_ci.app.shutdown import polling
from opam_ci.clients.github.api import GitHub
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.errors import UsageError
from opam_ci.core.github.messages import ReconcileTask
from opam_ci.core.github.revision import Policy
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.requests import CheckOptions
from opam_ci.metrics.catalog import Metrics
from opam_ci.metrics.github import MeteredTransport
from opam_ci.workflows import options
from opam_ci.workflows.delivery import ReconcileWorkflow

_log = logging.getLogger(__name__)

SCHEDULED_SINCE = timedelta(hours=6)
"""How far back a scheduled comparison looks for failed deliveries; the one at the start looks
back for all three days for which GitHub keeps them."""

HEARTBEAT_THROTTLE = timedelta(seconds=2)
"""Minimum time between heartbeats, which carry the statuses posted so far."""

GRACEFUL_SHUTDOWN_TIMEOUT = timedelta(seconds=10)

STOP_TIMEOUT = timedelta(seconds=15)
"""For stopping the worker. The other workers of the process stop after it, and all of them before
`PROCESS_TIMEOUT`."""


@contextlib.asynccontextmanager
async def github_service(
    settings: Settings,
    github: GitHubSettings,
    client: Client,
    checks: CheckOptions,
    metrics: Metrics,
) -> AsyncIterator[None]:
    """Runs the GitHub part for the time of a block. The index has been opened before.

    Args:
        settings: Of this process.
        github: Of the GitHub part.
        client: To Temporal.
        checks: How heads are checked.
        metrics: The metrics to update.

    Raises:
        UsageError: A setting is missing.
        InfrastructureError: Temporal is unavailable.
    """
    tracked, policy = github.tracked, github.policy(checks, namespace=settings.namespace)
    async with contextlib.AsyncExitStack() as stack:
        api = await stack.enter_async_context(
            GitHub(
                tracked.repository,
                github.credentials(),
                base_url=github.api_url,
                transport=MeteredTransport(metrics, transport_for(github.api_url)),
                total_timeout=github.request_timeout,
            )
        )
        activities = GitHubActivities(
            api,
            PullRequests(client),
            ArtifactStore.open(settings.store_url),
            tracked=tracked,
            policy=policy,
            clones=settings.clones,
            on_recovery=metrics.clone_recovered,
        )
        cloning = asyncio.create_task(_clone(activities, policy))
        stack.push_async_callback(_end, cloning)
        reconcile_id = f"reconcile/{tracked.repository}"
        with temporal_errors(f"create the schedule {reconcile_id}"):
            action = ScheduleActionStartWorkflow(
                ReconcileWorkflow.run,
                ReconcileTask(since=SCHEDULED_SINCE),
                id=reconcile_id,
                task_queue=options.ORCHESTRATION_QUEUE,
            )
            await ensure_schedule(client, action, github.reconcile_interval)
        with temporal_errors("change the schedule of checks of the base"):
            await ensure_health(client, tracked.repository, runs=github.health_packages > 0)
        await stack.enter_async_context(
            polling([github_worker(client, activities)], stop_timeout=STOP_TIMEOUT)
        )
        yield


def github_worker(client: Client, activities: GitHubActivities) -> Worker:
    """Returns the worker of the activities that use GitHub's API."""
    return Worker(
        client,
        task_queue=options.GITHUB_QUEUE,
        activities=[
            activities.post,
            activities.look,
            activities.carry_out,
            activities.reconcile,
            activities.check_base,
            activities.follow_base,
        ],
        interceptors=[ResultBuffer()],
        max_concurrent_activities=16,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        default_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=GRACEFUL_SHUTDOWN_TIMEOUT,
    )


async def start_reconciliation(client: Client, repository: str) -> None:
    """Starts a reconciliation of GitHub with the workflows, unless one is running.

    To be called once webhooks are received: failed deliveries are redelivered.

    Raises:
        InfrastructureError: The request to Temporal failed.
    """
    with temporal_errors("start the reconciliation"):
        await client.start_workflow(
            ReconcileWorkflow.run,
            ReconcileTask(),
            id=f"reconcile/{repository}/at-start",
            task_queue=options.ORCHESTRATION_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )


def transport_for(url: str) -> httpx.AsyncBaseTransport:
    """Returns a transport to a server, by the proxy that the environment sets for it.

    httpx uses the environment's proxies only if it makes the transport itself.
    """
    address = httpx.URL(url)
    proxy = None if proxy_bypass(address.host) else getproxies().get(address.scheme)
    return httpx.AsyncHTTPTransport(proxy=proxy)


async def _clone(activities: GitHubActivities, policy: Policy) -> None:
    """Makes the clone ahead of the first head. A failure costs only time."""
    try:
        await activities.prepare()
    except (InfrastructureError, UsageError) as error:
        _log.warning("no clone of %s yet: %s", policy.clone_url, error)
    else:
        _log.info("the clone of %s is up to date", policy.clone_url)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
