"""Debouncing of statuses: few of them, in order, and never an outdated one last.

One poster for each pull request keeps a `Posted` for each context, posts the statuses that
`due` returns, and records each with `after`. It posts one status at a time, and its
requests end (see the client's time limit) before a retry of them can begin: so the last
status on GitHub is the last one that was decided. The same status twice does no harm.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from opam_ci.core.github.refusal import Refusal, refused_again
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
        refusal: Why GitHub did not accept it, None if it did.
        doubtful: Whether another one may have been sent since, without a response.
    """

    status: Status
    at: datetime
    count: int
    refusal: Refusal | None = None
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
    is_known = last.status == status and not last.doubtful and last.refusal is None
    if is_known or last.count >= STATUSES_LIMIT:
        return None
    is_other = (last.status.state, last.status.target_url) != (status.state, status.target_url)
    if is_other or last.doubtful:
        return now
    if last.refusal is not None:
        return last.refusal.retry_at
    if last.count >= STATUSES_LIMIT - _RESERVE:
        return None
    return last.at + debounce.wait(last.count)


def after(posted: Mapping[str, Posted], status: Status, at: datetime) -> dict[str, Posted]:
    """Returns the posted statuses after GitHub accepted one.

    Args:
        posted: Before it was sent.
        status: The status that was sent.
        at: When it was sent.
    """
    last = _last(posted, status)
    count = last.count if last is not None else 0
    return {**posted, status.key: Posted(status=status, at=at, count=count + 1)}


def after_refusal(
    posted: Mapping[str, Posted], status: Status, at: datetime, reason: str, *, is_full: bool
) -> dict[str, Posted]:
    """Returns the posted statuses after GitHub refused one.

    Args:
        posted: Before it was sent.
        status: The status that was sent.
        at: When it was sent.
        reason: What GitHub said.
        is_full: Whether it said that the commit has all statuses of this context that it may
            have: the one proof that none will ever be accepted.
    """
    last = _last(posted, status)
    count = STATUSES_LIMIT if is_full else last.count if last is not None else 0
    refusal = refused_again(last.refusal if last is not None else None, reason, at)
    entry = Posted(status=status, at=at, count=count, refusal=refusal)
    return {**posted, status.key: entry}


def _last(posted: Mapping[str, Posted], status: Status) -> Posted | None:
    """Returns the last status of a context at a commit, None if there is none."""
    last = posted.get(status.key)
    return last if last is not None and last.status.sha == status.sha else None


def doubted(posted: Mapping[str, Posted]) -> dict[str, Posted]:
    """Returns the posted statuses after a posting ended without a response.

    GitHub may have accepted a status whose response was lost. If the one before it is wanted again
    by then, it must be posted all the same.
    """
    return {
        # What GitHub refused last has its own time.
        key: last.model_copy(update={"doubtful": last.refusal is None})
        for key, last in posted.items()
    }


def reconsidered(posted: Mapping[str, Posted], now: datetime) -> dict[str, Posted]:
    """Returns the posted statuses after GitHub itself named the commit: refused ones are due.

    Args:
        posted: Before that.
        now: The time.
    """
    return {
        key: last
        if last.refusal is None
        else last.model_copy(update={"refusal": last.refusal.model_copy(update={"retry_at": now})})
        for key, last in posted.items()
    }
