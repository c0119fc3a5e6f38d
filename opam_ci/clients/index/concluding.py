"""What only all platforms together can decide, decided in the index, where their rows meet."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, and_, case, func, or_, select

from opam_ci.clients.index.changing import give
from opam_ci.clients.index.rows import job_status
from opam_ci.clients.index.schema import JOBS
from opam_ci.core.installable import SAYS_NOT_INSTALLABLE, Unavailable, installable_nowhere
from opam_ci.core.job import JobKind
from opam_ci.core.outcome import FailureReason
from opam_ci.core.summary import Standing


def skipped_everywhere(connection: Connection, revision_id: int | None) -> Sequence[str]:
    """Finds packages of which no build came to anything that proves that it can be installed."""
    says_so = or_(
        JOBS.c.skip_reason.in_(SAYS_NOT_INSTALLABLE),
        JOBS.c.failure_reason == FailureReason.NOT_INSTALLABLE,
    )
    skipped = JOBS.c.standing == Standing.SKIPPED
    query = (
        select(JOBS.c.package)
        .where(JOBS.c.revision_id == revision_id, JOBS.c.kind == JobKind.BUILD)
        .group_by(JOBS.c.package)
        .having(
            func.min(case((says_so, 1), else_=0)) == 1, func.max(case((skipped, 1), else_=0)) == 1
        )
        .order_by(func.min(JOBS.c.id))
    )
    return connection.scalars(query).all()


def conclude(
    connection: Connection,
    revision_id: int,
    packages: Sequence[str],
    unavailable: Unavailable,
    at: datetime,
) -> bool:
    """Gives the builds of packages that no platform can install their verdict.

    Args:
        connection: In a transaction that has locked the testing.
        revision_id: The testing.
        packages: Some packages.
        unavailable: What packages are that are available on no platform.
        at: When.
    """
    builds = and_(JOBS.c.revision_id == revision_id, JOBS.c.kind == JobKind.BUILD)
    query = select(JOBS).where(builds, JOBS.c.package.in_(packages))
    rows = {row.name: row for row in connection.execute(query)}
    verdicts = {
        rows[job.id].id: outcome
        for job, outcome in installable_nowhere(map(job_status, rows.values()), unavailable)
    }
    give(connection, verdicts, at)
    return bool(verdicts)
