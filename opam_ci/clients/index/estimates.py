"""The first estimate of a head, which is written down, and whether it held.

`estimated_until` is the end of its range. `estimate_ended_at` is when the head passed or failed
first. The estimate of a head whose jobs are restarted by hand, or wait for an approval, is dropped:
then it has the second alone, and gets no other estimate.
"""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, func, null, select, update

from opam_ci.clients.index.schema import REVISIONS
from opam_ci.core.jobs.records import RevisionRecord
from opam_ci.core.jobs.summary import State
from opam_ci.core.pages.estimate import Estimate, EstimatesKept

_COUNTED_FOR = timedelta(days=30)
"""How long an estimate counts, from when its head was decided."""

_OPEN = REVISIONS.c.estimate_ended_at.is_(None)
_ESTIMATED = REVISIONS.c.estimated_until.is_not(None)


def first_estimate(connection: Connection, revision_id: int) -> tuple[bool, datetime | None]:
    """Returns whether a head is not decided yet, and the end of its first estimate if it has one.

    A head whose estimate was dropped counts as decided.
    """
    query = select(REVISIONS.c.estimated_until).where(REVISIONS.c.id == revision_id, _OPEN)
    row = connection.execute(query).first()
    return (False, None) if row is None else (True, row.estimated_until)


def write_estimate(connection: Connection, revision_id: int, found: Estimate) -> None:
    """Writes an estimate down if it is the first."""
    _update(connection, revision_id, ~_ESTIMATED, estimated_until=found.until)


def end_estimate(connection: Connection, revision_id: int, record: RevisionRecord) -> None:
    """Writes down when a head was decided; drops the estimate of one that waits for an approval."""
    if record.hold is not None:
        drop_estimate(connection, revision_id, record.updated_at)
    elif record.state in {State.SUCCESS, State.FAILURE}:
        _update(connection, revision_id, estimate_ended_at=record.updated_at)


def drop_estimate(connection: Connection, revision_id: int, at: datetime) -> None:
    """Drops the estimate of an undecided head: restarts by hand cannot be foreseen."""
    _update(connection, revision_id, _ESTIMATED, estimated_until=null(), estimate_ended_at=at)


def _update(
    connection: Connection, revision_id: int, *where: ColumnElement[bool], **values: object
) -> None:
    chosen = and_(REVISIONS.c.id == revision_id, _OPEN, *where)
    connection.execute(update(REVISIONS).where(chosen).values(values))


def count_estimates(connection: Connection, now: datetime) -> EstimatesKept:
    """Counts heads decided lately by whether their first estimate held."""
    held = REVISIONS.c.estimate_ended_at <= REVISIONS.c.estimated_until
    query = select(held, func.count()).where(
        _ESTIMATED, REVISIONS.c.estimate_ended_at >= now - _COUNTED_FOR
    )
    found = {bool(each): number for each, number in connection.execute(query.group_by(held))}
    return EstimatesKept(held=found.get(True, 0), missed=found.get(False, 0))
