"""Revision of verdicts that failures of other pull requests put in doubt, in bounded time.

Everything is read again from the rows, so it does not matter in which order they were written,
by which process, or how often: the last writer sees all of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, and_, exists, func, select

from opam_ci.clients.index.changing import rejudge
from opam_ci.clients.index.engine import portions
from opam_ci.clients.index.filters import CURRENT, revision_condition
from opam_ci.clients.index.incidents import attach
from opam_ci.clients.index.rows import AnyRow, job_of, revision_of
from opam_ci.clients.index.schema import (
    ATTEMPTED,
    ATTEMPTS,
    HEADS,
    JOB_COLUMNS,
    JOBS,
    KEY_COLUMNS,
    REVISIONS,
)
from opam_ci.core.incidents.rejudge import doubt_detail, rejudged
from opam_ci.core.incidents.restarts import JOB_BUDGET
from opam_ci.core.incidents.verdicts import BURST, MEMORY, FailedVerdict, doubts
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Failed, Outcome
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.summary import Standing

ALIKE_AT_ONCE = 2000
"""Verdicts of one signature within half an hour that are examined; those of a whole fleet
that breaks at once. Any others can be restarted from their pull requests."""


class Doubtful(NamedTuple):
    """A job whose verdict is to be judged again.

    Attributes:
        revision_id: Of its testing.
        job_id: Its own.
        round: The round of that verdict.
        detail: Why, as text.
    """

    revision_id: int
    job_id: int
    round: int
    detail: str


class Effects(NamedTuple):
    """The effects of a batch.

    Attributes:
        incidents: The open incidents of its faults, whether it opened them or not.
        testings: Those whose verdicts were judged again.
        kinds: Kinds of the jobs that were judged again, without those that only followed.
        estimated_until: By when the head is decided, as was estimated first.
    """

    incidents: tuple[int, ...] = ()
    testings: frozenset[RevisionKey] = frozenset()
    kinds: tuple[JobKind, ...] = ()
    estimated_until: datetime | None = None


def find_doubtful(
    connection: Connection, failures: Mapping[str, set[datetime]]
) -> tuple[list[Doubtful], set[RevisionKey]]:
    """Finds the jobs to be judged again after failures were written.

    Args:
        connection: Where to read.
        failures: When they happened, by signature.

    Returns:
        Jobs that have not been judged again; and testings with jobs that were judged again for
        such a failure, and still have that verdict.
    """
    doubtful: list[Doubtful] = []
    before: set[RevisionKey] = set()
    for digest, times in sorted(failures.items()):
        for first, last in _spans(sorted(times)):
            some, known = _doubts_of(connection, digest, first, last)
            doubtful += some
            before |= known
    return doubtful, before


def judge_again(connection: Connection, found: Sequence[Doubtful], at: datetime) -> Effects:
    """Gives jobs the verdict of a doubt, and updates those that followed from them.

    A job that has changed meanwhile is left as it is.
    """
    keys = _locked(connection, sorted({each.revision_id for each in found}))
    testings: set[RevisionKey] = set()
    kinds: list[JobKind] = []
    verdicts: dict[int, Outcome] = {}
    columns = (JOBS.c.id, JOBS.c.revision_id, JOBS.c.round, JOBS.c.kind, JOBS.c.outcome)
    for each in sorted(found):
        row = connection.execute(select(*columns).where(JOBS.c.id == each.job_id)).one()
        if max(row.round, 1) == each.round and isinstance(row.outcome, Failed):
            verdicts[row.id] = rejudged(row.outcome, each.detail)
            kinds.append(JobKind(row.kind))
            testings.add(keys[row.revision_id])
    rejudge(connection, verdicts, at)
    incidents = attach(connection, sorted(verdicts)) if verdicts else ()
    return Effects(incidents, frozenset(testings), tuple(kinds))


def _locked(connection: Connection, revision_ids: Sequence[int]) -> dict[int, RevisionKey]:
    """Locks testings, in one order, and returns their keys; see `write.locked_revision`."""
    found: dict[int, RevisionKey] = {}
    for some in portions(revision_ids):
        query = select(REVISIONS.c.id, *KEY_COLUMNS).select_from(HEADS)
        query = query.where(REVISIONS.c.id.in_(some)).order_by(REVISIONS.c.id)
        for row in connection.execute(query.with_for_update(key_share=True, of=REVISIONS)):
            found[row.id] = revision_of(row)
    return found


def _spans(times: Sequence[datetime]) -> Iterator[tuple[datetime, datetime]]:
    """Yields first and last of the times within ten minutes: each span is one query."""
    first = last = times[0]
    for at in times:
        if at - first > BURST:
            yield first, last
            first = at
        last = at
    yield first, last


def _doubts_of(
    connection: Connection, digest: str, first: datetime, last: datetime
) -> tuple[list[Doubtful], set[RevisionKey]]:
    """Reads verdicts of that signature which failures at these times can put in doubt."""
    of_it = ATTEMPTS.c.signature == digest
    usual = select(func.max(ATTEMPTS.c.ended_at)).where(
        of_it,
        ATTEMPTS.c.standing == Standing.FAILED,
        ATTEMPTS.c.ended_at < first - BURST,
        ATTEMPTS.c.ended_at >= first - BURST - MEMORY,
    )
    before = connection.scalar(usual)
    if before is not None and last - before <= MEMORY:
        return [], set()
    earlier = ATTEMPTS.alias("earlier")
    same_before = exists().where(
        earlier.c.job_id == ATTEMPTS.c.job_id,
        earlier.c.round < ATTEMPTS.c.round,
        earlier.c.signature == ATTEMPTS.c.signature,
    )
    unchanged = and_(JOBS.c.standing == ATTEMPTS.c.standing, JOBS.c.round == ATTEMPTS.c.round)
    can_run_again = and_(
        unchanged, JOBS.c.standing == Standing.FAILED, JOBS.c.restart_budget_used < JOB_BUDGET
    )
    query = (
        select(
            *KEY_COLUMNS, *JOB_COLUMNS, ATTEMPTS.c.round, ATTEMPTS.c.ended_at, ATTEMPTS.c.standing,
            ATTEMPTS.c.outcome, ATTEMPTS.c.job_id, JOBS.c.revision_id, unchanged.label("unchanged"),
            same_before.label("again"), can_run_again.label("can_run_again"),
        )
        .select_from(ATTEMPTED)
        .where(
            of_it,
            ATTEMPTS.c.ended_at.between(first - BURST, last + BURST),
            revision_condition(CURRENT),
        )
        .order_by(ATTEMPTS.c.ended_at, ATTEMPTS.c.id)
        .limit(ALIKE_AT_ONCE)
    )  # fmt: skip
    alike = {_verdict(row): row for row in connection.execute(query)}
    doubtful = [
        Doubtful(
            revision_id=alike[each].revision_id,
            job_id=alike[each].job_id,
            round=each.round,
            detail=doubt_detail(doubt),
        )
        for doubt in doubts(alike, before=before)
        for each in doubt.verdicts
    ]
    known = {each.revision for each, row in alike.items() if each.doubted and row.unchanged}
    return doubtful, known


def _verdict(row: AnyRow) -> FailedVerdict:
    return FailedVerdict(
        revision=revision_of(row),
        job=job_of(row),
        round=row.round,
        at=row.ended_at,
        blame=getattr(row.outcome, "blame", None),
        doubted=row.standing != Standing.FAILED,
        again=bool(row.again),
        is_over=not row.can_run_again,
    )
