"""The one place where exceptions and outcomes become Temporal errors, and back."""

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

from opam_ci.clients.github_errors import GitHubRefusedError
from opam_ci.core.job_errors import InfrastructureError, SubmissionError
from opam_ci.core.messages import JobHeartbeat, JobReport
from opam_ci.core.outcome import Cause, Errored, Evidence, Failed, Outcome
from opam_ci.core.result_text import reason_line
from opam_ci.core.retry import RetrySettings

T = TypeVar("T")

PACKAGE_FAILURE = "PackageFailure"
"""Type of the error of a package failure: final, and no cause for alarm."""

INFRASTRUCTURE_FAULT = "InfrastructureFault"
"""Type of the error of an infrastructure fault: retried with backoff."""

INTERNAL_ERROR = "InternalError"
"""Type of the error of a bug of ours: the same again would fail the same way."""

_HEARTBEAT = TypeAdapter(JobHeartbeat)
_WITH_REPORT = frozenset({PACKAGE_FAILURE, INFRASTRUCTURE_FAULT, INTERNAL_ERROR})

GITHUB_REFUSED = "GitHubRefused"
"""Type of the error of what GitHub will refuse again: final, recorded once."""


@contextmanager
def github_errors() -> Iterator[None]:
    """Turns the errors of calls to GitHub into Temporal's.

    Raises:
        ApplicationError: `GitHubRefused` (final), or `InfrastructureFault` (retried, at the
            time that GitHub gave if it gave one).
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
    """Returns what an exception means for the job in which it was raised.

    Anything that we did not raise on purpose is a bug of ours, so an error and never the
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
    """Whether an attempt ended in an exception that nobody raised on purpose."""
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
    """Returns the Temporal error for an attempt's report, None if it is no error.

    Args:
        report: How the attempt ended; travels in the error's details.
        delay: When the next attempt comes, for a fault.
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
    """Returns the report in the details of an attempt's error, None if it carries none."""
    if isinstance(error, ApplicationError) and error.type in _WITH_REPORT:
        for detail in error.details:
            return JobReport.model_validate(detail)
    return None


def report_of(error: ActivityError) -> JobReport | None:
    """Returns the report that a failed activity carries, None if it carries none."""
    return report_in(error.cause)


def is_lost(error: ActivityError) -> bool:
    """Whether an activity ended because its worker went silent."""
    cause = error.cause
    return isinstance(cause, TimeoutError) and cause.type is TimeoutType.HEARTBEAT


def last_heartbeat(error: ActivityError) -> JobHeartbeat | None:
    """Returns the last heartbeat of an activity whose worker went silent, if one arrived."""
    cause = error.cause
    if not isinstance(cause, TimeoutError) or not cause.last_heartbeat_details:
        return None
    return heartbeat_of(cause.last_heartbeat_details)


def details_as(kind: TypeAdapter[T], details: Sequence[Any]) -> T | None:
    """Returns what heartbeat details say; a worker of another version may say it otherwise."""
    try:
        return kind.validate_python(details[0]) if details else None
    except ValidationError:
        return None


def heartbeat_of(details: Sequence[Any]) -> JobHeartbeat | None:
    """Returns what the heartbeat details of an attempt say, if they can be read."""
    return details_as(_HEARTBEAT, details)


def is_cancelled(error: ActivityError) -> bool:
    """Whether an activity ended because its cancellation was asked for."""
    return isinstance(error.cause, CancelledError)


def outcome_without_report(error: ActivityError) -> Errored:
    """Returns the outcome of an activity that ended without a word of its own."""
    cause = error.cause
    rule, detail = "activity-error", str(cause or error)[:400]
    if isinstance(cause, TimeoutError):
        kind = cause.type.name.lower() if cause.type is not None else "unknown"
        rule = f"activity-timeout-{kind}"
        detail = f"the job's activity ran into its {kind} time limit"
    return Errored(cause=Cause.UNKNOWN, evidence=Evidence(rule=rule, detail=detail))
