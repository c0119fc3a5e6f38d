"""Restarts and cancellations as updates: they answer what they took, or why they took nothing."""

import asyncio
from typing import Any

import pytest
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError
from temporalio.service import RPCError

from opam_ci.core.jobs.build import Revdep
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause, Evidence, Failed, FailureReason, label
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.selector import (
    CancelUpdate,
    JobSelector,
    RestartSelector,
    RestartUpdate,
    RestartWhich,
    Taken,
)
from opam_ci.core.jobs.summary import State
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.workflows.pull_request import PullRequestWorkflow
from tests.support.fakes.queue import untimed
from tests.support.fakes.world import (
    HEAD_1,
    HEAD_2,
    PASSED,
    World,
    for_ever,
    is_decided,
    passes_after,
)

PLATFORM = EMBEDDED.model_copy(update={"revdeps": True})
BUILD = f"build {PLATFORM.name} a.1"
TEST = f"test {PLATFORM.name} a.1"
REVDEP = f"revdep {PLATFORM.name} a.1 r.1"
BROKEN = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="test"))
FULL = InfrastructureError("no space left", cause=Cause.DISK_FULL)

Handle = WorkflowHandle[PullRequestWorkflow, object]


async def restart(handle: Handle, selector: Any = None, *, preview: bool = False) -> Taken:
    given = RestartUpdate(selector=selector or RestartSelector(), preview=preview)
    return await handle.execute_update(PullRequestWorkflow.restart_jobs, given)


async def cancel(handle: Handle, selector: Any = None, *, preview: bool = False) -> Taken:
    given = CancelUpdate(selector=selector or JobSelector(), preview=preview)
    return await handle.execute_update(PullRequestWorkflow.cancel_jobs, given)


async def test_a_restart_answers_what_it_took_and_a_preview_takes_nothing(
    world: World, ref: PullRequestRef
) -> None:
    world.script.steps[BUILD] = [FULL, FULL, FULL]
    handle = await world.open(ref, world.revision())
    await world.until(handle, is_decided)
    started = list(world.script.started)
    would = await restart(handle, preview=True)
    assert world.script.started == started
    taken = Taken(jobs=2, by_platform={PLATFORM.name: 2}, first=(BUILD, TEST), refusal=None)
    assert untimed(would) == taken
    assert would.longest_seconds > 0
    assert await restart(handle) == taken
    summary = await world.until(handle, lambda now: now.state is State.SUCCESS)
    assert {row.round for row in summary.jobs if row.job.platform} == {2}


async def test_two_who_restart_at_once_restart_once(world: World, ref: PullRequestRef) -> None:
    world.script.steps[BUILD] = [BROKEN]
    handle = await world.open(ref, world.revision())
    await world.until(handle, is_decided)
    failed = RestartSelector(which=RestartWhich.FAILED)
    one, two = await asyncio.gather(restart(handle, failed), restart(handle, failed))
    assert sorted([one.jobs, two.jobs]) == [0, 2]
    refused = one if not one.jobs else two
    assert refused.refusal is not None
    await world.until(handle, is_decided)
    assert [run for run in world.script.started if run[0] == BUILD] == [
        (BUILD, 1, 1),
        (BUILD, 2, 1),
    ]


async def test_a_reverse_dependency_restarts_by_its_name(world: World, ref: PullRequestRef) -> None:
    world.script.revdeps = tuple(
        Revdep(package=name, has_tests=False) for name in ("q.1", "r.1", "s.1")
    )
    world.script.steps[REVDEP] = [BROKEN]
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    summary = await world.until(handle, is_decided)
    assert summary.state is State.FAILURE
    selector = RestartSelector(which=RestartWhich.FAILED, kind=JobKind.REVDEP, revdep="r")
    assert (await restart(handle, selector)).first == (REVDEP,)
    summary = await world.until(handle, lambda now: now.state is State.SUCCESS)
    assert world.row(summary, REVDEP).round == 2
    # Decided and passed: named alone, it says how it stands.
    taken = await restart(handle, RestartSelector(job=REVDEP))
    assert taken.jobs == 0
    assert taken.refusal is not None


async def test_one_job_is_cancelled_and_the_others_go_on(world: World, ref: PullRequestRef) -> None:
    released = asyncio.Event()

    other = PLATFORM.model_copy(update={"ocaml": "5.4"})
    elsewhere = BUILD.replace("5.3", "5.4")
    world.script.steps[BUILD] = [for_ever]
    world.script.steps[elsewhere] = [passes_after(released)]
    handle = await world.open(ref, world.revision(platforms=(EMBEDDED, other)))
    await world.until(
        handle,
        lambda _: {BUILD, elsewhere} <= {job for job, _, _ in world.script.started},
    )
    selector = JobSelector(platform=EMBEDDED.name, kind=JobKind.BUILD)
    would = await cancel(handle, selector, preview=True)
    assert (would.jobs, would.first) == (1, (BUILD,))
    assert (await cancel(handle, selector)).jobs == 1
    with world.env.auto_time_skipping_disabled():
        await asyncio.sleep(1.5)
    released.set()
    summary = await world.until(handle, is_decided)
    assert label(world.row(summary, BUILD).outcome or PASSED) == "cancelled(request)"
    assert label(world.row(summary, elsewhere).outcome or PASSED) == "passed"
    assert world.script.cancelled == [BUILD]
    taken = await cancel(handle)
    assert taken.refusal == "no job is under way: there is nothing to cancel"


async def test_updates_that_take_nothing_return_a_reason(world: World, ref: PullRequestRef) -> None:
    handle = await world.open(ref, world.revision())
    await world.until(handle, is_decided)
    for selector in (
        RestartSelector(platform="plan9"),
        RestartSelector(kind=JobKind.REVDEP),
        RestartSelector(which=RestartWhich.FAILED),
        RestartSelector(package="no-such-package"),
        RestartSelector(cause=Cause.DNS),
    ):
        taken = await restart(handle, selector)
        assert taken.jobs == 0, selector
        assert taken.refusal, selector
    taken = await restart(handle, RestartSelector(which=RestartWhich.ALL, head=HEAD_2))
    assert taken.refusal == (f"head {HEAD_2} is superseded by {HEAD_1[:12]}; nothing was done")
    malformed = await handle.execute_update(
        "restart_jobs", {"selector": {"colour": "red"}}, result_type=Taken
    )
    assert (malformed.refusal or "").startswith("invalid restart")
    assert len(world.script.started) == 4


async def test_a_restart_during_the_analysis_takes_nothing(
    world: World, ref: PullRequestRef
) -> None:
    released = asyncio.Event()

    world.script.steps["analysis"] = [passes_after(released)]
    handle = await world.open(ref, world.revision())
    await world.until(handle, lambda _: bool(world.script.started))
    with world.env.auto_time_skipping_disabled():
        taken = await restart(handle)
    assert "the analysis is under way" in (taken.refusal or "")
    released.set()
    summary = await world.until(handle, is_decided)
    assert summary.state is State.SUCCESS


async def test_an_update_to_a_workflow_that_ended_is_refused_by_the_server(
    world: World, ref: PullRequestRef
) -> None:
    handle = await world.open(ref, world.revision(keep_open=False))
    await handle.result()
    with pytest.raises((RPCError, WorkflowUpdateFailedError)):
        await restart(handle)
