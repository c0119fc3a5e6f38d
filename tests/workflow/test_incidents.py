"""An incident from its first fault until all that it hit is restarted, with a real index."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from opam_ci.activities.attempt import Attempt
from opam_ci.activities.incidents import IncidentActivities
from opam_ci.activities.jobs import JobActivities
from opam_ci.activities.record import RecordActivities
from opam_ci.clients.index import Index, JobFilter
from opam_ci.core.incidents.messages import IncidentIntervals, workflow_id
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause, Evidence, Failed, FailureReason, Outcome
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.jobs.selector import RESTART_COST, TRIAL_COST
from opam_ci.core.jobs.summary import Standing, State, Summary
from opam_ci.worker import WORKFLOW_RUNNER
from opam_ci.workflows import options
from opam_ci.workflows.incidents import IncidentWorkflow
from opam_ci.workflows.platform import PlatformWorkflow
from opam_ci.workflows.pull_request import PullRequestWorkflow
from tests.support.fakes.world import HEAD_1, PASSED, Script, Step, World, is_decided

BUILD = "build debian-13-ocaml-5.3/amd64 a.1"
TEST = "test debian-13-ocaml-5.3/amd64 a.1"

RETRY = RetrySettings(initial_interval=timedelta(seconds=1), maximum_attempts=3)
QUICK = {
    "TRIAL_LOOK_INTERVAL": 0.2,
    "TRIAL_PATIENCE": 30,
    "RESTART_WINDOW_PAUSE": 0.1,
    "STRAGGLER_PAUSE": 1,
}
"""Seconds instead of minutes."""

QUICK_PACE = IncidentIntervals(
    probe_first=timedelta(seconds=3),
    probe_maximum=timedelta(seconds=3),
    quiet=timedelta(seconds=3),
)
"""The same for the looks at an incident."""


def full(times: int) -> list[InfrastructureError]:
    return [InfrastructureError("no space left", cause=Cause.DISK_FULL) for _ in range(times)]


class FullDisk:
    """A disk that every build finds full, however often it is tried, until it is mended."""

    def __init__(self) -> None:
        self.is_mended = False
        self.steps: list[Step] = [self._meet] * 1000

    async def _meet(self, _attempt: Attempt) -> Outcome:
        if self.is_mended:
            return PASSED
        raise InfrastructureError("no space left", cause=Cause.DISK_FULL)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index.open(f"sqlite:///{tmp_path}/index.db")
    yield opened
    opened.close()


@contextlib.asynccontextmanager
async def recording(
    environment: WorkflowEnvironment, index: Index, intervals: IncidentIntervals | None = None
) -> AsyncIterator[World]:
    """A world whose records reach a real index, and whose incidents are looked after."""
    script = Script(index)
    incidents = IncidentActivities(index)
    throttle = timedelta(seconds=1)
    async with (
        Worker(
            environment.client,
            task_queue=options.ORCHESTRATION_QUEUE,
            workflows=[PullRequestWorkflow, PlatformWorkflow, IncidentWorkflow],
            workflow_runner=WORKFLOW_RUNNER,
            activities=[
                script.analyse,
                script.lint,
                script.find_effect,
                RecordActivities(index, intervals).record,
                *JobActivities(index, script.store, script.served_pools).all,
                incidents.look_at_incident,
                incidents.resolve_incident,
            ],
            max_heartbeat_throttle_interval=throttle,
        ),
        Worker(
            environment.client,
            task_queue=options.build_queue("linux-amd64"),
            activities=[script.run_job],
            max_heartbeat_throttle_interval=throttle,
        ),
    ):
        try:
            yield World(environment, script)
        finally:
            await script.end()
    script.index.close()


@pytest.fixture
async def recorded(environment: WorkflowEnvironment, index: Index) -> AsyncIterator[World]:
    async with recording(environment, index) as world:
        yield world


@pytest.fixture
async def recorded_for_real(
    real_client: Client, index: Index, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """The same on a real server, with short times."""
    for name, seconds in QUICK.items():
        monkeypatch.setattr(options, name, timedelta(seconds=seconds))
    environment = WorkflowEnvironment.from_client(real_client)
    async with recording(environment, index, QUICK_PACE) as world:
        yield world


def numbered(name: str, count: int) -> list[PullRequestRef]:
    return [PullRequestRef(owner="local", repo=name, number=n) for n in range(1, count + 1)]


async def broken(
    world: World,
    index: Index,
    refs: list[PullRequestRef],
    steps: list[Step] | None = None,
    retry: RetrySettings = RETRY,
) -> list[WorkflowHandle[PullRequestWorkflow, object]]:
    """Opens pull requests whose build meets a full disk in every attempt."""
    world.script.steps[BUILD] = steps or list(full(3 * len(refs)))
    handles = [await world.open(ref, world.revision(retry=retry)) for ref in refs]
    for handle in handles:
        summary = await world.until(handle, is_decided)
        assert summary.state is State.ERROR
    for _ in range(100):
        # Pull requests tell the index a little later.
        errored = index.counts(JobFilter(standing=Standing.ERRORED, kind=JobKind.BUILD)).errored
        if errored == len(refs):
            return handles
        await world.env.sleep(timedelta(seconds=1))
    pytest.fail("the index never heard of the errors")


async def ended(world: World, incident: int) -> None:
    """Lets time pass until nobody looks after an incident any more."""
    handle = world.client.get_workflow_handle(workflow_id(incident))
    for _ in range(200):
        if (await handle.describe()).status is not WorkflowExecutionStatus.RUNNING:
            return
        await world.env.sleep(10 if world.env.supports_time_skipping else 0.3)
    pytest.fail("the incident's workflow never ended")


def green(summary: Summary) -> bool:
    return is_decided(summary) and summary.state is State.SUCCESS


async def test_a_repair_restarts_what_the_incident_hit_and_nothing_else(
    recorded: World, index: Index
) -> None:
    world = recorded
    [failing] = numbered("theirs", 1)
    world.script.steps[BUILD] = [
        Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="compile-error"))
    ]
    theirs = await world.open(failing, world.revision())
    await world.until(theirs, is_decided)
    handles = await broken(world, index, numbered("ours", 3))
    [incident] = index.incidents().items
    assert (incident.cause, incident.faults, incident.jobs) == (Cause.DISK_FULL, 9, 3)
    assert incident.place.pool == "linux-amd64"
    world.script.steps[BUILD].clear()
    looked_after = world.client.get_workflow_handle(workflow_id(incident.id))
    await looked_after.signal("repaired", "ann")
    for handle in handles:
        summary = await world.until(handle, green)
        assert world.row(summary, BUILD).round == 2
    resolved = index.incident(incident.id)
    assert resolved is not None
    assert resolved.resolved_by in {"ann", "a job that succeeded"}
    # Nobody restarted what was the package's own fault.
    assert world.row(await world.summary(theirs), BUILD).round == 1
    await ended(world, incident.id)
    # Each build ran three times in vain and once for real, whoever asked how often.
    assert len([run for run in world.script.started if run[0] == BUILD]) == 1 + 3 * 4


async def test_a_trial_that_meets_the_fault_again_holds_the_others_back(
    recorded_for_real: World, index: Index
) -> None:
    world = recorded_for_real
    disk = FullDisk()
    retry = RetrySettings(initial_interval=timedelta(seconds=0.2), maximum_attempts=3)
    handles = await broken(world, index, numbered("held", 2), disk.steps, retry=retry)
    [incident] = index.incidents().items
    looked_after = world.client.get_workflow_handle(workflow_id(incident.id))
    await looked_after.signal("repaired", "bob")
    await until_shown(looked_after, "reported as repaired by bob, but the trial met the fault")
    # It is still open: the repair did not hold. Then it does, and nobody has to say so.
    found = index.incident(incident.id)
    assert found is not None
    assert found.is_open
    # Trials were sent, and no other job with them.
    rows = [world.row(await world.summary(handle), BUILD) for handle in handles]
    assert max(row.round for row in rows) > 1
    assert all(row.restart_budget_used == TRIAL_COST * (row.round - 1) for row in rows)
    disk.is_mended = True
    summaries = [
        await world.until(handle, green, skip=timedelta(seconds=0.3)) for handle in handles
    ]
    # One more trial got through, and then the other job followed it.
    rows = [world.row(summary, BUILD) for summary in summaries]
    assert sum(row.restart_budget_used for row in rows) == RESTART_COST + TRIAL_COST * (
        sum(row.round - 1 for row in rows) - 1
    )
    await ended(world, incident.id)
    found = index.incident(incident.id)
    assert found is not None
    assert found.resolved_by == "a job that succeeded"


async def test_the_outcome_of_a_rare_trial_is_checked_soon(recorded: World, index: Index) -> None:
    """A fault of hours makes trials rare; that one got through is known in a minute or two."""
    world = recorded
    disk = FullDisk()
    handles = await broken(world, index, numbered("rare", 4), disk.steps)
    [incident] = index.incidents().items
    looked_after = world.client.get_workflow_handle(workflow_id(incident.id))
    while len(await sent_at(looked_after)) < TRIALS:
        await world.sleep(timedelta(minutes=5))
    disk.is_mended = True
    for handle in handles:
        await world.until(handle, green, skip=timedelta(minutes=1))
    await ended(world, incident.id)
    # The last trial before the repair met the fault; the next one got through, and the jobs of
    # the other pull requests followed it.
    last, through, other = (await sent_at(looked_after))[TRIALS - 1 : TRIALS + 2]
    assert through - last >= timedelta(minutes=7)
    assert other - through <= timedelta(minutes=2)


async def test_an_incident_that_lasts_continues_as_new_and_forgets_nothing(
    recorded: World, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = recorded
    monkeypatch.setattr(
        "temporalio.workflow.Info.is_continue_as_new_suggested",
        lambda info: info.workflow_type == IncidentWorkflow.__name__,
    )
    disk = FullDisk()
    handles = await broken(world, index, numbered("lasting", 2), disk.steps)
    [incident] = index.incidents().items
    looked_after = world.client.get_workflow_handle(workflow_id(incident.id))
    first = (await looked_after.describe()).run_id
    while sum([world.row(await world.summary(each), BUILD).round for each in handles]) < 6:
        await world.sleep(timedelta(minutes=5))
    assert (await looked_after.describe()).run_id != first
    rounds = [world.row(await world.summary(handle), BUILD).round for handle in handles]
    # They take turns, which takes a memory.
    assert rounds == [3, 3]
    disk.is_mended = True
    rows = [
        world.row(await world.until(handle, green, skip=timedelta(minutes=1)), BUILD)
        for handle in handles
    ]
    await ended(world, incident.id)
    assert await looked_after.result() == sum(row.round - 1 for row in rows)


TRIALS = 4
"""After these the next one would come a quarter of an hour later."""


async def sent_at(handle: WorkflowHandle[Any, Any]) -> list[datetime]:
    """Returns when an incident's workflow restarted anything, by Temporal's clock."""
    return [
        event.event_time.ToDatetime()
        async for event in handle.fetch_history_events()
        if event.HasField("signal_external_workflow_execution_initiated_event_attributes")
    ]


async def until_shown(handle: WorkflowHandle[Any, Any], words: str) -> None:
    """Waits until a workflow's page says something."""
    for _ in range(300):
        page = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
        if words in page.current_details.replace("\\", ""):
            return
        await asyncio.sleep(0.1)
    pytest.fail(page.current_details)


