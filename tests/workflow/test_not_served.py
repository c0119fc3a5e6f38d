"""Stories of platforms for which there are no workers."""

import asyncio

from temporalio.worker import Worker

from opam_ci.core.github.status import statuses
from opam_ci.core.jobs.outcome import Evidence, Skipped, SkipReason, label
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.summary import Counts, State, Summary
from opam_ci.core.platforms.model import EMBEDDED, Platform
from opam_ci.core.text.result import reason_line
from opam_ci.core.text.sentence import sentence_line
from opam_ci.workflows import options
from tests.support.fakes.world import PASSED, World, is_decided

ARM = Platform(distribution="debian-13", ocaml="5.4", arch="arm64", pool="arm", revdeps=True)
BUILD = f"build {EMBEDDED.name} a.1"
MISSING = f"platform {ARM.name}"


def outcome(world: World, summary: Summary, job: str) -> str:
    return label(world.row(summary, job).outcome or PASSED)


def described(summary: Summary) -> list[str]:
    return [f"{each.state}: {each.description}" for each in statuses(summary, maximum_attempts=3)]


async def test_a_platform_without_workers_is_skipped_until_it_has_some(
    world: World, ref: PullRequestRef
) -> None:
    world.script.unserved = {ARM.pool}
    handle = await world.open(ref, world.revision(platforms=(EMBEDDED, ARM)))
    summary = await world.until(handle, is_decided)
    assert (summary.state, summary.ran, summary.unserved) == (State.SUCCESS, Counts(passed=2), 1)
    assert outcome(world, summary, MISSING) == "skipped(not_served)"
    assert (
        reason_line(world.row(summary, MISSING).outcome or PASSED) == "no worker for the pool arm"
    )
    assert [row.job.id for row in summary.jobs if row.job.platform == ARM.name] == [MISSING]
    assert described(summary)[0] == (
        "success: 2 passed; 1 platform not served; analysis and lint passed"
    )
    # Reverse dependencies were to be built there alone.
    assert described(summary)[2].startswith("error: The CI lacks workers")
    # Somebody asks too early.
    await handle.signal("restart", {"platform": ARM.name})
    summary = await world.until(
        handle, lambda now: is_decided(now) and world.row(now, MISSING).round == 2
    )
    assert outcome(world, summary, MISSING) == "skipped(not_served)"
    # Now a worker has come: what was built stays built.
    world.script.unserved = set()
    world.script.started.clear()
    async with Worker(
        world.client,
        task_queue=options.build_queue(ARM.pool),
        activities=[world.script.run_job],
    ):
        await handle.signal("restart", {})
        summary = await world.until(handle, lambda now: is_decided(now) and not now.unserved)
    assert (summary.state, summary.ran) == (State.SUCCESS, Counts(passed=4))
    assert outcome(world, summary, MISSING) == "passed"
    assert {job for job, *_ in world.script.started} == {
        f"{kind} {ARM.name} a.1" for kind in ("build", "test", "list-revdeps")
    }


async def test_nothing_is_green_where_no_platform_has_workers(
    world: World, ref: PullRequestRef
) -> None:
    world.script.unserved = {ARM.pool, EMBEDDED.pool}
    handle = await world.open(ref, world.revision(platforms=(EMBEDDED, ARM)))
    summary = await world.until(handle, is_decided)
    assert (summary.state, summary.ran, summary.unserved) == (State.ERROR, Counts(), 2)
    nothing = (
        "error: The CI lacks workers, not your package's fault: nothing was built; "
        "2 platforms not served"
    )
    assert described(summary) == [
        f"{nothing}; analysis and lint passed",
        "success: Analysis and lint passed",
        nothing,
    ]
    assert "The CI lacks workers, not your package's fault" in sentence_line(summary)


async def test_a_package_that_no_served_platform_can_install_is_no_failure(
    world: World, ref: PullRequestRef
) -> None:
    """It may be installable on the platform that nobody serves."""
    evidence = Evidence(rule="solver-conflict", detail="a.1 needs OCaml < 5")
    world.script.steps[BUILD] = [Skipped(reason=SkipReason.NO_SOLUTION, evidence=evidence)]
    world.script.unserved = {ARM.pool}
    handle = await world.open(ref, world.revision(platforms=(EMBEDDED, ARM), unavailable="fail"))
    summary = await world.until(handle, is_decided)
    assert outcome(world, summary, BUILD) == "skipped(no_solution)"
    assert summary.state is State.ERROR


async def test_a_platform_is_built_in_the_first_of_its_pools_that_is_served(
    world: World, ref: PullRequestRef
) -> None:
    world.script.unserved = {"boxes"}
    platform = EMBEDDED.model_copy(update={"pool": "boxes", "otherwise": (EMBEDDED,)})
    handle = await world.open(ref, world.revision(platforms=(platform,)))
    summary = await world.until(handle, is_decided)
    assert (summary.state, summary.ran, summary.unserved) == (State.SUCCESS, Counts(passed=2), 0)


async def test_jobs_of_a_pool_that_lost_its_workers_wait(world: World, ref: PullRequestRef) -> None:
    """The pool is served, as its schedule says: a lost worker is an infrastructure fault."""
    handle = await world.open(ref, world.revision(platforms=(EMBEDDED, ARM)))
    summary = await world.until(handle, lambda now: now.ran.passed == 2)
    await asyncio.sleep(0.5)
    assert (summary.state, summary.unserved) == (State.PENDING, 0)
    assert summary.ran.undecided == 2
