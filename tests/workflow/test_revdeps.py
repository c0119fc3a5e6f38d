"""Stories of reverse dependencies: listed, run in a window, counted, restarted, stopped."""

import asyncio
import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
from temporalio import workflow

from opam_ci.core.jobs.build import Revdep
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.jobs.job import REVDEP_KINDS
from opam_ci.core.jobs.messages import CountJobs
from opam_ci.core.jobs.outcome import Cause, Evidence, Failed, FailureReason, Skipped, SkipReason
from opam_ci.core.jobs.plan import PlannedJob
from opam_ci.core.jobs.records import RevisionKey
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.selector import RESTART_COST, RestartOrigin, RestartSelector
from opam_ci.core.jobs.summary import (
    UNDECIDED,
    Counts,
    PlatformStanding,
    Standing,
    State,
    Summary,
    total,
)
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.workflows import options
from opam_ci.workflows.pull_request import PullRequestWorkflow
from tests.support.fakes.world import HEAD_2, Script, World, for_ever, is_decided, passes_after

PLATFORM = EMBEDDED.model_copy(update={"lower_bounds": True, "revdeps": True})
BROKEN = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="test"))
HISTORY = 60
"""Events after which a history counts as long in these tests."""

FULL = InfrastructureError("no space left", cause=Cause.DISK_FULL)


def revdep(number: int) -> str:
    return f"r{number:04}.1"


def job(number: int, kind: str = "revdep") -> str:
    return f"{kind} {PLATFORM.name} a.1 {revdep(number)}"


def listing(script: Script, total: int, *, tested: int = 0) -> None:
    script.revdeps = tuple(
        Revdep(package=revdep(number), has_tests=number < tested) for number in range(total)
    )


def revdeps(summary: Summary) -> Counts:
    return total(each for each in summary.tallies if each.kind in REVDEP_KINDS)


async def test_every_kind_runs_after_the_build(world: World, ref: PullRequestRef) -> None:
    listing(world.script, 3, tested=1)
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    summary = await world.until(handle, is_decided)
    assert summary.state is State.SUCCESS
    assert {row.job.kind.value for row in summary.jobs} == {
        *("analysis", "lint", "build", "test", "lower-bounds", "list-revdeps"),
        *("revdep", "revdep-test"),
    }
    assert revdeps(summary) == Counts(passed=4)
    assert summary.counts.passed == 6 + 4
    assert [name for name, _, _ in world.script.started if name.startswith("revdep")]
    assert world.script.started.index((job(0), 1, 1)) < world.script.started.index(
        (job(0, "revdep-test"), 1, 1)
    )
    written = {record.status.job.id for record in world.script.jobs}
    assert {job(0), job(1), job(2), job(0, "revdep-test")} <= written


