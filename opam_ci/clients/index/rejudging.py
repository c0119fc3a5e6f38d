"""Which verdicts a batch of records throws another light on, in bounded time.

Everything is read anew from the rows, so it does not matter in which order they were written,
by whom, or how often: whoever writes last sees it all.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, exists, func, or_, select

from opam_ci.clients.index.filters import CURRENT, RevisionFilter, revision_condition
from opam_ci.clients.index.rows import job_of, revision_of
from opam_ci.clients.index.schema import ATTEMPTS, JOBS, PULL_REQUESTS, REVISIONS
from opam_ci.core.incidents.grouping import GAP
from opam_ci.core.incidents.messages import Rejudge, RejudgedJob
from opam_ci.core.incidents.model import FaultSeen
from opam_ci.core.incidents.rejudge import doubted_jobs, own_job
from opam_ci.core.incidents.restarts import JOB_BUDGET
from opam_ci.core.incidents.signature import signature
from opam_ci.core.incidents.verdicts import (
    BURST,
    MEMORY,
    WORKERS_FOR_ONE_JOB,
    Doubt,
    FailedVerdict,
    GotThrough,
    OwnFault,
    can_be_own,
    doubts,
    own_fault,
)
from opam_ci.core.job import Job
from opam_ci.core.outcome import OUTCOME, Cause, Errored
from opam_ci.core.records import RecordBatch, RevisionKey, Standing

ALIKE_AT_ONCE = 2000
"""Verdicts of one signature within half an hour that are looked at; those of a whole fleet
that breaks at once. What more there are, their pull requests can restart."""

_OTHERS_AT_ONCE = 200
"""Attempts of others on one worker that are looked at: some hours of its work."""

_WENT_THROUGH = (Standing.PASSED.value, Standing.FAILED.value, Standing.SKIPPED.value)
_CAN_STILL_BE_OWN = (
    Standing.QUEUED.value,
    Standing.RUNNING.value,
    Standing.RETRYING.value,
    Standing.ERRORED.value,
)

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
    for own in _own_faults(connection, batch):
        found[own.last.revision][own_job(own)] = None
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


def _own_faults(connection: Connection, batch: RecordBatch) -> Iterator[OwnFault]:
    asked: dict[tuple[RevisionKey, Job, Cause], None] = {}
    for attempt in batch.attempts:
        if (
            isinstance(attempt.outcome, Errored)
            and attempt.ended_at is not None
            and can_be_own(
                FaultSeen(
                    revision=attempt.revision,
                    job=attempt.job,
                    cause=attempt.outcome.cause,
                    at=attempt.ended_at,
                    worker=attempt.worker,
                    evidence=attempt.outcome.evidence,
                )
            )
        ):
            asked[attempt.revision, attempt.job, attempt.outcome.cause] = None
    for revision, job, cause in asked:
        if (own := _own_fault(connection, revision, job, cause)) is not None:
            yield own


def _own_fault(
    connection: Connection, revision: RevisionKey, job: Job, cause: Cause
) -> OwnFault | None:
    of_job = and_(
        revision_condition(RevisionFilter(revision=revision, newest=True, is_open=True)),
        JOBS.c.name == job.id,
        JOBS.c.standing.in_(_CAN_STILL_BE_OWN),
    )
    faults = _faults(connection, of_job, cause)
    workers = {fault.worker for fault in faults if fault.worker is not None}
    if len(workers) < WORKERS_FOR_ONE_JOB:
        return None
    times = [fault.at for fault in faults]
    since, until = min(times) - GAP, max(times) + GAP
    others: list[FaultSeen] = []
    through: list[GotThrough] = []
    not_mine = or_(
        JOBS.c.name != job.id,
        PULL_REQUESTS.c.target != revision.target,
        PULL_REQUESTS.c.repository != revision.repository,
    )
    for worker in sorted(workers):
        there = and_(ATTEMPTS.c.worker == worker, not_mine)
        near = ATTEMPTS.c.ended_at.between(since, until)
        others += _faults(connection, and_(there, near), cause)
        through += _through(connection, there, job.platform, since, until)
    return own_fault(faults, others, through)


def _faults(connection: Connection, where: ColumnElement[bool], cause: Cause) -> list[FaultSeen]:
    of_attempt = (
        ATTEMPTS.c.round, ATTEMPTS.c.number.label("attempt_number"), ATTEMPTS.c.ended_at,
        ATTEMPTS.c.worker, ATTEMPTS.c.pool, ATTEMPTS.c.outcome,
    )  # fmt: skip
    query = (
        select(*_NAMES, *of_attempt)
        .select_from(_WHOLE)
        .where(
            where,
            ATTEMPTS.c.cause == cause.value,
            ATTEMPTS.c.standing == Standing.ERRORED.value,
            ATTEMPTS.c.worker.is_not(None),
        )
        .limit(_OTHERS_AT_ONCE)
    )
    return [_fault(row, cause) for row in connection.execute(query).mappings()]


def _fault(row: RowMapping, cause: Cause) -> FaultSeen:
    outcome: Any = OUTCOME.validate_python(row["outcome"])
    return FaultSeen(
        revision=revision_of(row),
        job=job_of(row),
        round=row["round"],
        attempt=row["attempt_number"],
        cause=cause,
        at=row["ended_at"],
        worker=row["worker"],
        pool=row["pool"],
        evidence=outcome.evidence,
    )


def _through(
    connection: Connection,
    there: ColumnElement[bool],
    platform: str,
    since: datetime,
    until: datetime,
) -> list[GotThrough]:
    query = (
        select(*_NAMES, ATTEMPTS.c.worker, ATTEMPTS.c.started_at)
        .select_from(_WHOLE)
        .where(
            there,
            ATTEMPTS.c.started_at.between(since, until),
            ATTEMPTS.c.standing.in_(_WENT_THROUGH),
            JOBS.c.platform == platform,
        )
        .limit(_OTHERS_AT_ONCE)
    )
    return [
        GotThrough(revision_of(row), job_of(row), row["worker"], row["started_at"])
        for row in connection.execute(query).mappings()
    ]
