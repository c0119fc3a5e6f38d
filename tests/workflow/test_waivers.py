"""A story of a waiver: a red head becomes green, and GitHub shows it."""

from datetime import UTC, datetime, timedelta

from opam_ci.cli.operator.waivers import apply
from opam_ci.core.jobs.outcome import Evidence, Failed, FailureReason
from opam_ci.core.jobs.waiver import Waiver
from opam_ci.core.platforms.model import EMBEDDED
from tests.support.fakes.github_stage import Stage

HEAD = "1" * 40
BUILD = f"build {EMBEDDED.name} a.1"
BROKEN = Failed(reason=FailureReason.BUILD, evidence=Evidence(rule="exit-31"))


async def test_a_red_head_becomes_green_when_its_failure_is_waived(stage: Stage) -> None:
    stage.script.steps[BUILD] = [BROKEN]
    await stage.fake.open(1, HEAD, author="alice")
    await stage.until_said(HEAD, "failure")
    index = stage.script.index.real
    now = datetime.now(UTC)
    waiver = index.add_waiver(
        Waiver(
            package="a",
            because="known",
            login="ann",
            created_at=now,
            expires_at=now + timedelta(days=7),
        )
    )
    taken = await apply(index, stage.pull_requests, waiver, preview=False)
    assert list(taken.values()) == [1]
    await stage.until_said(HEAD, "success")
