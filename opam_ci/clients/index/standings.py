"""Standings of a head's platforms: counts of jobs by reason, and the rows that explain them."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import JSON

from opam_ci.clients.index.rows import job_status
from opam_ci.clients.index.schema import JOBS
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.summary import (
    FIXED,
    SHOWN_ROWS,
    CountKey,
    JobStatus,
    PlatformStanding,
    Standing,
)
from opam_ci.core.jobs.tally import counts_of, explaining

WHY = func.coalesce(
    JOBS.c.failure_reason,
    JOBS.c.skip_reason,
    JOBS.c.cause,
    case(
        (JOBS.c.fixed, FIXED),
        (JOBS.c.standing == Standing.CANCELLED, JOBS.c.outcome["by"].as_string()),
        (JOBS.c.standing == Standing.RETRYING, Cause.UNKNOWN.value),
    ),
    "",
)
"""The same as `core.jobs.summary.why_counted` of the row."""


def standings(
    connection: Connection,
    revision_id: int | None,
    platforms: Collection[str],
    excluding: Collection[str],
) -> tuple[PlatformStanding, ...]:
    """Counts a testing's jobs by platform; its analysis is left out.

    Args:
        connection: Where to read, all of it as of one moment.
        revision_id: The testing; None if it is not in the index.
        platforms: Names.
        excluding: Ids of jobs that are left out.
    """
    chosen = and_(
        JOBS.c.revision_id == revision_id,
        JOBS.c.platform.in_(platforms),
        JOBS.c.kind != JobKind.ANALYSIS,
        JOBS.c.name.not_in(_values(connection, excluding)) if excluding else true(),
    )
    keys = (JOBS.c.platform, JOBS.c.kind, JOBS.c.standing, WHY.label("why"))
    query = select(*keys, func.count().label("number")).where(chosen).group_by(*keys)
    numbers: dict[str, Counter[CountKey]] = defaultdict(Counter)
    for platform, kind, standing, why, number in connection.execute(query):
        numbers[platform][platform, JobKind(kind), Standing(standing), why] = number
    shown = _shown(connection, chosen)
    return tuple(
        PlatformStanding(
            platform=name, counts=counts_of(numbers[name]), shown=explaining(shown[name])
        )
        for name in dict.fromkeys(platforms)
    )


def _shown(connection: Connection, chosen: ColumnElement[bool]) -> dict[str, list[JobStatus]]:
    """Reads the first rows of each platform and standing, in the order in which they run."""
    place = func.row_number().over(
        partition_by=(JOBS.c.platform, JOBS.c.standing), order_by=(JOBS.c.rank, JOBS.c.id)
    )
    numbered = select(JOBS.c.id, place.label("place")).where(chosen).subquery()
    first = select(numbered.c.id).where(numbered.c.place <= SHOWN_ROWS)
    query = select(JOBS).where(JOBS.c.id.in_(first)).order_by(JOBS.c.rank, JOBS.c.id)
    found: dict[str, list[JobStatus]] = defaultdict(list)
    for row in connection.execute(query):
        found[row.platform].append(job_status(row))
    return found


def _values(connection: Connection, texts: Iterable[str]) -> Select[tuple[str]]:
    """Makes a table of any number of texts: databases take some ten thousand parameters."""
    listed = bindparam("texts", json.dumps([*texts]), Text)
    if connection.dialect.name == "postgresql":
        table = func.json_array_elements_text(cast(listed, JSON)).table_valued("value")
    else:
        table = func.json_each(listed).table_valued("value")
    return select(table.c.value)
