"""Stories of jobs that pass with a change, and are known to fail without it."""

from datetime import UTC, datetime

import pytest
from temporalio.client import WorkflowHandle

from opam_ci.core.jobs.build import Revdep
from opam_ci.core.jobs.job import Job, JobKind
from opam_ci.core.jobs.outcome import Evidence, Failed, FailureReason, fixes_of
from opam_ci.core.jobs.plan import PlannedJob
from opam_ci.core.jobs.records import RevisionKey, RowBatch
from opam_ci.core.jobs.requests import PullRequestRef, Revision, Surroundings
from opam_ci.core.jobs.summary import JobState, JobStatus, State, Summary
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.core.reuse.plan_key import Keys
from opam_ci.core.reuse.reach import Reachable
from opam_ci.core.text.result import fixed_text
from opam_ci.workflows.pull_request import PullRequestWorkflow
from tests.support.fakes.world import World, is_decided

PLATFORM = EMBEDDED.model_copy(update={"revdeps": True})
REACH = Reachable(plain={"a": "1", "r": "2", "s": "3"}, tested={}, dependents={})
OF_BASE = REACH.model_copy(update={"plain": {"a": "0", "r": "4", "s": "5"}})
REVDEP = Job(platform=PLATFORM.name, package="a.1", kind=JobKind.REVDEP, revdep="r.1")
FIXED = "1 fixed: it fails without this change"


def failed_before(world: World, head: str) -> None:
    """Puts a job on the base into the index, which failed."""
    job = REVDEP.on_base
    assert job is not None
    now = datetime.now(UTC)
    key = RevisionKey(repository="o/r", number=99, head=head * 40, opened_at=now)
    plan_key = Keys(OF_BASE, PLATFORM, Surroundings(), ()).of(job)
    index = world.script.index.real
    index.plan(key, [PlannedJob(job=job, plan_key=plan_key)], round_=1, origin=None, at=now)
    row = JobStatus(
        job=job,
        state=JobState.DECIDED,
        outcome=Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="x", detail="never")),
        attempt=1,
        image="0" * 16,
        attempt_started_at=now,
        decided_at=now,
    )
    pools = {PLATFORM.name: PLATFORM.pool}
    index.record(RowBatch(key=key, rows=(row,), sequence=1, updated_at=now, pools=pools))


@pytest.fixture
def revision(world: World) -> Revision:
    """A head with a reverse dependency that failed twice without it, and one that passes."""
    script = world.script
    script.revdeps = (Revdep(package="r.1", has_tests=False), Revdep(package="s.1", has_tests=True))
    script.reach, script.reach_on_base = REACH, OF_BASE
    failed_before(world, "8")
    failed_before(world, "9")
    return world.revision(platforms=(PLATFORM,))


async def activities_of(handle: WorkflowHandle[PullRequestWorkflow, object]) -> list[str]:
    history = await handle.fetch_history()
    return [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in history.events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]


async def test_a_green_head_says_what_it_fixes_and_runs_nothing_for_that(
    world: World, ref: PullRequestRef, revision: Revision
) -> None:
    handle = await world.open(ref, revision)
    summary = await world.until(handle, is_decided)
    assert (summary.state, fixed_text(summary)) == (State.SUCCESS, FIXED)
    assert fixes_of(world.row(summary, REVDEP.id).outcome) is not None
    assert not [name for name, _, _ in world.script.started if name.startswith("base-")]
    assert (await activities_of(handle)).count("conclude_jobs") == 1

    # A restart decides it anew.
    await handle.signal("restart", {"which": "all", "job": REVDEP.id})

    def is_again(now: Summary) -> bool:
        return is_decided(now) and world.row(now, REVDEP.id).round == 2

    summary = await world.until(handle, is_again)
    assert (summary.state, fixed_text(summary)) == (State.SUCCESS, FIXED)
    assert (await activities_of(handle)).count("conclude_jobs") == 2


async def test_a_head_that_has_nothing_on_the_base_is_done_at_once(
    world: World, ref: PullRequestRef, revision: Revision
) -> None:
    # Its package is new, and nothing depends on it.
    world.script.revdeps = ()
    handle = await world.open(ref, revision)
    summary = await world.until(handle, is_decided)
    assert (summary.state, fixed_text(summary)) == (State.SUCCESS, "")
    assert "conclude_jobs" not in await activities_of(handle)
