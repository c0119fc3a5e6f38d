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

from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.messages import JobHeartbeat
from opam_ci.core.outcome import Cause
from opam_ci.core.summary import JobState, JobStatus, Summary, activity_id
from opam_ci.workflows.pull_request import PullRequestWorkflow

POLL_INTERVAL = timedelta(milliseconds=500)
"""How often the workflow is asked while somebody looks."""

_GIVE_UP_AFTER = timedelta(minutes=2)
"""How long the server may be away before a watcher stops waiting for it."""


async def watch(
    client: Client, workflow_id: str, wanted: Callable[[Summary], bool]
) -> AsyncIterator[Summary]:
    """Yields the state of a pull request again and again, until it is as wanted.

    Raises:
        InfrastructureError: The server stays away for two minutes.
    """
    handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(workflow_id)
    away_since: datetime | None = None
    shown: dict[str, JobStatus] = {}
    while True:
        try:
            summary = await handle.query(PullRequestWorkflow.summary)
            described = await handle.describe()
            yield never_back(await with_phases(client, described, summary), shown)
            away_since = None
            if wanted(summary):
                return
            if described.status is not WorkflowExecutionStatus.RUNNING:
                # What it said last may have been said before it ended.
                summary = await handle.query(PullRequestWorkflow.summary)
                yield summary
                if wanted(summary):
                    return
                raise InfrastructureError(
                    f"the workflow {workflow_id} ended before it was done; see the Web UI",
                    cause=Cause.UNKNOWN,
                )
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise InfrastructureError(
                    f"the server does not know the workflow {workflow_id} (any more)",
                    cause=Cause.UNKNOWN,
                ) from error
            now = datetime.now(UTC)
            away_since = away_since or now
            if now - away_since > _GIVE_UP_AFTER:
                raise InfrastructureError(
                    f"the Temporal server has been away for {_GIVE_UP_AFTER}: {error.message}; "
                    "the check itself goes on there, see `opam-ci status`",
                    cause=Cause.UNKNOWN,
                ) from error
        except WorkflowQueryFailedError as error:
            raise InfrastructureError(
                f"the workflow {workflow_id} does not answer: {error}", cause=Cause.UNKNOWN
            ) from error
        await asyncio.sleep(POLL_INTERVAL.total_seconds())


async def with_phases(
    client: Client, described: WorkflowExecutionDescription, summary: Summary
) -> Summary:
    """Returns the summary with what the running attempts' heartbeats add to it.

    Args:
        client: Of the server.
        described: The pull request's workflow, as the server describes it.
        summary: What the workflow says itself.
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
        answers = await asyncio.gather(
            *(client.get_workflow_handle(child).describe() for child in ids),
            return_exceptions=True,
        )
        parents = []
        for answer in answers:
            if isinstance(answer, RPCError):
                continue
            if isinstance(answer, BaseException):
                raise answer
            parents.append(answer)
            for pending in answer.raw_description.pending_activities:
                running[pending.activity_id] = _facts(client, pending)

    rows = tuple(_merge(row, running.get(activity_id(row, summary.head))) for row in summary.jobs)
    return summary.model_copy(update={"jobs": rows})


def never_back(summary: Summary, shown: dict[str, JobStatus]) -> Summary:
    """Returns the summary without jobs that seem to wait again.

    An attempt that has just ended is no longer pending, and the pull request's workflow hears of
    its outcome a moment later: meanwhile it knows the job as queued.

    Args:
        summary: As it is now.
        shown: The rows that were shown last, by job id; brought up to date.
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
                # A worker of another version says something else; the row does without.
                return facts
            if beat.attempt == pending.attempt:
                facts["phase"] = beat.phase
                facts["log"] = beat.log
    return facts


def _merge(row: JobStatus, facts: dict[str, object] | None) -> JobStatus:
    if row.outcome is not None:
        return row
    if facts is None:
        # The workflow has handed it to nobody yet, or waits for the job before it.
        is_early = row.state is JobState.RUNNING and row.job.platform
        return row.model_copy(update={"state": JobState.QUEUED}) if is_early else row
    if row.state is JobState.RETRYING and facts["state"] is JobState.QUEUED:
        return row
    return row.model_copy(update=facts)
