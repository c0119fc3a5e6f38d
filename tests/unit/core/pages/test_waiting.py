"""Why a pull request waits."""

import pytest

from opam_ci.core.jobs.hold import Hold
from opam_ci.core.pages.waiting import WaitReason, wait_reason, wait_text

HOLD = Hold(reason="new-author")


@pytest.mark.parametrize(
    ("hold", "runs", "busy", "reason"),
    [
        (HOLD, True, {"p"}, "held"),
        (None, True, {"p"}, "runs"),
        (None, False, {"p", "r"}, "turn"),
        (None, False, {"r"}, "stalled"),
    ],
)
def test_the_reason_is_what_keeps_the_jobs(
    hold: Hold | None, runs: bool, busy: set[str], reason: WaitReason
) -> None:
    assert wait_reason(hold, runs=runs, platforms={"p", "q"}, busy=busy) == reason
    assert wait_text(reason, hold)
