"""Changed rows of the job matrix, on their way to the index."""

from pydantic import AwareDatetime, Field

from opam_ci.core.model import Frozen
from opam_ci.core.records import RevisionKey, RevisionRecord
from opam_ci.core.summary import Rows


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