async def test_an_incident_whose_jobs_recover_by_themselves_ends_by_itself(
    recorded: World, index: Index
) -> None:
    world = recorded
    world.script.steps[BUILD] = list(full(1))
    [ref] = numbered("sporadic", 1)
    handle = await world.open(ref, world.revision())
    # Green is seen before it is written down.
    await world.until(handle, lambda now: green(now) and bool(index.incidents().items))
    [incident] = index.incidents().items
    await ended(world, incident.id)
    assert index.incidents().items[0].resolved_by is not None


async def test_a_restart_for_a_superseded_head_restarts_nothing(
    recorded: World, index: Index
) -> None:
    world = recorded
    [handle] = await broken(world, index, numbered("stale", 1))
    await handle.signal("restart", {"head": "9" * 40, "jobs": [BUILD]})
    summary = await world.until(handle, lambda now: bool(now.notices))
    assert "superseded" in summary.notices[-1]
    assert world.row(summary, BUILD).round == 1
    # Only the named job, and what depends on it; twice at once is once.
    world.script.steps[BUILD].clear()
    for _ in range(2):
        await handle.signal("restart", {"head": HEAD_1, "jobs": [BUILD]})
    summary = await world.until(handle, green)
    assert [row.round for row in summary.jobs] == [1, 1, 2, 2]
    assert index.incidents().items
