"""What can be asked of the index: each filter becomes a condition in SQL."""

from typing import Any

from pydantic import AwareDatetime
from sqlalchemy import ColumnElement, Connection, and_, select, true
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


CURRENT = RevisionFilter(newest=True, is_open=True)
"""What operators look at: the newest testings of open pull requests."""


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
        package: Full name of its package, such as `cppo.1.8.0`, or without a version.
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
        package: Full name of the job's package, or without a version.
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


_FEW = 1000
"""Heads up to which jobs are looked up head by head, and not by walking through all."""


def of_revisions(connection: Connection, wanted: RevisionFilter) -> ColumnElement[bool]:
    """Makes the condition on pull requests and revisions for a query of jobs.

    The heads are looked up first. Where they are few, the database is told exactly which:
    its planner cannot know that a pull request's jobs lie a million rows back.
    """
    if wanted == RevisionFilter():
        return true()
    condition = revision_condition(wanted)
    found = select(REVISIONS.c.id).select_from(REVISIONS.join(PULL_REQUESTS)).where(condition)
    ids = connection.scalars(found.limit(_FEW + 1)).all()
    many = len(ids) > _FEW
    return JOBS.c.revision_id.in_(found.correlate(None) if many else ids)


def job_condition(wanted: JobFilter) -> ColumnElement[bool]:
    """Makes the condition on jobs alone; that of `wanted.of` is apart."""
    columns = ("standing", "cause", "failure_reason", "skip_reason", "kind")
    names = ("platform", "revdep", "worker")
    conditions = [
        *_equal(JOBS, wanted, *columns, *names),
        *_of_package(wanted.package),
        *_between(JOBS, "updated_at", wanted.since, wanted.until),
    ]
    # A reason implies a standing; saying so lets the database search by the standing.
    if wanted.cause is not None:
        errors = (Standing.ERRORED.value, Standing.RETRYING.value)
        conditions.append(JOBS.c.standing.in_(errors))
    if wanted.failure_reason is not None:
        conditions.append(JOBS.c.standing == Standing.FAILED.value)
    if wanted.skip_reason is not None:
        conditions.append(JOBS.c.standing == Standing.SKIPPED.value)
    return and_(True, *conditions)  # noqa: FBT003 - SQL's neutral element


def attempt_condition(wanted: AttemptFilter) -> ColumnElement[bool]:
    """Makes the condition on attempts and their jobs; that of `wanted.of` is apart."""
    conditions = [
        *_equal(ATTEMPTS, wanted, "standing", "cause", "failure_reason", "phase", "worker"),
        *_of_package(wanted.package),
        *_between(ATTEMPTS, "started_at", wanted.since, wanted.until),
    ]
    if wanted.job is not None:
        conditions.append(JOBS.c.name == wanted.job.id)
    return and_(True, *conditions)  # noqa: FBT003 - SQL's neutral element


def _of_package(package: str | None) -> list[ColumnElement[bool]]:
    if package is None:
        return []
    if "." in package:
        return [JOBS.c.package == package]
    # "/" follows "." in the order of characters, and no name has one.
    return [JOBS.c.package >= f"{package}.", JOBS.c.package < f"{package}/"]


def _equal(table: Table, wanted: Frozen, *names: str) -> list[ColumnElement[bool]]:
    values: list[tuple[str, Any]] = [(name, getattr(wanted, name)) for name in names]
    return [table.c[name] == value for name, value in values if value is not None]


def _between(
    table: Table, name: str, since: object | None, until: object | None
) -> list[ColumnElement[bool]]:
    after = [] if since is None else [table.c[name] >= since]
    return after if until is None else [*after, table.c[name] < until]
