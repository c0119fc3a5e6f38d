"""Moves of the base branch on GitHub: from the push to the statuses, on a real server."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import activity
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from opam_ci.activities import github as activities
from opam_ci.activities.repository import refusal
from opam_ci.app.pull_requests import PullRequests
from opam_ci.clients.git.upstream import upstream_in
from opam_ci.core.github.messages import BaseMoved, FollowBase, ReconcileTask
from opam_ci.core.submission.analysis import CONFLICT
from opam_ci.worker import WORKFLOW_RUNNER
from opam_ci.workflows import options
from opam_ci.workflows.base_branch import BaseBranchWorkflow
from opam_ci.workflows.delivery import ReconcileWorkflow
from tests.support.fakes.clone import Clone, opam
from tests.support.fakes.github_stage import Stage


@pytest.fixture
def remote(stage: Stage, tmp_path: Path) -> Clone:
    """The repository on GitHub, whose base the stage follows."""
    made = Clone(tmp_path / "remote.git")
    made.commit("master", {"packages/a/a.1/opam": opam()})
    url = made.path.as_uri()
    stage.activities._upstream = upstream_in(tmp_path / "clones", "ocaml", "opam-repository", url)
    stage.reconfigure(clone_url=url, follow_interval=timedelta(seconds=1))
    return made


def commit(remote: Clone, name: str) -> tuple[str, str]:
    """Moves the base branch; returns from which commit to which."""
    before = remote.git("rev-parse", "refs/heads/master")
    after = remote.commit("master", {f"packages/{name}/{name}.1/opam": opam()}, parents=(before,))
    return before, after


async def push(stage: Stage, remote: Clone, name: str) -> str:
    """Moves the base branch, and delivers that; returns the commit."""
    before, after = commit(remote, name)
    payload = {"ref": "refs/heads/master", "before": before, "after": after, "deleted": False}
    await stage.fake.emit("push", payload, "maintainer")
    return after


def heads(first: int, number: int) -> list[str]:
    return [f"{each:x}" * 40 for each in range(first, first + number)]


class Notifier:
    """The activity that notifies: it records what was followed before, and finds ever new tips."""

    def __init__(self) -> None:
        self.before: list[str | None] = []
        self.during: Callable[[], Awaitable[None]] | None = None

    @activity.defn(name="github_follow_base")
    async def follow_base(self, task: FollowBase) -> str:
        self.before.append(task.followed)
        if self.during is not None:
            during, self.during = self.during, None
            await during()
        return f"tip {len(self.before)}"


async def test_moves_within_an_interval_are_one(environment: WorkflowEnvironment) -> None:
    notifier, queue = Notifier(), options.ORCHESTRATION_QUEUE
    client, pull_requests = environment.client, PullRequests(environment.client)
    moved = BaseMoved(interval=timedelta(minutes=5))

    async def again() -> None:
        await pull_requests.base_moved("o/r", moved)

    async with (
        Worker(
            client,
            task_queue=queue,
            workflows=[BaseBranchWorkflow],
            workflow_runner=WORKFLOW_RUNNER,
        ),
        Worker(client, task_queue=options.GITHUB_QUEUE, activities=[notifier.follow_base]),
    ):
        for _ in range(4):
            await again()
            await environment.sleep(timedelta(minutes=1))
        assert notifier.before == []
        await environment.sleep(timedelta(minutes=2))
        assert notifier.before == [None]
        await environment.sleep(timedelta(hours=1))
        assert notifier.before == [None]
        # One that comes while pull requests are notified is not lost.
        notifier.during = again
        await again()
        await environment.sleep(timedelta(minutes=20))
        assert notifier.before == [None, "tip 1", "tip 2"]


async def test_a_burst_of_pushes_is_followed_once_by_those_that_are_open(
    stage: Stage, remote: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activities, "_NOTIFY_PAUSE", timedelta(seconds=0.5))
    # GitHub's base of each pull request is another one, so each is looked at.
    tested = heads(1, 8)
    for number, head in enumerate(tested, 1):
        await stage.fake.open(number, head)
    for head in tested:
        await stage.until_said(head, "success: 2 passed")
    stage.fake.advance(seconds=1)
    await stage.fake.close(8)
    await stage.ended(8)
    started = len(stage.script.started)
    with stage.unheard():
        for name in "xyz":
            tip = await push(stage, remote, name)
    for delivery in stage.fake.deliveries[-3:]:
        await stage.fake.redeliver(delivery["id"])
    await stage.until(lambda: len(stage.script.looked) >= 7)
    await asyncio.sleep(2)
    assert sorted(stage.script.looked) == [(head, tip) for head in tested[:7]]
    assert len(stage.script.started) == started
    for head in tested[:7]:
        # Nothing but what it was.
        assert stage.last(head) == "success: 2 passed; analysis and lint passed"
        assert sum("success" in each for each in stage.words(head)) == 1


async def test_without_webhooks_the_reconciliation_finds_a_moved_base_once(
    stage: Stage, remote: Clone
) -> None:
    (head,) = heads(1, 1)
    await stage.fake.open(1, head)
    await stage.until_said(head, "success: 2 passed")
    _, tip = commit(remote, "x")
    for number in range(3):
        await stage.client.execute_workflow(
            ReconcileWorkflow.run,
            ReconcileTask(),
            id=f"reconcile/{stage.fake.full_name}/{number}",
            task_queue=options.ORCHESTRATION_QUEUE,
        )
        await stage.until(lambda: stage.script.looked == [(head, tip)])
        await asyncio.sleep(1.5)
    assert stage.script.looked == [(head, tip)]


async def test_a_conflict_is_red_on_github_and_a_base_that_was_forced_back_makes_it_green(
    stage: Stage, remote: Clone
) -> None:
    (head,) = heads(1, 1)
    await stage.fake.open(1, head)
    await stage.until_said(head, "success: 2 passed")
    first = remote.git("rev-parse", "refs/heads/master")
    stage.script.looks[head] = CONFLICT
    stage.script.steps["analysis"] = [refusal(CONFLICT)]
    second = await push(stage, remote, "x")
    await stage.until_said(head, f"failure: Analysis failed: {CONFLICT}")
    await stage.until_paged(head)
    del stage.script.looks[head]
    remote.git("update-ref", "refs/heads/master", first)
    payload = {"ref": "refs/heads/master", "before": second, "after": first, "deleted": False}
    await stage.fake.emit("push", payload, "maintainer")
    await stage.until_said(head, "success: 2 passed; analysis and lint passed")
    assert stage.script.looked == [(head, second), (head, first)]
    await stage.until_paged(head)


async def test_a_base_that_cannot_be_fetched_is_followed_once_it_can(
    stage: Stage, remote: Clone
) -> None:
    (head,) = heads(1, 1)
    await stage.fake.open(1, head)
    await stage.until_said(head, "success: 2 passed")
    tip = await push(stage, remote, "x")
    away = remote.path.rename(remote.path.with_suffix(".away"))
    await asyncio.sleep(3)
    assert stage.script.looked == []
    away.rename(remote.path)
    await stage.until(lambda: stage.script.looked == [(head, tip)])
    assert stage.last(head) == "success: 2 passed; analysis and lint passed"


async def test_where_it_is_switched_off_nobody_is_notified(stage: Stage, remote: Clone) -> None:
    stage.reconfigure(follow_interval=None)
    (head,) = heads(1, 1)
    await stage.fake.open(1, head)
    await stage.until_said(head, "success: 2 passed")
    await push(stage, remote, "x")
    guid = stage.fake.deliveries[-1]["guid"]
    await stage.client.get_workflow_handle(f"delivery/{guid}").result()
    running = [each.id async for each in stage.client.list_workflows("ExecutionStatus='Running'")]
    assert not [each for each in running if each.startswith("base/")]
    assert stage.script.looked == []
