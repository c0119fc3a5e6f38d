"""Conversion between records and rows of tables, both ways."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Row

from opam_ci.core.incidents.fingerprint import signature
from opam_ci.core.jobs.job import Job
from opam_ci.core.jobs.outcome import Errored, Failed, Outcome, Skipped, fixes_of
from opam_ci.core.jobs.plan import RANKS, PlannedJob, depends_on, follows
from opam_ci.core.jobs.records import (
    AttemptRecord,
    JobRecord,
    RevisionKey,
    RevisionRecord,
    RowBatch,
)
from opam_ci.core.jobs.summary import JobState, JobStatus, Standing
from opam_ci.core.pages.causes import cause_group, explained
from opam_ci.core.printable import clip

Values = dict[str, Any]
"""Values to be written to a row, by column."""

AnyRow = Row[*tuple[Any, ...]]
"""A row that was read."""

_SAME = ("restart_budget_used", "attempt", "started_at", "decided_at", "next_attempt_at", "faults")
"""Columns of a job with the names of JobStatus's fields."""

_BLAME = 300
"""Characters of a name that is taken from a log: an index entry of PostgreSQL is small."""

_OF_REVISION = (
    "base", "merge_tree", "state", "planned", "concluded", "changes", "hold", "effect", "title",
    "is_open", "author", "updated_at",
)  # fmt: skip
_OF_ATTEMPT = (
    "round", "sequence", "worker", "pool", "started_at", "ended_at", "outcome", "phase", "log_key",
    "cpu_seconds",
)  # fmt: skip


def job_row(revision_id: int, row: JobStatus, batch: RowBatch) -> Values:
    """Makes the row of a job."""
    outcome = job_outcome_row(row.outcome)
    if row.faults and row.state is JobState.RETRYING:
        fault = row.faults[-1]
        outcome |= {
            "cause": fault.cause,
            "worker": fault.worker,
            "cause_group": cause_group(explained(row)),
        }
    return {
        **_identity(revision_id, row.job, depends_on(row.job)),
        **outcome,
        **{name: getattr(row, name) for name in _SAME},
        "standing": row.standing,
        "round": row.round,
        "phase": row.phase or outcome["phase"],
        "sequence": batch.sequence,
        "updated_at": batch.updated_at,
        "log_key": row.log,
    }


def queued_row(revision_id: int, planned: PlannedJob, **common: object) -> Values:
    """Makes the row of a queued job.

    Args:
        revision_id: Of its testing.
        planned: The job.
        common: Columns that are the same for all jobs of a plan.
    """
    return {
        **_identity(revision_id, planned.job, planned.needs),
        "plan_key": planned.plan_key,
        "audits": planned.audits,
        **common,
    }


def attempt_rows(row: JobStatus, batch: RowBatch) -> Iterator[Values]:
    """Makes the rows of a job's known attempts in its round, without the job's id."""
    now = batch.updated_at
    common = {
        "round": row.round,
        "sequence": batch.sequence,
        "pool": batch.pools.get(row.job.platform),
    }
    for fault in row.faults:
        yield {
            **common,
            **_tried(row.job, Errored(cause=fault.cause, evidence=fault.evidence)),
            "number": fault.attempt,
            "worker": fault.worker or fault.evidence.worker,
            "started_at": fault.started_at or row.started_at or fault.at,
            "ended_at": fault.at,
            "log_key": fault.log,
            "cpu_seconds": None,
            "image": None,
            "verdict_key": None,
        }
    known = {0, *(fault.attempt for fault in row.faults)}
    if row.attempt in known or row.state is JobState.RETRYING:
        return
    columns = _tried(row.job, row.outcome)
    yield {
        **common,
        **columns,
        "phase": columns["phase"] or row.phase,
        "number": row.attempt,
        "worker": row.worker or columns["worker"],
        "started_at": row.attempt_started_at or row.started_at or row.decided_at or now,
        "ended_at": None if row.outcome is None else row.decided_at or now,
        "log_key": row.log,
        "cpu_seconds": None if row.outcome is None else row.cpu_seconds,
        "image": None if row.outcome is None else row.image,
        "verdict_key": None if row.outcome is None else row.verdict_key,
    }


def outcome_row(outcome: Outcome | None) -> Values:
    """Makes the columns of an outcome: those that are searched, and the whole."""
    evidence = getattr(outcome, "evidence", None)
    worker = evidence and evidence.worker
    return {
        "failure_reason": outcome.reason if isinstance(outcome, Failed) else None,
        "skip_reason": outcome.reason if isinstance(outcome, Skipped) else None,
        "cause": outcome.cause if isinstance(outcome, Errored) else None,
        "phase": evidence and evidence.phase,
        # PostgreSQL cannot store NUL, which logs may print.
        "worker": worker and worker.replace("\0", "\ufffd"),
        "outcome": outcome,
    }


def job_outcome_row(outcome: Outcome | None) -> Values:
    """Makes the columns of a job's outcome: also with what it is grouped."""
    blame = outcome.blame if isinstance(outcome, Failed) else None
    return {
        **outcome_row(outcome),
        "follows": follows(outcome),
        "fixed": fixes_of(outcome) is not None,
        "cause_group": cause_group(outcome),
        "blame": blame and clip(blame.replace("\0", "\ufffd"), _BLAME),
    }


def revision_of(row: AnyRow) -> RevisionKey:
    """Reads the testing of a row, from `schema.KEY_COLUMNS`."""
    return RevisionKey.model_validate(row, from_attributes=True)


def job_of(row: AnyRow) -> Job:
    """Reads the job of a row, from `schema.JOB_COLUMNS`."""
    return Job.model_validate(row, from_attributes=True)


def revision_record(row: AnyRow) -> RevisionRecord:
    """Reads a revision."""
    own = {name: getattr(row, name) for name in _OF_REVISION}
    return RevisionRecord(key=revision_of(row), sequence=max(row.sequence, 0), **own)


def job_status(row: AnyRow) -> JobStatus:
    """Reads a job without its testing."""
    return JobStatus(
        job=job_of(row),
        state=JobState(row.standing) if row.outcome is None else JobState.DECIDED,
        # 0 in rows of an older version, of which only an attempt was known.
        round=max(row.round, 1),
        phase=row.phase if row.outcome is None else None,
        outcome=row.outcome,
        log=row.log_key,
        **{name: getattr(row, name) for name in _SAME},
    )


def job_record(row: AnyRow) -> JobRecord:
    """Reads a job."""
    return JobRecord(
        revision=revision_of(row),
        status=job_status(row),
        sequence=max(row.sequence, 0),
        updated_at=row.updated_at,
    )


def attempt_record(row: AnyRow) -> AttemptRecord:
    """Reads an attempt, with its job's columns beside it."""
    own = {name: getattr(row, name) for name in _OF_ATTEMPT}
    return AttemptRecord(
        revision=revision_of(row), job=job_of(row), number=row.attempt_number, **own
    )


def _tried(job: Job, outcome: Outcome | None) -> Values:
    found = signature(outcome, job)
    return {
        **outcome_row(outcome),
        "standing": Standing.RUNNING if outcome is None else outcome.kind,
        "signature": found and found.digest,
    }


def _identity(revision_id: int, job: Job, needs: Job | None) -> Values:
    return {
        "revision_id": revision_id,
        "name": job.id,
        "kind": job.kind,
        "platform": job.platform,
        "package": job.package,
        "revdep": job.revdep,
        "rank": RANKS[job.kind],
        "needs": needs and needs.id,
    }
