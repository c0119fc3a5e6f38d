"""The exceptions that decide a job: who is at fault, and on what that rests."""

from datetime import timedelta

from opam_ci.core.errors import OpamCiError
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import IMAGE_UNFIT, Cause, Evidence, FailureReason


class SubmissionError(OpamCiError):
    """The submission is at fault: maps to `failed(reason)`.

    Attributes:
        reason: What about it.
        evidence: On what the verdict rests.
    """

    def __init__(self, message: str, *, reason: FailureReason, evidence: Evidence) -> None:
        super().__init__(message)
        self.reason = reason
        self.evidence = evidence


class InfrastructureError(OpamCiError):
    """The CI is at fault: maps to a fault with a cause, and is retried.

    Attributes:
        cause: What to repair.
        phase: Where it happened.
        evidence: On what it rests; made from the message where none is given.
        retry_after: Time to wait, if the other side named one.
    """

    def __init__(
        self,
        message: str,
        *,
        cause: Cause,
        phase: Phase | None = None,
        evidence: Evidence | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.phase = phase
        self.evidence = evidence or Evidence(rule=f"raised-{cause}", phase=phase, detail=message)
        self.retry_after = retry_after


class UnfitImageError(InfrastructureError):
    """An image lacks what its platform needs, or its registry refuses it, on every worker."""

    def __init__(self, message: str, *, phase: Phase | None = None) -> None:
        evidence = Evidence(rule=IMAGE_UNFIT, phase=phase, detail=message)
        super().__init__(message, cause=Cause.IMAGE, phase=phase, evidence=evidence)
