"""Jobs of the index by parts of their ids, on each database."""

import pytest

from opam_ci.clients.index import CURRENT, Index, JobFilter
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.records import RowBatch
from opam_ci.core.jobs.summary import JobStatus, Standing
from tests.support.fakes.queue import NOON, key


@pytest.fixture
def filled(index: Index) -> Index:
    for number, revdeps in ((1, ("b.1", "b.2", "bc.1")), (2, ("100%.1", "x_y.1"))):
        rows = tuple(
            JobStatus(job=Job(platform="p", package="a.1", kind=JobKind.REVDEP, revdep=revdep))
            for revdep in revdeps
        )
        index.record(RowBatch(key=key(number), rows=rows, sequence=1, updated_at=NOON))
    return index


@pytest.mark.parametrize(
    ("wanted", "revdeps"),
    [
        (JobFilter(revdep="b"), {"b.1", "b.2"}),
        (JobFilter(revdep="b.2"), {"b.2"}),
        (JobFilter(words=("b",)), {"b.1", "b.2", "bc.1"}),
        (JobFilter(words=("bc", "revdep")), {"bc.1"}),
        (JobFilter(words=("%",)), {"100%.1"}),
        (JobFilter(words=("_",)), {"x_y.1"}),
        (JobFilter(words=("\\", "'")), set()),
        (JobFilter(name="revdep p a.1 b.1"), {"b.1"}),
        (JobFilter(name="revdep p a.1 b.%"), set()),
    ],
)
def test_jobs_are_found_by_words_of_their_ids(
    filled: Index, wanted: JobFilter, revdeps: set[str]
) -> None:
    found = filled.jobs(wanted).items
    assert {each.status.job.revdep for each in found} == revdeps
    assert filled.counts(wanted).queued == len(revdeps)


def test_testings_are_counted_with_most_jobs_first(filled: Index) -> None:
    found = filled.counts_by_testing(JobFilter(of=CURRENT, standing=Standing.QUEUED))
    assert list(found.items()) == [(key(1), 3), (key(2), 2)]
    assert filled.counts_by_testing(JobFilter(of=CURRENT, words=("x_y",))) == {key(2): 1}
    assert filled.counts_by_testing(JobFilter(standing=Standing.FAILED)) == {}
