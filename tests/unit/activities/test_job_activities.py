"""The activities on the list of jobs, each done twice, on a real index and a store."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from temporalio.testing import ActivityEnvironment

from opam_ci.activities import jobs as activities
from opam_ci.clients.git.exported import reach_key
from opam_ci.clients.index import Index, JobFilter, RevisionFilter
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.build import NOT_BUILT, Revdep, RevdepList, listing_key
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
    Failed,
    FailedWithout,
    FailureReason,
    OnBase,
    Passed,
    Skipped,
    SkipReason,
    fixes_of,
)
from opam_ci.core.jobs.plan import PlannedJob
from opam_ci.core.jobs.records import RevisionKey, RevisionRecord, RowBatch
from opam_ci.core.jobs.requests import Surroundings
from opam_ci.core.jobs.selector import JobSelector, RestartSelector
from opam_ci.core.jobs.summary import JobState, JobStatus, State, total
from opam_ci.core.jobs.waiver import Waiver
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.core.reuse.plan_key import Keys
from opam_ci.core.reuse.reach import Reachable
from opam_ci.core.reuse.settled import Audits
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


async def test_what_failed_at_the_previous_head_runs_first(
    given: activities.JobActivities, store: ArtifactStore
) -> None:
    listed = RevdepList(
        revdeps=tuple(Revdep(package=f"{name}.1", has_tests=False) for name in "vwxyz")
    )
    await store.put("list", listed.model_dump_json().encode())
    failed = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="x"))
    old_too = Skipped(reason=SkipReason.FAILS_ON_BASE, evidence=Evidence(rule="x"))
    outcomes = {
        "v.1": (PLATFORM.name, Passed(evidence=Evidence(rule="x"))),
        "w.1": (PLATFORM.name, old_too),
        "x.1": ("elsewhere", failed),
        "z.1": (PLATFORM.name, failed),
    }
    revision = RevisionRecord(key=KEY, base="b", state=State.FAILURE, updated_at=NOON, sequence=1)
    rows = tuple(
        JobStatus(
            job=Job(platform=platform, package="a.1", kind=JobKind.REVDEP, revdep=revdep),
            state=JobState.DECIDED,
            outcome=outcome,
            attempt=1,
            decided_at=NOON,
        )
        for revdep, (platform, outcome) in outcomes.items()
    )
    given._index.record(
        RowBatch(key=KEY, revision=revision, rows=rows, sequence=1, updated_at=NOON)
    )
    pushed = KEY.model_copy(update={"head": "b" * 40, "opened_at": NOON + timedelta(hours=1)})
    task = PlanRevdeps(key=pushed, platform=PLATFORM.name, package="a.1", listing="list", round=1)
    # The head's own builds are in the index before a listing is.
    build = PlannedJob(job=Job(platform=PLATFORM.name, package="a.1", kind=JobKind.BUILD))
    given._index.plan(pushed, [build], round_=1, origin=None, at=NOON)
    await ActivityEnvironment().run(given.plan_revdeps, task)
    page = await given.take_jobs(TakeJobs(key=pushed, platform=PLATFORM.name, limit=9))
    order = [each.job.revdep for each in page.jobs if each.job.kind is JobKind.REVDEP]
    assert order == ["z.1", "v.1", "w.1", "x.1", "y.1"]


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


REACHABLE = Reachable(
    plain={"a": "1", "b": "2", "x": "3", "ocaml": "4"}, tested={}, dependents={"a": "5", "b": "6"}
)
IMAGE = "0" * 16
UNAUDITED = Surroundings(audited_percent=0)
LISTED = RevdepList(revdeps=(Revdep(package="x.1", has_tests=False),), flagged=("y.1",))


def reusing(number: int, *packages: str, round_: int = 1) -> PlanJobs:
    changes = {"number": number, "opened_at": NOON + timedelta(hours=number)}
    testing = KEY.model_copy(update=changes)
    # A pool of root file systems: its image is no job.
    changed = {"key": testing, "reuse": UNAUDITED, "round": round_, "lint": False}
    return plan(*packages).model_copy(update=changed)


async def planned(
    given: activities.JobActivities, task: PlanJobs, reachable: bytes | None = None
) -> dict[str, str]:
    """Plans, twice, and returns the standings of all jobs."""
    text = REACHABLE.model_dump_json().encode() if reachable is None else reachable
    await given._store.put(reach_key(task.key), text)
    for _ in range(2):
        await ActivityEnvironment().run(given.plan_jobs, task)
    wanted = JobFilter(of=RevisionFilter(revision=task.key))
    return {
        f"{each.status.job.kind} {each.status.job.revdep or each.status.job.package}": (
            each.status.standing
        )
        for each in given._index.jobs(wanted).items
    }


async def run_all(given: activities.JobActivities, task: PlanJobs) -> None:
    """Has all queued jobs of a testing pass, and stores what their listings found."""
    page = await given.take_jobs(TakeJobs(key=task.key, platform=PLATFORM.name, limit=1000))
    rows = [
        JobStatus(
            job=each.job,
            state=JobState.DECIDED,
            outcome=Passed(evidence=Evidence(rule="x")),
            attempt=1,
            round=each.round,
            image=IMAGE,
            log=f"logs/{task.key.number}/{each.job.kind}-{each.job.package}",
            attempt_started_at=datetime.now(UTC),
            decided_at=datetime.now(UTC),
        )
        for each in page.jobs
    ]
    for row in rows:
        if row.job.kind is JobKind.LIST_REVDEPS:
            assert row.log is not None
            await given._store.put(listing_key(row.log), LISTED.model_dump_json().encode())
    given._index.record(
        RowBatch(
            key=task.key,
            rows=tuple(rows),
            sequence=1,
            updated_at=datetime.now(UTC),
            pools={PLATFORM.name: PLATFORM.pool},
        )
    )


@pytest.fixture
async def first(given: activities.JobActivities) -> PlanJobs:
    """A head whose jobs have all run, those on reverse dependencies included."""
    task = reusing(1, "a.1")
    assert await planned(given, task) == QUEUED
    await run_all(given, task)
    revdeps = PlanRevdeps(
        key=task.key,
        platform=PLATFORM.name,
        package="a.1",
        listing=listing_key("logs/1/list-revdeps-a.1"),
        round=1,
        on=PLATFORM,
        reuse=task.reuse,
    )
    await ActivityEnvironment().run(given.plan_revdeps, revdeps)
    await run_all(given, task)
    return task


QUEUED = {"build a.1": "queued", "test a.1": "queued", "list-revdeps a.1": "queued"}
PASSED = dict.fromkeys((*QUEUED, "revdep x.1"), "passed")


@pytest.mark.usefixtures("first")
async def test_jobs_with_the_same_inputs_take_the_verdicts_of_those_that_ran(
    given: activities.JobActivities,
) -> None:
    again = reusing(2, "a.1")
    # With its reverse dependencies: no worker has to list them.
    assert await planned(given, again) == PASSED
    found = await ActivityEnvironment().run(given.plan_jobs, again)
    assert found.notices == (
        f"{PLATFORM.name}: 1 revdeps of a.1 {NOT_BUILT}",
        "4 jobs not run: jobs with the same inputs ran before",
    )
    more = await planned(given, reusing(3, "a.1", "b.1"))
    assert more == {
        "build a.1": "passed",
        "test a.1": "passed",
        **{name.replace("a.1", "b.1"): "queued" for name in QUEUED},
        # One of `b.1`'s may be one of `a.1`'s.
        "list-revdeps a.1": "queued",
    }


@pytest.mark.usefixtures("first")
async def test_other_inputs_run(given: activities.JobActivities) -> None:
    moved = REACHABLE.model_copy(update={"plain": {**REACHABLE.plain, "x": "new"}})
    text = moved.model_dump_json().encode()
    # The listing was the same all the same: it is the digest of dependents that says so.
    assert await planned(given, reusing(2, "a.1"), text) == {**PASSED, "revdep x.1": "queued"}


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"plain": 1}'])
async def test_keys_that_cannot_be_read_cost_a_run(
    given: activities.JobActivities, text: bytes
) -> None:
    assert await planned(given, reusing(2, "a.1"), text) == QUEUED


@pytest.mark.usefixtures("first")
async def test_keys_that_are_missing_cost_a_run(given: activities.JobActivities) -> None:
    await ActivityEnvironment().run(given.plan_jobs, reusing(2, "a.1"))
    page = await given.take_jobs(TakeJobs(key=reusing(2).key, platform=PLATFORM.name, limit=1000))
    assert len(page.jobs) == len(QUEUED)


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("text", [b"{", None])
async def test_a_listing_that_is_gone_or_torn_is_made_anew(
    given: activities.JobActivities, text: bytes | None
) -> None:
    key = listing_key("logs/1/list-revdeps-a.1")
    if text is None:
        await given._store.delete(key)
    else:
        await given._store.put(key, text)
    found = await planned(given, reusing(2, "a.1"))
    assert found == {**QUEUED, "build a.1": "passed", "test a.1": "passed"}


@pytest.mark.usefixtures("first")
async def test_a_restart_and_the_switch_run_all(given: activities.JobActivities) -> None:
    off = reusing(2, "a.1").model_copy(update={"reuse": None})
    assert await planned(given, off) == QUEUED
    assert await planned(given, reusing(3, "a.1", round_=2)) == QUEUED


@pytest.mark.usefixtures("first")
async def test_an_audited_job_runs_and_is_compared(given: activities.JobActivities) -> None:
    every = Surroundings(audited_percent=100)
    second = reusing(2, "a.1").model_copy(update={"reuse": every})
    assert await planned(given, second) == QUEUED
    await run_all(given, second)
    audits = given._index.ops_page(datetime.now(UTC)).quality.audits
    assert audits == Audits(compared=len(QUEUED))


def concluding(task: PlanJobs) -> ConcludeJobs:
    return ConcludeJobs(
        key=task.key,
        unavailable="skip",
        there=("a.1",),
        platforms=task.platforms,
        reuse=UNAUDITED,
    )


async def failed(given: activities.JobActivities, task: PlanJobs, job: Job) -> None:
    """Has a job fail, and stores what is within reach without the change."""
    outcome = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="x"))
    row = JobStatus(
        job=job, state=JobState.DECIDED, outcome=outcome, attempt=1, decided_at=datetime.now(UTC)
    )
    given._index.record(
        RowBatch(key=task.key, rows=(row,), sequence=1, updated_at=datetime.now(UTC))
    )
    text = REACHABLE.model_dump_json().encode()
    await given._store.put(reach_key(task.key, on_base=True), text)


def standings(given: activities.JobActivities, task: PlanJobs) -> dict[str, str]:
    wanted = JobFilter(of=RevisionFilter(revision=task.key))
    rows = given._index.jobs(wanted).items
    return {f"{each.status.job.kind} {each.status.job.package}": each.standing for each in rows}


async def test_a_failure_is_run_on_the_base_and_then_compared(
    given: activities.JobActivities,
) -> None:
    first = reusing(1, "a.1", "new.1")
    await ActivityEnvironment().run(given.plan_jobs, first)
    job = Job(platform=PLATFORM.name, package="a.1", kind=JobKind.BUILD)
    for each in (job, job.model_copy(update={"package": "new.1"})):
        await failed(given, first, each)
    assert await ActivityEnvironment().run(given.conclude_jobs, concluding(first))
    found = standings(given, first)
    assert found["base-build a.1"] == "queued"
    # What is new cannot have failed before.
    assert "base-build new.1" not in found
    assert not await ActivityEnvironment().run(given.conclude_jobs, concluding(first))
    page = await given.take_jobs(TakeJobs(key=first.key, platform=PLATFORM.name, limit=1000))
    assert page.jobs[-1].job.kind is JobKind.BASE_BUILD
    await run_all(given, first)
    assert await ActivityEnvironment().run(given.conclude_jobs, concluding(first))
    assert standings(given, first)["build a.1"] == "failed"

    # The next head: the base has its verdict already, and nothing is run for it.
    second = reusing(2, "a.1")
    await ActivityEnvironment().run(given.plan_jobs, second.model_copy(update={"reuse": None}))
    await failed(given, second, job)
    assert await ActivityEnvironment().run(given.conclude_jobs, concluding(second))
    found = standings(given, second)
    assert (found["base-build a.1"], found["build a.1"]) == ("passed", "failed")
    row = given._index.jobs(JobFilter(of=RevisionFilter(revision=second.key))).items
    (build,) = (each.status.outcome for each in row if each.status.job == job)
    assert isinstance(build, Failed)
    assert build.evidence.on_base is OnBase.PASSES


ON_BASE = Job(platform=PLATFORM.name, package="x.1", kind=JobKind.BASE_BUILD)
OF_BASE = REACHABLE.model_copy(update={"plain": {**REACHABLE.plain, "a": "0", "x": "0"}})


async def conclude_first(
    given: activities.JobActivities, first: PlanJobs, of_base: Reachable = OF_BASE
) -> bool:
    """Concludes a head whose jobs passed; twice before, two jobs failed without its change."""
    text = of_base.model_dump_json().encode()
    await given._store.put(reach_key(first.key, on_base=True), text)
    evidence = Evidence(rule="x", detail="it never worked")
    outcome = Failed(reason=FailureReason.BUILD, evidence=evidence)
    for number in (11, 12):
        key, now = reusing(number).key, datetime.now(UTC)
        rows = [
            JobStatus(
                job=job,
                state=JobState.DECIDED,
                outcome=outcome,
                attempt=1,
                image=IMAGE,
                attempt_started_at=now,
                decided_at=now,
            )
            for job in (ON_BASE, ON_BASE.model_copy(update={"package": "a.1"}))
        ]
        keys = Keys(of_base, PLATFORM, Surroundings(), ())
        jobs = [PlannedJob(job=row.job, plan_key=keys.of(row.job)) for row in rows]
        given._index.plan(key, jobs, round_=1, origin=None, at=now)
        pools = {PLATFORM.name: PLATFORM.pool}
        given._index.record(
            RowBatch(key=key, rows=tuple(rows), sequence=1, updated_at=now, pools=pools)
        )
    return await ActivityEnvironment().run(given.conclude_jobs, concluding(first))


def fixed(given: activities.JobActivities, task: PlanJobs) -> dict[JobKind, FailedWithout]:
    rows = given._index.jobs(JobFilter(of=RevisionFilter(revision=task.key))).items
    found = {each.status.job.kind: fixes_of(each.status.outcome) for each in rows}
    return {kind: how for kind, how in found.items() if how is not None}


async def test_what_passes_and_fails_on_the_base_is_fixed_without_a_job(
    given: activities.JobActivities, first: PlanJobs
) -> None:
    before = standings(given, first)
    assert await conclude_first(given, first)
    found = fixed(given, first)
    assert found.keys() == {JobKind.REVDEP, JobKind.BUILD}
    of_revdep = found[JobKind.REVDEP]
    assert (of_revdep.job, of_revdep.line) == (ON_BASE, "it never worked")
    assert RevisionKey.of(of_revdep) == reusing(12).key
    assert standings(given, first) == before
    # Again, nothing changes.
    assert not await ActivityEnvironment().run(given.conclude_jobs, concluding(first))


async def test_what_has_the_same_inputs_on_the_base_is_not_looked_up(
    given: activities.JobActivities, first: PlanJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = given._index.failing

    def failing(keys: Collection[str], image: str, now: datetime) -> dict[str, FailedWithout]:
        asked.extend(keys)
        return real(keys, image, now)

    monkeypatch.setattr(given._index, "failing", failing)
    assert await conclude_first(given, first, REACHABLE)
    # With a reverse dependency other packages are installed than with what it is on the base.
    assert asked == [Keys(REACHABLE, PLATFORM, Surroundings(), ()).of(ON_BASE)]
    assert fixed(given, first).keys() == {JobKind.REVDEP}


@pytest.mark.parametrize("without", ["platforms", "reuse"])
async def test_without_keys_nothing_is_known_to_be_fixed(
    given: activities.JobActivities, first: PlanJobs, without: str
) -> None:
    await conclude_first(given, first)
    second = reusing(2, "a.1")
    await planned(given, second)
    await given._store.put(reach_key(second.key, on_base=True), OF_BASE.model_dump_json().encode())
    message = concluding(second)
    empty = {"platforms": (), "reuse": None}[without]
    less = message.model_copy(update={without: empty})
    assert not await ActivityEnvironment().run(given.conclude_jobs, less)
    assert fixed(given, second) == {}
    # Jobs that took a verdict are fixed as well.
    assert await ActivityEnvironment().run(given.conclude_jobs, message)
    assert fixed(given, second).keys() == {JobKind.REVDEP, JobKind.BUILD}


async def test_a_head_without_its_base_in_the_store_is_not_compared(
    given: activities.JobActivities,
) -> None:
    task = reusing(1, "a.1")
    await ActivityEnvironment().run(given.plan_jobs, task)
    await failed(given, task, Job(platform=PLATFORM.name, package="a.1", kind=JobKind.BUILD))
    without = concluding(task).model_copy(update={"platforms": ()})
    assert not await ActivityEnvironment().run(given.conclude_jobs, without)
    assert "base-build a.1" not in standings(given, task)


async def test_a_waived_failure_is_not_run_on_the_base(given: activities.JobActivities) -> None:
    task = reusing(1, "a.1")
    await ActivityEnvironment().run(given.plan_jobs, task)
    await failed(given, task, Job(platform=PLATFORM.name, package="a.1", kind=JobKind.BUILD))
    now = datetime.now(UTC)
    given._index.add_waiver(
        Waiver(
            package="a",
            because="known",
            login="ann",
            created_at=now,
            expires_at=now + timedelta(days=1),
        )
    )
    assert await ActivityEnvironment().run(given.conclude_jobs, concluding(task))
    found = standings(given, task)
    assert found["build a.1"] == "skipped"
    assert "base-build a.1" not in found
    assert not await ActivityEnvironment().run(given.conclude_jobs, concluding(task))
