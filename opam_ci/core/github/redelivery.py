"""Late deliveries and redeliveries, which may be outdated.

GitHub promises no order, and a redelivery can be three days old: an old push must not bring
an old head back, and an old `opened` must not bring a closed pull request back.
"""

from datetime import datetime, timedelta

from opam_ci.core.github.action import (
    Action,
    Closed,
    HeadChanged,
    Tracked,
    closed,
    head_changed,
)
from opam_ci.core.github.payload import PullRequest

LATE_AFTER = timedelta(minutes=1)
"""Deliveries normally arrive within seconds. Within this time the workflow orders them by
`as_of`; an error of both is found by the next reconciliation."""


def is_late(action: Action, now: datetime) -> bool:
    """Whether an action must be compared with the pull request's present state on GitHub."""
    return isinstance(action, HeadChanged | Closed) and now - action.as_of > LATE_AFTER


def current(action: HeadChanged | Closed, pull: PullRequest, tracked: Tracked) -> Action:
    """Returns the action that a late one amounts to at present.

    Args:
        action: The action of the delivery.
        pull: The pull request as it is.
        tracked: The repository and branch that this CI tests.
    """
    if pull.state != "open" or pull.base.ref != tracked.branch:
        return closed(pull, tracked)
    if isinstance(action, HeadChanged) and action.head == pull.head.sha:
        return action
    return head_changed(pull, tracked, "missed")
