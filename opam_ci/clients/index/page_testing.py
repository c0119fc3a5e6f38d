"""A testing as its page shows it: its record, its place among other heads, and its summary."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from opam_ci.clients.index.filters import RevisionFilter, revision_condition
from opam_ci.clients.index.rows import AnyRow, job_status, revision_record
from opam_ci.clients.index.schema import HEADS, JOBS, KEY_COLUMNS, PULL_REQUESTS, REVISIONS
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Cause
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord
from opam_ci.core.jobs.summary import (
    FIXED,
    CountKey,
    JobCount,
    JobStatus,
    Standing,
    State,
    Summary,
)
from opam_ci.core.jobs.tally import counts_of
from opam_ci.core.pages.model import HEADS_SHOWN, HeadRef
from opam_ci.core.submission.result import ChangedPackage

WHY = func.coalesce(JOBS.c.failure_reason, JOBS.c.skip_reason, JOBS.c.cause)
"""The reason or cause of a job that has one."""

RECORD_COLUMNS = (
    *KEY_COLUMNS,
    PULL_REQUESTS.c.title,
    PULL_REQUESTS.c.is_open,
    PULL_REQUESTS.c.author,
    *(each for each in REVISIONS.c if each not in KEY_COLUMNS),
)
"""What `rows.revision_record` reads."""

_ANALYSIS = Job(platform="", package="", kind=JobKind.ANALYSIS)
_CANCELLED_READ = 50
"""Cancelled jobs that are read from either end, by time, to find who stopped them."""


class Testing(NamedTuple):
    """A testing whose page is read.

    Attributes:
        id: Its own.
        pull_request_id: Of its pull request.
        record: Its record.
        previous_id: The testing of the newest earlier head that was decided; None without one.
        previous: That head.
    """

    id: int
    pull_request_id: int
    record: RevisionRecord
    previous_id: int | None
    previous: HeadRef | None


def find_testing(connection: Connection, key: RevisionKey) -> Testing | None:
    """Reads a testing; None if it is not in the index."""
    query = select(*RECORD_COLUMNS).select_from(HEADS)
    row = connection.execute(
        query.where(revision_condition(RevisionFilter(revision=key)))
    ).one_or_none()
    if row is None:
        return None
    before = (
        select(REVISIONS.c.id, REVISIONS.c.head, REVISIONS.c.opened_at, REVISIONS.c.state)
        .where(
            REVISIONS.c.pull_request_id == row.pull_request_id,
            REVISIONS.c.opened_at < key.opened_at,
            # The same head that is tested again is not the previous one, nor is one that was
            # superseded: with hardly a verdict there, all would be new.
            REVISIONS.c.head != key.head,
            REVISIONS.c.state != State.PENDING,
        )
        .order_by(REVISIONS.c.opened_at.desc())
        .limit(1)
    )
    previous = connection.execute(before).one_or_none()
    return Testing(
        id=row.id,
        pull_request_id=row.pull_request_id,
        record=revision_record(row),
        previous_id=None if previous is None else previous.id,
        previous=None if previous is None else head_ref(previous),
    )


def read_heads(connection: Connection, pull_request_id: int) -> tuple[HeadRef, ...]:
    """Lists the testings of a pull request, the newest first."""
    query = select(REVISIONS.c.head, REVISIONS.c.opened_at, REVISIONS.c.state)
    query = query.where(REVISIONS.c.pull_request_id == pull_request_id)
    query = query.order_by(REVISIONS.c.opened_at.desc()).limit(HEADS_SHOWN)
    return tuple(map(head_ref, connection.execute(query)))


def head_ref(row: AnyRow) -> HeadRef:
    """Reads how a page links to a head."""
    return HeadRef(head=row.head, opened_at=row.opened_at, state=State(row.state))


class Changed(NamedTuple):
    """The jobs of a testing with one standing: any change of one changes this of some standing.

    Attributes:
        standing: Theirs.
        number: How many.
        at: When the last of them changed.
    """

    standing: str
    number: int
    at: datetime


def version_of(testing: Testing, newest: HeadRef, jobs: Iterable[Changed]) -> str:
    """Returns a text that changes with a testing, its jobs, and the newest head beside it."""
    parts = (testing.record, newest, sorted(jobs))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def read_tallies(
    connection: Connection, testing: Testing
) -> tuple[tuple[JobCount, ...], tuple[Changed, ...]]:
    """Counts the jobs of a testing as a workflow counts them, and by standing."""
    keys = (JOBS.c.platform, JOBS.c.kind, JOBS.c.standing)
    of_it = JOBS.c.revision_id == testing.id
    # From an index of the database alone; only jobs with a reason are read again.
    query = select(*keys, func.count(), func.max(JOBS.c.updated_at)).where(of_it).group_by(*keys)
    rest: Counter[tuple[str, JobKind, Standing]] = Counter()
    changed: dict[str, Changed] = {}
    for platform, kind, standing, number, at in connection.execute(query):
        rest[platform, JobKind(kind), Standing(standing)] = number
        before = changed.get(standing, Changed(standing, 0, at))
        changed[standing] = Changed(standing, before.number + number, max(before.at, at))
    numbers: Counter[CountKey] = Counter()
    for has_reason in (JOBS.c.cause_group.is_not(None), JOBS.c.follows):
        explained = select(*keys, WHY, func.count()).where(of_it, has_reason).group_by(*keys, WHY)
        for platform, kind, standing, why, number in connection.execute(explained):
            place = (platform, JobKind(kind), Standing(standing))
            rest[place] -= number
            numbers[*place, why] += number
    of_fixed = select(JOBS.c.platform, JOBS.c.kind, func.count()).where(of_it, JOBS.c.fixed)
    for platform, kind, number in connection.execute(
        of_fixed.group_by(JOBS.c.platform, JOBS.c.kind)
    ):
        place = (platform, JobKind(kind), Standing.PASSED)
        rest[place] -= number
        numbers[*place, FIXED] += number
    stopped = _stopped(connection, testing.id)
    for place, number in rest.items():
        match place[2]:
            case Standing.CANCELLED:
                numbers[*place, stopped] += number
            case Standing.RETRYING | Standing.ERRORED:
                numbers[*place, Cause.UNKNOWN.value] += number
            case _:
                numbers[*place, ""] += number
    return counts_of(numbers), tuple(changed.values())


def _stopped(connection: Connection, revision_id: int) -> str:
    """Reads why jobs were cancelled.

    For more than one reason, the last one with a text of its own: a closed pull request, then a
    request.
    """
    by = JOBS.c.outcome["by"].as_string()
    query = select(by).where(
        JOBS.c.revision_id == revision_id, JOBS.c.standing == Standing.CANCELLED
    )
    ends = (JOBS.c.updated_at.asc(), JOBS.c.updated_at.desc())
    found = {
        each
        for end in ends
        for each in connection.scalars(query.order_by(end).limit(_CANCELLED_READ))
    }
    return next((each for each in ("closed", "request") if each in found), "superseded")


def read_summary(
    connection: Connection, testing: Testing, tallies: tuple[JobCount, ...]
) -> Summary:
    """Makes the summary of a testing from the index, with the rows that its sentence names."""
    record, key = testing.record, testing.record.key
    waits = any(each.standing is Standing.QUEUED for each in tallies)
    mark = f"#{key.number}" if key.branch is None else f":{key.branch}"
    return Summary(
        pull_request=f"{key.repository}{mark}",
        head=key.head,
        base=record.base,
        planned=record.planned,
        concluded=record.concluded,
        # Texts name the kinds of changes alone.
        packages=tuple(
            ChangedPackage(package="", kind=kind, has_tests=False) for kind in record.changes
        ),
        tallies=tallies,
        jobs=_named_rows(connection, testing.id, tallies),
        hold=record.hold if waits else None,
        effect=record.effect,
        updated_at=record.updated_at,
    )


def _named_rows(
    connection: Connection, revision_id: int, tallies: tuple[JobCount, ...]
) -> tuple[JobStatus, ...]:
    """Reads the analysis, and of each kind the job that is tried again first."""
    of_it = select(JOBS).where(JOBS.c.revision_id == revision_id)
    queries = [of_it.where(JOBS.c.name == _ANALYSIS.id)]
    waiting = of_it.where(JOBS.c.standing == Standing.RETRYING, JOBS.c.next_attempt_at.is_not(None))
    waiting = waiting.order_by(JOBS.c.next_attempt_at, JOBS.c.id).limit(1)
    kinds = {each.kind for each in tallies if each.standing is Standing.RETRYING}
    queries += [waiting.where(JOBS.c.kind == kind) for kind in sorted(kinds)]
    return tuple(job_status(row) for query in queries for row in connection.execute(query))
