"""Jobs of a testing, compared with the same ones on the base."""

from collections.abc import Iterable, Mapping

from sqlalchemy import ColumnElement, Connection, or_, select

from opam_ci.clients.index.engine import portions
from opam_ci.clients.index.rows import job_of
from opam_ci.clients.index.schema import JOB_COLUMNS, JOBS
from opam_ci.core.jobs.baseline import FINAL, compared, fixed
from opam_ci.core.jobs.job import COMPARED_KINDS, REVDEP_KINDS, Job
from opam_ci.core.jobs.outcome import FailedWithout, Outcome
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.model import Frozen
from opam_ci.core.pages.causes import is_alike


class Compared(Frozen):
    """What a comparison came to.

    Attributes:
        changed: Whether it changed jobs.
        missing: Jobs on the base that are needed, and that the testing does not have.
    """

    changed: bool
    missing: tuple[Job, ...] = ()


class PassedJob(Frozen):
    """A job that passed, and may fail without the change.

    Attributes:
        job: The job.
        plan_key: What its verdict depends on, None if that is not known.
    """

    job: Job
    plan_key: str | None


def compare(
    connection: Connection, revision_id: int | None, there: frozenset[str]
) -> tuple[dict[int, Outcome], tuple[Job, ...]]:
    """Finds verdicts on failures of a testing, by the job's id, and jobs on the base to be run.

    Args:
        connection: Where to read.
        revision_id: The testing.
        there: Packages of the change that the base has, too.
    """
    query = select(JOBS).where(
        JOBS.c.revision_id == revision_id,
        JOBS.c.standing == Standing.FAILED,
        _has_base(there),
    )
    failed = {
        row: on_base
        for row in connection.execute(query)
        if row.outcome.evidence.on_base not in FINAL
        and (on_base := job_of(row).on_base) is not None
    }
    wanted = {on_base.id: on_base for on_base in failed.values()}
    found: dict[str, Outcome | None] = {}
    for some in portions(tuple(wanted)):
        known = select(JOBS.c.name, JOBS.c.outcome)
        known = known.where(JOBS.c.revision_id == revision_id, JOBS.c.name.in_(some))
        found |= dict(connection.execute(known).all())
    verdicts: dict[int, Outcome] = {}
    for row, on_base in failed.items():
        base = found.get(on_base.id)
        if base is None:
            continue
        verdict = compared(row.outcome, base, alike=is_alike(row.outcome, base))
        if verdict != row.outcome:
            verdicts[row.id] = verdict
    return verdicts, tuple(job for name, job in wanted.items() if name not in found)


def passed(
    connection: Connection, revision_id: int | None, there: frozenset[str]
) -> tuple[PassedJob, ...]:
    """Finds jobs of a testing that passed, and of which it is not known how they fail without it.

    Args:
        connection: Where to read.
        revision_id: The testing.
        there: Packages of the change that the base has, too.
    """
    query = select(*JOB_COLUMNS, JOBS.c.plan_key).where(
        JOBS.c.revision_id == revision_id,
        JOBS.c.standing == Standing.PASSED,
        ~JOBS.c.fixed,
        _has_base(there),
    )
    return tuple(
        PassedJob(job=job_of(row), plan_key=row.plan_key) for row in connection.execute(query)
    )


def fixes(
    connection: Connection, revision_id: int, failing: Mapping[str, FailedWithout]
) -> dict[int, Outcome]:
    """Returns verdicts on jobs that passed, by their ids.

    Args:
        connection: Where to read.
        revision_id: The testing.
        failing: How some fail without the change, by the name of the job.
    """
    query = select(JOBS.c.id, JOBS.c.name, JOBS.c.outcome)
    query = query.where(JOBS.c.revision_id == revision_id, JOBS.c.standing == Standing.PASSED)
    return {
        row.id: fixed(row.outcome, failing[row.name])
        for some in portions(failing)
        for row in connection.execute(query.where(JOBS.c.name.in_(some)))
    }


def _has_base(there: Iterable[str]) -> ColumnElement[bool]:
    """Makes the condition that a job has one on the base with which it may be compared."""
    return or_(
        JOBS.c.kind.in_(sorted(REVDEP_KINDS)),
        JOBS.c.kind.in_(sorted(COMPARED_KINDS)) & JOBS.c.package.in_(sorted(there)),
    )
