"""How anybody outside a workflow talks to the workflows of pull requests."""

import asyncio
import contextlib
import re
from collections.abc import Collection, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from temporalio.client import (
    Client,
    RPCTimeoutOrCancelledError,
    WorkflowUpdateFailedError,
    WorkflowUpdateStage,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from opam_ci.core.errors import UsageError
from opam_ci.core.github.messages import Delivered
from opam_ci.core.github.ordering import ClosedAs
from opam_ci.core.github.posting_options import PostingOptions
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.outcome import Cause
from opam_ci.core.requests import PullRequestRef, Revision
from opam_ci.core.selector import CancelUpdate, RestartSelector, RestartUpdate, Taken
from opam_ci.workflows import options
from opam_ci.workflows.delivery import DeliveryWorkflow
from opam_ci.workflows.pull_request import PullRequestWorkflow
from opam_ci.workflows.states import PullRequestState

T = TypeVar("T")

_NUMBER = re.compile(r"pr/.*/([1-9][0-9]{0,11})")

ACCEPTANCE_TIMEOUT = timedelta(seconds=30)
"""How long an update may take until a worker has it in the workflow's history."""

RESULT_TIMEOUT = timedelta(seconds=30)
"""How long the result of an accepted update is waited for."""


class PullRequests:
    """The workflows of pull requests. All methods may be called twice with the same effect.

    Each raises `InfrastructureError` when Temporal does not take it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def head_changed(
        self, ref: PullRequestRef, revision: Revision, posting: PostingOptions | None = None
    ) -> None:
        """Signals a pull request's workflow, and starts it if need be, in one request."""
        try:
            await self._client.start_workflow(
                PullRequestWorkflow.run,
                PullRequestState(pull_request=ref),
                id=ref.workflow_id,
                task_queue=options.ORCHESTRATION_QUEUE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                start_signal="head_changed",
                start_signal_args=[revision] if posting is None else [revision, posting],
                static_summary=f"{ref.title}: analysis, lint, builds",
            )
        except RPCError as error:
            raise _trouble(f"does not start the workflow {ref.workflow_id}", error) from error

    async def deliver(self, delivered: Delivered, delivery: str) -> None:
        """Starts the workflow of a delivery, unless it was started before.

        Args:
            delivered: What the delivery asks for.
            delivery: Its `X-GitHub-Delivery`.
        """
        workflow_id = f"delivery/{delivery}"
        try:
            await self._client.start_workflow(
                DeliveryWorkflow.run,
                delivered,
                id=workflow_id,
                task_queue=options.ORCHESTRATION_QUEUE,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                static_summary=f"delivery: {delivered.action.kind}",
            )
        except WorkflowAlreadyStartedError:
            return
        except RPCError as error:
            raise _trouble(f"does not start the workflow {workflow_id}", error) from error

    async def closed(self, ref: PullRequestRef, said: ClosedAs) -> bool:
        """Tells a pull request's workflow that it is closed; returns whether there is one."""
        return await self._signal(ref, "closed", said)

    async def restart(
        self, ref: PullRequestRef, selectors: Collection[RestartSelector], *, head: str | None
    ) -> bool:
        """Restarts jobs, a round for each selector.

        Args:
            ref: Whose.
            selectors: Which jobs.
            head: Only if this is the head; None for whatever it is.

        Returns:
            Whether there was a workflow, with this head.
        """
        if head is not None and await self._head(ref) != head:
            return False
        # The workflow looks at the head too: a push may come in between.
        only = [selector.model_copy(update={"head": head}) for selector in selectors]
        told = [await self._signal(ref, "restart", selector) for selector in only]
        return all(told)

    async def cancel(self, ref: PullRequestRef) -> bool:
        """Stops a pull request's jobs; returns whether there is a workflow."""
        return await self._signal(ref, "cancel")

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
        self, workflow_id: str, name: str, given: RestartUpdate | CancelUpdate
    ) -> Taken | None:
        """Sends an update.

        Returns:
            What the workflow took; None if it has accepted the update and does it later, as
            while the index is away. Once it is accepted, nothing can lose it.

        Raises:
            UsageError: The workflow cannot take it: it has ended, or is of an older version.
            InfrastructureError: Nobody took it in time, or it failed.
        """
        handle = self._client.get_workflow_handle(workflow_id)
        try:
            accepted = await _within(
                ACCEPTANCE_TIMEOUT,
                handle.start_update(
                    name,
                    given,
                    wait_for_stage=WorkflowUpdateStage.ACCEPTED,
                    result_type=Taken,
                ),
            )
            if accepted is None:
                raise InfrastructureError(
                    f"no worker has taken the request for {workflow_id} within "
                    f"{ACCEPTANCE_TIMEOUT.seconds} s; see `opam-ci workers`, then ask again: "
                    "nothing is done twice",
                    cause=Cause.UNKNOWN,
                )
            return await _within(RESULT_TIMEOUT, accepted.result())
        except WorkflowUpdateFailedError as error:
            raise _update_failure(workflow_id, name, error) from error
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise _gone(workflow_id, known="already completed" in error.message) from error
            raise _trouble(f"does not update {workflow_id}", error) from error

    async def _list(self, query: str) -> dict[int, str]:
        found = {}
        query = f"{query} AND ExecutionStatus = 'Running' AND WorkflowType = 'PullRequestWorkflow'"
        try:
            async for execution in self._client.list_workflows(query):
                number = _NUMBER.fullmatch(execution.id)
                if number is not None:
                    head = execution.typed_search_attributes.get(options.CI_HEAD)
                    found[int(number[1])] = head or ""
        except RPCError as error:
            raise _trouble("does not list the workflows", error) from error
        return found

    async def _head(self, ref: PullRequestRef) -> str | None:
        handle = self._client.get_workflow_handle(ref.workflow_id)
        try:
            described = await handle.describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise _trouble(f"does not describe {ref.workflow_id}", error) from error
        return described.typed_search_attributes.get(options.CI_HEAD)

    async def _signal(self, ref: PullRequestRef, name: str, *given: object) -> bool:
        handle = self._client.get_workflow_handle(ref.workflow_id)
        try:
            await handle.signal(name, args=list(given))
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise _trouble(f"does not signal {ref.workflow_id}", error) from error
        return True


