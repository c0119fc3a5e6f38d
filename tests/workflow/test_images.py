"""A registry that does not answer is the trouble of its own platforms and of nothing else."""

import socket
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from opam_ci.activities.repository import RepositoryActivities
from opam_ci.clients.lint.opam import OpamLint
from opam_ci.clients.lint.program import HostProgram
from opam_ci.clients.logs.store import ArtifactStore
from opam_ci.core.github.status import statuses
from opam_ci.core.jobs.outcome import Cause, label
from opam_ci.core.jobs.requests import PullRequestRef, Revision
from opam_ci.core.jobs.retry import RetrySettings
from opam_ci.core.jobs.summary import JobState, Summary
from opam_ci.core.platforms.limits import PhaseLimits
from opam_ci.core.platforms.model import EMBEDDED, Platform, Runner
from tests.support.fakes.clone import Clone, at, opam
from tests.support.fakes.registry import Registry, registry
from tests.support.fakes.world import Script, World, is_decided, workers

DIGEST = "sha256:" + "5" * 64
LINT = "lint c.1"


@pytest.fixture
def good() -> Iterator[Registry]:
    with registry() as found:
        yield found


@pytest.fixture
def bad() -> Iterator[Registry]:
    with registry() as found:
        yield found


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    clone = Clone(tmp_path / "clone.git")
    base = clone.commit("master", {"repo": b"", at("a.1"): opam()})
    clone.commit("topic", {at("c.1"): opam("run-test: [make]")}, parents=(base,))
    return clone


@pytest.fixture
async def world(environment: WorkflowEnvironment, tmp_path: Path) -> AsyncIterator[World]:
    """A world with the real analysis and the real search for images."""
    script = Script()
    repository = RepositoryActivities(
        ArtifactStore.open((tmp_path / "store").as_uri()),
        OpamLint(HostProgram(Path("/nowhere/opam"))),  # lint is the script's
    )
    script.analyse = repository.analyse  # type: ignore[method-assign]
    async with workers(environment.client, script):
        yield World(environment, script)


def on(host: str, ocaml: str) -> Platform:
    return Platform(
        distribution="debian-13",
        ocaml=ocaml,
        arch="amd64",
        pool="linux-amd64",
        runner=Runner.CONTAINER,
        image=f"{host}/ocaml/opam:{ocaml}",
        compiler="",
    )


def revision(
    world: World, clone: Clone, *platforms: Platform, wait: float = 1, attempts: int = 2
) -> Revision:
    checks = world.revision(
        platforms=platforms,
        retry=RetrySettings(
            initial_interval=timedelta(seconds=wait),
            maximum_interval=timedelta(days=1),
            maximum_attempts=attempts,
        ),
    ).options
    return Revision(
        head=clone.git("rev-parse", "topic"),
        base=clone.git("rev-parse", "master"),
        repository=str(clone.path),
        options=checks,
    )


def build(platform: Platform) -> str:
    return f"build {platform.name} c.1"


def image(platform: Platform) -> str:
    return f"image {platform.name}"


def outcomes(summary: Summary) -> dict[str, str]:
    return {row.job.id: label(row.outcome) if row.outcome else "" for row in summary.jobs}


async def test_a_registry_outage_affects_only_its_platform(
    world: World, ref: PullRequestRef, clone: Clone, good: Registry, bad: Registry
) -> None:
    bad.answer = None
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and not listening: refused
        refusing = on(f"127.0.0.1:{bound.getsockname()[1]}", "5.1")
        hanging, fine = on(bad.host, "5.2"), on(good.host, "5.4")
        asked = revision(world, clone, EMBEDDED, refusing, hanging, fine)
        handle = await world.open(ref, asked)
        summary = await world.until(handle, is_decided)
    expected = {"analysis": "passed", LINT: "passed"}
    for platform in (EMBEDDED, refusing, hanging, fine):
        came_to = "errored(image)" if platform in (refusing, hanging) else "passed"
        expected |= {build(platform): came_to, f"test {platform.name} c.1": came_to}
        if platform is not EMBEDDED:
            expected[image(platform)] = came_to
    assert outcomes(summary) == expected
    assert summary.cause_counts == {Cause.IMAGE: 6}
    overall, lint, _ = statuses(summary, maximum_attempts=2)
    assert (overall.state, lint.state) == ("error", "success")
    # Nothing ran there; each has its own words, and its attempts.
    assert set(world.script.images) == {
        job
        for job, came_to in expected.items()
        if came_to == "passed" and job.startswith(("build", "test"))
    }
    for platform in (refusing, hanging):
        row = world.row(summary, image(platform))
        assert row.outcome is not None
        assert row.outcome.kind == "errored"
        host = (platform.image or "").partition("/")[0]
        said = f"image {platform.image}: registry {host} does not answer: "
        assert (row.outcome.evidence.detail or "").startswith(said)
        assert (row.attempt, [fault.cause for fault in row.faults]) == (2, [Cause.IMAGE] * 2)
    assert world.script.images[build(fine)] == f"{good.host}/ocaml/opam@{DIGEST}"
    assert world.row(summary, "analysis").faults == ()

    # A restart of what the CI lost looks again; the analysis and the others stay as they are.
    bad.answer = 200
    world.script.resolver._unavailable.clear()
    await handle.signal("restart", {"platform": hanging.name})
    summary = await world.until(
        handle, lambda now: is_decided(now) and outcomes(now)[build(hanging)] == "passed"
    )
    assert world.row(summary, build(hanging)).round == 2
    assert world.script.images[build(hanging)] == f"{bad.host}/ocaml/opam@{DIGEST}"
    assert outcomes(summary)[build(refusing)] == "errored(image)"
    assert {row.round for row in summary.jobs if row.job.platform != hanging.name} == {1}


