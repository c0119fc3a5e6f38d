"""What can be asked of the index: each filter becomes a condition in SQL."""

from typing import Any

from pydantic import AwareDatetime
from sqlalchemy import ColumnElement, and_
from sqlalchemy.sql.schema import Table

from opam_ci.clients.index.schema import ATTEMPTS, JOBS, PULL_REQUESTS, REVISIONS
from opam_ci.core.job import Job, JobKind, Phase
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Cause, FailureReason, SkipReason
from opam_ci.core.records import RevisionKey, Standing
from opam_ci.core.summary import State


class RevisionFilter(Frozen):
    """Which testings of heads; what is not given matches all.

    Attributes:
        revision: Exactly this one.
        repository: `owner/name`.
        number: Of a pull request.
        branch: Of a local clone.
        head: Commit under test, in full.
        newest: Only the newest testing of each pull request and branch.
        is_open: Whether the pull request is open.
    """

    revision: RevisionKey | None = None
    repository: str | None = None
    number: int | None = None
    branch: str | None = None
    head: str | None = None
    newest: bool = False
    is_open: bool | None = None
    state: State | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None


class JobFilter(Frozen):
    """Which jobs; what is not given matches all.

    Attributes:
        of: Jobs of these testings; its `since` and `until` are of the testing.
        standing: How it stands, such as `errored`.
        cause: The infrastructure fault that it is errored or retrying for.
        failure_reason: What about the package is at fault.
        skip_reason: Why there was nothing to do.
        kind: What it does.
        platform: Name of its platform.
        package: Full name of its package, such as `cppo.1.8.0`.
        revdep: Full name of its reverse dependency.
        worker: Identity of the worker that ran its last attempt.
        since: Changed at this time or later.
        until: Changed before this time.
    """

    of: RevisionFilter = RevisionFilter()
    standing: Standing | None = None
    cause: Cause | None = None
    failure_reason: FailureReason | None = None
    skip_reason: SkipReason | None = None
    kind: JobKind | None = None
    platform: str | None = None
    package: str | None = None
    revdep: str | None = None
    worker: str | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None


class AttemptFilter(Frozen):
    """Which attempts; what is not given matches all.

    Attributes:
        of: Attempts of jobs of these testings.
        job: Attempts of this job.
        standing: `running`, or what it came to; a fault that was retried is `errored`.
        cause: The infrastructure fault that it met.
        failure_reason: What about the package is at fault.
        phase: The phase under way, or the one at which it stopped.
        worker: Identity of the worker that ran it.
        platform: Name of the job's platform.
        package: Full name of the job's package.
        since: Began at this time or later.
        until: Began before this time.
    """

    of: RevisionFilter = RevisionFilter()
    job: Job | None = None
    standing: Standing | None = None
    cause: Cause | None = None
    failure_reason: FailureReason | None = None
    phase: Phase | None = None
    worker: str | None = None
    platform: str | None = None
    package: str | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None


def revision_condition(wanted: RevisionFilter) -> ColumnElement[bool]:
    """Makes the condition on pull requests and revisions."""
    conditions = [
        *_equal(PULL_REQUESTS, wanted, "repository", "number", "branch", "is_open"),
        *_equal(REVISIONS, wanted, "head", "state"),
        *_between(REVISIONS, "updated_at", wanted.since, wanted.until),
    ]
    if (key := wanted.revision) is not None:
        conditions += [
            PULL_REQUESTS.c.repository == key.repository,
            PULL_REQUESTS.c.target == key.target,
            REVISIONS.c.opened_at == key.opened_at,
            REVISIONS.c.head == key.head,
        ]
    if wanted.newest:
        conditions.append(REVISIONS.c.opened_at == PULL_REQUESTS.c.latest_opened_at)
    return and_(True, *conditions)  # noqa: FBT003 - SQL's neutral element


def job_condition(wanted: JobFilter) -> ColumnElement[bool]:
    """Makes the condition on jobs alone; that of `wanted.of` is apart."""
    columns = ("standing", "cause", "failure_reason", "skip_reason", "kind")
    names = ("platform", "package", "revdep", "worker")
    conditions = [
        *_equal(JOBS, wanted, *columns, *names),
        *_between(JOBS, "updated_at", wanted.since, wanted.until),
    ]
    # A reason implies a standing; saying so lets the database search by the standing.
    if wanted.failure_reason is not None:
        conditions.append(JOBS.c.standing == Standing.FAILED.value)
    if wanted.skip_reason is not None:
        conditions.append(JOBS.c.standing == Standing.SKIPPED.value)
    return and_(True, *conditions)  # noqa: FBT003 - SQL's neutral element


def attempt_condition(wanted: AttemptFilter) -> ColumnElement[bool]:
    """Makes the condition on attempts and their jobs; that of `wanted.of` is apart."""
    conditions = [
        *_equal(ATTEMPTS, wanted, "standing", "cause", "failure_reason", "phase", "worker"),
        *_equal(JOBS, wanted, "platform", "package"),
        *_between(ATTEMPTS, "started_at", wanted.since, wanted.until),
    ]
    if wanted.job is not None:
        conditions.append(JOBS.c.name == wanted.job.id)
    return and_(True, *conditions)  # noqa: FBT003 - SQL's neutral element


def _equal(table: Table, wanted: Frozen, *names: str) -> list[ColumnElement[bool]]:
    values: list[tuple[str, Any]] = [(name, getattr(wanted, name)) for name in names]
    return [table.c[name] == value for name, value in values if value is not None]


def _between(
    table: Table, name: str, since: object | None, until: object | None
) -> list[ColumnElement[bool]]:
    after = [] if since is None else [table.c[name] >= since]
    return after if until is None else [*after, table.c[name] < until]
