"""What is shown of waivers: in lists, and when one is added or removed."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from opam_ci.core.jobs.waiver import ANNOUNCED, Waiver
from opam_ci.core.text.taken import jobs_text


def state_text(waiver: Waiver, now: datetime) -> str:
    """Returns until when a waiver is in force, or since when it is not."""
    day = f"{waiver.ends_at:%Y-%m-%d}"
    if waiver.ends_at <= now:
        return f"{'expired' if waiver.removed_at is None else 'removed'} {day}"
    soon = "expires soon: " if waiver.ends_at - now <= ANNOUNCED else "until "
    return f"{soon}{day}"


def added_lines(
    waiver: Waiver, overlapping: Sequence[Waiver], taken: Sequence[int], *, preview: bool
) -> Iterator[str]:
    """Yields what is shown when a waiver was added, or would be.

    Args:
        waiver: The waiver.
        overlapping: Others that can take the same failures, whether or not in force.
        taken: Number of failures that it takes in each open pull request.
        preview: Whether it was not added.
    """
    what = "a waiver would take" if preview else f"waiver {waiver.id} takes"
    yield f"{what} failures of {waiver.scope} until {waiver.expires_at:%d %B %Y}"
    for each in overlapping:
        if each.ends_at > waiver.created_at:
            yield (
                f"  waiver {each.id} by {each.login} takes some of the same until "
                f"{each.expires_at:%d %B %Y}: {each.scope} ({each.because})"
            )
    where = f"{len(taken)} open pull request{'s' * (len(taken) != 1)}"
    does = "would not count any more" if preview else "not counted any more"
    yield f"{jobs_text(sum(taken))} of {where}: {does}"


def removed_line(waiver: Waiver) -> str:
    """Returns what is shown when a waiver was removed."""
    return (
        f"waiver {waiver.id} ({waiver.scope}) is removed; what it took counts again once it is "
        "restarted: `opam-ci restart OWNER/REPO/NUMBER --all --job JOB`"
    )
