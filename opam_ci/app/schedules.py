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
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from opam_ci.core.errors import UsageError
from opam_ci.core.platforms.model import Platform
from opam_ci.workflows import options
from opam_ci.workflows.canary import CanaryWorkflow
from opam_ci.workflows.retention import RetentionWorkflow

_log = logging.getLogger(__name__)

_PREFIX = "canary/"

RETENTION = "retention"
"""Id of the schedule that runs `opam-ci prune`."""


async def ensure_canary(client: Client, platform: Platform) -> None:
    """Creates or updates the schedule of a pool's canary, and runs it at once if it is new.

    A build worker with the rights of its role alone may not; then one with more rights makes it.

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
        await ensure_schedule(client, action, options.CANARY_INTERVAL, trigger_immediately=True)
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


async def ensure_schedule(
    client: Client,
    action: ScheduleActionStartWorkflow,
    every: timedelta,
    *,
    trigger_immediately: bool = False,
) -> None:
    """Creates a schedule of a workflow, or changes it to what is configured.

    Any number of processes may do so at once. A schedule that an operator paused stays paused.

    Args:
        client: To Temporal.
        action: The workflow; its id becomes the schedule's.
        every: Time between two runs; one is skipped while the previous one is running.
        trigger_immediately: Whether a new schedule runs at once, too.

    Raises:
        RPCError: The request to Temporal failed.
    """
    schedule = Schedule(
        action=action,
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    )

    def updated(known: ScheduleUpdateInput) -> ScheduleUpdate:
        schedule.state = known.description.schedule.state
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
