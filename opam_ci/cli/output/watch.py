"""Following one pull request's workflow: its rows, and the phase of each running job."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowQueryFailedError,
)
from temporalio.service import RPCError, RPCStatusCode

from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.messages import JobHeartbeat
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.summary import JobState, JobStatus, Summary, activity_id
from opam_ci.workflows.pull_request import PullRequestWorkflow

POLL_INTERVAL = timedelta(milliseconds=500)
"""How often the workflow is queried by a watcher."""

_GIVE_UP_AFTER = timedelta(minutes=2)
"""How long the server may be unavailable before a watcher gives up."""


async def watch(
    client: Client, workflow_id: str, wanted: Callable[[Summary], bool]
) -> AsyncIterator[Summary]:
    """Yields the state of a pull request repeatedly, until it is as wanted.

    Raises:
        InfrastructureError: The server is unavailable for two minutes, or the workflow has ended.
    """
    handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(workflow_id)
    unavailable_since: datetime | None = None
    shown: dict[str, JobStatus] = {}
    while True:
        try:
            summary = await handle.query(PullRequestWorkflow.summary)
            described = await handle.describe()
            yield never_back(await with_phases(client, described, summary), shown)
            unavailable_since = None
            if wanted(summary):
                return
            if described.status is not WorkflowExecutionStatus.RUNNING:
                # The last query may have been answered before the workflow ended.
                summary = await handle.query(PullRequestWorkflow.summary)
                yield summary
                if wanted(summary):
                    return
                raise InfrastructureError(
                    f"the workflow {workflow_id} ended with undecided jobs; see the Web UI",
                    cause=Cause.UNKNOWN,
                )
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise InfrastructureError(
                    f"no workflow {workflow_id} on the server (any more)",
                    cause=Cause.UNKNOWN,
                ) from error
            now = datetime.now(UTC)
            unavailable_since = unavailable_since or now
            if now - unavailable_since > _GIVE_UP_AFTER:
                raise InfrastructureError(
                    f"the Temporal server has been unavailable for {_GIVE_UP_AFTER}: "
                    f"{error.message}; the check continues there, see `opam-ci status`",
                    cause=Cause.UNKNOWN,
                ) from error
        except WorkflowQueryFailedError as error:
            raise InfrastructureError(
                f"the query of the workflow {workflow_id} failed: {error}", cause=Cause.UNKNOWN
            ) from error
        await asyncio.sleep(POLL_INTERVAL.total_seconds())


async def with_phases(
    client: Client, described: WorkflowExecutionDescription, summary: Summary
) -> Summary:
    """Returns the summary with the phases from the running attempts' heartbeats.

    Args:
        client: Of the server.
        described: The pull request's workflow, as the server describes it.
        summary: The workflow's.
    """
    if not summary.counts.undecided:
        return summary
    running: dict[str, dict[str, object]] = {}
    parents = [described]
    while parents:
        ids = [
            child.workflow_id
            for parent in parents
            for child in parent.raw_description.pending_children
        ]
        results = await asyncio.gather(
            *(client.get_workflow_handle(child).describe() for child in ids),
            return_exceptions=True,
        )
        parents = []
        for result in results:
            if isinstance(result, RPCError):
                continue
            if isinstance(result, BaseException):
                raise result
            parents.append(result)
            for pending in result.raw_description.pending_activities:
                running[pending.activity_id] = _facts(client, pending)

    rows = tuple(_merge(row, running.get(activity_id(row, summary.head))) for row in summary.jobs)
    return summary.model_copy(update={"jobs": rows})


def never_back(summary: Summary, shown: dict[str, JobStatus]) -> Summary:
    """Returns the summary without jobs that seem to be queued again.

    An attempt that has just ended is no longer pending, and the pull request's workflow receives
    its outcome a moment later: in between, the job is queued there.

    Args:
        summary: The current one.
        shown: The rows that were shown last, by job id; updated.
    """
    rows = []
    for row in summary.jobs:
        before = shown.get(row.job.id)
        if (
            before is not None
            and row.state is JobState.QUEUED
            and before.state is JobState.RUNNING
            and (row.round, row.attempt) <= (before.round, before.attempt)
        ):
            row = before  # noqa: PLW2901 - the row that is shown
        rows.append(row)
    shown.clear()
    shown.update((row.job.id, row) for row in rows)
    return summary.model_copy(update={"jobs": tuple(rows)})


def _facts(client: Client, pending: Any) -> dict[str, object]:
    facts: dict[str, object] = {"attempt": pending.attempt, "state": JobState.QUEUED}
    if pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED:
        facts["state"] = JobState.RUNNING
        facts["started_at"] = pending.last_started_time.ToDatetime(tzinfo=UTC)
        if pending.heartbeat_details.payloads:
            converter = client.data_converter.payload_converter
            try:
                beat = converter.from_payloads(pending.heartbeat_details.payloads, [JobHeartbeat])[
                    0
                ]
            except ValidationError:
                # A worker of another version sends other details: the row has none of them.
                return facts
            if beat.attempt == pending.attempt:
                facts["phase"] = beat.phase
                facts["note"] = beat.note
                facts["log"] = beat.log
    return facts


def _merge(row: JobStatus, facts: dict[str, object] | None) -> JobStatus:
    if row.outcome is not None:
        return row
    if facts is None:
        # The workflow has not scheduled its activity yet, or waits for a job before it.
        is_unscheduled = row.state is JobState.RUNNING and row.job.platform
        return row.model_copy(update={"state": JobState.QUEUED}) if is_unscheduled else row
    if row.state is JobState.RETRYING and facts["state"] is JobState.QUEUED:
        return row
    return row.model_copy(update=facts)
