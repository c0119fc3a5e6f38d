"""Reconciliation with GitHub: recovering missed webhooks."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from pydantic import AwareDatetime

from opam_ci.core.github.action import HeadChanged, Tracked, head_changed
from opam_ci.core.github.model import Number, Tolerant, Word
from opam_ci.core.github.payload import PullRequest
from opam_ci.core.model import Frozen

REDELIVERED_FOR = timedelta(days=3)
"""GitHub keeps deliveries for three days and redelivers nothing older."""

_MAX_ATTEMPTS = 5
"""Attempts of one delivery, GitHub's own first one included, after which it is given up:
the comparison of all pull requests makes up for it."""

_UNREADABLE = frozenset({400, 413, 415, 422})
"""Our responses to deliveries that would be rejected the same way again."""


class Delivery(Tolerant):
    """One attempt of GitHub's to deliver an event; a redelivery keeps its guid.

    Attributes:
        id: Of the attempt.
        guid: Of the event: `X-GitHub-Delivery`.
        delivered_at: Time of the attempt.
        status_code: Of our response; 0 if there was none.
        event: `X-GitHub-Event`.
    """

    id: Number
    guid: Word
    delivered_at: AwareDatetime
    status_code: int
    event: Word


class Difference(Frozen):
    """The difference between the open pull requests and the workflows.

    Attributes:
        missed: Heads that no workflow has, in the order of the pull requests.
        renewed: Known heads of pull requests that changed lately and are not drafts: the
            workflow may still have them as drafts; if not, it ignores them.
        suspects: Workflows whose pull request was not listed. A list that changes while
            it is read can leave one out: fetch each from GitHub before it is ended.
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
) -> Difference:
    """Compares open pull requests with the workflows that run.

    Args:
        listed: All open pull requests.
        running: By number, the head that the pull request's workflow tests; empty if it has
            none yet.
        tracked: The repository and branch that this CI tests.
        lately: Changes before this time were compared already.
    """
    ours = {
        pull.number: pull
        for pull in listed
        if pull.base.ref == tracked.branch and pull.state == "open"
    }
    heads = [(pull, head_changed(pull, tracked, "missed")) for _, pull in sorted(ours.items())]
    return Difference(
        missed=tuple(head for pull, head in heads if running.get(pull.number) != head.head),
        renewed=tuple(
            head
            for pull, head in heads
            if running.get(pull.number) == head.head and not head.draft and pull.updated_at > lately
        ),
        suspects=tuple(sorted(set(running) - set(ours))),
    )


def to_redeliver(deliveries: Iterable[Delivery], now: datetime) -> tuple[int, ...]:
    """Returns the ids of deliveries to redeliver, oldest first.

    Those of events none of whose attempts was accepted, unless their payload was rejected as
    unreadable or they were tried often enough.

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
            len(tries) < _MAX_ATTEMPTS
            and not any(_is_accepted(attempt) for attempt in tries.values())
            and last.status_code not in _UNREADABLE
            and now - last.delivered_at < REDELIVERED_FOR
        ):
            chosen.append(last)
    chosen.sort(key=lambda attempt: (attempt.delivered_at, attempt.id))
    return tuple(attempt.id for attempt in chosen)


def _is_accepted(attempt: Delivery) -> bool:
    return 200 <= attempt.status_code < 300  # noqa: PLR2004 - HTTP's own classes
