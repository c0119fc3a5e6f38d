"""A base that moves under open pull requests: merged and analysed again, tested only if need be."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.client import WorkflowHandle

from opam_ci.activities.attempt import Attempt
from opam_ci.activities.repository import refusal
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.moved_base import BaseChanged
from opam_ci.core.jobs.outcome import Cause, Outcome
from opam_ci.core.jobs.requests import Origin, PullRequestRef, Revision
from opam_ci.core.jobs.summary import State, Summary
from opam_ci.core.reuse.reach import Reachable
from opam_ci.core.submission.analysis import CONFLICT
from opam_ci.core.submission.inputs import HeadInputs
from opam_ci.core.submission.result import Analysis, ChangedPackage, ChangeKind
from opam_ci.workflows.pull_request import PullRequestWorkflow
from tests.support.fakes.world import (
    BASE,
    HEAD_1,
    HEAD_2,
    PASSED,
    World,
    for_ever,
    is_decided,
    passes_after,
)

Handle = WorkflowHandle[PullRequestWorkflow, object]

MOVED = "c" * 40
MOVED_ON = "d" * 40
BUILD = "build debian-13-ocaml-5.3/amd64 a.1"
TEST = "test debian-13-ocaml-5.3/amd64 a.1"
DAY = timedelta(days=1)


def on_github(world: World, head: str = HEAD_1, seconds: int = 0) -> Revision:
    as_of = datetime(2026, 5, 4, tzinfo=UTC) + timedelta(seconds=seconds)
    origin = Origin(clone_url="file:///nowhere", branch="master", as_of=as_of)
    return world.revision(head).model_copy(update={"origin": origin, "repository": ""})


async def opened(world: World, ref: PullRequestRef) -> Handle:
    """Opens a pull request, and waits until its head is decided."""
    handle = await world.open(ref, on_github(world))
    await world.until(handle, is_decided)
    return handle


async def move(handle: Handle, base: str = MOVED, retest_interval: timedelta = DAY) -> None:
    moved = BaseChanged(base=base, retest_interval=retest_interval)
    await handle.signal(PullRequestWorkflow.base_changed, moved)


async def in_an_image(attempt: Attempt) -> Outcome:
    """Passes in an image that is known, so that the verdict may be used again."""
    attempt.image = "image"
    return PASSED


async def until(so: Callable[[], bool]) -> None:
    """Waits in real time, as what runs in an activity does."""
    for _ in range(600):
        if so():
            return
        await asyncio.sleep(0.05)
    pytest.fail("it never was so")


def opened_testings(world: World) -> int:
    return len({batch.key.opened_at for batch in world.script.batches})


def failed_with(summary: Summary) -> str | None:
    (analysis,) = [row for row in summary.jobs if row.job.id == "analysis"]
    return getattr(analysis.outcome, "reason", None)


async def test_a_head_that_stays_the_same_runs_nothing(world: World, ref: PullRequestRef) -> None:
    handle = await opened(world, ref)
    started = list(world.script.started)
    seen = []
    await move(handle)
    while not world.script.looked:
        seen.append(await world.summary(handle))
        await asyncio.sleep(0.05)
    seen.append(await world.summary(handle))
    await world.sleep(timedelta(minutes=1))
    summary = await world.summary(handle)
    assert {each.state for each in (*seen, summary)} == {State.SUCCESS}
    assert world.script.looked == [(HEAD_1, MOVED)]
    assert (world.script.started, opened_testings(world)) == (started, 1)
    # The verdict is for the base with which it was made.
    assert summary.base == BASE


async def test_the_base_that_a_head_was_tested_with_is_not_looked_at(
    world: World, ref: PullRequestRef
) -> None:
    handle = await opened(world, ref)
    await move(handle, BASE)
    await world.sleep(timedelta(minutes=1))
    assert world.script.looked == []


async def test_a_new_conflict_turns_red_and_back_without_a_push(
    world: World, ref: PullRequestRef
) -> None:
    handle = await opened(world, ref)
    world.script.looks[HEAD_1] = CONFLICT
    world.script.steps["analysis"] = [refusal(CONFLICT)]
    await move(handle)
    summary = await world.until(handle, lambda one: one.state is State.FAILURE)
    assert failed_with(summary) == "merge_conflict"
    assert summary.base == MOVED
    # Still a conflict: nothing is done again.
    started = list(world.script.started)
    await move(handle, MOVED_ON)
    await until(lambda: len(world.script.looked) == 2)
    await world.sleep(timedelta(minutes=1))
    assert world.script.started == started
    # The base is as it was.
    del world.script.looks[HEAD_1]
    await move(handle, BASE)
    summary = await world.until(handle, lambda one: one.state is State.SUCCESS)
    assert (opened_testings(world), summary.head, summary.base) == (3, HEAD_1, BASE)


async def test_the_webhooks_base_is_not_that_of_a_conflict(
    world: World, ref: PullRequestRef
) -> None:
    # The base had moved on when the head was analysed, and is forced back.
    world.script.steps["analysis"] = [refusal(CONFLICT)]
    handle = await opened(world, ref)
    summary = await world.summary(handle)
    assert (summary.state, summary.base) == (State.FAILURE, BASE)
    await move(handle, BASE)
    await world.until(handle, lambda one: one.state is State.SUCCESS)
    assert world.script.looked == [(HEAD_1, BASE)]


async def test_a_testing_under_way_goes_on_and_only_the_newest_base_counts(
    world: World, ref: PullRequestRef
) -> None:
    released = asyncio.Event()
    world.script.steps[BUILD] = [passes_after(released)]
    handle = await world.open(ref, on_github(world))
    await until(lambda: (BUILD, 1, 1) in world.script.started)
    await move(handle, MOVED)
    await move(handle, MOVED_ON)
    await asyncio.sleep(0.5)
    assert world.script.looked == []
    released.set()
    await world.until(handle, is_decided)
    await until(lambda: bool(world.script.looked))
    await world.sleep(timedelta(minutes=1))
    assert world.script.looked == [(HEAD_1, MOVED_ON)]
    assert world.script.cancelled == []
    assert opened_testings(world) == 1


async def test_a_newer_base_is_looked_at_after_the_one_that_is(
    world: World, ref: PullRequestRef
) -> None:
    handle = await opened(world, ref)
    world.script.looks[HEAD_1] = released = asyncio.Event()
    await move(handle, MOVED)
    await until(lambda: bool(world.script.looked))
    await move(handle, BASE.replace("b", "a"))
    await move(handle, MOVED_ON)
    released.set()
    await until(lambda: len(world.script.looked) == 2)
    await world.sleep(timedelta(minutes=1))
    assert world.script.looked == [(HEAD_1, MOVED), (HEAD_1, MOVED_ON)]


async def test_a_push_supersedes_the_look_and_the_new_head_follows(
    world: World, ref: PullRequestRef
) -> None:
    handle = await opened(world, ref)
    world.script.looks[HEAD_1] = asyncio.Event()
    await move(handle)
    await until(lambda: bool(world.script.looked))
    await handle.signal(PullRequestWorkflow.head_changed, args=[on_github(world, HEAD_2, 9), None])
    await world.until(handle, lambda one: one.head == HEAD_2 and is_decided(one))
    await until(lambda: len(world.script.looked) == 2)
    assert world.script.looked == [(HEAD_1, MOVED), (HEAD_2, MOVED)]


async def test_a_restart_by_hand_comes_first_and_the_look_after_it(
    world: World, ref: PullRequestRef
) -> None:
    handle = await opened(world, ref)
    world.script.looks[HEAD_1] = asyncio.Event()
    await move(handle)
    await until(lambda: bool(world.script.looked))
    del world.script.looks[HEAD_1]
    await handle.signal(PullRequestWorkflow.restart, {"which": "all"})
    await until(lambda: (BUILD, 2, 1) in world.script.started)
    await world.until(handle, is_decided)
    await until(lambda: len(world.script.looked) == 2)
    await world.sleep(timedelta(minutes=1))
    assert world.script.looked == [(HEAD_1, MOVED)] * 2
    assert opened_testings(world) == 1


async def test_what_was_cancelled_stays_so_until_somebody_restarts_it(
    world: World, ref: PullRequestRef
) -> None:
    world.script.steps[BUILD] = [for_ever]
    world.script.looks[HEAD_1] = CONFLICT
    handle = await world.open(ref, on_github(world))
    await until(lambda: (BUILD, 1, 1) in world.script.started)
    await move(handle)
    await handle.signal(PullRequestWorkflow.cancel)
    await world.until(handle, is_decided)
    await world.sleep(timedelta(minutes=1))
    assert world.script.looked == []
    world.script.steps["analysis"] = [refusal(CONFLICT)]
    await handle.signal(PullRequestWorkflow.restart)
    await world.until(handle, lambda one: one.state is State.FAILURE)
    assert world.script.looked == [(HEAD_1, MOVED)]


async def test_a_close_ends_the_look(world: World, ref: PullRequestRef) -> None:
    handle = await opened(world, ref)
    world.script.looks[HEAD_1] = asyncio.Event()
    await move(handle)
    await until(lambda: bool(world.script.looked))
    await handle.signal(PullRequestWorkflow.closed)
    counts = await handle.result()
    assert opened_testings(world) == 1
    assert counts is not None


async def test_while_the_upstream_is_away_everything_stays_as_it_is(
    world: World, ref: PullRequestRef
) -> None:
    handle = await opened(world, ref)
    before = await world.summary(handle)
    world.script.looks[HEAD_1] = InfrastructureError("no network", cause=Cause.NETWORK)
    await move(handle)
    await world.sleep(timedelta(hours=3))
    during = await world.summary(handle)
    assert len(world.script.looked) > 5
    assert (during.state, during.tallies) == (before.state, before.tallies)
    # What people ask for is done all the same.
    await handle.signal(PullRequestWorkflow.restart, {"which": "all"})
    await until(lambda: (BUILD, 2, 1) in world.script.started)
    world.script.looks[HEAD_1] = CONFLICT
    world.script.steps["analysis"] = [refusal(CONFLICT)]
    await world.until(handle, lambda one: one.state is State.FAILURE, skip=timedelta(minutes=5))


async def test_other_dependencies_are_a_reason_to_test_again_once_a_day(
    world: World, ref: PullRequestRef
) -> None:
    handle = await opened(world, ref)
    world.script.inputs = HeadInputs(changes="changes", reach="with a new version")
    await move(handle)
    await until(lambda: len(world.script.looked) == 1)
    await world.sleep(timedelta(hours=23))
    assert opened_testings(world) == 1
    await world.sleep(timedelta(hours=2))
    await move(handle, MOVED_ON)
    await until(lambda: opened_testings(world) == 2)
    summary = await world.until(handle, is_decided)
    assert (summary.state, summary.base) == (State.SUCCESS, MOVED_ON)
    assert len(world.script.looked) == 2


async def test_only_jobs_whose_keys_changed_are_run_again(
    world: World, ref: PullRequestRef
) -> None:
    script = world.script
    script.analysis = Analysis(
        packages=tuple(
            ChangedPackage(package=name, kind=ChangeKind.NEW_RELEASE, has_tests=True)
            for name in ("a.1", "b.1")
        ),
        merge_tree="e" * 40,
    )
    script.reach = Reachable(plain={"a": "1", "b": "1"}, tested={}, dependents={})
    jobs = {name: name.replace("a.1", "b.1") for name in (BUILD, TEST)}
    for job in (*jobs, *jobs.values()):
        script.steps[job] = [in_an_image, in_an_image]
    handle = await opened(world, ref)
    ran = [job for job, _, _ in script.started]
    assert {*jobs, *jobs.values()} <= set(ran)
    # A new version of what `a` depends on.
    script.reach = Reachable(plain={"a": "2", "b": "1"}, tested={}, dependents={})
    script.inputs = HeadInputs(changes="changes", reach="other")
    await move(handle, retest_interval=timedelta(0))
    await until(lambda: opened_testings(world) == 2)
    summary = await world.until(handle, is_decided)
    again = [job for job, _, _ in script.started][len(ran) :]
    assert {job for job in again if job.startswith(("build", "test"))} == set(jobs)
    assert summary.state is State.SUCCESS
    assert any("2 jobs not run" in notice for notice in summary.notices), summary.notices


async def test_other_packages_are_a_reason_at_once(world: World, ref: PullRequestRef) -> None:
    handle = await opened(world, ref)
    world.script.inputs = HeadInputs(changes="other changes", reach="reach")
    await move(handle)
    await until(lambda: opened_testings(world) == 2)
    await world.until(handle, is_decided)


async def test_a_wrong_signal_is_a_notice_and_a_local_branch_follows_no_base(
    world: World, ref: PullRequestRef
) -> None:
    handle = await world.open(ref, world.revision())
    await world.until(handle, is_decided)
    wrong = {"base": "--upload-pack=x", "retest_interval": "P1D"}
    await handle.signal(PullRequestWorkflow.base_changed, wrong)
    await move(handle)
    await world.sleep(timedelta(minutes=1))
    assert any("invalid base_changed" in each for each in (await world.summary(handle)).notices)
    assert world.script.looked == []
