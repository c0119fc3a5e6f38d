"""The order of what GitHub reports of a pull request: deliveries come in any order."""

from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime

from opam_ci.core.model import Frozen


class ClosedAs(Frozen):
    """Argument of the signal `closed`, for a pull request on GitHub.

    Attributes:
        as_of: When the pull request was closed, by GitHub's clock.
        authoritative: As in `core.jobs.requests.Origin`.
    """

    as_of: AwareDatetime
    authoritative: bool = False


class LatestEvent(Frozen):
    """The newest event that a workflow knows of its pull request.

    Attributes:
        as_of: When the pull request was like this, by GitHub's clock, to the second.
        head: The head, None if it was closed.
    """

    as_of: AwareDatetime
    head: str | None


def compare_events(
    latest: LatestEvent | None, as_of: datetime, head: str | None, *, authoritative: bool
) -> Literal["newer", "older", "unclear"]:
    """Returns how an event relates to the latest one that is known.

    GitHub's clock has seconds: the order of two pushes within one second is known only to
    GitHub itself.

    Args:
        latest: The newest event so far.
        as_of: Time of the event.
        head: Head in the event, None for a close.
        authoritative: Whether GitHub's API confirmed it.
    """
    if latest is None or as_of > latest.as_of:
        return "newer"
    if as_of < latest.as_of:
        return "older"
    return "newer" if authoritative or head == latest.head else "unclear"
