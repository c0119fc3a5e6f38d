"""Checking with GitHub whether a late delivery is still current."""

from datetime import datetime

from opam_ci.clients.github.api import GitHub
from opam_ci.core.github.action import Action, Closed, HeadChanged, Tracked
from opam_ci.core.github.redelivery import current, is_late


async def confirmed(action: Action, github: GitHub, tracked: Tracked, now: datetime) -> Action:
    """Returns the action for the pull request as it is now: the same unless it came late.

    Raises:
        GitHubRefusedError: GitHub does not show the pull request, at the moment at least.
        InfrastructureError: GitHub is not available, or a rate limit holds.
    """
    if not (isinstance(action, HeadChanged | Closed) and is_late(action, now)):
        return action
    number = action.pull_request.number
    if number is None:
        return action
    return current(action, await github.pull_request(number), tracked)
