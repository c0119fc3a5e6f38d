"""Refusals of GitHub: for how long they prove nothing, and when to ask again."""

from datetime import datetime, timedelta

from pydantic import AwareDatetime

from opam_ci.core.model import Frozen

REFUSAL_WAITS = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=6),
)
"""Waits after the first refusals in a row; the last one is repeated."""

REFUSED_FOR = timedelta(days=1)
"""How long refusals prove nothing. GitHub may not know a commit or a pull request for some time
after a push (404, 422), and refuses what needs a permission while an App is changed (403)."""

MISSING_FOR = timedelta(minutes=3)
"""How long GitHub must not know a pull request before it counts as gone."""


class Refusal(Frozen):
    """Refusals in a row of one request.

    Attributes:
        reason: What GitHub said last.
        since: Time of the first.
        times: Number of them.
        retry_at: When to ask again if nothing else happens; None after a day of refusals.
    """

    reason: str
    since: AwareDatetime
    times: int
    retry_at: AwareDatetime | None


def refused_again(before: Refusal | None, reason: str, at: datetime) -> Refusal:
    """Returns the refusals in a row after another one.

    Args:
        before: Those so far, None for none.
        reason: What GitHub said.
        at: When.
    """
    times, since = (0, at) if before is None else (before.times, before.since)
    wait = REFUSAL_WAITS[min(times, len(REFUSAL_WAITS) - 1)]
    is_over = at - since >= REFUSED_FOR
    return Refusal(
        reason=reason, since=since, times=times + 1, retry_at=None if is_over else at + wait
    )
