"""Temporal Schedules."""

import logging
from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from opam_ci.app.connection import was_polled
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.platforms.model import Platform
from opam_ci.workflows import options
from opam_ci.workflows.canary import CanaryWorkflow
from opam_ci.workflows.health import HealthWorkflow
from opam_ci.workflows.retention import RetentionWorkflow

_log = logging.getLogger(__name__)

_PREFIX = "canary/"

_DISABLED = "OPAM_CI_CANARY=false"
"""Note of a schedule that is paused since its canaries are disabled."""

RETENTION = "retention"
"""Id of the schedule that runs `opam-ci prune`."""


async def ensure_canary(client: Client, platform: Platform, *, runs: bool = True) -> None:
    """Creates or updates the schedule of a pool's canary, and runs it at once if it is new.

    The schedule is also the record that the pool has workers (`served_pools`). A build worker with
    the rights of its role alone may not make it; then one with more rights makes it.

    Args:
        client: To Temporal.
        platform: Where the canary is built.
        runs: Whether canaries run; otherwise a new schedule is paused.

    Raises:
        UsageError: The request to Temporal failed.
    """
    action = ScheduleActionStartWorkflow(
        CanaryWorkflow.run,
        platform,
        id=f"{_PREFIX}{platform.pool}",
        task_queue=options.ORCHESTRATION_QUEUE,
    )
    try:
        await ensure_schedule(
            client, action, options.CANARY_INTERVAL, trigger_immediately=runs, is_paused=not runs
        )
    except RPCError as error:
        if error.status is RPCStatusCode.PERMISSION_DENIED:
            _log.info("this worker may not make the schedule %s%s", _PREFIX, platform.pool)
            return
        raise UsageError(
            f"the Temporal server rejects the schedule canary/{platform.pool} ({error.message}); "
            "allow it, or disable canaries with OPAM_CI_CANARY=false"
        ) from error


async def ensure_retention(client: Client, days: int) -> None:
    """Creates or updates the schedule that deletes what has not changed in so many days.

    Raises:
        UsageError: The request to Temporal failed.
    """
    action = ScheduleActionStartWorkflow(
        RetentionWorkflow.run, days, id=RETENTION, task_queue=options.ORCHESTRATION_QUEUE
    )
    try:
        await ensure_schedule(client, action, options.PRUNE_INTERVAL)
    except RPCError as error:
        raise UsageError(
            f"the Temporal server rejects the schedule {RETENTION} ({error.message}); allow it, "
            "and pause it to keep everything"
        ) from error


async def ensure_health(client: Client, repository: str, *, runs: bool) -> None:
    """Creates, updates or deletes the schedule of the checks of a repository's base.

    Args:
        client: To Temporal.
        repository: `owner/name`.
        runs: Whether there are such checks.

    Raises:
        RPCError: The request to Temporal failed.
    """
    schedule = f"health/{repository}"
    if runs:
        action = ScheduleActionStartWorkflow(
            HealthWorkflow.run, id=schedule, task_queue=options.ORCHESTRATION_QUEUE
        )
        await ensure_schedule(client, action, options.HEALTH_INTERVAL, trigger_immediately=True)
        return
    try:
        await client.get_schedule_handle(schedule).delete()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise


async def ensure_schedule(
    client: Client,
    action: ScheduleActionStartWorkflow,
    every: timedelta,
    *,
    trigger_immediately: bool = False,
    is_paused: bool = False,
) -> None:
    """Creates a schedule of a workflow, or changes it to what is configured.

    Any number of processes may do so at once. A schedule that an operator paused stays paused, and
    one that runs is not paused here.

    Args:
        client: To Temporal.
        action: The workflow; its id becomes the schedule's.
        every: Time between two runs; one is skipped while the previous one is running.
        trigger_immediately: Whether a new schedule runs at once, too.
        is_paused: Whether a new schedule is paused until this is called without it.

    Raises:
        RPCError: The request to Temporal failed.
    """
    schedule = Schedule(
        action=action,
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
        state=ScheduleState(paused=is_paused, note=_DISABLED if is_paused else None),
    )

    def updated(known: ScheduleUpdateInput) -> ScheduleUpdate:
        state = known.description.schedule.state
        if is_paused or state.note != _DISABLED:
            schedule.state = state
        return ScheduleUpdate(schedule=schedule)

    try:
        await client.create_schedule(action.id, schedule, trigger_immediately=trigger_immediately)
    except ScheduleAlreadyRunningError:
        await client.get_schedule_handle(action.id).update(updated)


async def pools(client: Client) -> frozenset[str]:
    """Returns the pools that have a canary: all that any worker ever built for.

    An operator who removes a pool deletes its schedule.

    Raises:
        RPCError: The request to Temporal failed.
    """
    return frozenset(
        [
            entry.id.removeprefix(_PREFIX)
            async for entry in await client.list_schedules()
            if entry.id.startswith(_PREFIX)
        ]
    )


async def served_pools(client: Client, names: frozenset[str]) -> frozenset[str]:
    """Returns which of some pools are served: those with a worker, and those that had one.

    A worker that was lost is an infrastructure fault, for which jobs wait. A pool counts as served
    while its canary's schedule exists; without one (a worker may lack the right to make it), while
    Temporal remembers that a worker polled, for five minutes.

    Raises:
        InfrastructureError: The request to Temporal failed.
    """
    try:
        known = await pools(client)
    except RPCError as error:
        raise InfrastructureError(
            f"Temporal cannot list the schedules: {error.message}", cause=Cause.UNKNOWN
        ) from error
    others = sorted(names - known)
    polled = [pool for pool in others if await was_polled(client, options.build_queue(pool))]
    return names & known | frozenset(polled)
