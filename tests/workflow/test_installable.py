"""Stories of packages that can be installed nowhere."""

import pytest

from opam_ci.core.jobs.outcome import Evidence, Skipped, SkipReason, label
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.summary import Counts, State
from opam_ci.core.platforms.model import EMBEDDED
from opam_ci.core.text.result import reason_line
from tests.support.fakes.world import PASSED, World, is_decided

BUILD = "build debian-13-ocaml-5.3/amd64 a.1"


def nowhere(reason: SkipReason = SkipReason.NO_SOLUTION) -> Skipped:
    evidence = Evidence(rule="solver-conflict", detail="a.1 needs nope: no such package")
    return Skipped(reason=reason, evidence=evidence)


async def test_installable_on_no_platform_is_a_failure_that_a_restart_decides_anew(
    world: World, ref: PullRequestRef
) -> None:
    other = EMBEDDED.model_copy(update={"ocaml": "5.4"})
    elsewhere = BUILD.replace("5.3", "5.4")
    world.script.steps[BUILD] = [nowhere(), PASSED]
    world.script.steps[elsewhere] = [nowhere(), nowhere()]
    handle = await world.open(ref, world.revision(platforms=(EMBEDDED, other)))
    summary = await world.until(handle, is_decided)
    assert summary.state is State.FAILURE
    for job in (BUILD, elsewhere):
        outcome = world.row(summary, job).outcome or PASSED
        assert label(outcome) == "failed(not_installable)"
        assert reason_line(outcome) == "a.1 needs nope: no such package"
    assert summary.ran == Counts(failed=2, skipped=2)
    # One platform's word alone is worth nothing: both are asked again, and one has it now.
    await handle.signal("restart", {"which": "failed", "platform": EMBEDDED.name})
    summary = await world.until(handle, lambda now: is_decided(now) and now.state != State.FAILURE)
    assert label(world.row(summary, BUILD).outcome or PASSED) == "passed"
    found = world.row(summary, elsewhere)
    assert (label(found.outcome or PASSED), found.round) == ("skipped(no_solution)", 2)
    assert summary.state is State.SUCCESS


@pytest.mark.parametrize(
    ("unavailable", "verdict"),
    [("skip", "skipped(unavailable)"), ("fail", "failed(not_installable)")],
)
async def test_available_on_no_platform_is_as_configured(
    world: World, ref: PullRequestRef, unavailable: str, verdict: str
) -> None:
    world.script.steps[BUILD] = [nowhere(SkipReason.UNAVAILABLE)]
    handle = await world.open(ref, world.revision(unavailable=unavailable))
    summary = await world.until(handle, is_decided)
    assert label(world.row(summary, BUILD).outcome or PASSED) == verdict
