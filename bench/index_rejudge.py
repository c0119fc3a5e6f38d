"""The cost of a write that looks for verdicts to revise."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial

from bench.index_fill import FAILED, PLATFORMS, REPOSITORY
from opam_ci.clients.index import Index
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import LogLine
from opam_ci.core.jobs.records import RevisionKey, RowBatch
from opam_ci.core.jobs.summary import JobState, JobStatus

MANY = 500
"""Pull requests that fail alike within minutes: a whole fleet that is broken."""


def rejudging(index: Index, at: datetime) -> Iterator[tuple[str, Callable[[], object]]]:
    """Writes the rows, and lists every query, with the write that makes it.

    Args:
        index: A filled one.
        at: When the last of its heads came in.
    """
    evidence = FAILED.evidence
    news = LogLine(offset=0, text="cp: cannot create it: Structure needs cleaning")
    unheard = FAILED.model_copy(update={"evidence": evidence.model_copy(update={"lines": (news,)})})
    usual = _batch(1, at, JobStatus(job=_job(1), outcome=FAILED, **_decided(at)))
    index.record(usual)
    yield "judge again: 1 usual failure", partial(index.record, usual, retried=True)
    doubted = [
        _batch(n, at, JobStatus(job=_job(n), outcome=unheard, **_decided(at)))
        for n in range(2, 2 + MANY)
    ]
    for batch in doubted:
        index.record(batch)
    yield (
        f"judge again: {MANY} unheard failures",
        partial(index.record, doubted[-1], retried=True),
    )


def _job(number: int) -> Job:
    return Job(platform=PLATFORMS[0], package=f"fresh-{number}.1", kind=JobKind.BUILD)


def _decided(at: datetime) -> dict[str, object]:
    return {"state": JobState.DECIDED, "attempt": 1, "decided_at": at + timedelta(minutes=1)}


def _batch(number: int, at: datetime, row: JobStatus) -> RowBatch:
    key = RevisionKey(
        repository=REPOSITORY, number=900_000 + number, head=f"{number:040x}", opened_at=at
    )
    return RowBatch(key=key, rows=(row,), sequence=1, updated_at=at)
