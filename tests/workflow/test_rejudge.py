"""Verdicts that are judged again on the word of other jobs, with a real index."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from opam_ci.activities.incidents import IncidentActivities
from opam_ci.activities.jobs import JobActivities
from opam_ci.activities.record import RecordActivities
from opam_ci.app.connection import ensure_search_attributes
from opam_ci.cli.local import services
from opam_ci.clients.index import Index, JobFilter
from opam_ci.core.incidents.fingerprint import SAME_FAILURE
from opam_ci.core.incidents.messages import IncidentIntervals
from opam_ci.core.jobs.job import Job, JobKind, Phase
from opam_ci.core.jobs.messages import revision_key
from opam_ci.core.jobs.outcome import (
    Cause,
    Errored,
    Evidence,
    Failed,
    FailureReason,
    LogLine,
    Outcome,
)
from opam_ci.core.jobs.records import RowBatch
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.selector import RestartSelector, RestartUpdate
from opam_ci.core.jobs.summary import Counts, JobState, JobStatus, Standing, State, Summary
from opam_ci.worker import WORKFLOW_RUNNER
from opam_ci.workflows import options
from opam_ci.workflows.incidents import IncidentWorkflow
from opam_ci.workflows.platform import PlatformWorkflow
from opam_ci.workflows.pull_request import PullRequestWorkflow
from tests.support.fakes.world import HEAD_1, PASSED, Script, World, is_decided
from tests.support.ports import free_port

DEBIAN = "debian-13-ocaml-5.3/amd64"
BUILD = f"build {DEBIAN} a.1"
TEST = f"test {DEBIAN} a.1"
WORDS = "cp: cannot create regular file: Structure needs cleaning"


def failure(words: str = WORDS) -> Failed:
    lines = (LogLine(offset=0, text=words),)
    evidence = Evidence(rule="command-missing", phase=Phase.BUILD, lines=lines)
    return Failed(reason=FailureReason.BUILD, evidence=evidence)


QUICK = IncidentIntervals(probe_first=timedelta(seconds=2))
"""Trials in seconds instead of a minute."""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index.open(f"sqlite:///{tmp_path}/index.db")
    yield opened
    opened.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[services.Embedded]:
    """A real server: the time-skipping one hangs now and then in stories about incidents.

    One for each test, since each has an index of its own, with incidents of the same numbers.
    """
    yield services.start_temporal(tmp_path, port=free_port(), ui_port=free_port())
    services.stop(tmp_path)


@pytest.fixture
async def recorded(server: services.Embedded, index: Index) -> AsyncIterator[World]:
    """A world whose records reach a real index, and whose incidents are looked after."""
    client = await Client.connect(server.address, data_converter=pydantic_data_converter)
    await ensure_search_attributes(client)
    script = Script(index)
    incidents = IncidentActivities(index)
    throttle = timedelta(seconds=1)
    async with (
        Worker(
            client,
            task_queue=options.ORCHESTRATION_QUEUE,
            workflows=[PullRequestWorkflow, PlatformWorkflow, IncidentWorkflow],
            workflow_runner=WORKFLOW_RUNNER,
            activities=[
                script.analyse,
                script.lint,
                script.find_effect,
                RecordActivities(index, QUICK).record,
                *JobActivities(index, script.store, script.served_pools).all,
                incidents.look_at_incident,
                incidents.resolve_incident,
            ],
            max_heartbeat_throttle_interval=throttle,
        ),
        Worker(
            client,
            task_queue=options.build_queue("linux-amd64"),
            activities=[script.run_job],
            max_heartbeat_throttle_interval=throttle,
        ),
    ):
        yield World(WorkflowEnvironment.from_client(client), script)
    script.index.close()


def others(index: Index, outcome: Outcome, *workers: str, at: datetime | None = None) -> None:
    """Writes what came of jobs of other pull requests, one on each worker, now if not told.

    Their workflows have ended: nobody is there to hear that a verdict is in doubt.
    """
    now = at or datetime.now(UTC)
    for number, worker in enumerate(workers, 900):
        ref = PullRequestRef(owner="local", repo="others", number=number)
        row = JobStatus(
            job=Job(platform=DEBIAN, package=f"p{number}.1", kind=JobKind.BUILD),
            state=JobState.DECIDED,
            attempt=1,
            outcome=outcome,
            worker=worker,
            attempt_started_at=now,
            decided_at=now,
        )
        key = revision_key(ref, HEAD_1, now)
        pools = {DEBIAN: "linux-amd64"}
        index.record(RowBatch(key=key, rows=(row,), sequence=1, updated_at=now, pools=pools))


def again(summary: Summary) -> bool:
    """Whether the build was tried again and everything is decided."""
    return is_decided(summary) and summary.jobs[-2].round == 2


async def test_a_failure_that_others_share_is_taken_back_and_tried_again(
    recorded: World, index: Index, ref: PullRequestRef
) -> None:
    world = recorded
    others(index, failure(), "w1", "w2")
    world.script.steps[BUILD] = [failure(), PASSED]
    handle = await world.open(ref, world.revision())
    green = await world.until(handle, lambda now: again(now) and now.state is State.SUCCESS)
    assert [row.round for row in green.jobs] == [1, 1, 2, 2]
    # An error that belonged to an incident, and then a pass.
    [incident] = index.incidents().items
    assert (incident.cause, incident.evidence.rule) == (Cause.UNKNOWN, SAME_FAILURE)
    assert incident.evidence.lines == failure().evidence.lines
    for _ in range(100):
        if index.counts(JobFilter(kind=JobKind.TEST)).passed:
            break
        await world.env.sleep(timedelta(seconds=1))
    attempts = [each for each in index.attempts().items if each.job.package == "a.1"]
    assert {each.standing for each in attempts} == {Standing.ERRORED, Standing.PASSED}
    [outcome] = [each.outcome for each in attempts if isinstance(each.outcome, Errored)]
    assert "3 unrelated pull requests failed the same way" in (outcome.evidence.detail or "")


async def test_a_package_that_fails_the_same_way_again_has_failed(
    recorded: World, index: Index, ref: PullRequestRef
) -> None:
    world = recorded
    others(index, failure(), "w1", "w2")
    world.script.steps[BUILD] = [failure(), failure()]
    # It ends once all is written down, unless something is left to be restarted.
    handle = await world.open(ref, world.revision(keep_open=False))
    await world.until(handle, again)
    counts = await handle.result()
    assert counts == Counts(passed=2, failed=1, skipped=1)
    summary = await world.summary(handle)
    assert [row.round for row in summary.jobs] == [1, 1, 2, 2]
    assert world.row(summary, BUILD).outcome == failure()
    assert len([run for run in world.script.started if run[0] == BUILD]) == 2


async def test_a_failure_of_its_own_is_left_alone(
    recorded: World, index: Index, ref: PullRequestRef
) -> None:
    world = recorded
    others(index, failure("Error: Library nowhere.to.be.found"), "w1", "w2")
    world.script.steps[BUILD] = [failure()]
    handle = await world.open(ref, world.revision(keep_open=False))
    assert (await handle.result()) == Counts(passed=2, failed=1, skipped=1)
    assert (await world.summary(handle)).notices == ()
    assert index.counts().failed == 3


async def test_only_signals_about_the_testing_itself_cause_a_recount(
    recorded: World, index: Index, ref: PullRequestRef
) -> None:
    world = recorded
    world.script.steps[BUILD] = [failure()]
    handle = await world.open(ref, world.revision())
    await world.until(handle, lambda now: is_decided(now) and index.counts().failed == 1)
    [revision] = index.revisions().items
    others(index, failure(), "w1", "w2")
    assert index.counts().failed == 0
    stale = {"opened_at": revision.key.opened_at - timedelta(seconds=1)}
    await handle.signal("recount", revision.key.model_copy(update=stale))
    # What is asked is done one after the other: this is answered after it.
    looked = RestartUpdate(selector=RestartSelector(package="no-such"), preview=True)
    await handle.execute_update(PullRequestWorkflow.restart_jobs, looked)
    assert (await world.summary(handle)).state is State.FAILURE
    await handle.signal("recount", revision.key)
    summary = await world.until(handle, lambda now: now.state is State.ERROR)
    assert summary.counts == Counts(passed=2, errored=2)
