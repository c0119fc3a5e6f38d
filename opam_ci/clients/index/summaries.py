"""Summaries of heads as their workflows have them, also once these have ended."""

from datetime import UTC, datetime

from sqlalchemy import select

from opam_ci.clients.index.engine import reading
from opam_ci.clients.index.page_estimate import Estimating
from opam_ci.clients.index.page_testing import find_testing, read_summary, read_tallies
from opam_ci.clients.index.rows import job_status
from opam_ci.clients.index.schema import JOBS
from opam_ci.clients.index.standings import standings
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.summary import Summary
from opam_ci.core.pages.estimate import estimate_text


class Summaries(Estimating):
    """The part of the index with summaries."""

    def summary(self, key: RevisionKey) -> Summary | None:
        """Returns the state of a testing, with the rows that explain it; None if there is none.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            testing = find_testing(connection, key)
            if testing is None:
                return None
            tallies, _ = read_tallies(connection, testing)
            found = read_summary(connection, testing, tallies)
            platforms = sorted({each.platform for each in tallies})
            shown = standings(connection, testing.id, platforms, ())
            analysis = select(JOBS).where(
                JOBS.c.revision_id == testing.id, JOBS.c.kind == JobKind.ANALYSIS
            )
            first = [job_status(row) for row in connection.execute(analysis)]
            estimated = self._estimate(connection, testing, tallies, datetime.now(UTC))
            notices = () if estimated is None else (estimate_text(estimated),)
            rows = (*first, *(row for platform in shown for row in platform.shown))
            return found.model_copy(update={"jobs": rows, "notices": notices})
