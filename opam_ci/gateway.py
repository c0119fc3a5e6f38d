"""How anybody outside a workflow talks to the workflows of pull requests."""

import re
from collections.abc import Collection

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from opam_ci.core.errors import InfrastructureError
from opam_ci.core.github.messages import Delivered
from opam_ci.core.github.origin import ClosedAs
from opam_ci.core.messages import PullRequestInput
from opam_ci.core.outcome import Cause
from opam_ci.core.requests import PullRequestRef, RestartSelector, Revision
from opam_ci.workflows import options
from opam_ci.workflows.delivery import DeliveryWorkflow
from opam_ci.workflows.pull_request import PullRequestWorkflow

_NUMBER = re.compile(r"pr/.*/([1-9][0-9]{0,11})")


class PullRequests:
    """The workflows of pull requests. All methods may be called twice with the same effect.

    Each raises `InfrastructureError` when Temporal does not take it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def head_changed(self, ref: PullRequestRef, revision: Revision) -> None:
        """Starts a pull request's workflow, or tells the running one, in one request."""
        try:
            await self._client.start_workflow(
                PullRequestWorkflow.run,
                PullRequestInput(pull_request=ref),
                id=ref.workflow_id,
                task_queue=options.ORCHESTRATION_QUEUE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                start_signal="head_changed",
                start_signal_args=[revision],
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

    async def running(self, owner: str, repo: str) -> dict[int, str]:
        """Returns the pull requests whose workflows run, with their heads, empty for none yet."""
        return await self._list(f"WorkflowId STARTS_WITH 'pr/{owner}/{repo}/'")

    async def with_head(self, owner: str, repo: str, head: str) -> tuple[int, ...]:
        """Returns the pull requests whose workflows run and test a head."""
        query = f"WorkflowId STARTS_WITH 'pr/{owner}/{repo}/' AND CiHead = '{head}'"
        return tuple(sorted(await self._list(query)))

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


def _trouble(what: str, error: RPCError) -> InfrastructureError:
    return InfrastructureError(f"Temporal {what}: {error.message}", cause=Cause.UNKNOWN)
