"""Between records and rows: what `write.py` stores and `index.py` reads back."""

from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import RowMapping

from opam_ci.core.incidents.signature import signature
from opam_ci.core.job import Job
from opam_ci.core.outcome import OUTCOME, Errored, Failed, Outcome, Skipped
from opam_ci.core.records import AttemptRecord, JobRecord, RevisionKey, RevisionRecord
from opam_ci.core.summary import Fault, JobState, JobStatus

_FAULTS = TypeAdapter(tuple[Fault, ...])

Row = dict[str, Any]


class OutcomeRows:
    """The columns of outcomes, made once for each: a job's row and its attempt's share one."""

    def __init__(self) -> None:
        # With the outcome itself: it must live as long as its id is a key.
        self._made: dict[int, tuple[Outcome | None, Row]] = {}

    def of(self, outcome: Outcome | None) -> Row:
        """Returns columns that nobody may change."""
        if (made := self._made.get(id(outcome))) is None:
            made = self._made[id(outcome)] = (outcome, _outcome_row(outcome))
        return made[1]


def stub_row(job: Job, *, seen_at: datetime) -> Row:
    """Makes the row of a job of which only an attempt is known: any record replaces it."""
    return {
        **_identity(job),
        "standing": "queued",
        "round": 0,
        "attempt": 0,
        "sequence": -1,
        "updated_at": seen_at,
        "faults": [],
    }


def job_row(record: JobRecord, outcomes: OutcomeRows) -> Row:
    """Makes the row of a job."""
    status = record.status
    fault = status.faults[-1] if status.faults and status.state is JobState.RETRYING else None
    outcome = outcomes.of(status.outcome)
    if fault is not None:
        outcome = outcome | {"cause": fault.cause.value, "worker": fault.worker}
    return {
        **_identity(status.job),
        **outcome,
        "standing": record.standing.value,
        "phase": status.phase.value if status.phase else outcome["phase"],
        "round": record.round,
        "automatic": status.automatic,
        "attempt": status.attempt,
        "sequence": record.sequence,
        "started_at": status.started_at,
        "decided_at": status.decided_at,
        "next_attempt_at": status.next_attempt_at,
        "updated_at": record.updated_at,
        "log_key": status.log,
        "faults": _plain(_FAULTS.dump_python(status.faults, mode="json")) if status.faults else [],
    }


def attempt_row(record: AttemptRecord, outcomes: OutcomeRows) -> Row:
    """Makes the row of an attempt, but for its job's id."""
    outcome = outcomes.of(record.outcome)
    found = signature(record.outcome, record.job)
    return {
        **outcome,
        "signature": found.digest if found is not None else None,
        "round": record.round,
        "number": record.number,
        "sequence": record.sequence,
        "standing": record.standing.value,
        "phase": record.phase.value if record.phase else outcome["phase"],
        "worker": _plain(record.worker) or outcome["worker"],
        "pool": record.pool,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "log_key": record.log_key,
    }


def revision_of(row: RowMapping) -> RevisionKey:
    """Reads the key of a revision from the columns of `index.KEY_COLUMNS`."""
    return RevisionKey(
        repository=row["repository"],
        number=row["number"],
        branch=row["branch"],
        head=row["head"],
        opened_at=row["opened_at"],
    )


def revision_record(row: RowMapping) -> RevisionRecord:
    """Reads a revision."""
    return RevisionRecord(
        key=revision_of(row),
        base=row["base"],
        merge_tree=row["merge_tree"],
        state=row["state"],
        planned=row["planned"],
        title=row["title"],
        is_open=row["is_open"],
        updated_at=row["updated_at"],
        sequence=max(row["sequence"], 0),
    )


def job_record(row: RowMapping) -> JobRecord:
    """Reads a job."""
    outcome = row["outcome"]
    standing = row["standing"]
    status = JobStatus(
        job=job_of(row),
        state=JobState(standing) if outcome is None else JobState.DECIDED,
        round=max(row["round"], 1),
        automatic=row["automatic"],
        attempt=row["attempt"],
        phase=row["phase"] if outcome is None else None,
        outcome=None if outcome is None else OUTCOME.validate_python(outcome),
        faults=_FAULTS.validate_python(row["faults"]),
        started_at=row["started_at"],
        decided_at=row["decided_at"],
        next_attempt_at=row["next_attempt_at"],
        log=row["log_key"],
    )
    return JobRecord(
        revision=revision_of(row),
        status=status,
        round=status.round,
        sequence=max(row["sequence"], 0),
        updated_at=row["updated_at"],
    )


def attempt_record(row: RowMapping) -> AttemptRecord:
    """Reads an attempt, with its job's columns beside it."""
    outcome = row["outcome"]
    return AttemptRecord(
        revision=revision_of(row),
        job=job_of(row),
        round=row["round"],
        number=row["attempt_number"],
        sequence=row["sequence"],
        worker=row["worker"],
        pool=row["pool"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        outcome=None if outcome is None else OUTCOME.validate_python(outcome),
        phase=row["phase"],
        log_key=row["log_key"],
    )


def job_of(row: RowMapping) -> Job:
    """Reads which job a row is about."""
    return Job(
        platform=row["platform"], package=row["package"], kind=row["kind"], revdep=row["revdep"]
    )


def _identity(job: Job) -> Row:
    return {
        "name": job.id,
        "kind": job.kind.value,
        "platform": job.platform,
        "package": job.package,
        "revdep": job.revdep,
    }


def _outcome_row(outcome: Outcome | None) -> Row:
    """Takes an outcome apart into the columns that are searched, and keeps it whole beside."""
    evidence = getattr(outcome, "evidence", None)
    return {
        "failure_reason": outcome.reason.value if isinstance(outcome, Failed) else None,
        "skip_reason": outcome.reason.value if isinstance(outcome, Skipped) else None,
        "cause": outcome.cause.value if isinstance(outcome, Errored) else None,
        "phase": evidence.phase.value if evidence and evidence.phase else None,
        "worker": _plain(evidence.worker) if evidence else None,
        "outcome": None if outcome is None else _plain(OUTCOME.dump_python(outcome, mode="json")),
    }


def _plain(value: Any) -> Any:
    """Replaces NUL, which logs may print and PostgreSQL cannot store."""
    match value:
        case str():
            return value.replace("\0", "\ufffd")
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _:
            return value
