"""Records histories of today's workflows: `python tests/replay/record.py [STORY…]`.

Each story of `STORIES` is played on the time-skipping server with scripted activities; the
histories of its PullRequestWorkflow and of every child are written to `histories/`.
Record anew only what a deliberate change made impossible to replay.
"""

import asyncio
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

from temporalio.client import WorkflowExecutionStatus, WorkflowHandle, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from opam_ci.activities.attempt import Attempt
from opam_ci.activities.build import BuildActivities
from opam_ci.activities.canary import CanaryActivities
from opam_ci.activities.incidents import IncidentActivities
from opam_ci.activities.record import RecordActivities
from opam_ci.clients.index import Index
from opam_ci.clients.store import ArtifactStore
from opam_ci.connection import ensure_search_attributes
from opam_ci.core.build import Revdep
from opam_ci.core.errors import InfrastructureError
from opam_ci.core.incidents.messages import Rejudge, RejudgedJob
from opam_ci.core.incidents.rejudge import OWN_FAULT
from opam_ci.core.incidents.signature import SAME_FAILURE
from opam_ci.core.job import Job, JobKind, Phase
from opam_ci.core.outcome import Cause, Evidence, Failed, FailureReason, LogLine, Outcome
from opam_ci.core.platforms import EMBEDDED, Runner
from opam_ci.core.requests import PullRequestRef
from opam_ci.core.retry import RetrySettings
from opam_ci.core.summary import State
from opam_ci.github_service import github_worker
from opam_ci.worker import WORKFLOW_RUNNER
from opam_ci.workflows import options
from opam_ci.workflows.canary import CanaryWorkflow
from opam_ci.workflows.incidents import IncidentWorkflow
from opam_ci.workflows.platform import PlatformWorkflow
from opam_ci.workflows.pull_request import PullRequestWorkflow
from tests.fakes.github import FakeGitHub
from tests.fakes.github_stage import Stage, policy_for
from tests.fakes.registry import registry
from tests.fakes.runners import FakeRunner
from tests.fakes.world import (
    HEAD_2,
    PASSED,
    Script,
    World,
    for_ever,
    is_decided,
    workers,
)

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
    """A failure that is taken back and restarted, and a fault that is the job's own."""
    words = LogLine(offset=0, text="cp: Structure needs cleaning")
    evidence = Evidence(rule="x", phase=Phase.BUILD, lines=(words,))
    failed = Failed(reason=FailureReason.BUILD, evidence=evidence)
    full = InfrastructureError("no space", cause=Cause.DISK_FULL)
    world.script.steps[BUILD] = [failed, full]
    retry = RetrySettings(initial_interval=timedelta(minutes=29))
    handle = await world.open(ref, world.revision(retry=retry))
    await world.until(handle, lambda now: is_decided(now) and bool(world.script.batches))
    key = world.script.batches[0].revisions[0].key
    job = Job(platform=EMBEDDED.name, package="a.1", kind=JobKind.BUILD)
    doubted = RejudgedJob(job=job, round=1, rule=SAME_FAILURE, detail="3 unrelated")
    await handle.signal("rejudge", Rejudge(revision=key, jobs=(doubted,)))
    await world.until(handle, lambda now: now.state is State.ERROR)
    await handle.signal("restart")
    await world.until(handle, lambda now: bool(now.counts.retrying))
    own = RejudgedJob(job=job, round=2, rule=OWN_FAULT, detail="3 workers")
    await handle.signal("rejudge", Rejudge(revision=key, jobs=(own,)))
    await world.until(handle, lambda now: now.state is State.FAILURE)
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
    posted,
)


async def record() -> None:
    HISTORIES.mkdir(exist_ok=True)
    server = Path(sys.executable).with_name("temporal-test-server")
    env = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=str(server), data_converter=pydantic_data_converter
    )
    async with env:
        await ensure_search_attributes(env.client)
        chosen = sys.argv[1:]
        for story in STORIES:
            if chosen and story.__name__ not in chosen:
                continue
            await play(env, story.__name__, story)
        canaries = (("good", None), ("broken", Cause.SANDBOX))
        for name, cause in () if chosen else canaries:
            await play_canary(env, name, cause)
        if not chosen or "full" in chosen:
            await play_incident(env)


async def play(
    env: WorkflowEnvironment,
    name: str,
    story: Callable[[World, PullRequestRef], Awaitable[Handle]],
) -> None:
    script = Script()
    async with workers(env.client, script):
        handle = await story(World(env, script), PullRequestRef(owner="o", repo="r", branch=name))
        wanted = {PullRequestWorkflow.__name__: "pull-request", "PlatformWorkflow": "platform"}
        wanted["RevdepsWorkflow"] = "revdeps"
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


def children_of(history: WorkflowHistory) -> list[str]:
    return [
        event.child_workflow_execution_started_event_attributes.workflow_execution.workflow_id
        for event in history.events
        if event.HasField("child_workflow_execution_started_event_attributes")
    ]


async def play_incident(env: WorkflowEnvironment) -> None:
    """A full disk that four canaries find, and that is then mended."""
    attempts = 0

    async def meet(_attempt: Attempt) -> Outcome:
        nonlocal attempts
        attempts += 1
        if attempts > 3 * (2 + 4):
            return PASSED
        raise InfrastructureError("no space left", cause=Cause.DISK_FULL)

    with tempfile.TemporaryDirectory() as folder:
        index = Index.open(f"sqlite:///{folder}/index.db")
        script, incidents = Script(), IncidentActivities(index)
        script.steps[BUILD] = [meet] * 1000
        async with (
            Worker(
                env.client,
                task_queue=options.ORCHESTRATION_QUEUE,
                workflows=[PullRequestWorkflow, PlatformWorkflow, IncidentWorkflow],
                workflow_runner=WORKFLOW_RUNNER,
                activities=[
                    *(script.analyse, script.lint, RecordActivities(index).record),
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
        index.close()
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
