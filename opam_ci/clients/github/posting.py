"""Posting the statuses that are due, also while GitHub is not available."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta

from pydantic import AwareDatetime

from opam_ci.clients.github.api import GitHub
from opam_ci.clients.github.errors import GitHubRefusedError
from opam_ci.core.github.checks import Annotation, CheckRun
from opam_ci.core.github.debounce import Debounce, Posted, after, after_refusal, due
from opam_ci.core.github.status import Channel, Status
from opam_ci.core.jobs.errors import InfrastructureError
from opam_ci.core.model import Frozen

_RETRY_WAIT = timedelta(seconds=30)
"""Before the next attempt where GitHub sends no `Retry-After`."""

_NOTED_AT = 2
"""Which refusal in a row is recorded: one alone says nothing about the next request."""


class Writer:
    """Sends each status as a commit status, or as the check run that it stands for."""

    def __init__(
        self,
        github: GitHub,
        check_runs: Mapping[str, CheckRun],
        *,
        annotated: str | None,
        annotations: Callable[[], Awaitable[tuple[Annotation, ...]]],
    ) -> None:
        """Nothing is sent yet.

        Args:
            github: Where to.
            check_runs: Check runs, by context.
            annotated: Context of the one that gets annotations, once it is concluded.
            annotations: Loads them.
        """
        self._github = github
        self._check_runs = check_runs
        self._annotated = annotated
        self._annotations = annotations

    async def send(self, status: Status) -> None:
        """Posts a status, or the check run that it stands for."""
        if status.channel is Channel.STATUS:
            await self._github.create_status(status)
            return
        run = self._check_runs[status.context]
        output = run.output
        if status.context == self._annotated and run.conclusion is not None and output is not None:
            found = output.model_copy(update={"annotations": await self._annotations()})
            run = run.model_copy(update={"output": found})
        await self._github.put_check_run(run)


class Posting(Frozen):
    """The result of posting statuses.

    Attributes:
        posted: By `Status.key`, for the next call.
        next_at: When to call again even if nothing changes, None for never.
        trouble: Why not all were sent, if GitHub was not available or a rate limit holds: the
            next call posts the statuses that are wanted then, and not those wanted now.
        refused: What GitHub refuses again and again, for the record: each is here once only.
        retry_after: With trouble, GitHub's `Retry-After`, None if it sent none.
    """

    posted: dict[str, Posted]
    next_at: AwareDatetime | None = None
    trouble: str | None = None
    refused: tuple[str, ...] = ()
    retry_after: timedelta | None = None


async def post_due(  # noqa: PLR0913 - each is a fact of its own
    send: Callable[[Status], Awaitable[None]],
    wanted: tuple[Status, ...],
    posted: Mapping[str, Posted],
    *,
    clock: Callable[[], datetime],
    debounce: Debounce,
    on_posted: Callable[[Mapping[str, Posted]], None] = lambda _posted: None,
) -> Posting:
    """Posts what is due, one after the other, and returns when to call again.

    If GitHub is not available, that is a result and not an error, so that nothing waits for
    it: builds go on, and the states that a retry would have posted late are never posted.

    Args:
        send: Posts a status.
        wanted: The statuses as they should be.
        posted: What was posted before.
        clock: Returns the current time.
        debounce: How often.
        on_posted: Called with `posted` after each status.
    """
    known = dict(posted)
    refused: list[str] = []
    for status in due(wanted, known, clock(), debounce).post:
        try:
            await send(status)
        except GitHubRefusedError as error:
            known = after_refusal(known, status, clock(), str(error), is_full=error.is_full)
            refusal = known[status.key].refusal
            if error.is_full:
                refused.append(f"{status.key}: {error}")
            elif refusal is not None and refusal.times == _NOTED_AT:
                refused.append(f"{status.key}: {error}; it is tried again for a day")
        except InfrastructureError as error:
            return Posting(
                posted=known,
                next_at=clock() + (error.retry_after or _RETRY_WAIT),
                trouble=str(error),
                refused=tuple(refused),
                retry_after=error.retry_after,
            )
        else:
            known = after(known, status, clock())
        on_posted(known)
    later = due(wanted, known, clock(), debounce)
    # What became due meanwhile is for the next call, which then is due at once.
    next_at = clock() if later.post else later.next_at
    return Posting(posted=known, next_at=next_at, refused=tuple(refused))
