"""The activities on the list of jobs, each done twice, on a real index and a store."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from temporalio.testing import ActivityEnvironment

from opam_ci.activities import jobs as activities
from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.build import Revdep, RevdepList
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.hold import Author
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.messages import (
    ChangeJobs,
    ConcludeJobs,
    CountJobs,
    PlanJobs,
    PlanRevdeps,
    SettleJobs,
    TakeJobs,
)
from opam_ci.core.jobs.outcome import (
    Cancelled,
    Cause,
    Errored,
    Evidence,
    Passed,
    Skipped,
    SkipReason,
)
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch
from opam_ci.core.jobs.selector import JobSelector, RestartSelector
from opam_ci.core.jobs.summary import JobState, JobStatus, total
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.core.submission.result import ChangedPackage, ChangeKind
from tests.support.fakes.queue import all_served

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
KEY = RevisionKey(repository="o/r", number=1, head="a" * 40, opened_at=NOON)
PLATFORM = EMBEDDED.model_copy(update={"revdeps": True})
DNS = Errored(cause=Cause.DNS, evidence=Evidence(rule="dns"))


@pytest.fixture
def store() -> ArtifactStore:
    return ArtifactStore.open("memory:")


@pytest.fixture
def given(tmp_path: Path, store: ArtifactStore) -> Iterator[activities.JobActivities]:
    index = Index.open(f"sqlite:///{tmp_path / 'index.sqlite'}")
    yield activities.JobActivities(index, store, all_served)
    index.close()


def plan(*packages: str) -> PlanJobs:
    changed = tuple(
        ChangedPackage(package=package, kind=ChangeKind.NEW_RELEASE, has_tests=True)
        for package in packages
    )
    return PlanJobs(key=KEY, packages=changed, platforms=(PLATFORM,), round=1)


async def names(given: activities.JobActivities, platform: str = PLATFORM.name) -> list[str]:
    page = await given.take_jobs(TakeJobs(key=KEY, platform=platform, limit=1000))
    assert page.following is None
    return [f"{each.job.kind} {each.job.revdep or each.job.package}".strip() for each in page.jobs]


async def test_a_plan_is_executed_in_order_with_heartbeats(
    given: activities.JobActivities, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activities, "_PLANNED_BETWEEN_HEARTBEATS", 3)
    environment = ActivityEnvironment()
    beats: list[object] = []
    environment.on_heartbeat = lambda *_: beats.append(None)
    for _ in range(2):
        await environment.run(given.plan_jobs, plan("a.1", "b.1"))
    assert len(beats) >= 4
    assert await names(given, "") == ["lint a.1", "lint b.1"]
    found = [name for name in await names(given) if not name.startswith("image")]
    assert found == [
        *("build a.1", "build b.1", "test a.1", "test b.1"),
        *("list-revdeps a.1", "list-revdeps b.1"),
    ]


async def test_a_stored_listing_becomes_jobs(
    given: activities.JobActivities, store: ArtifactStore
) -> None:
    listed = RevdepList(
        revdeps=(Revdep(package="x.1", has_tests=True), Revdep(package="y.1", has_tests=False))
    )
    await store.put("list", listed.model_dump_json().encode())
    await store.put("broken", b"{")
    task = PlanRevdeps(key=KEY, platform=PLATFORM.name, package="a.1", listing="list", round=1)
    for _ in range(2):
        await ActivityEnvironment().run(given.plan_revdeps, task)
    assert await names(given) == ["revdep x.1", "revdep-test x.1", "revdep y.1"]
    with pytest.raises(InfrastructureError, match="not a list of reverse") as caught:
        await ActivityEnvironment().run(
            given.plan_revdeps, task.model_copy(update={"listing": "broken"})
        )
    assert caught.value.cause is Cause.STORAGE


async def test_a_spent_budget_of_today_keeps_reverse_dependencies(
    given: activities.JobActivities,
) -> None:
    environment = ActivityEnvironment()
    await environment.run(given.plan_jobs, plan("a.1"))
    revision = RevisionRecord(key=KEY, base="b", author="alice", updated_at=NOON, sequence=1)
    job = Job(platform=PLATFORM.name, package="a.1", kind=JobKind.BUILD)
    row = JobStatus(
        job=job,
        state=JobState.DECIDED,
        outcome=Passed(evidence=Evidence(rule="x")),
        attempt=1,
        worker="w",
        started_at=NOON,
        attempt_started_at=NOON,
        decided_at=NOON + timedelta(hours=2),
    )
    given._index.record(
        RowBatch(key=KEY, revision=revision, rows=(row,), sequence=2, updated_at=NOON)
    )
    author = Author(login="alice", hours_a_day=2)
    taken: list[tuple[float, bool]] = []
    for hours, at in ((2.0, NOON), (2.1, NOON), (2.0, NOON + timedelta(days=1))):
        environment.info = replace(environment.info, started_time=at)
        page = await environment.run(
            given.take_jobs,
            TakeJobs(
                key=KEY,
                platform=PLATFORM.name,
                limit=9,
                author=author.model_copy(update={"hours_a_day": hours}),
            ),
        )
        kinds = {each.job.kind for each in page.jobs}
        taken.append((page.hold.used if page.hold else -1, JobKind.LIST_REVDEPS in kinds))
        assert JobKind.TEST in kinds
    assert taken == [(2, False), (-1, True), (-1, True)]


async def test_settling_restarting_and_cancelling_are_idempotent(
    given: activities.JobActivities,
) -> None:
    environment = ActivityEnvironment()
    await environment.run(given.plan_jobs, plan("a.1"))
    await environment.run(given.settle_jobs, SettleJobs(key=KEY, outcome=DNS))
    wanted = ChangeJobs(key=KEY, selector=RestartSelector(kind=JobKind.BUILD), round=2)
    preview = await environment.run(given.restart_jobs, wanted.model_copy(update={"preview": True}))
    assert await names(given) == []
    for _ in range(2):
        assert await environment.run(given.restart_jobs, wanted) == preview
    assert "build a.1" in await names(given)
    cancelling = ChangeJobs(key=KEY, selector=JobSelector())
    taken = await environment.run(given.cancel_jobs, cancelling)
    assert taken.jobs == preview.jobs
    # A second attempt of the same activity answers the same; another request does not.
    assert await environment.run(given.cancel_jobs, cancelling) == taken
    later = ActivityEnvironment()
    later.info = replace(later.info, scheduled_time=NOON + timedelta(days=1))
    assert (await later.run(given.cancel_jobs, cancelling)).refusal is not None
    found = await environment.run(
        given.count_jobs, CountJobs(key=KEY, platforms=("", PLATFORM.name))
    )
    lint, built = found.platforms
    assert total(lint.counts).errored == 1
    assert total(built.counts).cancelled == taken.jobs
    with pytest.raises(TypeError, match="RestartSelector"):
        await environment.run(given.restart_jobs, cancelling)


async def test_a_second_attempt_to_conclude_reports_possible_changes(
    given: activities.JobActivities,
) -> None:
    environment = ActivityEnvironment()
    await environment.run(given.plan_jobs, plan("a.1"))
    task = ConcludeJobs(key=KEY, unavailable="skip")
    assert await environment.run(given.conclude_jobs, task) is False
    page = await given.take_jobs(TakeJobs(key=KEY, platform=PLATFORM.name, limit=99))
    [build] = [each.job for each in page.jobs if each.job.kind is JobKind.BUILD]
    skip = Skipped(reason=SkipReason.NO_SOLUTION, evidence=Evidence(rule="x"))
    row = JobStatus(job=build, state=JobState.DECIDED, outcome=skip)
    given._index.record(RowBatch(key=KEY, rows=(row,), sequence=1, updated_at=NOON))
    assert await environment.run(given.conclude_jobs, task) is True
    assert await environment.run(given.conclude_jobs, task) is False
    environment.info = replace(environment.info, attempt=2)
    assert await environment.run(given.conclude_jobs, task) is True


def test_a_cancel_reads_back_as_it_was_sent() -> None:
    for selector in (JobSelector(kind=JobKind.TEST), RestartSelector(cause=Cause.DNS)):
        sent = ChangeJobs(key=KEY, selector=selector)
        read = ChangeJobs.model_validate_json(sent.model_dump_json())
        assert read.selector.model_dump().items() >= selector.model_dump().items()
    assert Cancelled(by=sent.by).by == "request"
