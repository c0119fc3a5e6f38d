"""What the index says about this moment, in a few cheap queries, for metrics."""

from pydantic import Field
from sqlalchemy import ColumnElement, Connection, and_, exists, func, select

from opam_ci.clients.index.engine import create, reading
from opam_ci.clients.index.schema import INCIDENTS, JOBS, PULL_REQUESTS, REVISIONS
from opam_ci.core.job import JobKind
from opam_ci.core.model import Frozen
from opam_ci.core.records import Standing
from opam_ci.core.summary import State

_NEWEST = and_(
    PULL_REQUESTS.c.is_open,
    REVISIONS.c.opened_at == PULL_REQUESTS.c.latest_opened_at,
)
_CHECKS = (JobKind.ANALYSIS.value, JobKind.LINT.value)

EVERY_POOL = "any"
"""Stands for the pool of an incident that is not of one pool."""


class IndexState(Frozen):
    """Counts of this moment.

    Attributes:
        pull_requests: Open ones by the state of their newest head.
        undecided: Jobs without an outcome, by how they stand.
        retrying: Jobs that wait for a retry, by cause.
        errored: Jobs of the newest heads of open pull requests that wait for a restart,
            by cause.
        incidents: Open ones by cause and pool.
        green_unbuilt: Open pull requests that are green although they had jobs beyond
            analysis and lint, none of which passed.
    """

    pull_requests: dict[str, int]
    undecided: dict[str, int]
    retrying: dict[str, int]
    errored: dict[str, int]
    incidents: dict[str, dict[str, int]] = Field(default_factory=dict)
    green_unbuilt: int


class IndexGauges:
    """Reads the state of an index. Blocks on the database: call it on a thread.

    Args:
        url: Of an index that exists.

    Raises:
        UsageError: The URL names no index.
    """

    def __init__(self, url: str) -> None:
        self._engine = create(url)

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    def read(self) -> IndexState:
        """Reads the state.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            return IndexState(
                pull_requests=_pull_requests(connection),
                undecided=_jobs_by(
                    connection,
                    JOBS.c.standing,
                    # The undecided are few among millions: asked for by name, each is a
                    # range of an index.
                    JOBS.c.standing.in_(
                        [Standing.QUEUED.value, Standing.RUNNING.value, Standing.RETRYING.value]
                    ),
                ),
                retrying=_jobs_by(
                    connection, JOBS.c.cause, JOBS.c.standing == Standing.RETRYING.value
                ),
                errored=_errored(connection),
                incidents=_incidents(connection),
                green_unbuilt=_green_unbuilt(connection),
            )


def _pull_requests(connection: Connection) -> dict[str, int]:
    query = (
        select(REVISIONS.c.state, func.count().label("number"))
        .select_from(REVISIONS.join(PULL_REQUESTS))
        .where(_NEWEST)
        .group_by(REVISIONS.c.state)
    )
    return {row.state: row.number for row in connection.execute(query)}


def _jobs_by(
    connection: Connection, counted: ColumnElement[str], condition: ColumnElement[bool]
) -> dict[str, int]:
    query = (
        select(counted.label("value"), func.count().label("number"))
        .where(condition, counted.is_not(None))
        .group_by(counted)
    )
    return {row.value: row.number for row in connection.execute(query)}


def _incidents(connection: Connection) -> dict[str, dict[str, int]]:
    query = (
        select(INCIDENTS.c.cause, INCIDENTS.c.pool, func.count().label("number"))
        .where(INCIDENTS.c.resolved_at.is_(None))
        .group_by(INCIDENTS.c.cause, INCIDENTS.c.pool)
    )
    found: dict[str, dict[str, int]] = {}
    for row in connection.execute(query):
        found.setdefault(row.cause, {})[row.pool or EVERY_POOL] = row.number
    return found


def _errored(connection: Connection) -> dict[str, int]:
    query = (
        select(JOBS.c.cause, func.count().label("number"))
        .select_from(JOBS.join(REVISIONS).join(PULL_REQUESTS))
        .where(_NEWEST, JOBS.c.standing == Standing.ERRORED.value, JOBS.c.cause.is_not(None))
        .group_by(JOBS.c.cause)
    )
    return {row.cause: row.number for row in connection.execute(query)}


def _green_unbuilt(connection: Connection) -> int:
    built = and_(JOBS.c.revision_id == REVISIONS.c.id, JOBS.c.kind.not_in(_CHECKS))
    query = (
        select(func.count())
        .select_from(REVISIONS.join(PULL_REQUESTS))
        .where(
            _NEWEST,
            REVISIONS.c.state == State.SUCCESS.value,
            exists().where(built),
            ~exists().where(built, JOBS.c.standing == Standing.PASSED.value),
        )
    )
    return connection.execute(query).scalar_one()
