"""A result that comes while Temporal is away arrives once it is back."""

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from opam_ci.activities.result_buffer import ResultBuffer
from opam_ci.cli.local import services
from tests.support.ports import free_port

pytestmark = pytest.mark.e2e

AWAY = 16.0
"""Seconds: the SDK gives a result up after some ten."""


class Work:
    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.finish = asyncio.Event()
        self.times = 0

    @activity.defn(name="outlast_work")
    async def run(self) -> str:
        self.times += 1
        self.begun.set()
        await self.finish.wait()
        return "done"


@workflow.defn(name="OutlastWorkflow")
class OutlastWorkflow:
    @workflow.run
    async def run(self) -> str:
        done: str = await workflow.execute_activity(
            "outlast_work",
            result_type=str,
            start_to_close_timeout=timedelta(seconds=60),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )
        return done


async def test_result_waits_for_a_server_that_is_away(tmp_path: Path) -> None:
    ports = {"port": free_port(), "ui_port": free_port()}
    server = await asyncio.to_thread(lambda: services.start_temporal(tmp_path, **ports))
    try:
        client = await Client.connect(server.address)
        work = Work()
        async with Worker(
            client,
            task_queue="outlast",
            workflows=[OutlastWorkflow],
            workflow_runner=UnsandboxedWorkflowRunner(),
            activities=[work.run],
            interceptors=[ResultBuffer()],
        ):
            handle = await client.start_workflow(
                OutlastWorkflow.run, id="outlast", task_queue="outlast"
            )
            await work.begun.wait()
            os.kill(server.temporal_pid, signal.SIGKILL)
            await asyncio.sleep(1)
            work.finish.set()
            await asyncio.sleep(AWAY)
            await asyncio.to_thread(lambda: services.start_temporal(tmp_path, **ports))
            async with asyncio.timeout(30):
                assert await handle.result() == "done"
        assert work.times == 1
    finally:
        await asyncio.to_thread(services.stop, tmp_path)
