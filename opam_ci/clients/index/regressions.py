"""Reverse dependencies that a change breaks, for sure."""

from collections import defaultdict
from collections.abc import Collection, Iterable

from sqlalchemy import Connection, select

from opam_ci.clients.index.engine import Connected, portions, reading
from opam_ci.clients.index.page_testing import find_testing
from opam_ci.clients.index.rows import AnyRow
from opam_ci.clients.index.schema import ATTEMPTS, JOBS
from opam_ci.core.jobs.job import REVDEP_KINDS
from opam_ci.core.jobs.outcome import FailureReason, Outcome, reused_of
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.pages.bounds import Regression, is_confirmed

_REASONS = (FailureReason.BUILD, FailureReason.TEST)
_PROVING = (Standing.PASSED, Standing.FAILED)


class Regressions(Connected):
    """The part of the index that knows which failures are regressions."""

    def regressions(self, key: RevisionKey, *, job: str | None = None) -> tuple[Regression, ...]:
        """Returns the regressions of a testing that are confirmed, by reverse dependency.

        Args:
            key: The testing.
            job: Id of the only job that is looked at; None for all.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            testing = find_testing(connection, key)
            if testing is None:
                return ()
            query = select(JOBS).where(
                JOBS.c.revision_id == testing.id,
                JOBS.c.standing == Standing.FAILED,
                JOBS.c.kind.in_(sorted(REVDEP_KINDS)),
                JOBS.c.failure_reason.in_(_REASONS),
            )
            if job is not None:
                query = query.where(JOBS.c.name == job.replace("\0", ""))
            rows = connection.execute(query.order_by(JOBS.c.revdep, JOBS.c.id)).all()
            attempts = _attempts(connection, rows)
            return tuple(
                Regression(package=row.package, revdep=row.revdep, log=_log(row, attempts[row.id]))
                for row in rows
                if is_confirmed(row.outcome, _own(attempts[row.id]))
            )


def _own(attempts: Iterable[AnyRow]) -> list[Outcome]:
    """Returns the outcomes of attempts, without those that took the verdict of another one."""
    return [each.outcome for each in attempts if reused_of(each.outcome) is None]


def _log(row: AnyRow, attempts: Iterable[AnyRow]) -> str | None:
    """Returns the key of a job's log; of one that was not run, that of one with the same inputs."""
    logs = (row.log_key, *(each.log_key for each in attempts))
    return next((each for each in logs if each is not None), None)


def _attempts(connection: Connection, rows: Collection[AnyRow]) -> dict[int, list[AnyRow]]:
    """Reads the attempts of jobs with the same inputs, by the id of the job."""
    found: dict[int, list[AnyRow]] = defaultdict(list)
    by_key: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        if row.plan_key is not None:
            by_key[row.plan_key].append(row.id)
    query = (
        select(JOBS.c.id, JOBS.c.plan_key, ATTEMPTS.c.outcome, ATTEMPTS.c.log_key)
        .select_from(JOBS.join(ATTEMPTS))
        .where(ATTEMPTS.c.standing.in_(_PROVING))
        .order_by(ATTEMPTS.c.id.desc())
    )
    seen = {row.id for row in rows}
    for some in portions(sorted(seen)):
        for row in connection.execute(query.where(JOBS.c.id.in_(some))):
            found[row.id].append(row)
    for keys in portions(sorted(by_key)):
        # In an earlier round the job may have had another key.
        same = query.where(JOBS.c.plan_key.in_(keys), ATTEMPTS.c.round == JOBS.c.round)
        for row in connection.execute(same):
            for number in by_key[row.plan_key]:
                if number != row.id:
                    found[number].append(row)
    return found
