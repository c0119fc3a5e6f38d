"""The schedules of canaries and of retention on a real server."""

import asyncio
import uuid

import pytest
from temporalio.client import Client, ScheduleActionStartWorkflow
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError
from temporalio.worker import Worker

from opam_ci.app import schedules
from opam_ci.cli.local import services
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.workflows import options
from opam_ci.workflows.canary import CanaryWorkflow

pytestmark = pytest.mark.e2e


async def test_schedule_is_made_once_renewed_and_left_paused(server: services.Embedded) -> None:
    client = await Client.connect(server.address, data_converter=pydantic_data_converter)
    pool = f"pool-{uuid.uuid4().hex[:8]}"
    platform = EMBEDDED.model_copy(update={"pool": pool})
    handle = client.get_schedule_handle(f"canary/{pool}")
    try:
        # As several workers do that start together.
        await asyncio.gather(*(schedules.ensure_canary(client, platform) for _ in range(3)))
        described = await handle.describe()
        assert [each.every for each in described.schedule.spec.intervals] == [
            options.CANARY_INTERVAL
        ]
        await handle.pause(note="moving")
        newer = platform.model_copy(update={"ocaml": "5.4"})
        await schedules.ensure_canary(client, newer)
        described = await handle.describe()
        assert described.schedule.state.paused
        action = described.schedule.action
        assert isinstance(action, ScheduleActionStartWorkflow)
        assert b'"5.4"' in action.args[0].data
        for _ in range(100):
            if pool in await schedules.pools(client):
                break
            await asyncio.sleep(0.1)
        else:
            pytest.fail("the pool is not listed")
    finally:
        await handle.delete()


async def test_retention_is_scheduled_and_left_paused(server: services.Embedded) -> None:
    client = await Client.connect(server.address, data_converter=pydantic_data_converter)
    handle = client.get_schedule_handle(schedules.RETENTION)
    try:
        await asyncio.gather(*(schedules.ensure_retention(client, 90) for _ in range(3)))
        described = await handle.describe()
        assert [each.every for each in described.schedule.spec.intervals] == [
            options.PRUNE_INTERVAL
        ]
        await handle.pause(note="keep everything")
        await schedules.ensure_retention(client, 30)
        described = await handle.describe()
        assert described.schedule.state.paused
        action = described.schedule.action
        assert isinstance(action, ScheduleActionStartWorkflow)
        assert action.args[0].data == b"30"
    finally:
        await handle.delete()


async def test_a_pool_is_served_while_its_schedule_exists(server: services.Embedded) -> None:
    client = await Client.connect(server.address, data_converter=pydantic_data_converter)
    pool, polled, never = (f"{word}-{uuid.uuid4().hex[:8]}" for word in ("pool", "polled", "never"))
    asked = frozenset({pool, polled, never})
    assert await schedules.served_pools(client, asked) == frozenset()
    platform = EMBEDDED.model_copy(update={"pool": pool})
    handle = client.get_schedule_handle(f"canary/{pool}")
    # Canaries are disabled on this worker, and the schedule is the record all the same.
    await schedules.ensure_canary(client, platform, runs=False)
    try:
        async with Worker(
            client, task_queue=options.build_queue(polled), workflows=[CanaryWorkflow]
        ):
            for _ in range(100):
                if await schedules.served_pools(client, asked) == {pool, polled}:
                    break
                await asyncio.sleep(0.1)
            else:
                pytest.fail("the pools do not count as served")
        # The worker has ended a moment ago.
        assert await schedules.served_pools(client, asked) == {pool, polled}
        described = await handle.describe()
        assert described.schedule.state.paused
        # Another worker of the pool runs canaries.
        await schedules.ensure_canary(client, platform)
        described = await handle.describe()
        assert not described.schedule.state.paused
        await schedules.ensure_canary(client, platform, runs=False)
        described = await handle.describe()
        assert not described.schedule.state.paused
    finally:
        await handle.delete()


async def test_checks_of_the_base_are_scheduled_while_they_are_wanted(
    server: services.Embedded,
) -> None:
    client = await Client.connect(server.address, data_converter=pydantic_data_converter)
    repository = f"ocaml/{uuid.uuid4().hex[:8]}"
    handle = client.get_schedule_handle(f"health/{repository}")
    await schedules.ensure_health(client, repository, runs=False)
    await asyncio.gather(
        *(schedules.ensure_health(client, repository, runs=True) for _ in range(3))
    )
    described = await handle.describe()
    assert [each.every for each in described.schedule.spec.intervals] == [options.HEALTH_INTERVAL]
    await schedules.ensure_health(client, repository, runs=False)
    with pytest.raises(RPCError, match="not found"):
        await handle.describe()
