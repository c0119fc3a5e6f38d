"""A dependency that failed to build, by the key of its build."""

from pydantic import Field

from opam_ci.core.jobs.outcome import Failed, SeenIn
from opam_ci.core.model import Frozen


class FailedAlone(Frozen):
    """A dependency that failed where only what it needs was installed, and had ever run.

    Attributes:
        package: Full name.
        key: Of its build, see `build_keys`.
        beside: Packages of the job's solution that could have been there as well when the job
            built it once more, and that it does not need by its opam file.
        output: An excerpt of what opam printed.
    """

    package: str
    key: str
    beside: tuple[str, ...]
    output: str


class KnownFailure(Frozen):
    """What is known of a build that failed.

    Attributes:
        key: Of the build.
        package: Full name.
        outcome: Verdict of the newest job that built it.
        seen: Attempts that built it, and failed alike; the newest first.
        beside: As in `FailedAlone`, of all these together.
    """

    key: str
    package: str
    outcome: Failed
    seen: tuple[SeenIn, ...] = Field(min_length=1)
    beside: tuple[str, ...] = ()
