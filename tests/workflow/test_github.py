"""Stories of pull requests on GitHub, from the webhook to the last status."""

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import WorkflowExecutionStatus
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from opam_ci.connection import ensure_search_attributes
from opam_ci.core.errors import InfrastructureError
from opam_ci.core.outcome import Cause, Evidence, Failed, FailureReason
from tests.fakes.github import FakeGitHub, Trouble
from tests.fakes.github_stage import Stage, staged
from tests.fakes.world import PASSED, Script, for_ever
from tests.workflow.conftest import TEST_SERVER

HEADS = [f"{number}" * 40 for number in range(10)]
BUILD = "build debian-13-ocaml-5.3/amd64 a.1"
TEST = "test debian-13-ocaml-5.3/amd64 a.1"

pytestmark = pytest.mark.skipif(
    "OPAM_CI_TEST_STORIES" not in os.environ,
    reason="the time-skipping server hangs in some of these stories; OPAM_CI_TEST_STORIES=1 "
    "runs them, and tests/e2e/test_github_serve.py plays such stories on the real server",
)


def full_disk(times: int) -> list[InfrastructureError]:
    return [InfrastructureError("no space", cause=Cause.DISK_FULL) for _ in range(times)]


def conclusions(stage: Stage, head: str, name: str) -> list[str | None]:
    return [
        run.wanted.get("conclusion")
        for run in stage.fake.runs.values()
        if run.wanted["head_sha"] == head and run.wanted["name"] == name
    ]


@pytest.fixture
async def own_server() -> AsyncIterator[WorkflowEnvironment]:
    """A server whose time nobody else holds up: a cancelled activity can do so for good."""
    env = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=str(TEST_SERVER), data_converter=pydantic_data_converter
    )
    async with env:
        await ensure_search_attributes(env.client)
        yield env


@contextlib.asynccontextmanager
async def on_stage(
    environment: WorkflowEnvironment, clones: Path, name: str
) -> AsyncIterator[Stage]:
    # A repository of the test's own, since all tests share a server.
    fake = FakeGitHub(full_name=f"ocaml/{name[:80]}")

    async def sleep(seconds: float) -> None:
        await environment.sleep(seconds)
        fake.now = await environment.get_current_time()

    await sleep(1)
    async with staged(environment.client, fake, Script(), clones=clones, sleep=sleep) as made:
        yield made


@pytest.fixture
async def stage(
    environment: WorkflowEnvironment, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Stage]:
    async with on_stage(environment, tmp_path, request.node.name) as made:
        yield made


@pytest.fixture
async def quick_stage(own_server: WorkflowEnvironment, tmp_path: Path) -> AsyncIterator[Stage]:
    """One on which hours pass in a moment."""
    async with on_stage(own_server, tmp_path, "r") as made:
        yield made


async def test_opened_pushed_twice_full_disk_recovers_restarted_merged(stage: Stage) -> None:
    fake, script = stage.fake, stage.script
    script.steps[BUILD] = [for_ever]
    await fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "pending: 2/4 done")
    fake.advance(seconds=1)
    await fake.push(1, HEADS[2])
    fake.advance(seconds=1)
    # The disk is full once, and the retry finds room: nobody has to do anything.
    script.steps[BUILD] = [*full_disk(1), PASSED]
    await fake.push(1, HEADS[3])
    await stage.until_said(HEADS[3], "success: 4 passed")

    fake.advance(seconds=1)
    script.steps[BUILD] = [*full_disk(3)]
    await fake.push(1, HEADS[4])
    await stage.until_said(HEADS[4], "error: Internal CI error, not your package: disk full")
    await stage.until(lambda: any(run.wanted.get("conclusion") for run in fake.runs.values()))
    run = next(
        run
        for run in fake.runs.values()
        if run.wanted["head_sha"] == HEADS[4] and run.wanted["name"] == "opam-ci"
    )
    await stage.until(lambda: run.wanted.get("conclusion") == "action_required")
    assert "disk full" in run.wanted["output"]["summary"]
    await fake.press(run.id, "restart-errors", by="maintainer")
    await stage.until_said(HEADS[4], "success: 4 passed")
    # A concluded check run is not opened again; the new one has the new end.
    await stage.until(
        lambda: "success" in conclusions(stage, HEADS[4], "opam-ci"),
    )

    fake.advance(seconds=1)
    await fake.close(1, merged=True)
    await ended(stage, 1)
    assert stage.last(HEADS[4]) == "success: 4 passed"
    assert stage.last(HEADS[4], "opam-ci / lint") == "success: 2 passed"
    assert all(delivery["status_code"] in {200, 202} for delivery in fake.deliveries)
    # What superseded heads were told last was never undone.
    assert all("pending" in words for words in stage.words(HEADS[1]))


