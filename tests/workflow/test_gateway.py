"""Restarts and cancellations by update, against a real server: who answers, and who cannot."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from opam_ci.app import pull_requests as gateway
from opam_ci.app.pull_requests import PullRequests
from opam_ci.core.errors import UsageError
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.selector import (
    CancelUpdate,
    JobSelector,
    RestartSelector,
    RestartUpdate,
    Taken,
)

QUEUE = "updates"
ACCEPTED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED
COMPLETED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED
AWAY = RestartUpdate(selector=RestartSelector(package="away"))


@workflow.defn
class Answering:
    """Answers restarts with as many jobs as it has heard of; one waits until the index is back."""

    def __init__(self) -> None:
        self.restarts = 0
        self.is_back = self.is_over = False

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self.is_over)
        return self.restarts

    @workflow.signal
    def end(self) -> None:
        self.is_over = True

    @workflow.signal
    def back(self) -> None:
        self.is_back = True

    @workflow.update(unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
    async def restart_jobs(self, update: RestartUpdate) -> Taken:
        if update.selector == AWAY.selector:
            await workflow.wait_condition(lambda: self.is_back)
        self.restarts += not update.preview
        return Taken(jobs=self.restarts, first=(update.selector.job or "",))

    @workflow.update
    async def cancel_jobs(self, update: CancelUpdate) -> Taken:
        return Taken(refusal=f"{update.selector.job} is decided already: passed")


@workflow.defn
class Older:
    """Knows no updates."""

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)


@pytest.fixture
async def client(real_client: Client) -> AsyncIterator[Client]:
    async with Worker(
        real_client,
        task_queue=QUEUE,
        workflows=[Answering, Older],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        yield real_client


@pytest.fixture
async def answering(
    client: Client, request: pytest.FixtureRequest
) -> AsyncIterator[WorkflowHandle[Answering, int]]:
    workflow_id = f"pr/o/r/{request.node.name}"
    handle = await client.start_workflow(Answering.run, id=workflow_id, task_queue=QUEUE)
    yield handle
    with contextlib.suppress(RPCError):  # a test may have ended it
        await handle.signal(Answering.end)
    await handle.result()


async def test_the_result_of_an_update_is_what_it_took(
    client: Client, answering: WorkflowHandle[Answering, int]
) -> None:
    pull_requests = PullRequests(client)
    update = RestartUpdate(selector=RestartSelector(job="build p a.1"))
    preview = update.model_copy(update={"preview": True})
    assert await pull_requests.restart_jobs(answering.id, preview) == Taken(first=("build p a.1",))
    taken = await pull_requests.restart_jobs(answering.id, update)
    assert taken == Taken(jobs=1, first=("build p a.1",))
    refused = await pull_requests.cancel_jobs(
        answering.id, CancelUpdate(selector=JobSelector(job="build p a.1"))
    )
    assert refused is not None
    assert refused.refusal == "build p a.1 is decided already: passed"


async def test_what_is_accepted_is_done_later_and_not_twice(
    client: Client,
    answering: WorkflowHandle[Answering, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway, "RESULT_TIMEOUT", timedelta(seconds=0.5))
    assert await PullRequests(client).restart_jobs(answering.id, AWAY) is None
    await answering.signal(Answering.back)
    await _met(answering, COMPLETED)
    await answering.signal(Answering.end)
    assert await answering.result() == 1


async def test_an_interrupted_wait_is_an_interruption_and_loses_nothing(
    client: Client, answering: WorkflowHandle[Answering, int]
) -> None:
    asking = asyncio.create_task(PullRequests(client).restart_jobs(answering.id, AWAY))
    await _met(answering, ACCEPTED)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await answering.signal(Answering.back)
    await _met(answering, COMPLETED)
    await answering.signal(Answering.end)
    assert await answering.result() == 1


async def _met(handle: WorkflowHandle[Answering, int], stage: EventType.ValueType) -> None:
    """Waits until an update has come so far."""
    for _ in range(200):
        history = await handle.fetch_history()
        if any(event.event_type == stage for event in history.events):
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"no {EventType.Name(stage)}")


async def test_missing_ended_and_older_workflows_have_errors_of_their_own(
    client: Client, answering: WorkflowHandle[Answering, int]
) -> None:
    pull_requests = PullRequests(client)
    with pytest.raises(UsageError, match="no running check 'pr/o/r/nobody'"):
        await pull_requests.restart_jobs("pr/o/r/nobody", RestartUpdate())
    await answering.signal(Answering.end)
    await answering.result()
    with pytest.raises(UsageError, match=r"has ended .* nothing was changed"):
        await pull_requests.restart_jobs(answering.id, RestartUpdate())
    older = await client.start_workflow(Older.run, id="pr/o/r/older", task_queue=QUEUE)
    with pytest.raises(UsageError, match=r"older is of a version without updates.* --name cancel"):
        await pull_requests.cancel_jobs("pr/o/r/older", CancelUpdate())
    await older.terminate()


async def test_a_workflow_that_ends_under_an_update_has_ended(
    client: Client, answering: WorkflowHandle[Answering, int]
) -> None:
    asking = asyncio.create_task(PullRequests(client).restart_jobs(answering.id, AWAY))
    await _met(answering, ACCEPTED)
    await answering.signal(Answering.end)
    with pytest.raises(UsageError, match="has ended"):
        await asking


async def test_where_no_worker_runs_the_request_is_not_waited_for_in_vain(
    real_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "ACCEPTANCE_TIMEOUT", timedelta(seconds=1))
    handle = await real_client.start_workflow(
        Older.run, id="pr/o/r/unserved", task_queue="nobody-polls"
    )
    with pytest.raises(InfrastructureError, match="no worker has accepted the request"):
        await PullRequests(real_client).restart_jobs(handle.id, RestartUpdate())
