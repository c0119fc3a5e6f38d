"""Records histories of today's workflows: `python tests/replay/record.py [STORY…]`.

Each story of `STORIES` is played on the time-skipping server with scripted activities; the
histories of its PullRequestWorkflow and of every child are written to `histories/`.
Record anew only what a deliberate change made impossible to replay.
"""

import asyncio
import contextlib
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from opam_ci.activities.attempt import Attempt
from opam_ci.activities.build import BuildActivities
from opam_ci.activities.canary import CanaryActivities
from opam_ci.activities.incidents import IncidentActivities
from opam_ci.activities.jobs import JobActivities
from opam_ci.activities.record import RecordActivities
from opam_ci.app.connection import ensure_search_attributes
from opam_ci.app.github_service import github_worker
from opam_ci.clients.index import Index
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.jobs.build import Revdep
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause, Evidence, Failed, FailureReason, Outcome
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.selector import CancelUpdate, JobSelector, RestartUpdate
from opam_ci.core.jobs.summary import State
from opam_ci.core.platforms.model import EMBEDDED, Runner
from opam_ci.worker import WORKFLOW_RUNNER
from opam_ci.workflows import options
from opam_ci.workflows.canary import CanaryWorkflow
from opam_ci.workflows.incidents import IncidentWorkflow
from opam_ci.workflows.platform import PlatformWorkflow
from opam_ci.workflows.pull_request import PullRequestWorkflow
from tests.support.fakes.github import FakeGitHub
from tests.support.fakes.github_stage import Stage, policy_for
from tests.support.fakes.histories import children_of
from tests.support.fakes.registry import registry
from tests.support.fakes.runners import FakeRunner
from tests.support.fakes.world import HEAD_2, PASSED, Script, World, for_ever, is_decided, workers
from tests.workflow.test_rejudge import failure, others

HISTORIES = Path(__file__).parent / "histories"
BUILD = "build debian-13-ocaml-5.3/amd64 a.1"
Handle = WorkflowHandle[PullRequestWorkflow, object]


def dns() -> InfrastructureError:
    return InfrastructureError("no such host", cause=Cause.DNS)


async def passes(world: World, ref: PullRequestRef) -> Handle:
    handle = await world.open(ref, world.revision(keep_open=False))
    await handle.result()
    return handle


async def recovers(world: World, ref: PullRequestRef) -> Handle:
    world.script.steps[BUILD] = [dns(), PASSED]
    return await passes(world, ref)


async def restarted(world: World, ref: PullRequestRef) -> Handle:
    failed = Failed(reason=FailureReason.TEST, evidence=Evidence(rule="x"))
    world.script.steps[BUILD] = [dns(), dns(), dns(), failed]
    handle = await world.open(ref, world.revision())
    await world.until(handle, is_decided)
    await handle.signal("restart")
    await world.until(handle, lambda now: is_decided(now) and bool(now.counts.failed))
    await handle.signal("restart", {"which": "failed"})
    await world.until(handle, lambda now: is_decided(now) and not now.counts.failed)
    await handle.signal("closed")
    await handle.result()
    return handle


async def superseded(world: World, ref: PullRequestRef) -> Handle:
    world.script.steps[BUILD] = [for_ever]
    handle = await world.open(ref, world.revision())
    await world.until(handle, lambda _: (BUILD, 1, 1) in world.script.started)
    await handle.signal("head_changed", world.revision(HEAD_2))
    await world.until(handle, lambda now: now.head == HEAD_2 and is_decided(now))
    await handle.signal("closed")
    await handle.result()
    return handle


async def cancelled(world: World, ref: PullRequestRef) -> Handle:
    world.script.steps[BUILD] = [for_ever]
    handle = await world.open(ref, world.revision())
    await world.until(handle, lambda _: (BUILD, 1, 1) in world.script.started)
    await handle.signal("cancel")
    await world.until(handle, is_decided)
    await handle.signal("closed")
    await handle.result()
    return handle


async def revdeps(world: World, ref: PullRequestRef) -> Handle:
    platform = EMBEDDED.model_copy(update={"revdeps": True, "lower_bounds": True})
    world.script.revdeps = tuple(
        Revdep(package=f"r{number}.1", has_tests=number == 0) for number in range(3)
    )
    world.script.steps[f"revdep {platform.name} a.1 r1.1"] = [dns(), dns(), dns()]
    handle = await world.open(ref, world.revision(platforms=(platform,)))
    await world.until(handle, is_decided)
    await handle.signal("restart")
    await world.until(handle, lambda now: is_decided(now) and not now.counts.errored)
    await handle.signal("closed")
    await handle.result()
    return handle


