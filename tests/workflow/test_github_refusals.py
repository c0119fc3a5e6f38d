"""Stories of what GitHub refuses for a while: commits, pull requests and permissions."""

import asyncio
from datetime import timedelta

import pytest

from opam_ci.activities import github as activities
from opam_ci.core.github import refusal
from opam_ci.core.jobs.selector import RestartSelector
from tests.support.fakes.github import InjectedFault
from tests.support.fakes.github_stage import Stage
from tests.support.fakes.world import for_ever
from tests.workflow.test_github import BUILD, HEADS, carried_out, conclusions
from tests.workflow.test_github_unusual import reconciled


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again after minutes and hours is so after seconds."""
    waits = tuple(timedelta(seconds=seconds) for seconds in (0.5, 1, 2, 4))
    monkeypatch.setattr(refusal, "REFUSAL_WAITS", waits)
    monkeypatch.setattr(activities, "MISSING_FOR", timedelta(seconds=1.2))


def refusals(stage: Stage) -> int:
    return sum(method == "POST" and code == 422 for method, _, code in stage.fake.requests)


async def decide_unknown_head(stage: Stage) -> None:
    """A head is tested whose commit GitHub does not know yet where statuses are posted."""
    fake = stage.fake
    with stage.unheard():
        await fake.open(1, HEADS[1])
    fake.commits.clear()
    await fake.redeliver(fake.deliveries[-1]["id"])
    await stage.decided(1)


@pytest.mark.usefixtures("quick")
async def test_statuses_are_posted_within_minutes_once_github_knows_the_commit(
    stage: Stage,
) -> None:
    fake = stage.fake
    await decide_unknown_head(stage)
    # Three statuses and three check runs, each refused three times.
    await stage.until(lambda: refusals(stage) >= 18)
    assert stage.words(HEADS[1]) == []
    notices = (await stage.summary(1)).notices
    assert len(notices) == 6
    assert all("No commit found" in notice for notice in notices)
    fake.commits.add(HEADS[1])
    await stage.until_said(HEADS[1], "success: 2 passed; analysis and lint passed")
    await stage.until(lambda: conclusions(stage, HEADS[1], "opam-ci") == ["success"])


async def test_refused_statuses_are_tried_when_github_names_the_head(stage: Stage) -> None:
    fake = stage.fake
    await decide_unknown_head(stage)
    # Everything was reported and refused; the next try is a minute away at least.
    await asyncio.sleep(4)
    fake.commits.add(HEADS[1])
    await asyncio.sleep(4)
    assert stage.words(HEADS[1]) == []
    assert (await reconciled(stage)).missed == ()
    await stage.until_said(HEADS[1], "success: 2 passed; analysis and lint passed", seconds=30)


@pytest.mark.usefixtures("quick")
async def test_final_statuses_of_a_merged_pull_request_are_tried_again(stage: Stage) -> None:
    fake = stage.fake
    await decide_unknown_head(stage)
    fake.advance(seconds=1)
    await fake.close(1, merged=True)
    await stage.until(lambda: refusals(stage) >= 12)
    fake.commits.add(HEADS[1])
    await stage.ended(1)
    assert stage.last(HEADS[1]) == "success: 2 passed; analysis and lint passed"


async def refused_for_a_while(stage: Stage, number: int, code: int, times: int) -> None:
    """GitHub refuses to show a pull request, some times, while its jobs are restarted."""
    words = b'{"message": "Not Found"}'
    fault = InjectedFault(f"/pulls/{number}", code, body=words, times=times)
    stage.fake.troubles.append(fault)
    ref = stage.tracked.ref(number)
    await stage.pull_requests.resync(ref)
    await stage.until(lambda: fault.times < times)
    # Statuses do not wait for the pull request to be shown.
    await stage.pull_requests.cancel(ref)
    await stage.until_said(HEADS[number], "Stopped on request")
    await stage.pull_requests.restart(ref, [RestartSelector()], head=None)
    await stage.until_said(HEADS[number], "success: 2 passed; analysis and lint passed")
    await stage.until(lambda: not fault.times)


@pytest.mark.usefixtures("quick")
async def test_one_refusal_does_not_close_a_pull_request(stage: Stage) -> None:
    fake = stage.fake
    stage.script.steps[BUILD] = [for_ever, for_ever, for_ever]
    times = {1: (404, 2), 2: (403, 4), 3: (422, 4)}
    for number in times:
        await fake.open(number, HEADS[number])
        await stage.until_said(HEADS[number], "0/2 done")
    for number, (code, refused) in times.items():
        await refused_for_a_while(stage, number, code, refused)
    running = await stage.pull_requests.running("ocaml", stage.tracked.ref(1).repo)
    assert running == {number: HEADS[number] for number in times}


@pytest.mark.usefixtures("quick")
async def test_a_pull_request_that_stays_missing_is_closed(stage: Stage) -> None:
    fake = stage.fake
    await fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "success")
    del fake.pulls[1]
    await stage.pull_requests.resync(stage.tracked.ref(1))
    await stage.ended(1)
    path = f"/repos/{fake.full_name}/pulls/1"
    assert fake.requests.count(("GET", path, 404)) == 3


@pytest.mark.usefixtures("quick")
async def test_an_answer_that_github_refuses_is_tried_again(stage: Stage) -> None:
    fake = stage.fake
    await fake.open(1, HEADS[1])
    fake.troubles = [InjectedFault("/comments", 403, body=b'{"message": "not accessible"}')]
    await fake.write(1, "/opam-ci sing", by="alice")
    await stage.until(lambda: bool(fake.comments))
    assert await carried_out(stage) == "answered"
