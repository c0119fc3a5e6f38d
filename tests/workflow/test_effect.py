"""Stories of a head that makes other packages uninstallable: no verdict waits for that."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError

from opam_ci.core.github.status import DEFAULT_CONTEXTS, statuses
from opam_ci.core.jobs.messages import RepositoryTask
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.summary import State, Summary
from opam_ci.core.submission.effect import Effect, LostPackage
from opam_ci.core.submission.result import Analysis, ChangedPackage, ChangeKind
from opam_ci.workflows import options
from opam_ci.workflows.pull_request import PullRequestWorkflow
from tests.support.fakes.world import HEAD_1, HEAD_2, Script, World, is_decided

LOST = Effect(
    ocaml=("5.3",),
    lost=(LostPackage(package="user.1", ocaml=("5.3",), last_on=("5.3",)),),
    more=4,
)


def has_effect(summary: Summary) -> bool:
    return is_decided(summary) and summary.effect is not None


def deciding(script: Script, release: asyncio.Event) -> list[RepositoryTask]:
    """Lets the decision wait for an event; returns the tasks that it had."""
    tasks: list[RepositoryTask] = []

    async def decide(task: RepositoryTask) -> Effect:
        tasks.append(task)
        try:
            await release.wait()
        except asyncio.CancelledError:
            script.cancelled.append("effect")
            raise
        return LOST

    script.effect = decide
    return tasks


async def test_no_verdict_waits_for_it_and_it_changes_none(
    world: World, ref: PullRequestRef
) -> None:
    release = asyncio.Event()
    tasks = deciding(world.script, release)
    handle = await world.open(ref, world.revision())
    summary = await world.until(handle, is_decided)
    assert (summary.state, summary.effect) == (State.SUCCESS, None)
    release.set()
    summary = await world.until(handle, has_effect)
    assert (summary.state, summary.effect) == (State.SUCCESS, LOST)
    assert [task.revision.head for task in tasks] == [HEAD_1]
    # The index has it once it is recorded, for pages.
    await world.until(
        handle,
        lambda _: (found := world.script.batches[-1].revision) is not None and found.effect == LOST,
    )
    overall, lint, revdeps = statuses(summary, contexts=DEFAULT_CONTEXTS, maximum_attempts=None)
    expected = "2 passed; makes 5 packages uninstallable on OCaml 5.3; analysis and lint passed"
    assert (overall.state, overall.description) == (State.SUCCESS, expected)
    assert "uninstallable" not in lint.description + revdeps.description


async def test_a_check_of_one_head_waits_for_it(world: World, ref: PullRequestRef) -> None:
    release = asyncio.Event()
    deciding(world.script, release)
    handle = await world.open(ref, world.revision(keep_open=False))
    await world.until(handle, is_decided)
    await world.sleep(timedelta(seconds=10))
    assert (await handle.describe()).close_time is None
    release.set()
    await handle.result()
    assert (await world.summary(handle)).effect == LOST


async def test_a_fault_is_no_answer(world: World, ref: PullRequestRef) -> None:
    attempts = 0

    async def decide(task: RepositoryTask) -> Effect:
        del task
        nonlocal attempts
        attempts += 1
        raise ApplicationError("git failed")

    world.script.effect = decide
    handle = await world.open(ref, world.revision(keep_open=False))
    await handle.result()
    summary = await world.summary(handle)
    assert summary.state is State.SUCCESS
    assert summary.effect == Effect(unknown="git failed")
    assert attempts == options.EFFECT_RETRY.maximum_attempts


async def test_a_newer_head_ends_it(world: World, ref: PullRequestRef) -> None:
    release = asyncio.Event()
    tasks = deciding(world.script, release)
    handle = await world.open(ref, world.revision())
    await world.until(handle, is_decided)
    await handle.signal(PullRequestWorkflow.head_changed, world.revision(HEAD_2))
    await world.until(handle, lambda now: now.head == HEAD_2 and is_decided(now))
    assert (await world.summary(handle)).effect is None
    release.set()
    summary = await world.until(handle, has_effect)
    assert (summary.head, summary.effect) == (HEAD_2, LOST)
    assert [task.revision.head for task in tasks] == [HEAD_1, HEAD_2]
    assert world.script.cancelled == ["effect"]


async def test_a_close_does_not_wait_for_it(world: World, ref: PullRequestRef) -> None:
    deciding(world.script, asyncio.Event())
    handle = await world.open(ref, world.revision())
    await world.until(handle, is_decided)
    await handle.signal(PullRequestWorkflow.closed)
    await handle.result()
    assert (await world.summary(handle)).effect is None


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (ChangeKind.INSIGNIFICANTLY_CHANGED, {}),
        (ChangeKind.NEW_RELEASE, {"lint_only": True}),
    ],
)
async def test_some_heads_have_none(
    world: World, ref: PullRequestRef, kind: ChangeKind, changes: dict[str, Any]
) -> None:
    tasks = deciding(world.script, asyncio.Event())
    world.script.analysis = Analysis(
        packages=(ChangedPackage(package="a.1", kind=kind, has_tests=True),), merge_tree="e" * 40
    )
    handle = await world.open(ref, world.revision(keep_open=False, **changes))
    await handle.result()
    assert ((await world.summary(handle)).effect, tasks) == (None, [])
