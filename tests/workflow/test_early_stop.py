"""Stories of reverse dependencies that all fail alike: the rest is not run, and never green."""

from datetime import UTC, datetime, timedelta

import pytest

from opam_ci.core.jobs.build import Revdep
from opam_ci.core.jobs.early_stop import ENOUGH
from opam_ci.core.jobs.job import REVDEP_KINDS
from opam_ci.core.jobs.outcome import Evidence, Failed, FailureReason, Skipped, SkipReason
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.summary import Counts, State, Summary, stopped, total
from opam_ci.core.jobs.waiver import Waiver
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.core.text.result import ran_text
from opam_ci.workflows import options
from opam_ci.workflows.pull_request import PullRequestWorkflow
from tests.support.fakes.world import Script, World, for_ever, is_decided

PLATFORM = EMBEDDED.model_copy(update={"revdeps": True})
BROKEN = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="test"))
REST = 12


def job(number: int, kind: str = "revdep") -> str:
    return f"{kind} {PLATFORM.name} a.1 r{number:04}.1"


def breaking(script: Script, number: int = ENOUGH + REST, *, tested: int = 0) -> None:
    """The first ones fail, and the others would never end."""
    script.revdeps = tuple(
        Revdep(package=f"r{each:04}.1", has_tests=each >= number - tested) for each in range(number)
    )
    for each in range(number):
        script.steps[job(each)] = [BROKEN if each < ENOUGH else for_ever]


def revdeps(summary: Summary) -> Counts:
    return total(each for each in summary.tallies if each.kind in REVDEP_KINDS)


async def test_the_rest_is_not_run_until_somebody_asks(
    world: World, ref: PullRequestRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some of the rest is under way, some waits in the workflow, some is in the index alone.
    monkeypatch.setattr(options, "JOBS_IN_FLIGHT", ENOUGH + 2)
    monkeypatch.setattr(options, "JOBS_QUEUED", ENOUGH + 4)
    monkeypatch.setattr(options, "JOBS_AT_ONCE", ENOUGH + 6)
    breaking(world.script, tested=3)
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    summary = await world.until(handle, is_decided)
    assert summary.state is State.FAILURE
    assert revdeps(summary) == Counts(failed=ENOUGH, skipped=REST + 3)
    assert stopped(summary.tallies) == REST + 3
    numbers = f"{ENOUGH} failed, 2 passed, {REST + 3} not run: all before fail alike"
    assert ran_text(summary) == numbers
    found = {record.status.job.id: record.status.outcome for record in world.script.jobs}
    last = found[job(ENOUGH + REST - 1, "revdep-test")]
    assert isinstance(last, Skipped)
    assert last.reason is SkipReason.STOPPED_EARLY
    expected = f"stopped after {ENOUGH} of {ENOUGH + REST + 3}: all fail alike"
    assert last.evidence.detail == expected
    # Nothing is left of what was under way.
    assert set(world.script.cancelled) <= {job(each) for each in range(ENOUGH, ENOUGH + REST)}

    for each in range(ENOUGH, ENOUGH + REST):
        world.script.steps[job(each)] = []
    await handle.signal(PullRequestWorkflow.restart, {"which": "stopped"})
    summary = await world.until(handle, lambda now: is_decided(now) and not stopped(now.tallies))
    assert revdeps(summary) == Counts(failed=ENOUGH, passed=REST + 3)


async def test_one_that_passes_lets_all_run(
    world: World, ref: PullRequestRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "JOBS_IN_FLIGHT", 1)
    breaking(world.script, 2 * ENOUGH + 1)
    for each in range(2 * ENOUGH + 1):
        world.script.steps[job(each)] = [BROKEN] if each else []
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    summary = await world.until(handle, is_decided)
    assert revdeps(summary) == Counts(passed=1, failed=2 * ENOUGH)


async def test_the_rest_runs_if_the_failures_do_not_count(
    world: World, ref: PullRequestRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "JOBS_IN_FLIGHT", ENOUGH)
    breaking(world.script)
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    await world.until(handle, is_decided)
    for each in range(ENOUGH, ENOUGH + REST):
        world.script.steps[job(each)] = []
    index = world.script.index.real
    now = datetime.now(UTC)
    waiver = Waiver(
        package="r00*",
        because="known",
        login="ann",
        created_at=now,
        expires_at=now + timedelta(days=7),
    )
    [key] = {record.revision for record in world.script.jobs}
    index.add_waiver(waiver)
    assert index.waive(key, now)
    await handle.signal(PullRequestWorkflow.recount, key)
    summary = await world.until(handle, lambda seen: revdeps(seen).passed > 0 and is_decided(seen))
    assert summary.state is State.SUCCESS
    assert not stopped(summary.tallies)
    assert revdeps(summary) == Counts(passed=REST, skipped=ENOUGH)
