"""Which verdicts a batch of records throws another light on, in bounded time.

Everything is read anew from the rows, so it does not matter in which order they were written,
by whom, or how often: whoever writes last sees it all.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import Connection, RowMapping, and_, exists, func, select

from opam_ci.clients.index.filters import CURRENT, revision_condition
from opam_ci.clients.index.rows import job_of, revision_of
from opam_ci.clients.index.schema import ATTEMPTS, JOBS, PULL_REQUESTS, REVISIONS
from opam_ci.core.incidents.messages import Rejudge, RejudgedJob
from opam_ci.core.incidents.rejudge import doubted_jobs
from opam_ci.core.incidents.restarts import JOB_BUDGET
from opam_ci.core.incidents.signature import signature
from opam_ci.core.incidents.verdicts import (
    BURST,
    MEMORY,
    Doubt,
    FailedVerdict,
    doubts,
)
from opam_ci.core.records import RecordBatch, RevisionKey, Standing

ALIKE_AT_ONCE = 2000
"""Verdicts of one signature within half an hour that are looked at; those of a whole fleet
that breaks at once. What more there are, their pull requests can restart."""

_WHOLE = ATTEMPTS.join(JOBS).join(REVISIONS).join(PULL_REQUESTS)
_NAMES = (
    PULL_REQUESTS.c.repository, PULL_REQUESTS.c.number, PULL_REQUESTS.c.branch,
    REVISIONS.c.head, REVISIONS.c.opened_at,
    JOBS.c.platform, JOBS.c.package, JOBS.c.kind, JOBS.c.revdep,
)  # fmt: skip


def rejudge(connection: Connection, batch: RecordBatch) -> tuple[Rejudge, ...]:
    """Finds the jobs that are to be judged again now that a batch is written.

    Returns:
        One message for each testing concerned.
    """
    found: dict[RevisionKey, dict[RejudgedJob, None]] = defaultdict(dict)
    for doubt in _doubts(connection, batch):
        for verdict, job in zip(doubt.verdicts, doubted_jobs(doubt), strict=True):
            found[verdict.revision][job] = None
    return tuple(Rejudge(revision=key, jobs=tuple(jobs)) for key, jobs in found.items())


def _doubts(connection: Connection, batch: RecordBatch) -> Iterator[Doubt]:
    moments: dict[str, set[datetime]] = defaultdict(set)
    for attempt in batch.attempts:
        sign = signature(attempt.outcome, attempt.job)
        if sign is not None and attempt.ended_at is not None:
            moments[sign.digest].add(attempt.ended_at)
    for digest, times in sorted(moments.items()):
        for first, last in _spans(sorted(times)):
            yield from _doubts_of(connection, digest, first, last)


def _spans(times: Sequence[datetime]) -> Iterator[tuple[datetime, datetime]]:
    """Yields the ends of what lies within ten minutes: each is one question to the index."""
    first = last = times[0]
    for at in times:
        if at - first > BURST:
            yield first, last
            first = at
        last = at
    yield first, last


def _doubts_of(
    connection: Connection, digest: str, first: datetime, last: datetime
) -> tuple[Doubt, ...]:
    """Finds the doubts in which verdicts of that signature and these times can have a part."""
    of_it = ATTEMPTS.c.signature == digest
    usual = select(func.max(ATTEMPTS.c.ended_at)).where(
        of_it,
        ATTEMPTS.c.standing == Standing.FAILED.value,
        ATTEMPTS.c.ended_at < first - BURST,
        ATTEMPTS.c.ended_at >= first - BURST - MEMORY,
    )
    before = connection.scalar(usual)
    if before is not None and last - before <= MEMORY:
        return ()
    earlier = ATTEMPTS.alias("earlier")
    same_before = exists().where(
        earlier.c.job_id == ATTEMPTS.c.job_id,
        earlier.c.round < ATTEMPTS.c.round,
        earlier.c.signature == ATTEMPTS.c.signature,
    )
    can_run_again = and_(
        JOBS.c.standing == Standing.FAILED.value,
        JOBS.c.round == ATTEMPTS.c.round,
        JOBS.c.automatic < JOB_BUDGET,
    )
    query = (
        select(
            *_NAMES, ATTEMPTS.c.round, ATTEMPTS.c.ended_at, ATTEMPTS.c.standing,
            ATTEMPTS.c.outcome, same_before.label("again"), can_run_again.label("can_run_again"),
        )
        .select_from(_WHOLE)
        .where(
            of_it,
            ATTEMPTS.c.ended_at.between(first - BURST, last + BURST),
            revision_condition(CURRENT),
        )
        .order_by(ATTEMPTS.c.ended_at, ATTEMPTS.c.id)
        .limit(ALIKE_AT_ONCE)
    )  # fmt: skip
    alike = [_verdict(row) for row in connection.execute(query).mappings()]
    return doubts(alike, before=before)


def _verdict(row: RowMapping) -> FailedVerdict:
    return FailedVerdict(
        revision=revision_of(row),
        job=job_of(row),
        round=row["round"],
        at=row["ended_at"],
        blame=row["outcome"].get("blame"),
        doubted=row["standing"] != Standing.FAILED.value,
        again=bool(row["again"]),
        is_over=not row["can_run_again"],
    )