async def test_nothing_looks_decided_before_revdeps_are_counted(
    world: World, ref: PullRequestRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing(world.script, 3)
    index = world.script.index

    def slowly(given: CountJobs) -> tuple[PlatformStanding, ...]:
        found = index.real.count(given)
        if any(each.kind in REVDEP_KINDS for one in found for each in one.counts):
            # Longer than until the next report of what is decided.
            time.sleep(4)
        return found

    monkeypatch.setattr(index, "count", slowly, raising=False)
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    summary = await world.until(handle, is_decided)
    assert revdeps(summary) == Counts(passed=3)


@pytest.mark.parametrize("built", [0, 1])
async def test_flagged_revdeps_are_counted_and_not_built(
    world: World, ref: PullRequestRef, built: int
) -> None:
    listing(world.script, built)
    world.script.flagged = ("avoided.1", "deprecated.1")
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    summary = await world.until(handle, lambda now: is_decided(now) and bool(now.notices))
    assert summary.notices == (
        f"{PLATFORM.name}: 2 revdeps of a.1 not built: flagged avoid-version or deprecated",
    )
    assert revdeps(summary) == Counts(passed=built)


async def test_nothing_is_listed_of_a_package_that_does_not_build(
    world: World, ref: PullRequestRef
) -> None:
    listing(world.script, 3)
    world.script.steps[f"build {PLATFORM.name} a.1"] = [BROKEN]
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    summary = await world.until(handle, is_decided)
    row = world.row(summary, f"list-revdeps {PLATFORM.name} a.1")
    assert isinstance(row.outcome, Skipped)
    assert row.outcome.reason is SkipReason.NOT_BUILT
    assert not revdeps(summary).total


async def test_failures_and_errors_are_counted_apart_and_shown(
    world: World, ref: PullRequestRef
) -> None:
    listing(world.script, 5, tested=5)
    world.script.steps[job(1)] = [BROKEN]
    world.script.steps[job(2)] = [FULL, FULL, FULL]
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    summary = await world.until(handle, is_decided)
    assert revdeps(summary) == Counts(passed=6, failed=1, errored=2, skipped=1)
    assert summary.cause_counts == {Cause.DISK_FULL: 2}
    assert summary.state is State.FAILURE
    assert summary.causes == (Cause.DISK_FULL,)
    assert {row.job.id for row in summary.jobs} >= {job(1), job(2), job(2, "revdep-test")}


async def test_a_listing_alone_is_never_green(world: World, ref: PullRequestRef) -> None:
    listing(world.script, 2)
    world.script.steps[job(0)] = [for_ever]
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    seen = await world.until(handle, lambda now: revdeps(now).passed == 1)
    assert seen.state is State.PENDING
    assert seen.counts.undecided == 1
    await handle.signal(PullRequestWorkflow.cancel)
    stopped = await world.until(handle, is_decided)
    assert revdeps(stopped) == Counts(passed=1, cancelled=1)
    assert world.script.cancelled == [job(0)]


async def test_only_errored_ones_restart_and_rounds_grow(world: World, ref: PullRequestRef) -> None:
    listing(world.script, 4, tested=4)
    world.script.steps[job(1)] = [BROKEN]
    world.script.steps[job(2)] = [FULL, FULL, FULL]
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    await world.until(handle, is_decided)
    before = len(world.script.started)
    await handle.signal(PullRequestWorkflow.restart)
    summary = await world.until(handle, lambda now: is_decided(now) and not now.counts.errored)
    again = {(name, round_) for name, round_, _ in world.script.started[before:]}
    assert again == {(job(2), 2), (job(2, "revdep-test"), 2)}
    assert revdeps(summary) == Counts(passed=6, failed=1, skipped=1)
    assert not summary.causes
    # Then the failed one, and the tests that it kept from running.
    await handle.signal(PullRequestWorkflow.restart, {"which": "failed"})
    summary = await world.until(handle, lambda now: is_decided(now) and not now.counts.failed)
    assert revdeps(summary) == Counts(passed=8)
    assert (job(1), 3, 1) in world.script.started
    assert (job(1, "revdep-test"), 3, 1) in world.script.started


async def test_an_incident_restarts_those_that_it_names(world: World, ref: PullRequestRef) -> None:
    listing(world.script, 3)
    for number in (1, 2):
        world.script.steps[job(number)] = [FULL, FULL, FULL]
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    await world.until(handle, is_decided)
    named = RestartSelector(jobs=(job(1), "build x y"), origin=RestartOrigin.INCIDENT)
    await handle.signal(PullRequestWorkflow.restart, named)
    summary = await world.until(handle, lambda now: is_decided(now) and now.counts.errored == 1)
    assert revdeps(summary) == Counts(passed=2, errored=1)
    newest = {record.status.job.id: record.status for record in world.script.jobs}
    assert (newest[job(1)].round, newest[job(1)].restart_budget_used) == (2, RESTART_COST)
    assert (newest[job(2)].round, newest[job(2)].restart_budget_used) == (1, 0)


async def test_a_restart_that_matches_nothing_is_refused(world: World, ref: PullRequestRef) -> None:
    listing(world.script, 2)
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    await world.until(handle, is_decided)
    await handle.signal(PullRequestWorkflow.restart, {"cause": "dns"})
    summary = await world.until(handle, lambda now: bool(now.notices))
    assert "job that matches" in summary.notices[0]
    assert revdeps(summary) == Counts(passed=2)


async def test_a_waiting_retry_starts_at_once_on_restart(world: World, ref: PullRequestRef) -> None:
    listing(world.script, 1)
    world.script.steps[job(0)] = [FULL]
    retry = {"initial_interval": timedelta(days=3), "maximum_interval": timedelta(days=3)}
    revision = world.revision(platforms=(PLATFORM,), retry=retry)
    handle = await world.open(ref, revision)
    waiting = await world.until(handle, lambda now: now.counts.retrying == 1)
    assert waiting.cause_counts == {Cause.DISK_FULL: 1}
    await handle.signal(PullRequestWorkflow.restart)
    summary = await world.until(handle, is_decided)
    assert revdeps(summary) == Counts(passed=1)


async def test_a_cancelled_listing_goes_on_where_it_stopped(
    world: World, ref: PullRequestRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "JOBS_AT_ONCE", 2)
    monkeypatch.setattr(options, "JOBS_QUEUED", 2)
    listing(world.script, 6)
    world.script.steps[job(0)] = [for_ever]
    world.script.steps[job(1)] = [for_ever]
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    await world.until(handle, lambda now: revdeps(now).running == 2)
    await handle.signal(PullRequestWorkflow.cancel)
    stopped = await world.until(handle, is_decided)
    assert revdeps(stopped) == Counts(cancelled=6)
    await handle.signal(PullRequestWorkflow.restart)
    summary = await world.until(handle, lambda now: now.counts.cancelled == 0 and is_decided(now))
    assert revdeps(summary) == Counts(passed=6)
    ran = [name for name, _, _ in world.script.started if name.startswith("revdep ")]
    assert sorted(ran) == sorted([job(0), job(1), *(job(n) for n in range(6))])


async def test_a_cancel_leaves_no_job_that_is_added_meanwhile(
    world: World, ref: PullRequestRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing is cancelled while its jobs are written: they are cancelled, too."""
    listing(world.script, 2)
    writing, released = threading.Event(), threading.Event()
    plan = world.script.index.real.plan

    def plan_slowly(key: RevisionKey, jobs: Iterable[PlannedJob], **how: Any) -> None:
        planned = list(jobs)
        if any(each.job.kind in REVDEP_KINDS for each in planned):
            writing.set()
            released.wait(30)
        plan(key, planned, **how)

    monkeypatch.setattr(world.script.index.real, "plan", plan_slowly)
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    await asyncio.to_thread(writing.wait, 30)
    await handle.signal(PullRequestWorkflow.cancel)
    asyncio.get_running_loop().call_later(2, released.set)

    def standings() -> dict[str, Standing]:
        return {
            record.status.job.id: record.standing
            for record in world.script.jobs
            if record.status.job.kind in REVDEP_KINDS
        }

    summary = await world.until(handle, lambda now: revdeps(now).total == 2 and is_decided(now))
    assert revdeps(summary) == Counts(cancelled=2)
    # The summary tells of a cancel before it is in the index.
    await world.until(handle, lambda _: UNDECIDED.isdisjoint(standings().values()))
    assert standings() == dict.fromkeys([job(0), job(1)], Standing.CANCELLED)


async def test_a_new_head_stops_them(world: World, ref: PullRequestRef) -> None:
    listing(world.script, 2)
    world.script.steps[job(0)] = [for_ever]
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    await world.until(handle, lambda now: revdeps(now).running > 0)
    await handle.signal(
        PullRequestWorkflow.head_changed, world.revision(HEAD_2, platforms=(PLATFORM,))
    )
    summary = await world.until(handle, lambda now: now.head == HEAD_2 and is_decided(now))
    assert revdeps(summary) == Counts(passed=2)
    assert job(0) in world.script.cancelled


async def test_an_index_that_is_away_holds_no_job_in_hand_up(
    world: World, ref: PullRequestRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs goes on, and is told of; what comes next waits, and goes on by itself."""
    monkeypatch.setattr(options, "JOBS_AT_ONCE", 2)
    monkeypatch.setattr(options, "JOBS_QUEUED", 2)
    listing(world.script, 6)
    released = asyncio.Event()

    world.script.steps[job(0)] = [passes_after(released)]
    world.script.steps[job(1)] = [passes_after(released)]
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    await world.until(handle, lambda now: revdeps(now).running == 2)
    with world.env.auto_time_skipping_disabled():
        world.script.index.is_down = True
        released.set()
        for _ in range(100):
            summary = await world.summary(handle)
            if revdeps(summary).passed >= 2 and not revdeps(summary).running:
                break
            await asyncio.sleep(0.1)
        # What was read of the list before runs, too.
        assert 2 <= revdeps(summary).passed <= 4
        assert summary.state is State.PENDING
        await asyncio.sleep(1)
        world.script.index.is_down = False
    summary = await world.until(handle, is_decided)
    assert revdeps(summary) == Counts(passed=6)
    ran = [name for name, _, _ in world.script.started if name.startswith("revdep ")]
    assert sorted(ran) == [job(number) for number in range(6)]


async def test_a_long_history_continues_as_new(
    world: World, ref: PullRequestRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "JOBS_AT_ONCE", 5)
    monkeypatch.setattr(options, "JOBS_QUEUED", 5)
    monkeypatch.setattr(
        "temporalio.workflow.Info.is_continue_as_new_suggested",
        lambda info: (
            info.workflow_type == "PlatformWorkflow"
            and workflow.info().get_current_history_length() > HISTORY
        ),
    )
    listing(world.script, 40, tested=3)
    world.script.steps[job(30)] = [BROKEN]
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    summary = await world.until(handle, is_decided)
    assert revdeps(summary) == Counts(passed=42, failed=1)
    runs = {name for name, _, _ in world.script.started if name.startswith("revdep")}
    assert len(runs) == 43
