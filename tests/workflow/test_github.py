"""Stories of pull requests on GitHub, from the webhook to the last status, on a real server."""

import asyncio
from datetime import timedelta

import pytest
from temporalio.common import RetryPolicy

from opam_ci.activities import github as activities
from opam_ci.clients.index import page_estimate
from opam_ci.core.github import redelivery as late
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.outcome import Cause, Evidence, Failed, FailureReason
from opam_ci.workflows import options
from tests.support.fakes.github import InjectedFault
from tests.support.fakes.github_stage import Stage
from tests.support.fakes.world import PASSED, for_ever
from tests.support.worlds.github import LiveGitHub

HEADS = [f"{number}" * 40 for number in range(10)]
BUILD = "build debian-13-ocaml-5.3/amd64 a.1"
TEST = "test debian-13-ocaml-5.3/amd64 a.1"
HOUR = 3600
REAL_RETRY = options.GITHUB_RETRY


def full_disk(times: int, *, wait: timedelta | None = None) -> list[InfrastructureError]:
    fault = InfrastructureError("no space", cause=Cause.DISK_FULL, retry_after=wait)
    return [fault] * times


def conclusions(stage: Stage, head: str, name: str) -> list[str | None]:
    return [
        run.wanted.get("conclusion")
        for run in stage.fake.runs.values()
        if run.wanted["head_sha"] == head and run.wanted["name"] == name
    ]


async def carried_out(stage: Stage) -> str:
    """Waits until the last delivery is carried out; returns what was done."""
    guid = stage.fake.deliveries[-1]["guid"]
    done = await stage.client.get_workflow_handle(f"delivery/{guid}").result()
    words: str = done["words"]
    return words


async def until_put_off(stage: Stage, guid: str) -> None:
    """Waits until what a delivery asks for is done for now, to be looked at again."""
    handle = stage.client.get_workflow_handle(f"delivery/{guid}")
    for _ in range(600):
        events = (await handle.fetch_history()).events
        if any(event.HasField("timer_started_event_attributes") for event in events):
            return
        await asyncio.sleep(0.1)
    pytest.fail("it was not put off")


async def test_opened_pushed_twice_full_disk_recovers_restarted_merged(stage: Stage) -> None:
    fake, script = stage.fake, stage.script
    script.steps[BUILD] = [for_ever]
    await fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "pending: 0/2 done")
    fake.advance(seconds=1)
    await fake.push(1, HEADS[2])
    fake.advance(seconds=1)
    # The disk is full once, and the retry finds room: nobody has to do anything.
    script.steps[BUILD] = [*full_disk(1), PASSED]
    await fake.push(1, HEADS[3])
    await stage.until_said(HEADS[3], "success: 2 passed; analysis and lint passed")
    await stage.until_paged(HEADS[3])
    # Nothing of a superseded head stays as it was under way.
    assert stage.last(HEADS[1]) == "pending: Stopped: a newer head is tested (2 cancelled)"
    await stage.until_paged(HEADS[1])

    fake.advance(seconds=1)
    script.steps[BUILD] = [*full_disk(3)]
    await fake.push(1, HEADS[4])
    await stage.until_said(HEADS[4], "error: Internal CI error, not your package: disk full")
    await stage.until_paged(HEADS[4])
    await stage.until(lambda: "action_required" in conclusions(stage, HEADS[4], "opam-ci"))
    run = next(
        run
        for run in fake.runs.values()
        if run.wanted["head_sha"] == HEADS[4] and run.wanted["name"] == "opam-ci"
    )
    assert "disk full" in run.wanted["output"]["summary"]
    await fake.press(run.id, "restart-errors", by="maintainer")
    await stage.until_said(HEADS[4], "success: 2 passed; analysis and lint passed")
    # A concluded check run is not opened again; the new one has the new end.
    await stage.until(lambda: "success" in conclusions(stage, HEADS[4], "opam-ci"))

    fake.advance(seconds=1)
    await fake.close(1, merged=True)
    await stage.ended(1)
    assert stage.last(HEADS[4]) == "success: 2 passed; analysis and lint passed"
    assert stage.last(HEADS[4], "opam-ci / lint") == "success: Analysis and lint passed"
    assert all(delivery["status_code"] in {200, 202} for delivery in fake.deliveries)
    # What superseded heads were told last was never undone.
    assert all("pending" in words for words in stage.words(HEADS[1]))
    await stage.until_paged(HEADS[4])


