"""Summaries as workflows make them: rows, and their counts."""

from collections.abc import Iterable
from typing import Any

from opam_ci.core.jobs.summary import JobStatus, Summary
from opam_ci.core.jobs.tally import counts_of_rows


def summary_of(rows: Iterable[JobStatus], **changes: Any) -> Summary:
    """Returns the summary of a head that is planned, with the counts of rows.

    Args:
        rows: Its jobs.
        changes: Other fields, such as more `tallies` than rows.
    """
    rows = tuple(rows)
    fields = {
        "pull_request": "o/r#1",
        "head": "a" * 40,
        "base": "b" * 40,
        "planned": True,
        "tallies": counts_of_rows(rows),
        "jobs": rows,
    }
    return Summary.model_validate(fields | changes)