async def images(world: World, ref: PullRequestRef) -> Handle:
    """An image whose registry is unwell until a restart, and one that nobody needs to find."""
    with registry() as unwell:
        unwell.answer = 503
        platform = EMBEDDED.model_copy(
            update={"ocaml": "5.4", "runner": Runner.CONTAINER, "image": f"{unwell.host}/x:1"}
        )
        handle = await world.open(ref, world.revision(platforms=(EMBEDDED, platform)))
        await world.until(handle, is_decided)
        unwell.answer = 200
        await handle.signal("restart")
        await world.until(handle, lambda now: is_decided(now) and not now.counts.errored)
        await handle.signal("closed")
        await handle.result()
    return handle


async def rejudged(world: World, ref: PullRequestRef) -> Handle:
    """A failure that failures of other pull requests turn into an error, and a restart."""
    world.script.steps[BUILD] = [failure()]
    handle = await world.open(ref, world.revision())
    summary = await world.until(handle, lambda now: now.state is State.FAILURE)
    index = world.script.index.real
    while index.counts().failed < 1:
        await world.env.sleep(1)
    [revision] = index.revisions().items
    others(index, failure(), "w1", "w2", at=world.row(summary, BUILD).decided_at)
    await handle.signal("recount", revision.key)
    await world.until(handle, lambda now: now.state is State.ERROR)
    await handle.signal("restart")
    await world.until(handle, lambda now: now.state is State.SUCCESS)
    await handle.signal("closed")
    await handle.result()
    return handle


async def updated(world: World, ref: PullRequestRef) -> Handle:
    """Updates: what is refused, previews, a restart, and a cancellation of one of its jobs."""
    restart, cancel = PullRequestWorkflow.restart_jobs, PullRequestWorkflow.cancel_jobs
    other = EMBEDDED.model_copy(update={"ocaml": "5.4"})
    elsewhere = BUILD.replace("5.3", "5.4")
    world.script.steps[BUILD] = [dns(), dns(), dns(), for_ever]
    world.script.steps[elsewhere] = [dns(), dns(), dns(), PASSED]
    handle = await world.open(ref, world.revision(platforms=(EMBEDDED, other)))
    await world.until(handle, is_decided)
    await handle.execute_update(restart, {"selector": {"colour": "red"}})
    for preview in (True, False):
        await handle.execute_update(restart, RestartUpdate(preview=preview))
    await world.until(handle, lambda _: (BUILD, 2, 1) in world.script.started)
    selector = JobSelector(platform=EMBEDDED.name, kind=JobKind.BUILD)
    for preview in (True, False):
        await handle.execute_update(cancel, CancelUpdate(selector=selector, preview=preview))
    await world.until(handle, is_decided)
    await handle.execute_update(cancel, CancelUpdate())
    await handle.signal("closed")
    await handle.result()
    return handle


async def posted(world: World, ref: PullRequestRef) -> Handle:
    """On GitHub: heads in the wrong order, a fault, a restart by a command, a merge."""
    fake = FakeGitHub(full_name=f"{ref.owner}/{ref.repo}")

    async def sleep(_seconds: float) -> None:
        # Whole seconds, which are skipped over.
        await world.env.sleep(1)
        fake.now = await world.env.get_current_time()

    await sleep(1)
    world.script.steps[BUILD] = [for_ever, dns(), dns(), dns()]
    stage = Stage(
        world.client, fake, world.script, policy=policy_for(), clones=HISTORIES, sleep=sleep
    )
    async with github_worker(world.client, stage.activities):
        await fake.open(1, "1" * 40)
        await stage.until_said("1" * 40, "0/2 done")
        fake.advance(seconds=1)
        listener, fake.listener = fake.listener, None
        await fake.push(1, "2" * 40)
        await fake.push(1, "3" * 40)
        fake.listener = listener
        for delivery in fake.deliveries[:0:-1][:2]:
            await fake.redeliver(delivery["id"])
        await stage.until_said("3" * 40, "error: Internal CI error")
        await fake.write(1, "/opam-ci restart errors", by="alice")
        await stage.until_said("3" * 40, "success: 2 passed; analysis and lint passed")
        fake.advance(seconds=1)
        await fake.close(1, merged=True)
        await stage.handle(1).result()
    await stage.github.close()
    return stage.handle(1)


STORIES: tuple[Callable[[World, PullRequestRef], Awaitable[Handle]], ...] = (
    passes,
    recovers,
    restarted,
    superseded,
    cancelled,
    revdeps,
    images,
    rejudged,
    updated,
    posted,
)


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[WorkflowEnvironment]:
    """Starts a server of a story's own: what one leaves behind stops the clock of the next."""
    path = Path(sys.executable).with_name("temporal-test-server")
    env = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=str(path), data_converter=pydantic_data_converter
    )
    async with env:
        await ensure_search_attributes(env.client)
        yield env


