"""Temporal Schedules: a canary for each pool."""

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
from temporalio.service import RPCError

from opam_ci.core.errors import UsageError
from opam_ci.core.platforms import Platform
from opam_ci.workflows import options
from opam_ci.workflows.canary import CanaryWorkflow

_PREFIX = "canary/"


async def ensure_canary(client: Client, platform: Platform) -> None:
    """Sees to it that a pool's canary runs, also after its platform has changed.

    Any number of workers may do so at once. A schedule that an operator paused stays paused.

    Raises:
        UsageError: Temporal refuses it.
    """
    try:
        await _ensure(client, platform)
    except RPCError as error:
        raise UsageError(
            f"the Temporal server refuses the schedule canary/{platform.pool} ({error.message}); "
            "allow it, or leave canaries out with OPAM_CI_CANARY=false"
        ) from error


async def _ensure(client: Client, platform: Platform) -> None:
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(
            CanaryWorkflow.run,
            platform,
            id=f"{_PREFIX}{platform.pool}",
            task_queue=options.ORCHESTRATION_QUEUE,
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=options.CANARY_INTERVAL)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    )
    name = f"{_PREFIX}{platform.pool}"
    try:
        await client.create_schedule(name, schedule, trigger_immediately=True)
    except ScheduleAlreadyRunningError:

        def renewed(known: ScheduleUpdateInput) -> ScheduleUpdate:
            schedule.state = known.description.schedule.state
            return ScheduleUpdate(schedule=schedule)

        await client.get_schedule_handle(name).update(renewed)


async def pools(client: Client) -> frozenset[str]:
    """Returns the pools that have a canary: all that any worker ever built for.

    An operator who gives up a pool deletes its schedule.

    Raises:
        RPCError: Temporal does not answer.
    """
    return frozenset(
        [
            entry.id.removeprefix(_PREFIX)
            async for entry in await client.list_schedules()
            if entry.id.startswith(_PREFIX)
        ]
    )
