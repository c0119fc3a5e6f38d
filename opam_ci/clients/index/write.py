"""Writing records: idempotent, and an older record never overwrites a newer one."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Insert, Table, and_, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from opam_ci.clients.index.incidents import attach
from opam_ci.clients.index.rows import OutcomeRows, Row, attempt_row, job_row, stub_row
from opam_ci.clients.index.schema import ATTEMPTS, JOBS, PULL_REQUESTS, REVISIONS
from opam_ci.core.records import (
    AttemptRecord,
    JobRecord,
    RecordBatch,
    RevisionKey,
    RevisionRecord,
    Standing,
)

Columns = ReadOnlyColumnCollection[str, Any]

_NAMES_AT_ONCE = 500
"""Below every database's limit of parameters in a statement."""


def write(connection: Connection, batch: RecordBatch) -> tuple[int, ...]:
    """Writes a batch in the connection's transaction; returns the open incidents of its faults.

    Parents that no record has named yet are made as stubs, so that it does not matter in
    which order activities arrive. Rows are written in one order, lest two writers wait
    for each other.
    """
    seen_at: dict[RevisionKey, datetime] = {}
    for record in batch.revisions:
        seen_at.setdefault(record.key, record.updated_at)
    for job in batch.jobs:
        seen_at.setdefault(job.revision, job.updated_at)
    for attempt in batch.attempts:
        seen_at.setdefault(attempt.revision, attempt.started_at)
    keys = sorted(seen_at, key=lambda key: (key.repository, key.target, key.opened_at, key.head))
    ids = {key: _revision_id(connection, key, seen_at[key]) for key in keys}
    for record in batch.revisions:
        _write_revision(connection, ids[record.key], record)
    outcomes = OutcomeRows()
    _write_jobs(connection, ids, batch.jobs, outcomes)
    faulted: list[int] = []
    for key, revision_id in ids.items():
        of_key = [each for each in batch.attempts if each.revision == key]
        if of_key:
            there = {job.status.job.id for job in batch.jobs if job.revision == key}
            faulted += _write_attempts(connection, revision_id, of_key, there, outcomes)
    return attach(connection, sorted(set(faulted))) if faulted else ()


def _revision_id(connection: Connection, key: RevisionKey, seen_at: datetime) -> int:
    """Returns the revision's id, having made a stub of what is missing."""
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
    _insert(connection, PULL_REQUESTS, [pull_request], ("repository", "target"))
    pull_request_id = connection.scalars(
        select(PULL_REQUESTS.c.id).where(
            PULL_REQUESTS.c.repository == key.repository, PULL_REQUESTS.c.target == key.target
        )
    ).one()
    revision = {
        "pull_request_id": pull_request_id,
        "head": key.head,
        "opened_at": key.opened_at,
        "base": "",
        "state": "pending",
        "planned": False,
        "updated_at": seen_at,
        "sequence": -1,
    }
    _insert(connection, REVISIONS, [revision], ("pull_request_id", "opened_at", "head"))
    found: int = connection.scalars(
        select(REVISIONS.c.id).where(
            REVISIONS.c.pull_request_id == pull_request_id,
            REVISIONS.c.opened_at == key.opened_at,
            REVISIONS.c.head == key.head,
        )
    ).one()
    return found


def _write_revision(connection: Connection, revision_id: int, record: RevisionRecord) -> None:
    connection.execute(
        update(REVISIONS)
        .where(REVISIONS.c.id == revision_id, REVISIONS.c.sequence < record.sequence)
        .values(
            base=record.base,
            merge_tree=record.merge_tree,
            state=record.state.value,
            planned=record.planned,
            updated_at=record.updated_at,
            sequence=record.sequence,
        )
    )
    connection.execute(
        update(PULL_REQUESTS)
        .where(
            PULL_REQUESTS.c.repository == record.key.repository,
            PULL_REQUESTS.c.target == record.key.target,
            or_(
                PULL_REQUESTS.c.latest_opened_at < record.key.opened_at,
                and_(
                    PULL_REQUESTS.c.latest_opened_at == record.key.opened_at,
                    PULL_REQUESTS.c.latest_sequence < record.sequence,
                ),
            ),
        )
        .values(
            title=record.title.replace("\0", "\ufffd"),
            is_open=record.is_open,
            latest_opened_at=record.key.opened_at,
            latest_sequence=record.sequence,
        )
    )


