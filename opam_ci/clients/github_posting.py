"""Posting the statuses that are due, whatever GitHub is up to."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Protocol

from pydantic import AwareDatetime

from opam_ci.clients.github_errors import GitHubRefusedError
from opam_ci.core.github.checks import Annotation, CheckRun
from opam_ci.core.github.pace import Pace, Posted, after, due
from opam_ci.core.github.status import Channel, Status
from opam_ci.core.job_errors import InfrastructureError
from opam_ci.core.model import Frozen

_TROUBLE_WAIT = timedelta(seconds=30)
"""Before GitHub is asked again when it does not say when."""


class TakesStatuses(Protocol):
    """The one call of a client that is needed here."""

    async def create_status(self, status: Status) -> None:
        """Posts a commit status."""


class WritesChecks(TakesStatuses, Protocol):
    """The calls of a client that are needed here."""

    async def put_check_run(self, run: CheckRun) -> None:
        """Creates or overwrites a check run."""


class Writer:
    """Sends each status as what it stands for: a commit status, or a check run."""

    def __init__(
        self,
        github: WritesChecks,
        check_runs: Mapping[str, CheckRun],
        *,
        annotated: str | None,
        annotations: Callable[[], Awaitable[tuple[Annotation, ...]]],
    ) -> None:
        """Nothing is sent yet.

        Args:
            github: Where to.
            check_runs: By context, the check run.
            annotated: Which of them gets annotations, once it is concluded.
            annotations: Finds them.
        """
        self._github = github
        self._check_runs = check_runs
        self._annotated = annotated
        self._annotations = annotations

    async def create_status(self, status: Status) -> None:
        """Posts a status, or the check run of its context."""
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
    """What is known after statuses were posted.

    Attributes:
        posted: By context, for the next time.
        next_at: When to come back even if nothing changes, None for never.
        trouble: Why not all went out, if GitHub was not there or said "later": what is
            wanted then is posted the next time, and not what was wanted now.
        refused: What GitHub refused for good, for the record: each is here once only.
        retry_after: With trouble, when GitHub said to come back, None if it did not.
    """

    posted: dict[str, Posted]
    next_at: AwareDatetime | None = None
    trouble: str | None = None
    refused: tuple[str, ...] = ()
    retry_after: timedelta | None = None


async def post_due(  # noqa: PLR0913 - each is a fact of its own
    github: TakesStatuses,
    wanted: tuple[Status, ...],
    posted: Mapping[str, Posted],
    *,
    clock: Callable[[], datetime],
    pace: Pace,
    tell: Callable[[Mapping[str, Posted]], None] = lambda _posted: None,
) -> Posting:
    """Posts what is due, one after the other, and says when to come back.

    GitHub in trouble is an answer and no error, so that nobody waits for it: builds go
    on, and the states that a retry would have posted late are never posted.

    Args:
        github: Where to.
        wanted: The statuses as they should be.
        posted: What was posted before.
        clock: Tells the time.
        pace: How often.
        tell: Is told what is known after each status.
    """
    known = dict(posted)
    refused: list[str] = []
    for status in due(wanted, known, clock(), pace).post:
        try:
            await github.create_status(status)
        except GitHubRefusedError as error:
            known = after(known, status, clock(), refused=str(error))
            refused.append(f"{status.key}: {error}")
        except InfrastructureError as error:
            return Posting(
                posted=known,
                next_at=clock() + (error.retry_after or _TROUBLE_WAIT),
                trouble=str(error),
                refused=tuple(refused),
                retry_after=error.retry_after,
            )
        else:
            known = after(known, status, clock())
        tell(known)
    later = due(wanted, known, clock(), pace)
    # What became due in this very moment is for the next time, which then is now.
    next_at = clock() if later.post else later.next_at
    return Posting(posted=known, next_at=next_at, refused=tuple(refused))
