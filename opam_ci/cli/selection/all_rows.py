"""The rows of all jobs of a check, from the index: its workflow has only the first ones."""

import contextlib
import time
from datetime import timedelta

from opam_ci.app.settings import Settings
from opam_ci.cli.selection.operate import opened_index
from opam_ci.clients.index import JobFilter, Place, RevisionFilter
from opam_ci.core.errors import OpamCiError
from opam_ci.core.jobs.plan import RANKS
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.summary import JobStatus, Summary, total
from opam_ci.core.jobs.tally import counts_of_rows

_ALL_ROWS = 10_000
"""Rows that a summary is completed with at most."""
_READS = 10
_READ_INTERVAL = timedelta(seconds=0.5)
"""The index is written a moment after the workflow has decided the last job."""


def with_all_rows(summary: Summary, ref: PullRequestRef) -> Summary:
    """Returns a decided summary with the rows of all its jobs from the index.

    A workflow has the first ones of each platform: these remain if the index cannot be read.

    Args:
        summary: The workflow's.
        ref: Its pull request.
    """
    if len(summary.jobs) >= min(summary.counts.total, _ALL_ROWS):
        return summary
    of = RevisionFilter(
        repository=f"{ref.owner}/{ref.repo}", number=ref.number, branch=ref.branch, newest=True
    )
    rows: tuple[JobStatus, ...] = ()
    with contextlib.suppress(OpamCiError), opened_index(Settings()) as index:
        for _ in range(_READS):
            found = index.jobs(JobFilter(of=of), place=Place(limit=_ALL_ROWS)).items
            rows = tuple(record.status for record in found)
            if total(counts_of_rows(rows)) == summary.counts:
                break
            time.sleep(_READ_INTERVAL.total_seconds())
    if len(rows) <= len(summary.jobs):
        return summary
    return summary.model_copy(update={"jobs": tuple(sorted(rows, key=_sort_key))})


def _sort_key(row: JobStatus) -> tuple[str, int, str, str]:
    job = row.job
    return job.platform, RANKS[job.kind], job.package, job.revdep or ""
