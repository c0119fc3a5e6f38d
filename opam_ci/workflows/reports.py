"""Reports of jobs whose activity did not bring one."""

from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from opam_ci.activities import boundary
    from opam_ci.core.messages import JobReport
    from opam_ci.core.outcome import Cancelled, Cause, Errored, Evidence, Outcome
    from opam_ci.core.summary import JobStatus


def report_for(row: JobStatus, outcome: Outcome, now: datetime) -> JobReport:
    """Returns a report of a job's last attempt with an outcome that the workflow gives it."""
    return JobReport(
        outcome=outcome,
        attempt=max(row.attempt, 1),
        worker=row.worker or "",
        started_at=row.attempt_started_at or row.started_at or now,
        ended_at=now,
        log=row.log,
    )


def report_after(error: ActivityError, row: JobStatus, now: datetime) -> JobReport:
    """Returns the report that a failed activity carries, or one made from how it ended."""
    if (report := boundary.report_of(error)) is not None:
        return report
    if boundary.is_cancelled(error):
        return report_for(row, Cancelled(by="request"), now)
    return report_for(row, boundary.outcome_without_report(error), now)


def lost_verdict(detail: str) -> Errored:
    """Returns the outcome of a job of which nobody says any more what it came to."""
    return Errored(cause=Cause.UNKNOWN, evidence=Evidence(rule="no-verdict", detail=detail))