def _write_jobs(
    connection: Connection,
    ids: dict[RevisionKey, int],
    records: Sequence[JobRecord],
    outcomes: OutcomeRows,
) -> None:
    rows = [
        {"revision_id": ids[record.revision], **job_row(record, outcomes)} for record in records
    ]
    rows.sort(key=lambda row: (row["revision_id"], row["name"]))
    _insert(
        connection,
        JOBS,
        rows,
        ("revision_id", "name"),
        version=_job_version,
    )


def _write_attempts(
    connection: Connection,
    revision_id: int,
    records: Sequence[AttemptRecord],
    there: Collection[str],
    outcomes: OutcomeRows,
) -> list[int]:
    """Writes attempts of one testing; returns the ids of the jobs of which one is a fault.

    Args:
        connection: In a transaction.
        revision_id: The testing's.
        records: Of it.
        there: Jobs that are certain to have a row; the others get a stub.
        outcomes: Of the batch.
    """
    jobs = {record.job.id: record for record in records}
    stubs = [
        {"revision_id": revision_id, **stub_row(jobs[name].job, seen_at=jobs[name].started_at)}
        for name in sorted(jobs.keys() - there)
    ]
    _insert(connection, JOBS, stubs, ("revision_id", "name"))
    ids = _job_ids(connection, revision_id, list(jobs))
    rows = [{"job_id": ids[record.job.id], **attempt_row(record, outcomes)} for record in records]
    rows.sort(key=lambda row: (row["job_id"], row["round"], row["number"]))
    _insert(
        connection,
        ATTEMPTS,
        rows,
        ("job_id", "round", "number"),
        version=_attempt_version,
    )
    return [ids[record.job.id] for record in records if record.standing is Standing.ERRORED]


def _job_ids(connection: Connection, revision_id: int, names: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for first in range(0, len(names), _NAMES_AT_ONCE):
        query = select(JOBS.c.name, JOBS.c.id).where(
            JOBS.c.revision_id == revision_id,
            JOBS.c.name.in_(names[first : first + _NAMES_AT_ONCE]),
        )
        found |= {row.name: row.id for row in connection.execute(query)}
    return found


def _insert(
    connection: Connection,
    table: Table,
    rows: Sequence[Row],
    key: tuple[str, ...],
    *,
    version: Callable[[Columns], tuple[ColumnElement[Any], ...]] | None = None,
) -> None:
    """Inserts rows; of one that exists, the higher version stays, or itself without one."""
    if not rows:
        return
    statement = _insertion(connection.dialect.name, table, tuple(rows[0]), key, version)
    connection.execute(statement, rows)


def _job_version(row: Columns) -> tuple[ColumnElement[Any], ...]:
    return row.round, row.attempt, row.sequence


def _attempt_version(row: Columns) -> tuple[ColumnElement[Any], ...]:
    # An attempt that ended does not run again, whoever says so.
    return row.ended_at.is_not(None), row.sequence


@cache
def _insertion(
    dialect: str,
    table: Table,
    columns: tuple[str, ...],
    key: tuple[str, ...],
    version: Callable[[Columns], tuple[ColumnElement[Any], ...]] | None,
) -> Insert:
    """Returns the statement of an insert: made once, since that takes longer than to run it."""
    insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    if version is None:
        return insert.on_conflict_do_nothing(index_elements=key)
    written = {name: insert.excluded[name] for name in columns if name not in key}
    newer = tuple_(*version(insert.excluded)) > tuple_(*version(table.c))
    return insert.on_conflict_do_update(index_elements=key, set_=written, where=newer)
