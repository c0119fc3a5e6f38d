"""One attempt of a job: its heartbeats, its verdict, and its signals to the workflow."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from temporalio import activity
from temporalio.service import RPCError

from opam_ci.activities.backup_heartbeats import BACKUP_HEARTBEATS
from opam_ci.activities.boundary import error_for, heartbeat_of, outcome_of, retry_delay
from opam_ci.activities.heartbeats import heartbeating
from opam_ci.core.jobs.build import SourceCounts
from opam_ci.core.jobs.errors import InfrastructureError, SubmissionError
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.messages import JobContext, JobHeartbeat, JobReport
from opam_ci.core.jobs.outcome import OWN_LIMIT_RULES, Cause, Errored, Evidence, Outcome, Passed
from opam_ci.core.jobs.signals import AttemptFaulted, AttemptStarted
from opam_ci.core.jobs.summary import Fault

_log = logging.getLogger(__name__)


class Attempt:
    """The attempt that is running in this activity.

    Attributes:
        number: From 1.
        worker: Identity of this worker.
        log: Key of the attempt's log; set by the activity once it has one.
        cpu_seconds: Processor time that it used, None if unknown.
        sources: Where its archives came from, None if unknown.
        image: Fingerprint of the image that it ran in, None if unknown.
        verdict_key: What its outcome depends on, None if unknown.
        audits: Label of the verdict that was known for that key, if it ran all the same.
        task_queue: Of this worker.
        task_token: The attempt's id for Temporal.
        heartbeat_timeout: Time without heartbeats after which it counts as lost, None if never.
        beaten_at: Time of the last heartbeat from the event loop, by `time.monotonic()`.
        limit_reached_on: Worker on which an earlier attempt reached the job's own limit.
    """

    def __init__(self, context: JobContext, job: str) -> None:
        info = activity.info()
        self.context = context
        self.job = job
        self.number = info.attempt
        self.worker = activity.client().service_client.config.identity
        self.started_at = datetime.now(UTC)
        self.log: str | None = None
        self.cpu_seconds: float | None = None
        self.image: str | None = None
        self.verdict_key: str | None = None
        self.audits: str | None = None
        self.sources: SourceCounts | None = None
        self.task_queue = info.task_queue
        self.task_token = info.task_token
        self.heartbeat_timeout = info.heartbeat_timeout
        self.beaten_at = time.monotonic()
        self._previous = heartbeat_of(info.heartbeat_details)
        self.limit_reached_on = self._previous.limit_reached_on if self._previous else None
        self._phase: Phase | None = None
        self._log_bytes = 0
        self._note = ""

    def progress(self, phase: Phase | None, log_bytes: int, note: str = "") -> None:
        """Sets the progress for the next heartbeat."""
        self._phase = phase
        self._log_bytes = log_bytes
        self._note = note

    def heartbeat(self, fault: Fault | None = None) -> None:
        """Sends a heartbeat now.

        Args:
            fault: The fault, if the attempt ended by one.
        """
        self.beaten_at = time.monotonic()
        activity.heartbeat(self.state(fault))

    def state(self, fault: Fault | None = None) -> JobHeartbeat:
        """Returns the details of a heartbeat now."""
        reached = fault is not None and fault.evidence.rule in OWN_LIMIT_RULES
        return JobHeartbeat(
            attempt=self.number,
            worker=self.worker,
            started_at=self.started_at,
            phase=self._phase,
            log=self.log,
            log_bytes=self._log_bytes,
            note=self._note,
            alone=BACKUP_HEARTBEATS.attempts == 1,
            limit_reached_on=self.worker if reached else self.limit_reached_on,
            fault=fault,
        )

    def passed(self, rule: str, detail: str | None = None) -> Passed:
        """Returns the outcome of an attempt that succeeded."""
        return Passed(
            evidence=Evidence(rule=rule, worker=self.worker, attempt=self.number, detail=detail)
        )

    async def announce(self) -> None:
        """Signals to the workflow that an attempt after a fault has begun."""
        if self.number == 1 or not self.context.notify:
            return
        await _signal(
            "attempt_started",
            AttemptStarted(
                job=self.job,
                round=self.context.round,
                attempt=self.number,
                worker=self.worker,
                at=self.started_at,
                previous=self._previous,
            ),
        )

    async def signal_fault(self, report: JobReport, delay: timedelta | None) -> None:
        """Signals to the workflow that this attempt met an infrastructure fault."""
        if not isinstance(report.outcome, Errored):
            return
        fault = Fault(
            attempt=self.number,
            cause=report.outcome.cause,
            evidence=report.outcome.evidence,
            worker=self.worker,
            at=report.ended_at,
            started_at=self.started_at,
            log=self.log,
        )
        # If the signal fails, the next attempt finds the fault here.
        self.heartbeat(fault)
        if self.context.notify:
            await _signal(
                "attempt_faulted",
                AttemptFaulted(
                    job=self.job,
                    round=self.context.round,
                    fault=fault,
                    next_attempt_at=report.ended_at + delay if delay is not None else None,
                ),
            )


async def _signal(signal: str, message: AttemptFaulted | AttemptStarted) -> None:
    workflow_id = activity.info().workflow_id
    if workflow_id is None:
        return
    handle = activity.client().get_workflow_handle(workflow_id)
    try:
        await handle.signal(signal, message)
    except RPCError as error:
        # The workflow may have ended or Temporal be unavailable; neither may change the job's
        # verdict, and the signal of the next attempt makes up for it.
        _log.warning("could not signal %s to %s: %s", signal, workflow_id, error)


def _shut_down(attempt: Attempt) -> Errored:
    return Errored(
        cause=Cause.WORKER_LOST,
        evidence=Evidence(
            rule="worker-shutdown",
            worker=attempt.worker,
            attempt=attempt.number,
            detail=f"worker {attempt.worker} was shut down in the middle of the job",
        ),
    )


async def run_attempt(
    context: JobContext, job: str, work: Callable[[Attempt], Awaitable[Outcome]]
) -> JobReport:
    """Runs one attempt of a job and converts its result or exception to a report or an error.

    Args:
        context: Of the job.
        job: The job's id in the workflow.
        work: Does the job. May return any outcome, or raise.

    Returns:
        The report of a job that passed or was skipped.

    Raises:
        ApplicationError: `PackageFailure` (final), `InfrastructureFault` (retried), or
            `InternalError` (a bug of ours, final), each with the report in its details.
        asyncio.CancelledError: The activity was cancelled.
    """
    attempt = Attempt(context, job)
    await attempt.announce()
    retry_after: timedelta | None = None
    try:
        with heartbeating(attempt.heartbeat), BACKUP_HEARTBEATS.watching(attempt):
            outcome = await work(attempt)
    except asyncio.CancelledError:
        if not activity.is_worker_shutdown():
            raise
        outcome = _shut_down(attempt)
    except Exception as error:  # noqa: BLE001  the boundary: every bug becomes an error
        outcome = outcome_of(error)
        if isinstance(error, InfrastructureError):
            retry_after = error.retry_after
        elif not isinstance(error, SubmissionError):
            _log.warning("job %s attempt %d", job, attempt.number, exc_info=error)
    report = JobReport(
        outcome=outcome,
        attempt=attempt.number,
        worker=attempt.worker,
        started_at=attempt.started_at,
        ended_at=datetime.now(UTC),
        log=attempt.log,
        cpu_seconds=attempt.cpu_seconds,
        image=attempt.image,
        verdict_key=attempt.verdict_key,
        audits=attempt.audits,
        sources=attempt.sources,
    )
    delay = retry_delay(context.retry, report, retry_after)
    await attempt.signal_fault(report, delay)
    if (error_to_raise := error_for(report, delay)) is not None:
        raise error_to_raise
    return report
