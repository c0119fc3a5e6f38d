"""The page of a job, with the witnesses from which its next step follows."""

from datetime import timedelta

from sqlalchemy import Connection, case, func, select

from opam_ci.clients.index.engine import Connected, reading
from opam_ci.clients.index.filters import AttemptFilter, attempt_condition
from opam_ci.clients.index.incidents import read_incident
from opam_ci.clients.index.page_causes import open_heads_with
from opam_ci.clients.index.page_testing import Testing, find_testing, read_heads
from opam_ci.clients.index.paging import Place, page
from opam_ci.clients.index.rows import AnyRow, attempt_record, job_record
from opam_ci.clients.index.schema import (
    ATTEMPTED,
    ATTEMPTS,
    JOB_COLUMNS,
    JOBS,
    KEY_COLUMNS,
    REVISIONS,
    TESTED,
)
from opam_ci.core.incidents.model import Incident
from opam_ci.core.jobs.job import Job
from opam_ci.core.jobs.records import AttemptRecord, JobRecord, RevisionKey
from opam_ci.core.jobs.summary import Standing
from opam_ci.core.pages.causes import explained, rationale
from opam_ci.core.pages.model import JobPage, PreviousJob, SeenElsewhere, WorkerNearby
from opam_ci.core.pages.next_step import next_step
from opam_ci.core.text.result import reason_line
from opam_ci.core.text.sentence import job_sentence

ATTEMPTS_SHOWN = Place(limit=200)
"""Attempts of a job on its page."""

_NEARBY = timedelta(hours=1)

_HEADS_SEARCHED = 500
"""Testings, those of the last days, in which a passed job is looked for."""


class JobPages(Connected):
    """The part of the index with pages of jobs."""

    def job_page(self, key: RevisionKey, job: str) -> JobPage | None:
        """Returns the page of a job, None if the testing has no such job.

        Args:
            key: The testing.
            job: The job's id.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        with reading(self._engine) as connection:
            testing = find_testing(connection, key)
            row = None if testing is None else _find(connection, testing.id, job)
            return None if testing is None or row is None else _page(connection, testing, row)

    def passed_jobs(self, job: Job, *, number: int) -> tuple[JobRecord, ...]:
        """Returns where the target of a job passed with a log, the newest first.

        Of the same kind, on the same platform, in any pull request. For a reverse dependency it
        does not matter for which package it was built.

        Args:
            job: The job.
            number: At most so many.

        Raises:
            InfrastructureError: The index cannot be read.
        """
        newest = select(REVISIONS.c.id).order_by(REVISIONS.c.updated_at.desc(), REVISIONS.c.id)
        target = (
            (JOBS.c.revdep.is_(None), JOBS.c.package == job.package)
            if job.revdep is None
            else (JOBS.c.revdep == job.revdep,)
        )
        query = (
            select(*KEY_COLUMNS, *JOBS.c)
            .select_from(TESTED)
            .where(
                JOBS.c.revision_id.in_(newest.limit(_HEADS_SEARCHED)),
                *target,
                JOBS.c.standing == Standing.PASSED,
                JOBS.c.platform == job.platform,
                JOBS.c.kind == job.kind,
                JOBS.c.log_key.is_not(None),
            )
            .order_by(JOBS.c.decided_at.desc(), JOBS.c.id.desc())
            .limit(number)
        )
        with reading(self._engine) as connection:
            return tuple(job_record(row) for row in connection.execute(query))


def _find(connection: Connection, revision_id: int, name: str) -> AnyRow | None:
    query = select(*KEY_COLUMNS, *JOBS.c).select_from(TESTED)
    query = query.where(JOBS.c.revision_id == revision_id, JOBS.c.name == name.replace("\0", ""))
    return connection.execute(query).one_or_none()


def _page(connection: Connection, testing: Testing, row: AnyRow) -> JobPage:
    record = job_record(row)
    status = record.status
    attempts = _attempts(connection, row.id)
    outcome = explained(status)
    evidence = None if outcome is None or outcome.kind == "cancelled" else outcome.evidence
    newest = read_heads(connection, testing.pull_request_id)[0]
    found = JobPage(
        job=record,
        title=f"{status.job.title} on {status.job.platform}".removesuffix(" on "),
        sentence=job_sentence(status),
        next_step="",
        line="" if outcome is None or outcome.kind == "passed" else reason_line(outcome),
        rule="" if evidence is None else evidence.rule,
        rationale="" if evidence is None else rationale(evidence.rule),
        group=row.cause_group,
        previous=_previous(connection, testing, row),
        elsewhere=_elsewhere(connection, testing, row.cause_group),
        worker=_worker(connection, attempts),
        incident=_incident(connection, row.id),
        attempts=attempts,
        newest_head=None if newest.head == record.revision.head else newest,
    )
    return found.model_copy(update={"next_step": next_step(found)})


def _attempts(connection: Connection, job_id: int) -> tuple[AttemptRecord, ...]:
    own = (
        each.label("attempt_number") if each is ATTEMPTS.c.number else each for each in ATTEMPTS.c
    )
    query = select(*KEY_COLUMNS, *JOB_COLUMNS, *own).select_from(ATTEMPTED)
    query = query.where(ATTEMPTS.c.job_id == job_id, attempt_condition(AttemptFilter()))
    order = (ATTEMPTS.c.started_at, ATTEMPTS.c.id)
    return page(connection, query, order, ATTEMPTS_SHOWN, attempt_record).items


def _previous(connection: Connection, testing: Testing, row: AnyRow) -> PreviousJob | None:
    if testing.previous is None or testing.previous_id is None:
        return None
    before = _find(connection, testing.previous_id, row.name)
    if before is None:
        return None
    same = (before.standing, before.cause_group) == (row.standing, row.cause_group)
    return PreviousJob(head=testing.previous, job=job_record(before), is_alike=same)


def _elsewhere(connection: Connection, testing: Testing, key: str | None) -> SeenElsewhere | None:
    if key is None:
        return None
    first = select(func.min(JOBS.c.decided_at)).where(
        JOBS.c.cause_group == key, JOBS.c.decided_at.is_not(None)
    )
    return SeenElsewhere(
        pull_requests=open_heads_with(connection, testing.pull_request_id, [key])[key],
        first_seen_at=connection.scalar(first),
    )


def _worker(connection: Connection, attempts: tuple[AttemptRecord, ...]) -> WorkerNearby | None:
    last = next((each for each in attempts if each.worker is not None), None)
    if last is None or last.worker is None:
        return None
    at = last.ended_at or last.started_at
    query = select(
        func.count(), func.sum(case((ATTEMPTS.c.standing == Standing.ERRORED, 1), else_=0))
    ).where(
        ATTEMPTS.c.worker == last.worker,
        ATTEMPTS.c.ended_at.is_not(None),
        ATTEMPTS.c.started_at >= at - _NEARBY,
        ATTEMPTS.c.started_at <= at + _NEARBY,
    )
    number, faults = connection.execute(query).one()
    return WorkerNearby(worker=last.worker, attempts=number, faults=faults or 0)


def _incident(connection: Connection, job_id: int) -> Incident | None:
    query = (
        select(ATTEMPTS.c.incident_id)
        .where(ATTEMPTS.c.job_id == job_id, ATTEMPTS.c.incident_id.is_not(None))
        .order_by(ATTEMPTS.c.round.desc(), ATTEMPTS.c.number.desc())
        .limit(1)
    )
    number = connection.scalar(query)
    return None if number is None else read_incident(connection, number)
