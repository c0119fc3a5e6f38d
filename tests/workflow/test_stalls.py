"""A blocked event loop costs no job, unless it is blocked for good."""

import asyncio
import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from temporalio import activity
from temporalio.client import ActivityFailureError, Client
from temporalio.common import RetryPolicy
from temporalio.worker import Worker

from opam_ci.activities import backup_heartbeats as stand_in
from opam_ci.activities.attempt import Attempt, run_attempt
from opam_ci.core.jobs.messages import JobContext, JobReport
from opam_ci.core.jobs.outcome import Outcome
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.retry import RetrySettings
from tests.support.fakes.world import HEAD_1, PASSED

HEARTBEAT_TIMEOUT = timedelta(seconds=3)
STALL = timedelta(seconds=10)
"""Longer than the heartbeat timeout, and than the five seconds that the SDK adds to it."""


def context() -> JobContext:
    return JobContext(
        pull_request=PullRequestRef(owner="local", repo="r", number=1),
        head=HEAD_1,
        opened_at=datetime.now(UTC),
        round=1,
        retry=RetrySettings(),
    )


class Blocking:
    """A job that blocks the event loop of its worker, as no job should."""

    def __init__(self) -> None:
        self.attempts: list[int] = []

    @activity.defn
    async def block(self) -> JobReport:
        async def work(attempt: Attempt) -> Outcome:
            self.attempts.append(attempt.number)
            time.sleep(STALL.total_seconds())  # noqa: ASYNC251 - on purpose
            await asyncio.sleep(2)  # what comes meanwhile must not end it either
            return PASSED

        return await run_attempt(context(), "block", work)


class Company:
    """Jobs that wait for each other, and notice whether they run alone."""

    def __init__(self, jobs: int) -> None:
        self.waits = asyncio.Barrier(jobs)
        self.alone: list[bool] = []

    @activity.defn
    async def notice(self) -> JobReport:
        async def work(attempt: Attempt) -> Outcome:
            await self.waits.wait()
            self.alone.append(attempt.state().alone)
            await self.waits.wait()
            return PASSED

        return await run_attempt(context(), activity.info().activity_id, work)


@pytest.mark.parametrize(("jobs", "alone"), [(1, [True]), (2, [False, False])])
async def test_a_heartbeat_reports_whether_the_job_is_alone(
    real_client: Client, jobs: int, alone: list[bool]
) -> None:
    work, name = Company(jobs), f"company-{uuid.uuid4()}"
    async with Worker(real_client, task_queue=name, activities=[work.notice]):
        await asyncio.gather(
            *(
                real_client.execute_activity(
                    work.notice,
                    id=f"{name}-{number}",
                    task_queue=name,
                    start_to_close_timeout=timedelta(minutes=1),
                )
                for number in range(jobs)
            )
        )
    assert work.alone == alone


async def blocked(client: Client) -> list[int]:
    """Runs the job, and returns its attempts."""
    work, name = Blocking(), f"stalls-{uuid.uuid4()}"
    worker = Worker(client, task_queue=name, activities=[work.block])
    async with stand_in.BACKUP_HEARTBEATS.register(worker):
        await client.execute_activity(
            work.block,
            id=name,
            task_queue=name,
            start_to_close_timeout=timedelta(minutes=1),
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=RetryPolicy(maximum_attempts=1),
        )
    return work.attempts


async def test_a_blocked_event_loop_loses_no_job(real_client: Client) -> None:
    assert await blocked(real_client) == [1]


async def test_an_event_loop_that_is_blocked_for_good_is_lost(
    real_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_in, "STALL_LIMIT", timedelta(seconds=2))

    with pytest.raises(ActivityFailureError):
        await blocked(real_client)
