"""Time limits that a platform sets for some of a job's phases."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import Field

from opam_ci.core.model import Frozen

LONGEST = timedelta(days=1)
"""The longest limit of a phase: a job that never ends would occupy its worker."""

Limit = Annotated[timedelta, Field(gt=timedelta(), le=LONGEST)]


class PhaseLimits(Frozen):
    """A platform's own limits; None leaves a phase's limit unchanged.

    It has the fields of `core.jobs.build.PhaseTimeouts`.
    """

    setup: Limit | None = None
    solve: Limit | None = None
    depexts: Limit | None = None
    fetch: Limit | None = None
    dependencies: Limit | None = None
    build: Limit | None = None
    test: Limit | None = None
    verify: Limit | None = None

    @property
    def overrides(self) -> dict[str, timedelta]:
        """The limits that are set, by phase."""
        return self.model_dump(exclude_none=True)

    def then(self, closer: "PhaseLimits") -> Self:
        """Return these limits, overridden by those of something closer to the platform."""
        return self.model_copy(update=closer.overrides)
