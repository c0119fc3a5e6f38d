"""Changed rows of the job matrix, on their way to the index."""

from pydantic import AwareDatetime, Field

from opam_ci.core.model import Frozen
from opam_ci.core.records import RevisionKey, RevisionRecord
from opam_ci.core.summary import JobStatus, Rows, Summary


class RowBatch(Frozen):
    """Changed rows of one testing, to be written to the index.

    For each row the index has one row of the job, and one of each attempt of the row's round.

    Attributes:
        key: The testing.
        revision: The state of the testing, None if only rows are written.
        rows: The rows.
        sequence: Number of this batch, higher than any before with the same rows.
        updated_at: Time of this state.
        pools: The pool of each platform.
    """

    key: RevisionKey
    revision: RevisionRecord | None = None
    rows: Rows
    sequence: int = Field(ge=0)
    updated_at: AwareDatetime
    pools: dict[str, str] = Field(default_factory=dict)


def batch_of(  # noqa: PLR0913  each is a fact of its own
    revision: RevisionKey,
    summary: Summary,
    changed: tuple[JobStatus, ...],
    *,
    sequence: int,
    merge_tree: str | None = None,
    is_open: bool = True,
) -> RowBatch:
    """Returns the batch to write after rows have changed.

    Args:
        revision: The testing.
        summary: Its state.
        changed: The rows that changed since the last batch.
        sequence: Number of this batch, higher than any before.
        merge_tree: The merged tree, if there is one.
        is_open: Whether the pull request is still open.
    """
    now = summary.updated_at
    if now is None:
        raise ValueError("a summary without updated_at cannot be recorded")
    record = RevisionRecord(
        key=revision,
        base=summary.base,
        merge_tree=merge_tree,
        is_open=is_open,
        state=summary.state,
        planned=summary.planned,
        updated_at=now,
        sequence=sequence,
    )
    return RowBatch(key=revision, revision=record, rows=changed, sequence=sequence, updated_at=now)
