"""What an author's pull requests may cost before somebody with rights approves them."""

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from typing import Literal

from pydantic import AwareDatetime, Field

from opam_ci.core.jobs.job import BASE_KINDS, REVDEP_KINDS, JobKind
from opam_ci.core.model import Frozen

_REVDEPS = REVDEP_KINDS | {JobKind.LIST_REVDEPS}
_SMALL = BASE_KINDS | {
    *(JobKind.LINT, JobKind.PLATFORM, JobKind.IMAGE, JobKind.BUILD, JobKind.TEST)
}
"""Kinds of the small set, which is built on the first platform only, as for drafts."""

RESTART_WINDOW = timedelta(hours=1)
"""Time in which an author's restarts are counted."""


class Author(Frozen):
    """The author of a pull request, and the limits for whoever is not a maintainer.

    Attributes:
        login: The account.
        is_new: Whether the small set alone is built until a maintainer approves the head: nothing
            of the account was merged before.
        hours_a_day: CPU hours that jobs of all pull requests of the account may use in a day (UTC)
            before reverse dependencies wait; None for any number.
        restarts_an_hour: Restarts of a pull request by its author; None for any number.
    """

    login: str = Field(max_length=100)
    is_new: bool = False
    hours_a_day: float | None = None
    restarts_an_hour: int | None = None

    @property
    def is_limited(self) -> bool:
        """Whether jobs may have to wait."""
        return self.is_new or self.hours_a_day is not None


class Approval(Frozen):
    """Argument of the signal `approve`: a maintainer's `/opam-ci ok`.

    Attributes:
        as_of: When it was given, by the upstream's clock, to the second.
        always: Whether it is for all later heads of the pull request too.
    """

    as_of: AwareDatetime
    always: bool = False

    def joined(self, before: "Approval | None") -> "Approval":
        """Returns this approval and an earlier one, which may arrive later, as one."""
        if before is None:
            return self
        return Approval(as_of=max(self.as_of, before.as_of), always=self.always or before.always)

    def covers(self, pushed_at: datetime) -> bool:
        """Whether it is about a head: nobody approves what was pushed behind their back.

        Args:
            pushed_at: Since when the pull request has this head, by the upstream's clock. Of the
                same second it is unknown which came first.
        """
        return self.always or pushed_at < self.as_of


class Hold(Frozen):
    """Why queued jobs are not run yet.

    Attributes:
        reason: `new-author`: only the small set is built; `budget`: reverse dependencies wait.
        used: CPU hours of the author's jobs today, for a budget.
        hours: The budget.
        until: When it ends by itself; None for never.
    """

    reason: Literal["new-author", "budget"]
    used: float = 0
    hours: float = 0
    until: AwareDatetime | None = None

    def keeps(self, *, is_first_platform: bool) -> frozenset[JobKind]:
        """Returns the kinds of jobs of a platform that wait."""
        if self.reason == "budget":
            return _REVDEPS
        return frozenset(JobKind) - (_SMALL if is_first_platform else frozenset())


def day_of(now: datetime) -> datetime:
    """Returns the beginning of a day in UTC."""
    return datetime.combine(now.astimezone(UTC).date(), time(), UTC)


def hold_for(author: Author, used: float, now: datetime) -> Hold | None:
    """Returns what an unapproved head of an author waits for, None for nothing.

    Args:
        author: The author.
        used: CPU hours that the author's jobs used since the day began.
        now: The time.
    """
    if author.is_new:
        return Hold(reason="new-author")
    if author.hours_a_day is None or used < author.hours_a_day:
        return None
    until = day_of(now) + timedelta(days=1)
    return Hold(reason="budget", used=used, hours=author.hours_a_day, until=until)


def next_restart(author: Author, before: Iterable[datetime], now: datetime) -> datetime | None:
    """Returns when an author may restart jobs again, None for now.

    Args:
        author: The author.
        before: Times of the author's restarts of this pull request.
        now: The time.
    """
    recent = sorted(at for at in before if now - at < RESTART_WINDOW)
    if author.restarts_an_hour is None or len(recent) < author.restarts_an_hour:
        return None
    return recent[-author.restarts_an_hour] + RESTART_WINDOW
