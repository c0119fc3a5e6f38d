"""Why a pull request has queued jobs, by what the index knows."""

from collections.abc import Collection
from typing import Literal

from opam_ci.core.jobs.hold import Hold
from opam_ci.core.text.result import hold_text

WaitReason = Literal["held", "runs", "turn", "stalled"]
"""Why jobs wait.

- `held`: for an approval, or for the next day.
- `runs`: some jobs of the pull request run, and these come after them.
- `turn`: none of its jobs runs, and those of others do on their platforms.
- `stalled`: nothing runs on their platforms.
"""

_TEXTS = {
    "runs": "its turn comes after its other jobs, some of which run",
    "turn": "its platforms run jobs of other pull requests first",
    "stalled": "nothing runs on its platforms: are their workers there?",
}


def wait_reason(
    hold: Hold | None, *, runs: bool, platforms: Collection[str], busy: Collection[str]
) -> WaitReason:
    """Returns why jobs wait.

    Args:
        hold: Of the pull request.
        runs: Whether other jobs of the pull request run.
        platforms: Of the jobs that wait.
        busy: Platforms on which jobs of any pull request run.
    """
    if hold is not None:
        return "held"
    if runs:
        return "runs"
    return "turn" if set(platforms) & set(busy) else "stalled"


def wait_text(reason: WaitReason, hold: Hold | None) -> str:
    """Returns a reason as text."""
    return hold_text(hold) if reason == "held" else _TEXTS[reason]
