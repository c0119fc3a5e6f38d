"""Conversion of exceptions and outcomes to Temporal errors, and back; made only here."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ApplicationErrorCategory,
    CancelledError,
    TimeoutError,  # noqa: A004  the field's own name
    TimeoutType,
)

from opam_ci.clients.github.errors import GitHubRefusedError
from opam_ci.core.jobs.errors import InfrastructureError, SubmissionError
from opam_ci.core.jobs.messages import JobHeartbeat, JobReport
from opam_ci.core.jobs.outcome import Cause, Errored, Evidence, Failed, Outcome
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.text.result import reason_line

T = TypeVar("T")

PACKAGE_FAILURE = "PackageFailure"
"""Type of the error of a package failure: final, and not an alert."""

INFRASTRUCTURE_FAULT = "InfrastructureFault"
"""Type of the error of an infrastructure fault: retried with backoff."""

INTERNAL_ERROR = "InternalError"
"""Type of the error of a bug of ours: the same again would fail the same way."""

_HEARTBEAT = TypeAdapter(JobHeartbeat)
_WITH_REPORT = frozenset({PACKAGE_FAILURE, INFRASTRUCTURE_FAULT, INTERNAL_ERROR})

GITHUB_REFUSED = "GitHubRefused"
"""Type of the error of a request that GitHub rejects for good: final."""


@contextmanager
def github_errors() -> Iterator[None]:
    """Converts errors of requests to GitHub to Temporal's.

    Raises:
        ApplicationError: `GitHubRefused` (final), or `InfrastructureFault` (retried, after
            GitHub's `retry-after` if there was one).
    """
    try:
        yield
    except GitHubRefusedError as error:
        raise ApplicationError(str(error), type=GITHUB_REFUSED, non_retryable=True) from error
    except InfrastructureError as error:
        raise ApplicationError(
            str(error), type=INFRASTRUCTURE_FAULT, next_retry_delay=error.retry_after
        ) from error


def outcome_of(error: Exception) -> Outcome:
    """Returns the outcome of a job in which an exception was raised.

    An exception that was not raised on purpose is a bug of ours, so an error and never the
    author's failure.
    """
    match error:
        case SubmissionError():
            return Failed(reason=error.reason, evidence=error.evidence)
        case InfrastructureError():
            return Errored(cause=error.cause, evidence=error.evidence)
        case _:
            return Errored(
                cause=Cause.UNKNOWN,
                evidence=Evidence(
                    rule="internal-error",
                    detail=f"{type(error).__name__}: {error}"[:400],
                ),
            )


def is_bug(report: JobReport) -> bool:
    """Whether an attempt ended by an exception that was not raised on purpose."""
    outcome = report.outcome
    return isinstance(outcome, Errored) and outcome.evidence.rule == "internal-error"


def retry_delay(
    retry: RetrySettings, report: JobReport, retry_after: timedelta | None = None
) -> timedelta | None:
    """Returns the wait before the next attempt, None if there is none."""
    if is_bug(report) or retry.is_last(report.attempt):
        return None
    # Jitter needs no secrecy.
    chance = random.random()  # noqa: S311
    return retry.delay(report.attempt, chance=chance, retry_after=retry_after)


def error_for(report: JobReport, delay: timedelta | None) -> ApplicationError | None:
    """Returns the Temporal error for an attempt's report, None if it is not an error.

    Args:
        report: Of the attempt; becomes the error's details.
        delay: Wait before the next attempt, for a fault.
    """
    match report.outcome:
        case Failed() as failed:
            return ApplicationError(
                f"{failed.reason}: {reason_line(failed)}",
                report,
                type=PACKAGE_FAILURE,
                non_retryable=True,
                category=ApplicationErrorCategory.BENIGN,
            )
        case Errored() as errored:
            return ApplicationError(
                f"{errored.cause}: {reason_line(errored)}",
                report,
                type=INTERNAL_ERROR if is_bug(report) else INFRASTRUCTURE_FAULT,
                non_retryable=is_bug(report),
                next_retry_delay=delay,
            )
        case _:
            return None


def report_in(error: BaseException | None) -> JobReport | None:
    """Returns the report in the details of an attempt's error, None if it has none."""
    if isinstance(error, ApplicationError) and error.type in _WITH_REPORT:
        for detail in error.details:
            return JobReport.model_validate(detail)
    return None


def is_lost(error: ActivityError) -> bool:
    """Whether an activity ended by its heartbeat timeout."""
    cause = error.cause
    return isinstance(cause, TimeoutError) and cause.type is TimeoutType.HEARTBEAT


def last_heartbeat(error: ActivityError) -> JobHeartbeat | None:
    """Returns the last heartbeat of an activity that ended by its heartbeat timeout, if any."""
    cause = error.cause
    if not isinstance(cause, TimeoutError) or not cause.last_heartbeat_details:
        return None
    return heartbeat_of(cause.last_heartbeat_details)


def details_as(kind: TypeAdapter[T], details: Sequence[Any]) -> T | None:
    """Returns parsed heartbeat details, None if they are of another version of the worker."""
    try:
        return kind.validate_python(details[0]) if details else None
    except ValidationError:
        return None


def heartbeat_of(details: Sequence[Any]) -> JobHeartbeat | None:
    """Returns the parsed heartbeat details of an attempt, None if they cannot be read."""
    return details_as(_HEARTBEAT, details)


def reason_of(error: ActivityError) -> str:
    """Returns in a line why an activity failed for good."""
    return outcome_without_report(error).evidence.detail or str(error)


def is_cancelled(error: ActivityError) -> bool:
    """Whether an activity was cancelled."""
    return isinstance(error.cause, CancelledError)


def outcome_without_report(error: ActivityError) -> Errored:
    """Synthesises the outcome of an activity that ended without a report."""
    cause = error.cause
    rule, detail = "activity-error", str(cause or error)[:400]
    if isinstance(cause, TimeoutError):
        kind = cause.type.name.lower() if cause.type is not None else "unknown"
        rule = f"activity-timeout-{kind}"
        detail = f"the job's activity reached its {kind} timeout"
    return Errored(cause=Cause.UNKNOWN, evidence=Evidence(rule=rule, detail=detail))
