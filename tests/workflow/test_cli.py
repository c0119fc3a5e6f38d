"""The command line against workflows that run: what it restarts, stops and lists."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from opam_ci.app import pull_requests as gateway
from opam_ci.cli.main import run
from opam_ci.core.jobs.build import Revdep
from opam_ci.core.jobs.outcome import Evidence, Failed, FailureReason
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.summary import State
from opam_ci.core.platforms.model import EMBEDDED
from tests.support.fakes.world import HEAD_1, HEAD_2, World, for_ever, is_decided

PLATFORM = EMBEDDED.model_copy(update={"revdeps": True})
BUILD = f"build {PLATFORM.name} a.1"
BROKEN = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="test"))
REVDEPS = [f"revdep {PLATFORM.name} a.1 r{number}.1" for number in range(80)]

Say = Callable[..., Awaitable[str]]


@pytest.fixture
def say(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs `opam-ci COMMAND …` against the world."""
    monkeypatch.setenv("OPAM_CI_TEMPORAL", world.client.service_client.config.target_host)
    monkeypatch.setenv("OPAM_CI_INDEX", str(world.script.index.real._engine.url))

    async def said(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        with world.env.auto_time_skipping_disabled():
            assert await asyncio.to_thread(run, list(arguments)) == code
        output = capsys.readouterr()
        return output.out if code == 0 else output.err

    return said


def target(ref: PullRequestRef) -> str:
    return ref.workflow_id.removeprefix("pr/")


async def test_failed_reverse_dependencies_are_listed_and_restarted(
    world: World, ref: PullRequestRef, say: Say
) -> None:
    world.script.revdeps = tuple(
        Revdep(package=job.rpartition(" ")[2], has_tests=False) for job in REVDEPS
    )
    for job in REVDEPS:
        world.script.steps[job] = [BROKEN]
    handle = await world.open(ref, world.revision(platforms=(PLATFORM,)))
    await world.until(handle, is_decided)
    name = target(ref)
    lines = (await say("jobs", name, "--standing", "failed", "--limit", "3")).splitlines()
    assert len(lines) == 3
    for line in lines:
        _, job, outcome, *_ = line.split("\t")
        assert (job in REVDEPS, outcome) == (True, "failed(build)")
    text = await say("log", name, "revdep", "r7.1", code=2)
    assert f"attempt 1 of round 1 of {REVDEPS[7]} has no log (any more)" in text
    would = json.loads(await say("restart", name, "--failed", "--dry-run", "--json"))
    assert (would["jobs"], would["by_platform"]) == (80, {PLATFORM.name: 80})
    text = await say("restart", name, "--failed", "--revdep", "r7")
    assert text == f"1 job of {name} is restarted\n  {REVDEPS[7]}\n"
    await world.until(handle, lambda now: is_decided(now) and now.counts.failed == len(REVDEPS) - 1)
    # Without a pull request: the same selection, wherever something matches.
    text = await say("restart", "--failed", "--kind", "revdep")
    assert text.splitlines()[-1] == "79 jobs of 1 pull request are restarted"
    await world.until(handle, lambda now: now.state is State.SUCCESS)
    assert await say("jobs", name, "--kind", "revdep", "--count") == "80 passed\n"
    assert "has no failed job" in await say("restart", name, "--failed", code=2)


async def test_impossible_updates_are_refused_in_a_sentence(
    world: World, ref: PullRequestRef, say: Say
) -> None:
    world.script.steps[BUILD] = [for_ever]
    handle = await world.open(ref, world.revision())
    await world.until(handle, lambda _: any(job == BUILD for job, *_ in world.script.started))
    name = target(ref)
    refused = {
        ("restart", name, "--platform", "plan9"): "plan9",
        ("restart", name, "--job", BUILD): "running",
        ("restart", name, "--head", HEAD_2[:9]): f"superseded by {HEAD_1[:12]}",
        ("cancel", name, "--package", "no-such"): "has no job that matches",
        ("cancel", "o/r/404"): "no running check 'pr/o/r/404'",
    }
    for arguments, words in refused.items():
        text = await say(*arguments, code=2)
        assert words in text
        assert len(text.splitlines()) == 1, text
    assert BUILD in await say("cancel", name, "--kind", "build", "--head", HEAD_1[:9])
    await world.until(handle, is_decided)
    for command in ("cancel", "restart"):
        text = await say(command, name, "--kind", "lint", code=2)
        assert "passed" in text or "nothing to cancel" in text


async def test_while_the_index_is_unavailable_a_restart_is_accepted_and_done_later(
    world: World, ref: PullRequestRef, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "RESULT_TIMEOUT", timedelta(seconds=1))
    world.script.steps[BUILD] = [BROKEN]
    handle = await world.open(ref, world.revision())
    await world.until(handle, is_decided)
    world.script.index.is_down = True
    assert "accepted, and not done yet" in await say("restart", target(ref), "--failed")
    world.script.index.is_down = False
    await world.until(handle, lambda now: now.state is State.SUCCESS)
    assert [run for run in world.script.started if run[0] == BUILD] == [
        (BUILD, 1, 1),
        (BUILD, 2, 1),
    ]


async def test_a_check_that_has_ended_is_not_restarted(
    world: World, ref: PullRequestRef, say: Say
) -> None:
    handle = await world.open(ref, world.revision(keep_open=False))
    await handle.result()
    text = await say("restart", target(ref), "--all", code=2)
    assert "has ended" in text or "no running check" in text
