"""The overview for operators: errors by cause, and workers."""

from pydantic import AwareDatetime

from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.model import Frozen


class HitPullRequest(Frozen):
    """A pull request, or branch of a clone, with errored jobs.

    Attributes:
        repository: `owner/name`.
        target: `pull/30203` or `heads/some-branch`.
        jobs: How many of its jobs are affected.
    """

    repository: str
    target: str
    jobs: int


class ErrorGroup(Frozen):
    """Jobs that met an infrastructure fault of one cause and are not decided since.

    Attributes:
        cause: Of the faults.
        errored: Jobs that wait for a restart.
        retrying: Jobs that wait for their automatic retry.
        since: Time of the first fault.
        last_at: Time of the last fault.
        pull_requests: Those affected, most jobs first.
    """

    cause: Cause
    errored: int
    retrying: int
    since: AwareDatetime
    last_at: AwareDatetime
    pull_requests: tuple[HitPullRequest, ...]


class WorkerRow(Frozen):
    """The attempts of a worker, from the index.

    Attributes:
        worker: Its identity.
        pool: Of its attempts, empty if not recorded.
        attempts: Number of attempts that it began.
        running: Those that have not ended.
        faults: Those that ended by an infrastructure fault.
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


class AuthorRow(Frozen):
    """What an author's pull requests cost, from the index.

    Attributes:
        author: The account that opened them.
        repository: Their repository.
        cpu_hours: Processor time of their jobs.
        attempts: Number of attempts that ended without an infrastructure fault.
        pull_requests: Number of pull requests and branches with such attempts.
    """

    author: str
    repository: str
    cpu_hours: float
    attempts: int
    pull_requests: int
