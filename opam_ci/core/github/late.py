"""Deliveries that come late, and so may say what is no longer so.

GitHub promises no order, and a redelivery can be three days old: an old push must not bring
an old head back, and an old `opened` must not bring a closed pull request back.
"""

from datetime import datetime, timedelta

from opam_ci.core.github.action import Action, Closed, HeadChanged, Tracked
from opam_ci.core.github.payload import PullRequest

LATE_AFTER = timedelta(minutes=1)
"""Deliveries normally come within seconds. Within this time the workflow sorts them out by
`as_of`; whatever slips through both is found by the next comparison of all heads."""


def is_late(action: Action, now: datetime) -> bool:
    """Whether GitHub must be asked if an action is still right."""
    return isinstance(action, HeadChanged | Closed) and now - action.as_of > LATE_AFTER


def current(action: HeadChanged | Closed, pull: PullRequest, tracked: Tracked) -> Action:
    """Returns what a late action comes to, now that GitHub was asked.

    Args:
        action: What the delivery asked for.
        pull: The pull request as it is.
        tracked: What this CI is responsible for.
    """
    ref = action.pull_request
    if pull.state != "open":
        why = "merged" if pull.merged else "closed"
        return Closed.model_validate({"pull_request": ref, "why": why, "as_of": pull.updated_at})
    if pull.base.ref != tracked.branch:
        return Closed(pull_request=ref, why="moved", as_of=pull.updated_at)
    if isinstance(action, HeadChanged) and action.head == pull.head.sha:
        return action
    return HeadChanged(
        pull_request=ref,
        head=pull.head.sha,
        base=pull.base.sha,
        draft=bool(pull.draft),
        why="missed",
        as_of=pull.updated_at,
    )