async def record() -> None:
    HISTORIES.mkdir(exist_ok=True)
    plays: dict[str, Callable[[WorkflowEnvironment], Awaitable[None]]] = {
        **{story.__name__: partial(play, story=story) for story in STORIES},
        "good": partial(play_canary, name="good", cause=None),
        "broken": partial(play_canary, name="broken", cause=Cause.SANDBOX),
        "full": play_incident,
    }
    for name in sys.argv[1:] or plays:
        async with server() as env:
            await plays[name](env)


async def play(
    env: WorkflowEnvironment, story: Callable[[World, PullRequestRef], Awaitable[Handle]]
) -> None:
    script, name = Script(), story.__name__
    async with workers(env.client, script):
        handle = await story(World(env, script), PullRequestRef(owner="o", repo="r", branch=name))
        wanted = {"PullRequestWorkflow": "pull-request", "PlatformWorkflow": "platform"}
        numbers: Counter[str] = Counter()
        workflow_ids = [handle.id]
        while workflow_ids:
            workflow_id = workflow_ids.pop(0)
            history = await env.client.get_workflow_handle(workflow_id).fetch_history()
            workflow_ids += children_of(history)
            begun = history.events[0].workflow_execution_started_event_attributes
            kind = wanted[begun.workflow_type.name]
            numbers[kind] += 1
            if kind != "pull-request":
                kind = f"{kind}-{numbers[kind]}"
            path = HISTORIES / f"{name}.{kind}.json"
            recorded = {"workflowId": workflow_id, **history.to_json_dict()}
            path.write_text(without_places(json.dumps(recorded, indent=2)) + "\n")
            print(f"{path.name}: {len(history.events)} events")  # noqa: T201


def without_places(text: str) -> str:
    """Removes from stack traces where this machine keeps its files."""
    return re.sub(r'(?<=File \\")/[^"\\]*/(?=[^/"\\]+\\")', "", text)


async def play_incident(env: WorkflowEnvironment) -> None:
    """A full disk that four trials find, and that is then mended."""
    attempts = 0

    async def meet(_attempt: Attempt) -> Outcome:
        nonlocal attempts
        attempts += 1
        if attempts > 3 * (2 + 4):
            return PASSED
        raise InfrastructureError("no space left", cause=Cause.DISK_FULL)

    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(Index.open(f"sqlite:///{folder}/index.db")) as index,
    ):
        script, incidents = Script(), IncidentActivities(index)
        script.steps[BUILD] = [meet] * 1000
        async with (
            Worker(
                env.client,
                task_queue=options.ORCHESTRATION_QUEUE,
                workflows=[PullRequestWorkflow, PlatformWorkflow, IncidentWorkflow],
                workflow_runner=WORKFLOW_RUNNER,
                activities=[
                    *(script.analyse, script.lint, script.find_effect),
                    RecordActivities(index).record,
                    *JobActivities(index, script.store, script.served_pools).all,
                    *(incidents.look_at_incident, incidents.resolve_incident),
                ],
            ),
            Worker(
                env.client,
                task_queue=options.build_queue(EMBEDDED.pool),
                activities=[script.run_job],
            ),
        ):
            world = World(env, script)
            for number in (1, 2):
                ref = PullRequestRef(owner="o", repo="full", number=number)
                await world.until(await world.open(ref, world.revision()), is_decided)
            while not index.incidents().items:
                await env.sleep(1)
            handle = env.client.get_workflow_handle("incident/1")
            while (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
                await env.sleep(60)
            history = await handle.fetch_history()
            await script.end()
        script.index.close()
    (HISTORIES / "full.incident.json").write_text(without_places(history.to_json()) + "\n")


async def play_canary(env: WorkflowEnvironment, name: str, cause: Cause | None) -> None:
    runner = FakeRunner(duration=0)
    runner.broken = cause
    store = ArtifactStore.open("memory:")
    activities = CanaryActivities(store, lambda _: None)
    async with (
        Worker(
            env.client,
            task_queue=options.ORCHESTRATION_QUEUE,
            workflows=[CanaryWorkflow],
            workflow_runner=WORKFLOW_RUNNER,
            activities=[activities.export_canary, activities.report_canary],
        ),
        Worker(
            env.client,
            task_queue=options.build_queue(EMBEDDED.pool),
            activities=[BuildActivities(runner, store).run_job],
        ),
    ):
        handle = await env.client.start_workflow(
            CanaryWorkflow.run,
            EMBEDDED,
            id=f"canary/{name}",
            task_queue=options.ORCHESTRATION_QUEUE,
        )
        await handle.result()
        history = await handle.fetch_history()
        (HISTORIES / f"{name}.canary.json").write_text(without_places(history.to_json()) + "\n")


if __name__ == "__main__":
    asyncio.run(record())
