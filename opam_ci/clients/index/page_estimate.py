"""The query for how long the jobs of a head will still take."""

from datetime import timedelta

from sqlalchemy import Connection, select

from opam_ci.clients.index.page_testing import Testing
from opam_ci.clients.index.schema import JOBS
from opam_ci.core.jobs.summary import BUILDS_NOTHING, Counts, Standing
from opam_ci.core.pages.estimate import JOBS_CONSIDERED, time_left

_RAN = (Standing.PASSED, Standing.FAILED)


def read_time_left(connection: Connection, testing: Testing, counts: Counts) -> timedelta | None:
    """Estimates how long builds and tests will still take.

    Args:
        connection: Where to read.
        testing: Of which head.
        counts: Builds and tests by standing.

    Returns:
        The time; None if nothing runs, too little ran to tell, or jobs wait for a permission.
    """
    if not counts.running or testing.record.hold is not None:
        return None
    spans = select(JOBS.c.started_at, JOBS.c.decided_at).where(
        JOBS.c.revision_id == testing.id,
        JOBS.c.standing.in_(_RAN),
        JOBS.c.kind.not_in(BUILDS_NOTHING),
        JOBS.c.started_at.is_not(None),
        JOBS.c.decided_at.is_not(None),
    )
    newest = spans.order_by(JOBS.c.updated_at.desc(), JOBS.c.id.desc()).limit(JOBS_CONSIDERED)
    durations = [decided_at - started_at for started_at, decided_at in connection.execute(newest)]
    return time_left(durations, running=counts.running, undecided=counts.undecided)