async def _within(limit: timedelta, waited_for: Coroutine[Any, Any, T]) -> T | None:
    """Waits for a while; returns None if that was too short.

    Not `asyncio.timeout`: the client makes an error of its own of a cancellation, and whoever
    interrupts the wait would be taken for a time that has run out.
    """
    task = asyncio.create_task(waited_for)
    try:
        done, _ = await asyncio.wait({task}, timeout=limit.total_seconds())
        return task.result() if done else None
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, RPCTimeoutOrCancelledError):
                await task


def _gone(workflow_id: str, *, known: bool) -> UsageError:
    if known:
        return UsageError(
            f"{workflow_id} has ended (closed, or a one-off check whose answer was taken); "
            "nothing was changed"
        )
    return UsageError(
        f"there is no running check {workflow_id!r} on this server; `opam-ci status` lists them"
    )


def _update_failure(
    workflow_id: str, name: str, error: WorkflowUpdateFailedError
) -> UsageError | InfrastructureError:
    what = str(error.cause)
    if "AcceptedUpdateCompletedWorkflow" in what:
        return _gone(workflow_id, known=True)
    if "Update handler" in what and "not found" in what:
        signal = name.removesuffix("_jobs")
        return UsageError(
            f"{workflow_id} is of a version that does not answer; send it the signal `{signal}` "
            f"(`temporal workflow signal --workflow-id {workflow_id} --name {signal}`), or wait "
            "for its next head"
        )
    return InfrastructureError(
        f"{workflow_id} could not do it: {what.splitlines()[0][:300]}", cause=Cause.UNKNOWN
    )


def _trouble(what: str, error: RPCError) -> InfrastructureError:
    return InfrastructureError(f"Temporal {what}: {error.message}", cause=Cause.UNKNOWN)
