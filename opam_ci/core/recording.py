"""From the job matrix to the rows of the index."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cached_property

from pydantic import AwareDatetime, Field

from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Errored, Evidence, Outcome
from opam_ci.core.records import (
    AttemptRecord,
    JobRecord,
    RecordBatch,
    RevisionKey,
    RevisionRecord,
)
from opam_ci.core.summary import Fault, JobState, JobStatus, Rows, Summary


class RowBatch(Frozen):
    """Changed rows of one testing, on their way to the index.

    A row makes two records of the index, each with all that the row has: they are made where
    they are written.

    Attributes:
        key: The testing.
        revision: How it stands, None where only rows are told of.
        rows: The rows.
        sequence: Number of this batch, higher than any before with the same rows.
        updated_at: When they were so.
        pools: The pool of each platform.
    """

    key: RevisionKey
    revision: RevisionRecord | None = None
    rows: Rows
    sequence: int = Field(ge=0)
    updated_at: AwareDatetime
    pools: dict[str, str] = Field(default_factory=dict)

    @cached_property
    def records(self) -> RecordBatch:
        """What is to be written."""
        found = records_of(
            self.key,
            self.rows,
            sequence=self.sequence,
            updated_at=self.updated_at,
            pools=self.pools,
        )
        revisions = () if self.revision is None else (self.revision,)
        return found.model_copy(update={"revisions": revisions})


def records_in(batch: RowBatch | RecordBatch) -> RecordBatch:
    """Returns what is to be written; workflows of an older version send the records themselves."""
    return batch if isinstance(batch, RecordBatch) else batch.records


def batch_of(  # noqa: PLR0913  each is a fact of its own
    revision: RevisionKey,
    summary: Summary,
    changed: tuple[JobStatus, ...],
    *,
    sequence: int,
    merge_tree: str | None = None,
    is_open: bool = True,
    pools: Mapping[str, str] | None = None,
) -> RowBatch:
    """Returns what is to be written after rows have changed.

    Args:
        revision: The testing.
        summary: Its state.
        changed: The rows that changed since the last batch.
        sequence: Number of this batch, higher than any before.
        merge_tree: The merged tree, if there is one.
        is_open: Whether the pull request is still open.
        pools: The pool of each platform.
    """
    now = summary.updated_at
    if now is None:
        raise ValueError("a summary that is written down says when it was true")
    return rows_of(revision, changed, sequence=sequence, updated_at=now, pools=pools).model_copy(
        update={
            "revision": RevisionRecord(
                key=revision,
                base=summary.base,
                merge_tree=merge_tree,
                is_open=is_open,
                state=summary.state,
                planned=summary.planned,
                updated_at=now,
                sequence=sequence,
            )
        }
    )


def rows_of(
    revision: RevisionKey,
    changed: tuple[JobStatus, ...],
    *,
    sequence: int,
    updated_at: datetime,
    pools: Mapping[str, str] | None = None,
) -> RowBatch:
    """Returns what is to be written of changed rows alone; see `batch_of`."""
    known = pools or {}
    platforms = {row.job.platform for row in changed} & known.keys()
    return RowBatch(
        key=revision,
        rows=changed,
        sequence=sequence,
        updated_at=updated_at,
        # Sorted: workflow code must give the same in each replay.
        pools={platform: known[platform] for platform in sorted(platforms)},
    )


def records_of(
    revision: RevisionKey,
    changed: Iterable[JobStatus],
    *,
    sequence: int,
    updated_at: datetime,
    pools: Mapping[str, str] | None = None,
) -> RecordBatch:
    """Returns what is to be written of changed rows alone.

    Args:
        revision: The testing.
        changed: The rows.
        sequence: Number of this batch, higher than any before with the same rows.
        updated_at: When they were so.
        pools: The pool of each platform.
    """
    rows = tuple(changed)
    pool_of = pools or {}
    return RecordBatch(
        jobs=tuple(
            JobRecord(
                revision=revision,
                status=row,
                round=row.round,
                sequence=sequence,
                updated_at=updated_at,
            )
            for row in rows
        ),
        attempts=tuple(
            record.model_copy(update={"pool": pool_of.get(row.job.platform)})
            for row in rows
            for record in _attempts(revision, row, sequence, updated_at)
        ),
    )


def _attempts(
    revision: RevisionKey, row: JobStatus, sequence: int, now: datetime
) -> list[AttemptRecord]:
    records = [_lost_attempt(revision, row, fault, sequence) for fault in row.faults]
    known = {fault.attempt for fault in row.faults}
    if row.attempt < 1 or row.attempt in known or row.state is JobState.RETRYING:
        return records
    evidence = _evidence(row.outcome)
    records.append(
        AttemptRecord(
            revision=revision,
            job=row.job,
            round=row.round,
            number=row.attempt,
            sequence=sequence,
            worker=row.worker or (evidence.worker if evidence else None),
            started_at=row.attempt_started_at or row.started_at or row.decided_at or now,
            ended_at=(row.decided_at or now) if row.outcome is not None else None,
            outcome=row.outcome,
            phase=evidence.phase if evidence else row.phase,
            log_key=row.log,
        )
    )
    return records


def _lost_attempt(
    revision: RevisionKey, row: JobStatus, fault: Fault, sequence: int
) -> AttemptRecord:
    return AttemptRecord(
        revision=revision,
        job=row.job,
        round=row.round,
        number=fault.attempt,
        sequence=sequence,
        worker=fault.worker,
        started_at=fault.started_at or row.started_at or fault.at,
        ended_at=fault.at,
        outcome=Errored(cause=fault.cause, evidence=fault.evidence),
        phase=fault.evidence.phase,
        log_key=fault.log,
    )


def _evidence(outcome: Outcome | None) -> Evidence | None:
    return outcome.evidence if outcome is not None and outcome.kind != "cancelled" else None
