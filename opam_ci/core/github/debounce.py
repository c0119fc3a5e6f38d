"""Debouncing of statuses: few of them, in order, and never an outdated one last.

One poster for each pull request keeps a `Posted` for each context, posts the statuses that
`due` returns, and records each with `after`. It posts one status at a time, and its
requests end (see the client's time limit) before a retry of them can begin: so the last
status on GitHub is the last one that was decided. The same status twice does no harm.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from opam_ci.core.github.status import Status
from opam_ci.core.jobs.summary import State
from opam_ci.core.model import Frozen

STATUSES_LIMIT = 1000
"""Statuses that GitHub accepts for one commit and context; one more is a 422."""

_RESERVE = 50
"""Of those, reserved for changes of the state: there must always be room for the verdict."""


class Debounce(Frozen):
    """Debounce of a context.

    Attributes:
        interval: Minimum time between two statuses of one state that differ only in their
            description. It doubles with every 100 statuses that a commit already has.
        longest_interval: Maximum of that.
    """

    interval: timedelta = timedelta(seconds=30)
    longest_interval: timedelta = timedelta(minutes=30)

    def wait(self, count: int) -> timedelta:
        """Returns the minimum time between two statuses of one state.

        Args:
            count: Number of statuses that the context already has at this commit.
        """
        factor: int = 2 ** min(count // 100, 16)
        return min(self.interval * factor, self.longest_interval)


UNDELAYED = Debounce(interval=timedelta(0))
"""For the final statuses of a pull request, which are not delayed."""


class Posted(Frozen):
    """The last status that was posted in a context.

    Attributes:
        status: The last one sent, or rejected.
        at: When it was sent.
        count: Number of statuses that the context has at this commit.
        refused: Why GitHub accepts no status for this commit, None if it does: a commit that
            does not exist any more, a token without permission. Not retried.
        doubtful: Whether another one may have been sent since, without a response.
    """

    status: Status
    at: datetime
    count: int
    refused: str | None = None
    doubtful: bool = False


class Due(Frozen):
    """What to post, and when.

    Attributes:
        post: Statuses to post now, in this order.
        next_at: When the next one is due if nothing else happens, None for never.
    """

    post: tuple[Status, ...] = ()
    next_at: datetime | None = None


def due(
    wanted: Iterable[Status], posted: Mapping[str, Posted], now: datetime, debounce: Debounce
) -> Due:
    """Returns what to post now.

    A changed state, a changed link and a new commit are posted at once; a changed description
    waits until the context's interval is over, and intermediate ones are never posted.

    Args:
        wanted: The statuses as they should be.
        posted: Last posted statuses, by `Status.key`.
        now: The time.
        debounce: The debounce.
    """
    post: list[Status] = []
    later: list[datetime] = []
    for status in wanted:
        at = _due_at(status, posted.get(status.key), now, debounce)
        if at is None:
            continue
        if at <= now:
            post.append(status)
        else:
            later.append(at)
    # Verdicts first, in case a rate limit stops us in the middle.
    post.sort(key=lambda status: status.state is State.PENDING)
    return Due(post=tuple(post), next_at=min(later, default=None))


def _due_at(
    status: Status, last: Posted | None, now: datetime, debounce: Debounce
) -> datetime | None:
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
    return last.at + debounce.wait(last.count)


def after(
    posted: Mapping[str, Posted], status: Status, at: datetime, *, refused: str | None = None
) -> dict[str, Posted]:
    """Returns the posted statuses after one was sent.

    Args:
        posted: Before it was sent.
        status: The status that was sent.
        at: When it was sent.
        refused: GitHub's final rejection, None if it accepted the status.
    """
    last = posted.get(status.key)
    count = last.count if last is not None and last.status.sha == status.sha else 0
    entry = Posted(
        status=status, at=at, count=count + (1 if refused is None else 0), refused=refused
    )
    return {**posted, status.key: entry}


def doubted(posted: Mapping[str, Posted]) -> dict[str, Posted]:
    """Returns the posted statuses after a posting ended without a response.

    GitHub may have accepted a status whose response was lost. If the one before it is wanted again
    by then, it must be posted all the same.
    """
    return {key: last.model_copy(update={"doubtful": True}) for key, last in posted.items()}
