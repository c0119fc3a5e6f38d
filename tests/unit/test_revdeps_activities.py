"""The lists of reverse dependencies in the store, and their jobs in a real index."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from temporalio.testing import ActivityEnvironment

from opam_ci.activities import revdeps as activities
from opam_ci.clients.index import Index
from opam_ci.clients.store import ArtifactStore
from opam_ci.core.build import Revdep
from opam_ci.core.errors import InfrastructureError
from opam_ci.core.job import Job, JobKind
from opam_ci.core.outcome import Cause, Errored, Evidence, Failed, FailureReason, Outcome, Passed
from opam_ci.core.recording import records_of
from opam_ci.core.records import RevisionKey, Standing
from opam_ci.core.requests import RestartSelector
from opam_ci.core.revdeps import FindJobs, FoundJob, ListPart, RevdepList
from opam_ci.core.summary import JobState, JobStatus

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
KEY = RevisionKey(repository="o/r", number=1, head="a" * 40, opened_at=NOW)
DNS = Errored(cause=Cause.DNS, evidence=Evidence(rule="x"))
OUTCOMES: tuple[Outcome, ...] = (
    Passed(evidence=Evidence(rule="x")),
    Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="x")),
    DNS,
)


@pytest.fixture
def given(tmp_path: Path) -> Iterator[activities.RevdepsActivities]:
    index = Index.open(f"sqlite:///{tmp_path / 'index.sqlite'}")
    for number in range(9):
        rows = [
            JobStatus(
                job=Job(platform="p", package=package, kind=kind, revdep=f"r{number}.1"),
                state=JobState.DECIDED,
                attempt=1,
                outcome=OUTCOMES[number % 3],
            )
            for package in ("a.1", "other.1")
            for kind in (JobKind.REVDEP, JobKind.REVDEP_TEST)
        ]
        index.record(records_of(KEY, rows, sequence=1, updated_at=NOW + timedelta(seconds=number)))
    yield activities.RevdepsActivities(ArtifactStore.open("memory:"), index)
    index.close()


async def found(given: activities.RevdepsActivities, selector: RestartSelector) -> list[FoundJob]:
    jobs: list[FoundJob] = []
    after: str | None = None
    while True:
        page = await ActivityEnvironment().run(
            given.find_jobs,
            FindJobs(revision=KEY, platform="p", package="a.1", selector=selector, after=after),
        )
        jobs += page.jobs
        if (after := page.following) is None:
            return jobs


async def test_a_restart_finds_each_job_once_builds_first(
    given: activities.RevdepsActivities, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activities, "_FOUND_AT_ONCE", 2)
    jobs = await found(given, RestartSelector())
    assert {each.job.revdep for each in jobs} == {"r2.1", "r5.1", "r8.1"}
    assert len({each.job.id for each in jobs}) == len(jobs) == 6
    assert [each.job.kind for each in jobs] == [JobKind.REVDEP] * 3 + [JobKind.REVDEP_TEST] * 3
    assert {(each.standing, each.cause) for each in jobs} == {(Standing.ERRORED, Cause.DNS)}
    assert not await found(given, RestartSelector(cause=Cause.DISK_FULL))


async def test_a_listing_is_read_in_parts(given: activities.RevdepsActivities) -> None:
    revdeps = tuple(Revdep(package=f"r{number}.1", has_tests=False) for number in range(5))
    store = ArtifactStore.open("memory:")
    await store.put("list", RevdepList(revdeps=revdeps).model_dump_json().encode())
    await store.put("broken", b"{")
    reads = activities.RevdepsActivities(store, given._index)
    part = await ActivityEnvironment().run(reads.list_part, ListPart(key="list", start=3, limit=10))
    assert part.revdeps == revdeps[3:]
    with pytest.raises(InfrastructureError, match="holds no list"):
        await ActivityEnvironment().run(reads.list_part, ListPart(key="broken", start=0, limit=1))
