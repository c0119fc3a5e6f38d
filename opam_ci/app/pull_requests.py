"""Client of the workflows of pull requests, for code outside of workflows."""

import asyncio
import contextlib
from collections.abc import Collection, Coroutine, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from temporalio.client import (
    Client,
    RPCTimeoutOrCancelledError,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowUpdateFailedError,
    WorkflowUpdateStage,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from opam_ci.core.errors import UsageError
from opam_ci.core.github.action import number_in
from opam_ci.core.github.messages import BaseMoved, DeliveryTask
from opam_ci.core.github.ordering import ClosedAs
from opam_ci.core.github.posting_options import PostingOptions
from opam_ci.core.incidents.restarts import workflow_of
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.hold import Approval
from opam_ci.core.jobs.moved_base import BaseChanged
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.requests import PullRequestRef, Revision
from opam_ci.core.jobs.selector import CancelUpdate, RestartSelector, RestartUpdate, Taken
from opam_ci.workflows import options
from opam_ci.workflows.base_branch import BaseBranchWorkflow
from opam_ci.workflows.delivery import DeliveryWorkflow
from opam_ci.workflows.pull_request import PullRequestWorkflow
from opam_ci.workflows.states import BaseBranchState, PullRequestState

T = TypeVar("T")

ACCEPTANCE_TIMEOUT = timedelta(seconds=30)
"""For a worker to accept an update into the workflow's history."""

RESULT_TIMEOUT = timedelta(seconds=30)
"""For the result of an accepted update."""


@contextlib.contextmanager
def temporal_errors(what: str) -> Iterator[None]:
    """Converts errors of requests to Temporal.

    Args:
        what: The request as a verb phrase, such as `list the workflows`.

    Raises:
        InfrastructureError: The request failed.
    """
    try:
        yield
    except RPCError as error:
        raise InfrastructureError(
            f"Temporal cannot {what}: {error.message}", cause=Cause.UNKNOWN
        ) from error


class PullRequests:
    """The workflows of pull requests. All methods are idempotent.

    Each raises `InfrastructureError` when a request to Temporal fails.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def head_changed(
        self, ref: PullRequestRef, revision: Revision, posting: PostingOptions | None = None
    ) -> None:
        """Signals a new head to a pull request's workflow, starting it if needed (one request)."""
        with temporal_errors(f"start the workflow {ref.workflow_id}"):
            await self._client.start_workflow(
                PullRequestWorkflow.run,
                PullRequestState(pull_request=ref),
                id=ref.workflow_id,
                task_queue=options.ORCHESTRATION_QUEUE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                start_signal="head_changed",
                start_signal_args=[revision, posting],
                static_summary=f"{ref.title}: analysis, lint, builds",
            )

    async def deliver(self, delivered: DeliveryTask, delivery: str) -> None:
        """Starts the workflow of a delivery, unless it was started before.

        Args:
            delivered: The action of the delivery.
            delivery: Its `X-GitHub-Delivery`.
        """
        workflow_id = f"delivery/{delivery}"
        with (
            temporal_errors(f"start the workflow {workflow_id}"),
            contextlib.suppress(WorkflowAlreadyStartedError),
        ):
            await self._client.start_workflow(
                DeliveryWorkflow.run,
                delivered,
                id=workflow_id,
                task_queue=options.ORCHESTRATION_QUEUE,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                static_summary=f"delivery: {delivered.action.kind}",
            )

    async def closed(self, ref: PullRequestRef, event: ClosedAs) -> bool:
        """Signals to a pull request's workflow that it is closed; returns whether it is running."""
        return await self._signal(ref.workflow_id, "closed", event)

    async def restart(
        self, ref: PullRequestRef, selectors: Collection[RestartSelector], *, head: str | None
    ) -> bool:
        """Restarts jobs, a round for each selector.

        Args:
            ref: The pull request.
            selectors: Which jobs.
            head: Only if this is the head; None for any head.

        Returns:
            Whether its workflow is running, with this head.
        """
        if head is not None and await self._head(ref) != head:
            return False
        # The workflow checks the head too: there may be a push in between.
        only = [selector.model_copy(update={"head": head}) for selector in selectors]
        return all([await self._signal(ref.workflow_id, "restart", selector) for selector in only])

    async def cancel(self, ref: PullRequestRef) -> bool:
        """Stops a pull request's jobs; returns whether its workflow is running."""
        return await self._signal(ref.workflow_id, "cancel")

    async def approve(self, ref: PullRequestRef, approval: Approval) -> bool:
        """Approves what waits in a pull request; returns whether its workflow is running."""
        return await self._signal(ref.workflow_id, "approve", approval)

    async def resync(self, ref: PullRequestRef) -> bool:
        """Has a pull request's workflow fetch it from GitHub; returns whether it is running."""
        return await self._signal(ref.workflow_id, "resync")

    async def base_moved(self, repository: str, moved: BaseMoved) -> None:
        """Signals that the base branch of a repository has moved, or may have (one request)."""
        workflow_id = f"base/{repository}"
        with temporal_errors(f"start the workflow {workflow_id}"):
            await self._client.start_workflow(
                BaseBranchWorkflow.run,
                BaseBranchState(),
                id=workflow_id,
                task_queue=options.ORCHESTRATION_QUEUE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                start_signal="moved",
                start_signal_args=[moved],
                static_summary=f"{repository}: moves of the base",
            )

    async def base_changed(self, ref: PullRequestRef, moved: BaseChanged) -> bool:
        """Signals a moved base to a pull request's workflow; returns whether it is running."""
        return await self._signal(ref.workflow_id, "base_changed", moved)

    async def recount(self, testing: RevisionKey) -> bool:
        """Signals that the index was changed; returns whether the testing's workflow is running."""
        return await self._signal(workflow_of(testing), "recount", testing)

    async def is_running(self, testing: RevisionKey) -> bool:
        """Whether the workflow of a testing's pull request is running."""
        described = await self._describe(workflow_of(testing))
        return described is not None and described.status is WorkflowExecutionStatus.RUNNING

    async def restart_jobs(self, workflow_id: str, update: RestartUpdate) -> Taken | None:
        """Restarts jobs and returns which; see `_update`."""
        return await self._update(workflow_id, "restart_jobs", update)

    async def cancel_jobs(self, workflow_id: str, update: CancelUpdate) -> Taken | None:
        """Cancels undecided jobs and returns which; see `_update`."""
        return await self._update(workflow_id, "cancel_jobs", update)

    async def running(self, owner: str, repo: str) -> dict[int, str]:
        """Returns the pull requests whose workflows run, with their heads, empty for none yet."""
        return await self._list(f"WorkflowId STARTS_WITH 'pr/{owner}/{repo}/'")

    async def with_head(self, owner: str, repo: str, head: str) -> tuple[int, ...]:
        """Returns the pull requests whose workflows run and test a head."""
        query = f"WorkflowId STARTS_WITH 'pr/{owner}/{repo}/' AND CiHead = '{head}'"
        return tuple(sorted(await self._list(query)))

    async def _update(
        self, workflow_id: str, name: str, update: RestartUpdate | CancelUpdate
    ) -> Taken | None:
        """Sends an update.

        Returns:
            What the workflow took; None if it has accepted the update and completes it later, as
            during an index outage. An accepted update cannot be lost.

        Raises:
            UsageError: The workflow cannot accept it: it has ended, or is of an older version.
            InfrastructureError: No worker accepted it in time, or it failed.
        """
        handle = self._client.get_workflow_handle(workflow_id)
        with temporal_errors(f"update {workflow_id}"):
            try:
                accepted = await _within(
                    ACCEPTANCE_TIMEOUT,
                    handle.start_update(
                        name,
                        update,
                        wait_for_stage=WorkflowUpdateStage.ACCEPTED,
                        result_type=Taken,
                    ),
                )
                if accepted is None:
                    raise InfrastructureError(
                        f"no worker has accepted the request for {workflow_id} within "
                        f"{ACCEPTANCE_TIMEOUT.seconds} s; check `opam-ci workers`, then repeat "
                        "it: nothing is done twice",
                        cause=Cause.UNKNOWN,
                    )
                return await _within(RESULT_TIMEOUT, accepted.result())
            except WorkflowUpdateFailedError as error:
                raise _update_failure(workflow_id, name, error) from error
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
                has_ended = "already completed" in error.message
                raise _not_running(workflow_id, has_ended=has_ended) from error

    async def _list(self, query: str) -> dict[int, str]:
        found = {}
        query = f"{query} AND ExecutionStatus = 'Running' AND WorkflowType = 'PullRequestWorkflow'"
        with temporal_errors("list the workflows"):
            async for execution in self._client.list_workflows(query):
                if (number := number_in(execution.id)) is not None:
                    head = execution.typed_search_attributes.get(options.CI_HEAD)
                    found[number] = head or ""
        return found

    async def _head(self, ref: PullRequestRef) -> str | None:
        described = await self._describe(ref.workflow_id)
        return None if described is None else described.typed_search_attributes.get(options.CI_HEAD)

    async def _describe(self, workflow_id: str) -> WorkflowExecutionDescription | None:
        handle = self._client.get_workflow_handle(workflow_id)
        with temporal_errors(f"describe {workflow_id}"):
            return await _unless_missing(handle.describe())

    async def _signal(self, workflow_id: str, name: str, *message: object) -> bool:
        handle = self._client.get_workflow_handle(workflow_id)

        async def signal() -> bool:
            await handle.signal(name, args=list(message))
            return True

        with temporal_errors(f"signal {workflow_id}"):
            return await _unless_missing(signal()) or False


async def _unless_missing(request: Coroutine[Any, Any, T]) -> T | None:
    """Returns the result of a request about a workflow, None if there is no such workflow."""
    try:
        return await request
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise


async def _within(limit: timedelta, work: Coroutine[Any, Any, T]) -> T | None:
    """Waits with a time limit; returns None once it is reached.

    Not `asyncio.timeout`: the client converts a cancellation to an error of its own, which
    looks the same for an interruption of the wait and for the time limit.
    """
    task = asyncio.create_task(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=limit.total_seconds())
        return task.result() if done else None
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, RPCTimeoutOrCancelledError):
                await task


def _not_running(workflow_id: str, *, has_ended: bool) -> UsageError:
    if has_ended:
        return UsageError(
            f"{workflow_id} has ended (closed, or a one-off check that is done); "
            "nothing was changed"
        )
    return UsageError(
        f"no running check {workflow_id!r} on this server; `opam-ci status` lists them"
    )


def _update_failure(
    workflow_id: str, name: str, error: WorkflowUpdateFailedError
) -> UsageError | InfrastructureError:
    what = str(error.cause)
    if "AcceptedUpdateCompletedWorkflow" in what:
        return _not_running(workflow_id, has_ended=True)
    if "Update handler" in what and "not found" in what:
        signal = name.removesuffix("_jobs")
        return UsageError(
            f"{workflow_id} is of a version without updates; send it the signal `{signal}` "
            f"(`temporal workflow signal --workflow-id {workflow_id} --name {signal}`), or wait "
            "for its next head"
        )
    return InfrastructureError(
        f"the update of {workflow_id} failed: {what.splitlines()[0][:300]}", cause=Cause.UNKNOWN
    )