async def test_failure_and_error_are_told_apart(stage: Stage) -> None:
    stage.script.steps[BUILD] = [
        Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="x", detail="type error"))
    ]
    await stage.fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "failure: 1 failed, 1 skipped, 2 passed")
    url = stage.fake.statuses[HEADS[1], "opam-ci"][-1]["target_url"]
    assert url == f"https://ci.example.org/{stage.fake.full_name}/1"
    assert (await stage.summary(1)).head == HEADS[1]


async def test_github_down_for_an_hour_holds_up_no_build_and_loses_no_verdict(
    quick_stage: Stage,
) -> None:
    fake = quick_stage.fake
    trouble = Trouble("/statuses/", 502, times=10**6)
    fake.troubles = [trouble]
    await fake.open(1, HEADS[1])
    began = fake.now
    await quick_stage.until(lambda: (TEST, 1, 1) in quick_stage.script.started)
    assert quick_stage.words(HEADS[1]) == []
    await quick_stage.until(lambda: (fake.now - began).total_seconds() > 3600, step=60)
    asked = 10**6 - trouble.times
    assert asked < 40, f"{asked} requests in an hour in which GitHub was down"
    fake.troubles = []
    await quick_stage.until_said(HEADS[1], "success: 4 passed")
    # Nothing of what was meanwhile comes late.
    assert quick_stage.words(HEADS[1]) == ["success: 4 passed"]


async def test_rate_limit_is_waited_for_as_long_as_it_says(quick_stage: Stage) -> None:
    fake = quick_stage.fake
    fake.troubles = [Trouble("/statuses/", 429, {"retry-after": "1200"})]
    await fake.open(1, HEADS[1])
    await quick_stage.until(lambda: fake.requests[-1:] != [] and fake.requests[-1][2] == 429)
    began = fake.now
    await quick_stage.until(lambda: "success" in quick_stage.last(HEADS[1]), step=15)
    assert 1150 < (fake.now - began).total_seconds() < 1400


async def test_status_that_cannot_be_written_is_recorded_once(quick_stage: Stage) -> None:
    fake = quick_stage.fake
    quick_stage.script.steps[BUILD] = [*full_disk(2)]
    await fake.open(1, HEADS[1], fork_deleted=True)
    fake.commits.clear()
    await quick_stage.until(lambda: (TEST, 1, 1) in quick_stage.script.started)
    await quick_stage.until(lambda: len(quick_stage.script.batches[-1].jobs) > 0)
    for _ in range(60):
        await quick_stage._sleep(60)
    refused = [code for method, _, code in fake.requests if method == "POST" and code == 422]
    # Three statuses and three check runs, each asked for once.
    assert len(refused) == 6
    notices = (await quick_stage.summary(1)).notices
    assert len(notices) == 6
    assert all("No commit found" in notice for notice in notices)


async def test_older_deliveries_never_override_newer_ones(stage: Stage) -> None:
    fake = stage.fake
    listener, fake.listener = fake.listener, None
    assert listener is not None
    await fake.open(1, HEADS[1])
    fake.advance(seconds=1)
    await fake.push(1, HEADS[2])
    fake.advance(seconds=1)
    await fake.push(1, HEADS[3])
    fake.advance(seconds=1)
    await fake.open(2, HEADS[4])
    fake.advance(seconds=1)
    await fake.close(2)
    fake.listener = listener
    for delivery in fake.deliveries[::-1]:
        await fake.redeliver(delivery["id"])
    await stage.until_said(HEADS[3], "success: 4 passed")
    assert stage.words(HEADS[1]) == stage.words(HEADS[2]) == []
    # Closed came before opened, which is noticed a minute later.
    await ended(stage, 2)
    assert (await stage.summary(1)).head == HEADS[3]