async def test_by_when_its_jobs_are_decided_is_said_while_they_wait(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is known of durations is read again each time.
    monkeypatch.setattr(page_estimate, "_KEPT_FOR", timedelta(0))
    await stage.fake.open(1, HEADS[1])
    # Nobody knows yet how long such jobs take.
    await stage.until_said(HEADS[1], "success: 2 passed; analysis and lint passed")
    assert not any("expected" in words for words in stage.words(HEADS[1]))
    stage.fake.advance(seconds=1)
    stage.script.steps[BUILD] = [for_ever]
    await stage.fake.open(2, HEADS[2])
    await stage.until_said(HEADS[2], "all expected by ")
    estimated = (await stage.summary(2)).estimated_until
    assert estimated is not None
    assert f"; all expected by {estimated:%H:%M} UTC" in stage.last(HEADS[2])
    assert "expected" not in stage.last(HEADS[2], "opam-ci / lint")
    stage.fake.advance(seconds=1)
    await stage.fake.close(2)
    await stage.ended(2)


async def test_a_pending_retry_is_shown_with_cause_attempt_and_time(stage: Stage) -> None:
    stage.script.steps[BUILD] = [*full_disk(1, wait=timedelta(hours=1))]
    await stage.fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "0/2 done; 1 retry")
    summary = await stage.summary(1)
    (row,) = [row for row in summary.jobs if row.job.id == BUILD]
    assert row.next_attempt_at is not None
    assert stage.last(HEADS[1]) == (
        f"pending: {summary.ran.decided}/{summary.ran.total} done; "
        f"{summary.counts.retrying} retry, CI fault: disk full "
        f"(attempt {row.attempt + 1} of 3 at {row.next_attempt_at:%H:%M} UTC)"
    )
    await stage.until_paged(HEADS[1])
    stage.fake.advance(seconds=1)
    await stage.fake.close(1)
    await stage.ended(1)


async def test_failure_and_error_are_distinguished(stage: Stage) -> None:
    stage.script.steps[BUILD] = [
        Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="x", detail="type error"))
    ]
    await stage.fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "failure: 1 failed, 1 skipped; analysis and lint passed")
    url = stage.fake.statuses[HEADS[1], "opam-ci"][-1]["target_url"]
    assert url == f"https://ci.example.org/{stage.fake.full_name}/1"
    assert (await stage.summary(1)).head == HEADS[1]


async def test_github_down_for_an_hour_holds_up_no_build_and_loses_no_verdict(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An hour of five seconds, by the real policy.
    scale = 5 / HOUR
    real = REAL_RETRY
    assert real.maximum_interval is not None
    quick = RetryPolicy(
        initial_interval=real.initial_interval * scale,
        backoff_coefficient=real.backoff_coefficient,
        maximum_interval=real.maximum_interval * scale,
    )
    monkeypatch.setattr(options, "GITHUB_RETRY", quick)
    fake = stage.fake
    trouble = InjectedFault("/statuses/", 502, times=10**6)
    fake.troubles = [trouble]
    await fake.open(1, HEADS[1])
    began = fake.now
    await stage.until(lambda: (TEST, 1, 1) in stage.script.started)
    assert stage.words(HEADS[1]) == []
    await stage.until(lambda: (fake.now - began).total_seconds() > HOUR * scale)
    asked = 10**6 - trouble.times
    assert 1 < asked < 40, f"{asked} requests in an hour in which GitHub was down"
    await stage.decided(1)
    fake.troubles = []
    await stage.until_said(HEADS[1], "success: 2 passed; analysis and lint passed")
    # Nothing of what was meanwhile comes late.
    assert stage.words(HEADS[1]) == ["success: 2 passed; analysis and lint passed"]


async def test_superseded_while_github_is_down(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = RetryPolicy(initial_interval=timedelta(milliseconds=100), backoff_coefficient=1)
    monkeypatch.setattr(options, "GITHUB_RETRY", quick)
    fake = stage.fake
    stage.script.steps[BUILD] = [for_ever]
    await fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "pending: 0/2 done")
    trouble = InjectedFault("/statuses/", 502, times=10**6)
    fake.troubles = [trouble]
    for head in HEADS[2:5]:
        fake.advance(seconds=1)
        await fake.push(1, head)
    await stage.until(lambda: trouble.times < 10**6)
    while (await stage.decided(1)).head != HEADS[4]:  # noqa: ASYNC110  a query, no event
        await asyncio.sleep(0.1)
    fake.troubles = []
    await stage.until_said(HEADS[4], "success: 2 passed; analysis and lint passed")
    # The final status of what GitHub was sent, and nothing else of earlier heads.
    assert stage.last(HEADS[1]) == "pending: Stopped: a newer head is tested (2 cancelled)"
    await stage.until_paged(HEADS[1])
    assert all("Stopped" in each for head in HEADS[2:4] for each in stage.words(head))


async def test_rate_limit_is_waited_for_as_long_as_it_says(stage: Stage) -> None:
    fake = stage.fake
    fake.troubles = [InjectedFault("/statuses/", 429, {"retry-after": "3"})]
    await fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "success: 2 passed; analysis and lint passed")
    at = [code for _, _, code in fake.requests].index(429)
    refused, following = stage.wire.asked_at[at : at + 2]
    assert (following - refused).total_seconds() > 2.9


