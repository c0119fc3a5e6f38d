"""Records, written to an index as the batches of rows that workflows send."""

from opam_ci.clients.index import Index
from opam_ci.clients.index.rejudging import Effects
from opam_ci.core.jobs.records import AttemptRecord, JobRecord, RevisionRecord, RowBatch
from opam_ci.core.jobs.summary import JobState, JobStatus

Record = RevisionRecord | JobRecord | AttemptRecord


def batch_for(record: Record) -> RowBatch:
    """The batch of a workflow: an attempt is in the row of its job at that time."""
    match record:
        case RevisionRecord():
            return RowBatch(
                key=record.key, revision=record, rows=(), sequence=record.sequence,
                updated_at=record.updated_at,
            )  # fmt: skip
        case JobRecord():
            return RowBatch(
                key=record.revision, rows=(record.status,), sequence=record.sequence,
                updated_at=record.updated_at,
            )  # fmt: skip
        case AttemptRecord():
            row = JobStatus(
                job=record.job, round=record.round, attempt=record.number, phase=record.phase,
                state=JobState.RUNNING if record.outcome is None else JobState.DECIDED,
                outcome=record.outcome, attempt_started_at=record.started_at,
                decided_at=record.ended_at, worker=record.worker, log=record.log_key,
                cpu_seconds=record.cpu_seconds,
            )  # fmt: skip
            return RowBatch(
                key=record.revision, rows=(row,), sequence=record.sequence,
                updated_at=record.ended_at or record.started_at,
                pools={record.job.platform: record.pool} if record.pool else {},
            )  # fmt: skip


def write(index: Index, *records: Record | RowBatch, retried: bool = False) -> Effects:
    """Writes records one by one; returns the sum of their results."""
    found = Effects()
    for record in records:
        batch = record if isinstance(record, RowBatch) else batch_for(record)
        done = index.record(batch, retried=retried)
        found = Effects(
            incidents=tuple(sorted({*found.incidents, *done.incidents})),
            testings=found.testings | done.testings,
            kinds=found.kinds + done.kinds,
        )
    return found
