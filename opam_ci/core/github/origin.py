"""What makes a head one of a pull request on GitHub, and what GitHub is told of it."""

from datetime import datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, Field

from opam_ci.core.github.pace import Pace
from opam_ci.core.github.status import DEFAULT_CONTEXTS, Context
from opam_ci.core.model import Frozen

SILENCE_AFTER_REQUEST = timedelta(seconds=5)
"""So much longer than the longest request to GitHub a worker must be silent to count as lost.
It has none under way any more then: what the next one writes stays the last word."""

LONGEST_REQUEST = timedelta(seconds=60) + SILENCE_AFTER_REQUEST
"""That silence, where nothing else is configured."""


class Report(Frozen):
    """What GitHub is told of a head.

    Attributes:
        contexts: Which statuses.
        target_url: Where they link to, None for nowhere.
        check_runs: Whether each context has a check run too; needs a GitHub App.
        pace: How often a status is written.
        heartbeat_timeout: Silence after which the worker that writes counts as lost.
    """

    contexts: tuple[Context, ...] = Field(default=DEFAULT_CONTEXTS, min_length=1)
    target_url: str | None = None
    check_runs: bool = False
    pace: Pace = Pace()
    heartbeat_timeout: timedelta = LONGEST_REQUEST


class Origin(Frozen):
    """Where a head of GitHub's comes from. A head of a local clone has none.

    Attributes:
        clone_url: Of the repository into which the pull request goes; it has the heads of
            deleted forks too, as `refs/pull/NUMBER/head`.
        branch: The base branch: its newest commit is what the head is merged into.
        draft: Whether the author still works on it.
        as_of: When the pull request was like this, by GitHub's clock, to the second.
        sure: Whether GitHub itself was asked, and not only a delivery believed.
        report: What GitHub is told, None for nothing.
    """

    clone_url: str = Field(min_length=1, max_length=1000)
    branch: str = Field(min_length=1, max_length=400)
    draft: bool = False
    as_of: AwareDatetime
    sure: bool = False
    report: Report | None = None


class ClosedAs(Frozen):
    """Argument of the signal `closed`, as far as GitHub is concerned.

    Attributes:
        as_of: When the pull request was closed, by GitHub's clock.
        sure: As in `Origin`.
    """

    as_of: AwareDatetime
    sure: bool = False


class Known(Frozen):
    """The newest that a workflow was told of its pull request.

    Attributes:
        as_of: When it was so.
        head: The head, None if it was closed.
    """

    as_of: AwareDatetime
    head: str | None


def order(
    known: Known | None, as_of: datetime, head: str | None, *, sure: bool
) -> Literal["newer", "older", "unclear"]:
    """Returns how what is said stands to what is known; deliveries come in any order.

    GitHub's clock has seconds: of two pushes within one of them nobody can tell which is
    the newer one, but by asking GitHub.

    Args:
        known: The newest so far.
        as_of: When it was as it is said.
        head: The head that is said, None for closed.
        sure: Whether GitHub was asked.
    """
    if known is None or as_of > known.as_of:
        return "newer"
    if as_of < known.as_of:
        return "older"
    return "newer" if sure or head == known.head else "unclear"