async def ended(stage: Stage, number: int) -> None:
    """Waits until a pull request's workflow is over.

    Not by its result: while time is skipped, the server gives up the wait for that.
    """
    for _ in range(200):
        status = (await stage.handle(number).describe()).status
        if status is not WorkflowExecutionStatus.RUNNING:
            assert status is WorkflowExecutionStatus.COMPLETED
            return
        await stage.pass_time()
    pytest.fail("the workflow goes on")


async def test_two_pushes_within_a_second_are_sorted_out_by_asking(stage: Stage) -> None:
    fake = stage.fake
    await fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "success")
    fake.advance(seconds=1)
    listener, fake.listener = fake.listener, None
    assert listener is not None
    await fake.push(1, HEADS[2])
    await fake.push(1, HEADS[3])
    fake.listener = listener
    for delivery in fake.deliveries[:0:-1][:2]:
        await fake.redeliver(delivery["id"])
    await stage.until_said(HEADS[3], "success: 4 passed")
    assert (await stage.summary(1)).head == HEADS[3]


async def test_commands_are_obeyed_of_those_who_may(stage: Stage) -> None:
    fake = stage.fake
    fake.roles = {"maintainer": "write"}
    stage.script.steps[BUILD] = [for_ever]
    await fake.open(1, HEADS[1], author="alice")
    await stage.until_said(HEADS[1], "2/4 done")
    await fake.write(1, "/opam-ci cancel", by="mallory")
    for _ in range(5):
        await stage._sleep(1)
    assert stage.script.cancelled == []
    # GitHub cannot say who may, for a while; the command waits for it.
    fake.troubles = [Trouble("/permission", 502, times=3)]
    await fake.write(1, "/opam-ci cancel", by="maintainer")
    await stage.until(lambda: stage.script.cancelled == [BUILD])
    await stage.until_said(HEADS[1], "Stopped on request")
    await fake.write(1, "/opam-ci restart errors", by="alice")
    await stage.until_said(HEADS[1], "success: 4 passed")
    await fake.write(1, "/opam-ci sing", by="alice")
    await stage.until(lambda: bool(fake.comments))
    assert "I know these commands" in fake.comments[0]["body"]


async def test_draft_is_tested_lightly_until_it_is_ready(stage: Stage) -> None:
    fake = stage.fake
    await fake.open(1, HEADS[1], draft=True)
    await stage.until_said(HEADS[1], "success")
    started = len(stage.script.started)
    fake.advance(seconds=1)
    await fake.ready(1)
    await stage.until(lambda: len(stage.script.started) == 2 * started)
    await stage.until_said(HEADS[1], "success: 4 passed")
    fake.advance(seconds=1)
    await fake.ready(1, ready=False)
    for _ in range(3):
        await stage._sleep(1)
    assert len(stage.script.started) == 2 * started


async def test_moved_to_another_base_and_back(stage: Stage) -> None:
    fake = stage.fake
    stage.script.steps[BUILD] = [for_ever]
    await fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "2/4 done")
    fake.advance(seconds=1)
    await fake.retarget(1, "2.0")
    await ended(stage, 1)
    assert "pending: Stopped: the pull request was closed" in stage.last(HEADS[1])
    fake.advance(seconds=1)
    await fake.retarget(1, "master")
    await stage.until_said(HEADS[1], "success: 4 passed")


async def test_nothing_is_posted_twice_when_an_answer_is_lost(stage: Stage) -> None:
    fake = stage.fake
    fake.troubles = [Trouble("/statuses/", 0, done=True, times=2)]
    await fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "success: 4 passed")
    words = stage.words(HEADS[1])
    assert len(words) <= 4, words
    assert [run.wanted["name"] for run in fake.runs.values()] == sorted(
        {run.wanted["name"] for run in fake.runs.values()}, key=len
    )
