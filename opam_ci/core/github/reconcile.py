"""Catching up: what webhooks would have said while nobody listened."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from pydantic import AwareDatetime

from opam_ci.core.github.action import HeadChanged, Tracked
from opam_ci.core.github.model import Number, Tolerant, Word
from opam_ci.core.github.payload import PullRequest
from opam_ci.core.model import Frozen

REDELIVERED_FOR = timedelta(days=3)
"""GitHub keeps deliveries for three days and redelivers nothing older."""

_MOST_ATTEMPTS = 5
"""Attempts of one delivery, GitHub's own first one included, after which it is given up:
the comparison of all pull requests makes up for it."""

_UNREADABLE = frozenset({400, 413, 415, 422})
"""Our own answers to what would be refused the same way again."""


class Delivery(Tolerant):
    """One attempt of GitHub's to deliver an event; a redelivery keeps its guid.

    Attributes:
        id: Of the attempt.
        guid: Of the event: `X-GitHub-Delivery`.
        delivered_at: When.
        status_code: What we answered; 0 if nothing.
        event: `X-GitHub-Event`.
    """

    id: Number
    guid: Word
    delivered_at: AwareDatetime
    status_code: int
    event: Word


class Catching(Frozen):
    """How the open pull requests differ from the workflows.

    Attributes:
        missed: Heads that no workflow knows, in the order of the pull requests.
        renewed: Known heads of pull requests that changed lately and are no drafts: the
            workflow may still know them as drafts, and takes no notice if it does not.
        suspects: Workflows whose pull request was not listed. A list that changes while
            it is read can leave one out: ask GitHub for each before it is ended.
    """

    missed: tuple[HeadChanged, ...]
    renewed: tuple[HeadChanged, ...]
    suspects: tuple[int, ...]


def compare(
    listed: Iterable[PullRequest],
    running: Mapping[int, str],
    tracked: Tracked,
    *,
    lately: datetime,
) -> Catching:
    """Compares open pull requests with the workflows that run.

    Args:
        listed: All open pull requests.
        running: By number, the head that the pull request's workflow works on; empty if
            it has none yet.
        tracked: What this CI is responsible for.
        lately: What changed before this time was compared since.
    """
    ours = {
        pull.number: pull
        for pull in listed
        if pull.base.ref == tracked.branch and pull.state == "open"
    }
    heads = [(pull, _missed(pull, tracked)) for _, pull in sorted(ours.items())]
    return Catching(
        missed=tuple(head for pull, head in heads if running.get(pull.number) != head.head),
        renewed=tuple(
            head
            for pull, head in heads
            if running.get(pull.number) == head.head and not head.draft and pull.updated_at > lately
        ),
        suspects=tuple(sorted(set(running) - set(ours))),
    )


def _missed(pull: PullRequest, tracked: Tracked) -> HeadChanged:
    return HeadChanged(
        pull_request=tracked.ref(pull.number),
        head=pull.head.sha,
        base=pull.base.sha,
        draft=bool(pull.draft),
        why="missed",
        as_of=pull.updated_at,
    )


def to_redeliver(deliveries: Iterable[Delivery], now: datetime) -> tuple[int, ...]:
    """Returns the ids of deliveries to ask for again, oldest first.

    Those of events none of whose attempts was accepted, unless we refused to read them
    or they were tried often enough.

    Args:
        deliveries: All attempts that GitHub lists, in any order.
        now: The time.
    """
    attempts: dict[str, dict[int, Delivery]] = defaultdict(dict)
    for delivery in deliveries:
        attempts[delivery.guid][delivery.id] = delivery
    chosen = []
    for tries in attempts.values():
        last = max(tries.values(), key=lambda attempt: (attempt.delivered_at, attempt.id))
        if (
            len(tries) < _MOST_ATTEMPTS
            and not any(_is_accepted(attempt) for attempt in tries.values())
            and last.status_code not in _UNREADABLE
            and now - last.delivered_at < REDELIVERED_FOR
        ):
            chosen.append(last)
    chosen.sort(key=lambda attempt: (attempt.delivered_at, attempt.id))
    return tuple(attempt.id for attempt in chosen)


def _is_accepted(attempt: Delivery) -> bool:
    return 200 <= attempt.status_code < 300  # noqa: PLR2004 - HTTP's own classes
