"""The rows of all jobs of a check, from the index: its workflow shows the first ones alone."""

import contextlib
import time
from datetime import timedelta

from opam_ci.cli.operate import opened_index
from opam_ci.clients.index import JobFilter, Place, RevisionFilter
from opam_ci.core.errors import OpamCiError
from opam_ci.core.plan import RANKS
from opam_ci.core.requests import PullRequestRef
from opam_ci.core.summary import JobStatus, Summary, total
from opam_ci.core.tally import counts_of_rows
from opam_ci.settings import Settings

_ALL_ROWS = 10_000
"""Rows that a summary is completed with at most."""
_LOOKS = 10
_LOOK_INTERVAL = timedelta(seconds=0.5)


def with_all_rows(summary: Summary, ref: PullRequestRef) -> Summary:
    """Returns a decided summary with the rows of all its jobs, as the index has them.

    A workflow shows the first ones of each platform. These stay where the index cannot be read.

    Args:
        summary: As the workflow gave it.
        ref: Whose.
    """
    if len(summary.jobs) >= min(summary.counts.total, _ALL_ROWS):
        return summary
    of = RevisionFilter(
        repository=f"{ref.owner}/{ref.repo}", number=ref.number, branch=ref.branch, newest=True
    )
    rows: tuple[JobStatus, ...] = ()
    with contextlib.suppress(OpamCiError), opened_index(Settings()) as index:
        for _ in range(_LOOKS):
            found = index.jobs(JobFilter(of=of), place=Place(limit=_ALL_ROWS)).items
            rows = tuple(record.status for record in found)
            if total(counts_of_rows(rows)) == summary.counts:
                break
            time.sleep(_LOOK_INTERVAL.total_seconds())
    if len(rows) <= len(summary.jobs):
        return summary
    return summary.model_copy(update={"jobs": tuple(sorted(rows, key=_place_of))})


def _place_of(row: JobStatus) -> tuple[str, int, str, str]:
    job = row.job
    return job.platform, RANKS[job.kind], job.package, job.revdep or ""