async def test_a_registry_that_comes_back_is_waited_for(
    world: World, ref: PullRequestRef, clone: Clone, bad: Registry
) -> None:
    bad.answer = 503
    platform = on(bad.host, "5.4")
    handle = await world.open(ref, revision(world, clone, platform, wait=20, attempts=5))
    summary = await world.until(
        handle, lambda now: any(row.state is JobState.RETRYING for row in now.jobs)
    )
    # It is told while it lasts.
    row = world.row(summary, image(platform))
    assert "HTTP 503" in (row.faults[0].evidence.detail or "")
    assert row.next_attempt_at is not None
    bad.answer = 200
    summary = await world.until(handle, is_decided)
    assert set(outcomes(summary).values()) == {"passed"}

    def written() -> set[tuple[int, int, str]]:
        return {
            (record.round, record.number, record.outcome.kind)
            for record in world.script.attempts
            if record.job.id == image(platform) and record.outcome is not None
        }

    await world.until(handle, lambda _: written() >= {(1, 1, "errored"), (1, 2, "passed")})


async def test_a_restart_does_not_wait_for_the_retry(
    world: World, ref: PullRequestRef, clone: Clone, bad: Registry
) -> None:
    bad.answer = 503
    platform = on(bad.host, "5.4")
    handle = await world.open(ref, revision(world, clone, platform, wait=40_000))
    await world.until(handle, lambda now: any(row.state is JobState.RETRYING for row in now.jobs))
    bad.answer = 200
    await handle.signal("restart")
    summary = await world.until(handle, is_decided)
    assert set(outcomes(summary).values()) == {"passed"}


async def test_a_cancel_ends_the_search(
    world: World, ref: PullRequestRef, clone: Clone, bad: Registry
) -> None:
    bad.answer = 503
    platform = on(bad.host, "5.4")
    handle = await world.open(ref, revision(world, clone, platform, wait=40_000))
    await world.until(handle, lambda now: any(row.state is JobState.RETRYING for row in now.jobs))
    await handle.signal("cancel")
    summary = await world.until(handle, is_decided)
    assert outcomes(summary)[image(platform)] == "cancelled(request)"
    assert outcomes(summary)[build(platform)] == "cancelled(request)"
    assert outcomes(summary)[LINT] == "passed"


async def test_all_jobs_of_a_head_have_one_image(
    world: World, ref: PullRequestRef, clone: Clone, good: Registry
) -> None:
    hours = timedelta(hours=3)
    platform = on(good.host, "5.4").model_copy(update={"timeouts": PhaseLimits(build=hours)})
    handle = await world.open(ref, revision(world, clone, platform))
    await world.until(handle, is_decided)
    # And all have the platform's time limits.
    assert world.script.limits[build(platform)].build == hours
    good.digest = "sha256:" + "6" * 64
    await handle.signal("restart", {"which": "all", "platform": platform.name})
    await world.until(
        handle, lambda now: is_decided(now) and world.row(now, build(platform)).round == 2
    )
    assert world.script.images[build(platform)] == f"{good.host}/ocaml/opam@{DIGEST}"
    assert good.asked == 1


async def test_an_image_that_the_registry_does_not_have_is_for_the_workers_to_find(
    world: World, ref: PullRequestRef, clone: Clone, good: Registry
) -> None:
    good.answer = 404
    platform = on(good.host, "5.4")
    handle = await world.open(ref, revision(world, clone, platform))
    summary = await world.until(handle, is_decided)
    assert world.script.images[build(platform)] == platform.image
    [notice] = summary.notices
    assert "does not have it, or denies access: HTTP 404" in notice
