"""The current state of the index, in a few cheap queries, for metrics."""

from datetime import UTC, datetime

from pydantic import Field
from sqlalchemy import ColumnElement, Connection, FromClause, and_, exists, func, select

from opam_ci.clients.index.engine import Connected, create, reading
from opam_ci.clients.index.estimates import count_estimates
from opam_ci.clients.index.filters import CURRENT, revision_condition
from opam_ci.clients.index.schema import HEADS, INCIDENTS, JOBS, REVISIONS
from opam_ci.clients.index.verdicts import count_audits
from opam_ci.core.jobs.summary import BUILDS_NOTHING, UNDECIDED, Standing, State
from opam_ci.core.model import Frozen
from opam_ci.core.pages.estimate import EstimatesKept
from opam_ci.core.reuse.settled import Audits

_CURRENT = revision_condition(CURRENT)

_BUILT = and_(JOBS.c.revision_id == REVISIONS.c.id, JOBS.c.kind.not_in(BUILDS_NOTHING))

GREEN_UNBUILT = and_(
    _CURRENT,
    REVISIONS.c.state == State.SUCCESS,
    exists().where(_BUILT),
    ~exists().where(_BUILT, JOBS.c.standing == Standing.PASSED),
)
"""Condition on testings: an open pull request is green although no build or test of it passed."""

EVERY_POOL = "any"
"""In place of the pool of an incident that is not limited to one."""


class IndexState(Frozen):
    """Current counts.

    Attributes:
        pull_requests: Open ones by the state of their newest head.
        undecided: Jobs without an outcome, by standing.
        retrying: Jobs that wait for a retry, by cause.
        errored: Jobs of the newest heads of open pull requests that wait for a restart,
            by cause.
        incidents: Open ones by cause and pool.
        green_unbuilt: Open pull requests that are green although none of their builds and tests
            passed.
        audits: How often verdicts that hold for other jobs were compared with the jobs' own.
        estimates: How often first estimates of heads held.
    """

    pull_requests: dict[str, int]
    undecided: dict[str, int]
    retrying: dict[str, int]
    errored: dict[str, int]
    incidents: dict[str, dict[str, int]] = Field(default_factory=dict)
    green_unbuilt: int
    audits: Audits = Audits()
    estimates: EstimatesKept = EstimatesKept()


class IndexGauges(Connected):
    """Reads the state of an index. Blocks on the database: call it on a thread.

    Args:
        url: Of an index that exists.

    Raises:
        UsageError: It is not the URL of an index.
    """

    def __init__(self, url: str) -> None:
        super().__init__(create(url))

    def read(self) -> IndexState:
        """Reads the state.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        standing, cause = JOBS.c.standing, JOBS.c.cause
        errored = and_(_CURRENT, standing == Standing.ERRORED)
        green = select(func.count()).select_from(HEADS).where(GREEN_UNBUILT)
        now = datetime.now(UTC)
        with reading(self._engine) as connection:
            return IndexState(
                pull_requests=_numbers(connection, REVISIONS.c.state, HEADS, _CURRENT),
                # The undecided are few among millions: with their standings in the condition, each
                # is a range of a database index.
                undecided=_numbers(connection, standing, JOBS, standing.in_(UNDECIDED)),
                retrying=_numbers(connection, cause, JOBS, standing == Standing.RETRYING),
                errored=_numbers(connection, cause, JOBS.join(HEADS), errored),
                incidents=_incidents(connection),
                green_unbuilt=connection.scalar(green) or 0,
                audits=count_audits(connection, now),
                estimates=count_estimates(connection, now),
            )


def _numbers(
    connection: Connection, column: ColumnElement[str], of: FromClause, where: ColumnElement[bool]
) -> dict[str, int]:
    """Counts rows by a column; those without a value are left out."""
    query = select(column, func.count()).select_from(of).where(where, column.is_not(None))
    return dict(connection.execute(query.group_by(column)).all())


def _incidents(connection: Connection) -> dict[str, dict[str, int]]:
    keys = (INCIDENTS.c.cause, INCIDENTS.c.pool)
    query = select(*keys, func.count()).where(INCIDENTS.c.resolved_at.is_(None)).group_by(*keys)
    found: dict[str, dict[str, int]] = {}
    for cause, pool, number in connection.execute(query):
        found.setdefault(cause, {})[pool or EVERY_POOL] = number
    return found
