"""The verdict of a job with the same inputs."""

from typing import Any

from pydantic import Field, field_serializer

from opam_ci.core.jobs.outcome import Failed, Passed, Skipped
from opam_ci.core.model import Frozen


class KnownVerdict(Frozen):
    """The verdict of a job with the same inputs.

    Attributes:
        outcome: Its outcome; the evidence says where it ran.
        log: Key of the log of the attempt that ran, None if it wrote none.
    """

    outcome: Passed | Failed | Skipped = Field(discriminator="kind")
    log: str | None

    @field_serializer("outcome", when_used="json")
    def _compact(self, outcome: Passed | Failed | Skipped) -> dict[str, Any]:
        # Its kind is a default as well, and tells them apart.
        return {"kind": outcome.kind, **outcome.model_dump(mode="json", exclude_defaults=True)}

    @property
    def label(self) -> str:
        """Its standing and reason, as `PlannedJob.audits` has them."""
        match self.outcome:
            case Failed(reason=reason) | Skipped(reason=reason):
                return f"{self.outcome.kind} {reason}"
            case Passed():
                return "passed"
