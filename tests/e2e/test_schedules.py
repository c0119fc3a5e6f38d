"""The schedules of canaries and of retention on a real server."""

import asyncio
import uuid

import pytest
from temporalio.client import Client, ScheduleActionStartWorkflow
from temporalio.contrib.pydantic import pydantic_data_converter

from opam_ci.app import schedules
from opam_ci.cli.local import services
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.workflows import options

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
