"""Filters of the index's listings, each of which becomes a condition in SQL."""

from typing import Any

from pydantic import AwareDatetime
from sqlalchemy import ColumnElement, Connection, and_, select, true
from sqlalchemy.sql.schema import Table

from opam_ci.clients.index.schema import ATTEMPTS, JOBS, PULL_REQUESTS, REVISIONS
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.outcome import Cause, FailureReason, SkipReason
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.summary import Standing, State
from opam_ci.core.model import Frozen


class RevisionFilter(Frozen):
    """Which testings of heads; a field without a value matches all.

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
"""The newest testings of open pull requests."""


class _Filter(Frozen):
    """Common fields of jobs and attempts.

    Attributes:
        of: Those of these testings; its `since` and `until` are of the testing.
        standing: Its standing; of an attempt, a fault that was retried is `errored`.
        cause: Its infrastructure fault; of a job, the one that it is errored or retrying for.
        failure_reason: What about the package is at fault.
        package: Full name of its package, such as `cppo.1.8.0`, or without a version.
        worker: Identity of the worker that ran it; of a job, its last attempt.
        since: A job changed, or an attempt started, at this time or later.
        until: A job changed, or an attempt started, before this time.
    """

    of: RevisionFilter = RevisionFilter()
    standing: Standing | None = None
    cause: Cause | None = None
    failure_reason: FailureReason | None = None
    package: str | None = None
    worker: str | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None


class JobFilter(_Filter):
    """Which jobs; a field without a value matches all.

    Attributes:
        skip_reason: Why there was nothing to do.
        kind: What it does.
        platform: Name of its platform.
        revdep: Its reverse dependency, with or without a version.
        name: The job's id.
        words: Each of them is contained in the job's id, in any case.
    """

    skip_reason: SkipReason | None = None
    kind: JobKind | None = None
    platform: str | None = None
    revdep: str | None = None
    name: str | None = None
    words: tuple[str, ...] = ()


class AttemptFilter(_Filter):
    """Which attempts; a field without a value matches all.

    Attributes:
        job: Attempts of this job.
        name: Attempts of the jobs with this id.
        phase: The current phase, or the one in which it stopped.
    """

    job: Job | None = None
    name: str | None = None
    phase: Phase | None = None


def revision_condition(wanted: RevisionFilter) -> ColumnElement[bool]:
    """Makes the condition on pull requests and revisions."""
    conditions = [
        *equal(PULL_REQUESTS, wanted, "repository", "number", "branch", "is_open"),
        *equal(REVISIONS, wanted, "head", "state"),
        *_between(REVISIONS.c.updated_at, wanted),
    ]
    if (key := wanted.revision) is not None:
        conditions += equal(PULL_REQUESTS, key, "repository", "target")
        conditions += equal(REVISIONS, key, "opened_at", "head")
    if wanted.newest:
        conditions.append(REVISIONS.c.opened_at == PULL_REQUESTS.c.latest_opened_at)
    return and_(true(), *conditions)


_FEW = 1000
"""Heads up to which jobs are looked up head by head, and not by walking through all."""


def of_revisions(connection: Connection, wanted: RevisionFilter) -> ColumnElement[bool]:
    """Makes the condition on pull requests and revisions for a query of jobs.

    The heads are looked up first. If they are few, the condition names them: the planner cannot
    know that a pull request's jobs lie a million rows back.
    """
    if wanted == RevisionFilter():
        return true()
    condition = revision_condition(wanted)
    found = select(REVISIONS.c.id).select_from(REVISIONS.join(PULL_REQUESTS)).where(condition)
    ids = connection.scalars(found.limit(_FEW + 1)).all()
    many = len(ids) > _FEW
    return JOBS.c.revision_id.in_(found.correlate(None) if many else ids)


REASONS = {
    "cause": (Standing.ERRORED, Standing.RETRYING),
    "failure_reason": (Standing.FAILED,),
    "skip_reason": (Standing.SKIPPED,),
}
"""The columns with the reason of a standing, and the standings that have one."""


def job_condition(wanted: JobFilter) -> ColumnElement[bool]:
    """Makes the condition on jobs alone; that of `wanted.of` is apart."""
    conditions = [
        *equal(JOBS, wanted, *REASONS, "standing", "kind", "platform", "name", "worker"),
        *_named(JOBS.c.package, wanted.package),
        *_named(JOBS.c.revdep, wanted.revdep),
        *(JOBS.c.name.icontains(word, autoescape=True) for word in wanted.words),
        *_between(JOBS.c.updated_at, wanted),
        # A reason implies a standing; with it the database can search by the standing.
        *(
            JOBS.c.standing.in_(standings)
            for name, standings in REASONS.items()
            if getattr(wanted, name) is not None
        ),
    ]
    return and_(true(), *conditions)


def attempt_condition(wanted: AttemptFilter) -> ColumnElement[bool]:
    """Makes the condition on attempts and their jobs; that of `wanted.of` is apart."""
    conditions = [
        *equal(ATTEMPTS, wanted, "standing", "cause", "failure_reason", "phase", "worker"),
        *_named(JOBS.c.package, wanted.package),
        *_between(ATTEMPTS.c.started_at, wanted),
    ]
    if wanted.job is not None:
        conditions.append(JOBS.c.name == wanted.job.id)
    conditions += equal(JOBS, wanted, "name")
    return and_(true(), *conditions)


def equal(table: Table, wanted: Frozen, *names: str) -> list[ColumnElement[bool]]:
    """Makes a condition of each of these columns for which a value is given."""
    values: list[tuple[str, Any]] = [(name, getattr(wanted, name)) for name in names]
    return [table.c[name] == value for name, value in values if value is not None]


def _named(column: ColumnElement[Any], package: str | None) -> list[ColumnElement[bool]]:
    if package is None:
        return []
    if "." in package:
        return [column == package]
    # "/" follows "." in the order of characters, and no name has one.
    return [column >= f"{package}.", column < f"{package}/"]


def _between(
    column: ColumnElement[Any], wanted: RevisionFilter | _Filter
) -> list[ColumnElement[bool]]:
    after = [] if wanted.since is None else [column >= wanted.since]
    return after if wanted.until is None else [*after, column < wanted.until]
