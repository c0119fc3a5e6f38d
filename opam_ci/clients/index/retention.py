"""Deletion of old rows in bounded batches, and the logs that they name."""

from datetime import datetime

from sqlalchemy import Connection, and_, delete, exists, not_, or_, select, union

from opam_ci.clients.index.engine import Connected, reading, writing
from opam_ci.clients.index.rows import revision_of
from opam_ci.clients.index.schema import (
    ATTEMPTS,
    HEADS,
    INCIDENTS,
    JOBS,
    KEY_COLUMNS,
    PULL_REQUESTS,
    REVISIONS,
)
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.model import Frozen

_CLOSED = or_(PULL_REQUESTS.c.is_open.is_(False), PULL_REQUESTS.c.branch.is_not(None))
"""Nothing of an open pull request is deleted; a branch of a clone is never closed."""


class Retired(Frozen):
    """What one batch deleted.

    Attributes:
        revisions: Testings of heads, with their jobs and attempts.
        pull_requests: Pull requests and branches without testings.
        incidents: Resolved incidents without faults.
    """

    revisions: int = 0
    pull_requests: int = 0
    incidents: int = 0


class Retention(Connected):
    """The part of the index that deletes old rows."""

    def retire(self, before: datetime, *, limit: int) -> Retired:
        """Deletes old testings of closed pull requests, and of branches.

        Call it again until it finds nothing. Delete before what the store has of them: see
        `testings_to_retire` and `logs_to_retire`.

        Args:
            before: Those that have not changed since.
            limit: How many at once: a transaction of some hundred milliseconds.

        Raises:
            InfrastructureError: The index cannot be written; then nothing was deleted.
        """
        of_none = not_(exists().where(REVISIONS.c.pull_request_id == PULL_REQUESTS.c.id))
        without_faults = not_(exists().where(ATTEMPTS.c.incident_id == INCIDENTS.c.id))
        empty = and_(PULL_REQUESTS.c.latest_opened_at < before, _CLOSED, of_none)
        past = and_(
            INCIDENTS.c.last_seen_at < before, INCIDENTS.c.resolved_at.is_not(None), without_faults
        )
        with writing(self._engine) as connection:
            ids = _chosen(connection, before, limit)
            if ids:
                # Jobs and attempts go with their testing.
                connection.execute(delete(REVISIONS).where(REVISIONS.c.id.in_(ids)))
            return Retired(
                revisions=len(ids),
                pull_requests=connection.execute(delete(PULL_REQUESTS).where(empty)).rowcount,
                incidents=connection.execute(delete(INCIDENTS).where(past)).rowcount,
            )

    def testings_to_retire(self, before: datetime, *, limit: int) -> tuple[RevisionKey, ...]:
        """Lists the testings that `retire` would delete.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            chosen = REVISIONS.c.id.in_(_chosen(connection, before, limit))
            query = select(*KEY_COLUMNS).select_from(HEADS).where(chosen)
            return tuple(revision_of(row) for row in connection.execute(query))

    def testings_in_use(self, since: datetime) -> tuple[RevisionKey, ...]:
        """Lists the testings that may need what was exported for them.

        Args:
            since: Also those that have changed since, whatever became of their pull requests.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        newest = REVISIONS.c.opened_at == PULL_REQUESTS.c.latest_opened_at
        used = or_(and_(newest, not_(_CLOSED)), REVISIONS.c.updated_at >= since)
        with reading(self._engine) as connection:
            query = select(*KEY_COLUMNS).select_from(HEADS).where(used)
            return tuple(revision_of(row) for row in connection.execute(query))

    def logs_to_retire(self, before: datetime, *, limit: int) -> tuple[str, ...]:
        """Lists the keys of the logs of what `retire` would delete.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        of_attempts = select(ATTEMPTS.c.log_key).select_from(ATTEMPTS.join(JOBS))
        with reading(self._engine) as connection:
            retired = JOBS.c.revision_id.in_(_chosen(connection, before, limit))
            logs = union(select(JOBS.c.log_key).where(retired), of_attempts.where(retired))
            return tuple(sorted(key for key in connection.scalars(logs) if key is not None))


def _chosen(connection: Connection, before: datetime, limit: int) -> list[int]:
    query = (
        select(REVISIONS.c.id).select_from(HEADS).where(REVISIONS.c.updated_at < before, _CLOSED)
    )
    query = query.order_by(REVISIONS.c.updated_at, REVISIONS.c.id).limit(limit)
    return list(connection.scalars(query))
