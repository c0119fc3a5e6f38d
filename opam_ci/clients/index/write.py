"""Writing records: idempotent, and an older record never overwrites a newer one."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, select, tuple_, update
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from opam_ci.clients.index.engine import insertion, portions
from opam_ci.clients.index.estimates import end_estimate
from opam_ci.clients.index.filters import RevisionFilter, equal, revision_condition
from opam_ci.clients.index.incidents import attach
from opam_ci.clients.index.rows import Values, attempt_rows, job_outcome_row, job_row
from opam_ci.clients.index.schema import ATTEMPTS, HEADS, JOBS, PULL_REQUESTS, REVISIONS
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch
from opam_ci.core.jobs.summary import UNDECIDED, Standing

Columns = ReadOnlyColumnCollection[str, Any]

QUEUED: Values = {
    **job_outcome_row(None),
    "standing": Standing.QUEUED,
    "attempt": 0,
    "sequence": 0,
    "started_at": None,
    "decided_at": None,
    "next_attempt_at": None,
    "log_key": None,
    "faults": (),
    "audits": None,
}
"""Columns of a job that are the same at the start of every round."""


def write(
    connection: Connection, batch: RowBatch
) -> tuple[tuple[int, ...], dict[str, set[datetime]]]:
    """Writes a batch in the connection's transaction.

    Rows are written in one order, so that two writers cannot deadlock.

    Returns:
        The open incidents of the faults in it; and by signature, the ends of attempts that failed
        or were failures once.
    """
    revision_id = locked_revision(connection, batch.key, batch.updated_at)
    if batch.revision is not None:
        _write_revision(connection, revision_id, batch.revision)
    rows = sorted(batch.rows, key=lambda row: row.job.id)
    _insert_newer(
        connection,
        JOBS,
        [job_row(revision_id, row, batch) for row in rows],
        ("revision_id", "name"),
        version=lambda row: (row.round, row.attempt, row.sequence),
        # Set by the plan.
        kept=("rank", "needs"),
    )
    for row in rows:
        if row.audits is not None:
            ran = and_(JOBS.c.revision_id == revision_id, JOBS.c.name == row.job.id)
            connection.execute(
                update(JOBS).where(ran, JOBS.c.round == row.round).values(audits=row.audits)
            )
    tried = [(row.job.id, each) for row in rows for each in attempt_rows(row, batch)]
    ids = _job_ids(connection, revision_id, tuple(dict.fromkeys(name for name, _ in tried)))
    attempts = [{"job_id": ids[name], **each} for name, each in tried]
    _insert_newer(
        connection,
        ATTEMPTS,
        attempts,
        ("job_id", "round", "number"),
        # An attempt that ended does not run again.
        version=lambda row: (row.ended_at.is_not(None), row.sequence),
    )
    failures: dict[str, set[datetime]] = defaultdict(set)
    for each in attempts:
        if each["signature"] is not None:
            failures[each["signature"]].add(each["ended_at"])
    lost = {each["job_id"] for each in attempts if each["standing"] == Standing.ERRORED}
    return attach(connection, sorted(lost)) if lost else (), failures


def locked_revision(connection: Connection, key: RevisionKey, seen_at: datetime) -> int:
    """Returns the id of a testing, which is inserted if it is missing, and locks it.

    Changes of its jobs are made one after another: a change that reads rows first sees all of
    them, and two never wait for each other's rows. On SQLite that is so anyway.
    """
    query = _id_of(key).with_for_update(key_share=True, of=REVISIONS)
    while (found := connection.scalar(query)) is None:
        pull_request = {
            "repository": key.repository,
            "target": key.target,
            "number": key.number,
            "branch": key.branch,
            "title": "",
            "is_open": True,
            "latest_opened_at": key.opened_at,
            "latest_sequence": -1,
        }
        same = equal(PULL_REQUESTS, key, "repository", "target")
        revision = {
            "pull_request_id": select(PULL_REQUESTS.c.id).where(*same).scalar_subquery(),
            "head": key.head,
            "opened_at": key.opened_at,
            "base": "",
            "state": "pending",
            "planned": False,
            "updated_at": seen_at,
            "sequence": -1,
        }
        for table, values in ((PULL_REQUESTS, pull_request), (REVISIONS, revision)):
            insert = insertion(connection, table).values(values)
            connection.execute(insert.on_conflict_do_nothing())
    return found


def find_revision(connection: Connection, key: RevisionKey) -> int | None:
    """Returns the id of a testing, None if it is not in the index."""
    return connection.scalar(_id_of(key))


def _id_of(key: RevisionKey) -> Select[int]:
    query = select(REVISIONS.c.id).select_from(HEADS)
    return query.where(revision_condition(RevisionFilter(revision=key)))


def insert_queued(connection: Connection, rows: Sequence[Values], *, charge: int) -> None:
    """Inserts queued jobs; those that were decided in an earlier round are queued again.

    Args:
        connection: In a transaction.
        rows: Of one testing, with all columns of a queued job that are not null.
        charge: Cost of the restart in a job's budget; 0 resets the budget.
    """
    insert = insertion(connection, JOBS)
    planned = (*QUEUED, "round", "needs", "plan_key", "updated_at")
    again = {name: insert.excluded[name] for name in planned}
    statement = insert.on_conflict_do_update(
        index_elements=("revision_id", "name"),
        set_={**again, "restart_budget_used": JOBS.c.restart_budget_used + charge if charge else 0},
        where=and_(
            # Not `in`: that cannot be executed for many rows at once.
            *(JOBS.c.standing != standing for standing in sorted(UNDECIDED)),
            JOBS.c.round < insert.excluded.round,
        ),
    )
    connection.execute(statement, rows)


def _write_revision(connection: Connection, revision_id: int, record: RevisionRecord) -> None:
    latest = tuple_(PULL_REQUESTS.c.latest_opened_at, PULL_REQUESTS.c.latest_sequence)
    names = (
        "base", "merge_tree", "state", "planned", "concluded", "changes", "hold", "effect",
        "updated_at", "sequence",
    )  # fmt: skip
    connection.execute(
        update(REVISIONS)
        .where(REVISIONS.c.id == revision_id, REVISIONS.c.sequence < record.sequence)
        .values({name: getattr(record, name) for name in names})
    )
    end_estimate(connection, revision_id, record)
    connection.execute(
        update(PULL_REQUESTS)
        .where(
            *equal(PULL_REQUESTS, record.key, "repository", "target"),
            latest < (record.key.opened_at, record.sequence),
        )
        .values(
            title=record.title.replace("\0", "\ufffd"),
            is_open=record.is_open,
            author=record.author,
            latest_opened_at=record.key.opened_at,
            latest_sequence=record.sequence,
        )
    )


def _job_ids(connection: Connection, revision_id: int, names: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for some in portions(names):
        query = select(JOBS.c.name, JOBS.c.id)
        query = query.where(JOBS.c.revision_id == revision_id, JOBS.c.name.in_(some))
        found |= dict(connection.execute(query).all())
    return found


def _insert_newer(  # noqa: PLR0913  what is written where, and what is newer
    connection: Connection,
    table: Table,
    rows: Sequence[Values],
    key: tuple[str, ...],
    *,
    version: Callable[[Columns], tuple[ColumnElement[Any], ...]],
    kept: tuple[str, ...] = (),
) -> None:
    """Inserts rows; of one that exists, the higher version is kept."""
    if not rows:
        return
    insert = insertion(connection, table)
    written = {name: insert.excluded[name] for name in rows[0] if name not in {*key, *kept}}
    newer = tuple_(*version(insert.excluded)) > tuple_(*version(table.c))
    statement = insert.on_conflict_do_update(index_elements=key, set_=written, where=newer)
    connection.execute(statement, rows)
