"""Forgetting what is long past: rows in bounded batches, and the logs that they name."""

from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, not_, or_, select, union

from opam_ci.clients.index.schema import ATTEMPTS, INCIDENTS, JOBS, PULL_REQUESTS, REVISIONS
from opam_ci.core.model import Frozen


class Retired(Frozen):
    """What one batch forgot.

    Attributes:
        revisions: Testings of heads, with their jobs and attempts.
        pull_requests: Pull requests and branches of which nothing was left.
        incidents: Resolved incidents of which nothing was left.
    """

    revisions: int = 0
    pull_requests: int = 0
    incidents: int = 0


def _past(before: datetime) -> ColumnElement[bool]:
    """Of an open pull request everything stays; a branch of a clone is never closed."""
    return and_(
        REVISIONS.c.updated_at < before,
        or_(PULL_REQUESTS.c.is_open.is_(False), PULL_REQUESTS.c.branch.is_not(None)),
    )


def _chosen(connection: Connection, before: datetime, limit: int) -> list[int]:
    query = (
        select(REVISIONS.c.id)
        .select_from(REVISIONS.join(PULL_REQUESTS))
        .where(_past(before))
        .order_by(REVISIONS.c.updated_at, REVISIONS.c.id)
        .limit(limit)
    )
    return list(connection.scalars(query))


def logs_to_retire(connection: Connection, before: datetime, *, limit: int) -> tuple[str, ...]:
    """Lists the logs of the next batch."""
    ids = _chosen(connection, before, limit)
    of_jobs = select(JOBS.c.log_key).where(JOBS.c.revision_id.in_(ids))
    of_attempts = (
        select(ATTEMPTS.c.log_key)
        .select_from(ATTEMPTS.join(JOBS))
        .where(JOBS.c.revision_id.in_(ids))
    )
    found = connection.scalars(union(of_jobs, of_attempts))
    return tuple(sorted(key for key in found if key is not None))


def retire(connection: Connection, before: datetime, *, limit: int) -> Retired:
    """Forgets the next batch; jobs and attempts go with their testing."""
    ids = _chosen(connection, before, limit)
    if ids:
        connection.execute(delete(REVISIONS).where(REVISIONS.c.id.in_(ids)))
    empty = delete(PULL_REQUESTS).where(
        PULL_REQUESTS.c.latest_opened_at < before,
        or_(PULL_REQUESTS.c.is_open.is_(False), PULL_REQUESTS.c.branch.is_not(None)),
        not_(exists().where(REVISIONS.c.pull_request_id == PULL_REQUESTS.c.id)),
    )
    past = delete(INCIDENTS).where(
        INCIDENTS.c.last_seen_at < before,
        INCIDENTS.c.resolved_at.is_not(None),
        not_(exists().where(ATTEMPTS.c.incident_id == INCIDENTS.c.id)),
    )
    return Retired(
        revisions=len(ids),
        pull_requests=connection.execute(empty).rowcount,
        incidents=connection.execute(past).rowcount,
    )