async def test_older_deliveries_never_override_newer_ones(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (late, activities):
        monkeypatch.setattr(module, "LATE_AFTER", timedelta(seconds=3))
    monkeypatch.setattr(activities, "_MARGIN", timedelta(seconds=1))
    fake = stage.fake
    with stage.unheard():
        await fake.open(1, HEADS[1])
        fake.advance(seconds=1)
        await fake.push(1, HEADS[2])
        fake.advance(seconds=1)
        await fake.push(1, HEADS[3])
        fake.advance(seconds=1)
        await fake.open(2, HEADS[4])
        fake.advance(seconds=1)
        await fake.close(2)
    closed, *earlier = fake.deliveries[::-1]
    await fake.redeliver(closed["id"])
    # Closed comes before opened: there is nothing to close. It is looked at again.
    await until_put_off(stage, closed["guid"])
    for delivery in earlier:
        await fake.redeliver(delivery["id"])
    await stage.until_said(HEADS[3], "success: 2 passed; analysis and lint passed")
    assert stage.words(HEADS[1]) == stage.words(HEADS[2]) == []
    await stage.ended(2)
    assert (await stage.summary(1)).head == HEADS[3]


async def test_two_pushes_within_a_second_are_sorted_out_by_asking(stage: Stage) -> None:
    fake = stage.fake
    assert isinstance(fake, LiveGitHub)
    await fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "success")
    fake.advance(seconds=1)
    with stage.unheard(), fake.one_moment():
        await fake.push(1, HEADS[2])
        await fake.push(1, HEADS[3])
        asked = len(fake.requests)
    for delivery in fake.deliveries[:0:-1][:2]:
        await fake.redeliver(delivery["id"])
    await stage.until_said(HEADS[3], "success: 2 passed; analysis and lint passed")
    assert (await stage.summary(1)).head == HEADS[3]
    path = f"/repos/{fake.full_name}/pulls/1"
    await stage.until(lambda: ("GET", path, 200) in fake.requests[asked:])


async def test_commands_are_obeyed_of_those_who_may(stage: Stage) -> None:
    fake = stage.fake
    fake.roles = {"maintainer": "write"}
    stage.script.steps[BUILD] = [for_ever]
    await fake.open(1, HEADS[1], author="alice")
    await stage.until_said(HEADS[1], "0/2 done")
    await fake.write(1, "/opam-ci cancel", by="mallory")
    assert await carried_out(stage) == "mallory may not command"
    assert stage.script.cancelled == []
    # GitHub cannot say who may, for a while; the command waits for it.
    fake.troubles = [InjectedFault("/permission", 502, times=3)]
    await fake.write(1, "/opam-ci cancel", by="maintainer")
    await stage.until(lambda: stage.script.cancelled == [BUILD])
    await stage.until_said(HEADS[1], "Stopped on request")
    await fake.write(1, "/opam-ci restart errors", by="alice")
    await stage.until_said(HEADS[1], "success: 2 passed; analysis and lint passed")
    await fake.write(1, "/opam-ci sing", by="alice")
    await stage.until(lambda: bool(fake.comments))
    assert "No such command" in fake.comments[0]["body"]


async def test_draft_is_tested_lightly_until_it_is_ready(stage: Stage) -> None:
    fake = stage.fake
    await fake.open(1, HEADS[1], draft=True)
    await stage.until_said(HEADS[1], "success")
    started = len(stage.script.started)
    fake.advance(seconds=1)
    await fake.ready(1)
    await stage.until(lambda: len(stage.script.started) == 2 * started)
    await stage.until_said(HEADS[1], "success: 2 passed; analysis and lint passed")
    fake.advance(seconds=1)
    await fake.ready(1, ready=False)
    fake.advance(seconds=1)
    await fake.close(1)
    await stage.ended(1)
    assert len(stage.script.started) == 2 * started


async def test_moved_to_another_base_and_back(stage: Stage) -> None:
    fake = stage.fake
    stage.script.steps[BUILD] = [for_ever]
    await fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "0/2 done")
    fake.advance(seconds=1)
    await fake.retarget(1, "2.0")
    await stage.ended(1)
    assert "pending: Stopped: the pull request was closed" in stage.last(HEADS[1])
    fake.advance(seconds=1)
    await fake.retarget(1, "master")
    await stage.until_said(HEADS[1], "success: 2 passed; analysis and lint passed")


async def test_nothing_is_posted_twice_when_an_answer_is_lost(stage: Stage) -> None:
    fake = stage.fake
    fake.troubles = [InjectedFault("/statuses/", 0, done=True, times=2)]
    await fake.open(1, HEADS[1])
    await stage.until_said(HEADS[1], "success: 2 passed; analysis and lint passed")
    fake.advance(seconds=1)
    await fake.close(1)
    await stage.ended(1)
    words = stage.words(HEADS[1])
    # The two that were lost may be there again, and no others.
    assert len(words) - len(set(words)) <= 2, words
    names = [run.wanted["name"] for run in fake.runs.values()]
    assert sorted(names) == ["opam-ci", "opam-ci / lint", "opam-ci / revdeps"]
