"""What operators ask of the whole CI: errors by cause, and workers."""

from pydantic import AwareDatetime

from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cause


class HitPullRequest(Frozen):
    """A pull request, or branch of a clone, that errors hit.

    Attributes:
        repository: `owner/name`.
        target: `pull/30203` or `heads/some-branch`.
        jobs: How many of its jobs.
    """

    repository: str
    target: str
    jobs: int


class ErrorGroup(Frozen):
    """Jobs that the CI itself lost, or is about to try again, for one cause.

    Attributes:
        cause: Why.
        errored: Jobs that wait for a restart.
        retrying: Jobs that wait for their automatic retry.
        since: When the first of them was lost.
        last_at: When the last of them was.
        pull_requests: Whom it hits, most jobs first.
    """

    cause: Cause
    errored: int
    retrying: int
    since: AwareDatetime
    last_at: AwareDatetime
    pull_requests: tuple[HitPullRequest, ...]


class WorkerRow(Frozen):
    """What a worker did, as the index knows it.

    Attributes:
        worker: Its identity.
        pool: What it builds for, empty where no record says so.
        attempts: Attempts that it began.
        running: Those of them that have not ended.
        faults: Those of them that ended by an infrastructure fault.
        causes: The faults by cause.
        last_seen_at: When its last attempt began.
    """

    worker: str
    pool: str
    attempts: int
    running: int
    faults: int
    causes: dict[Cause, int]
    last_seen_at: AwareDatetime | None
