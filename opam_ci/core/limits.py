"""Time limits that a platform sets for some of a job's phases."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import Field

from opam_ci.core.model import Frozen

LONGEST = timedelta(days=1)
"""No phase may take longer: a worker would be taken by a job that never ends."""

Limit = Annotated[timedelta, Field(gt=timedelta(), le=LONGEST)]


class PhaseLimits(Frozen):
    """The limits that a platform has of its own; None leaves a phase's limit as it is.

    It has the fields of `core.build.PhaseTimeouts`.
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
    def given(self) -> dict[str, timedelta]:
        """The limits that are set, by phase."""
        return {
            name: limit
            for name in type(self).model_fields
            if isinstance(limit := getattr(self, name), timedelta)
        }

    def then(self, closer: "PhaseLimits") -> Self:
        """Returns these limits with those of something closer to the platform over them."""
        return self.model_copy(update=closer.given)
