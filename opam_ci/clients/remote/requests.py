"""Bodies of the JSON API's actions."""

from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from opam_ci.core.jobs.outcome import Cause, FailureReason, SkipReason
from opam_ci.core.jobs.selector import (
    CancelUpdate,
    JobSelector,
    RestartOrigin,
    RestartSelector,
    RestartUpdate,
    RestartWhich,
)
from opam_ci.core.model import Frozen

VERDICTS = (
    "passed",
    *(f"failed({reason})" for reason in FailureReason),
    *(f"skipped({reason})" for reason in SkipReason),
    *(f"errored({cause})" for cause in Cause),
)
"""What an attempt can have ended with, as `core.jobs.outcome.label` names it."""


class CancelRequest(JobSelector):
    """Which undecided jobs to cancel; nothing selects all of them.

    Attributes:
        preview: Whether only to return what it would take.
    """

    preview: bool = False

    @model_validator(mode="after")
    def _names_are_names(self) -> Self:
        names = (self.platform, self.package, self.revdep, self.job, self.head, *self.jobs)
        if any(each is not None and not each.isprintable() for each in names):
            raise ValueError("a name has control characters")
        return self

    @property
    def update(self) -> CancelUpdate:
        """The same for the workflow."""
        selector = JobSelector(**self.model_dump(include=set(JobSelector.model_fields)))
        return CancelUpdate(selector=selector, preview=self.preview)


class RestartRequest(CancelRequest):
    """Which decided jobs to restart; every given field narrows.

    Attributes:
        which: Jobs that the CI itself lost (the default), failed ones, or all.
        cause: Only jobs errored for this cause.
    """

    which: RestartWhich = RestartWhich.ERRORED
    cause: Cause | None = None

    def restart(self, origin: RestartOrigin) -> RestartUpdate:
        """Returns the same for the workflow.

        Args:
            origin: Whether an author restarts, who has a limit.
        """
        own = self.model_dump(exclude={"preview"})
        return RestartUpdate(selector=RestartSelector(**own, origin=origin), preview=self.preview)


class WhichAttempt(Frozen):
    """An attempt of a job.

    Attributes:
        round: Of this round; none for the last one.
        attempt: This one of the round; none for the last one.
    """

    round: int | None = Field(default=None, ge=1, le=2**31 - 1)
    attempt: int | None = Field(default=None, ge=1, le=2**31 - 1)


class WrongVerdictRequest(WhichAttempt):
    """Why the verdict of an attempt is wrong.

    Attributes:
        expected: What it should have been, such as `errored(dns)`.
        comment: Why.
    """

    expected: str = Field(max_length=50, json_schema_extra={"enum": list(VERDICTS)})
    comment: str = Field(default="", max_length=2000)

    @field_validator("expected")
    @classmethod
    def _is_a_verdict(cls, value: str) -> str:
        if value not in VERDICTS:
            raise ValueError(f"not a verdict; one of: {', '.join(VERDICTS)}")
        return value

    @field_validator("comment")
    @classmethod
    def _can_be_stored(cls, value: str) -> str:
        return value.replace("\0", " ")


def request_for(update: RestartUpdate | CancelUpdate) -> dict[str, Any]:
    """Returns the body that asks for an update; who restarts is for the server to say."""
    selector = update.selector.model_dump(mode="json", exclude={"origin"}, exclude_defaults=True)
    return selector | {"preview": update.preview}
