"""What to post now, given what was posted: few statuses, in order, never an old one last.

One poster for each pull request keeps a `Posted` for each context, asks `due` what to
send, sends that, and takes it over with `after`. It sends one status at a time, and its
requests end (see the client's time limit) before a retry of them can begin: so what
GitHub has last is what was decided last. The same status twice does no harm.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from opam_ci.core.github.status import Status
from opam_ci.core.model import Frozen
from opam_ci.core.summary import State

STATUSES_LIMIT = 1000
"""Statuses that GitHub accepts for one commit and context; one more is a 422."""

_RESERVE = 50
"""Of those, kept for changes of the state: words may run out, verdicts may not."""


class Pace(Frozen):
    """How often a context is written.

    Attributes:
        interval: Between two statuses of one state, of which only numbers differ. It
            doubles with every 100 statuses that a commit already has.
        longest_interval: What that ends at.
    """

    interval: timedelta = timedelta(seconds=30)
    longest_interval: timedelta = timedelta(minutes=30)

    def wait(self, count: int) -> timedelta:
        """Returns the time between two statuses of one state.

        Args:
            count: How many statuses the context already has at this commit.
        """
        factor: int = 2 ** min(count // 100, 16)
        return min(self.interval * factor, self.longest_interval)


HURRIED = Pace(interval=timedelta(0))
"""For the last words about a pull request, which wait for nothing."""


class Posted(Frozen):
    """What became of one context's last status.

    Attributes:
        status: The last one sent, or refused.
        at: When.
        count: How many the context has at this commit.
        refused: Why GitHub will take none at all for this commit, None if it does: a
            commit that is gone, a token that may not. Recorded once, not tried for ever.
        doubtful: Whether something else may have been sent since, of which no answer came.
    """

    status: Status
    at: datetime
    count: int
    refused: str | None = None
    doubtful: bool = False


class Due(Frozen):
    """What is to be done.

    Attributes:
        post: Statuses to send now, in this order.
        next_at: When to ask again although nothing else happens, None for never.
    """

    post: tuple[Status, ...] = ()
    next_at: datetime | None = None


def due(wanted: Iterable[Status], posted: Mapping[str, Posted], now: datetime, pace: Pace) -> Due:
    """Returns what to send now.

    A changed state, a changed link and a new commit go at once; changed words wait until
    the context's interval is over, and what they said meanwhile is never sent.

    Args:
        wanted: The statuses as they should be.
        posted: By `Status.key`, what was sent.
        now: The time.
        pace: How often.
    """
    post: list[Status] = []
    later: list[datetime] = []
    for status in wanted:
        at = _due_at(status, posted.get(status.key), now, pace)
        if at is None:
            continue
        if at <= now:
            post.append(status)
        else:
            later.append(at)
    # Verdicts first: should GitHub stop us in the middle, they have arrived.
    post.sort(key=lambda status: status.state is State.PENDING)
    return Due(post=tuple(post), next_at=min(later, default=None))


def _due_at(status: Status, last: Posted | None, now: datetime, pace: Pace) -> datetime | None:
    if last is None or last.status.sha != status.sha:
        return now
    is_known = last.status == status and not last.doubtful
    if last.refused is not None or is_known or last.count >= STATUSES_LIMIT:
        return None
    is_other = (last.status.state, last.status.target_url) != (status.state, status.target_url)
    if is_other or last.doubtful:
        return now
    if last.count >= STATUSES_LIMIT - _RESERVE:
        return None
    return last.at + pace.wait(last.count)


def after(
    posted: Mapping[str, Posted], status: Status, at: datetime, *, refused: str | None = None
) -> dict[str, Posted]:
    """Returns what is known once a status was sent.

    Args:
        posted: What was known before.
        status: What was sent.
        at: When.
        refused: GitHub's final refusal, None if it took the status.
    """
    last = posted.get(status.key)
    count = last.count if last is not None and last.status.sha == status.sha else 0
    entry = Posted(
        status=status, at=at, count=count + (1 if refused is None else 0), refused=refused
    )
    return {**posted, status.key: entry}


def doubted(posted: Mapping[str, Posted]) -> dict[str, Posted]:
    """Returns what is known once a posting ended without an answer.

    GitHub may have taken a status whose answer was lost. Should the one before it be wanted again
    by then, GitHub must be told all the same.
    """
    return {key: last.model_copy(update={"doubtful": True}) for key, last in posted.items()}
