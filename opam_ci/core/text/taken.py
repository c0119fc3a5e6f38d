"""What a restart or a cancel takes, in the same words wherever it is shown before or after."""

from collections.abc import Iterator

from opam_ci.core.jobs.selector import CancelUpdate, RestartUpdate, Taken
from opam_ci.core.text.durations import seconds

_IDS_SHOWN = 5


def reused_notice(number: int) -> str:
    """Returns a notice on jobs that were not run, since one with the same inputs was."""
    return f"{jobs_text(number)} not run: jobs with the same inputs ran before"


def taken_sentence(name: str, taken: Taken, update: RestartUpdate | CancelUpdate) -> str:
    """Returns what was taken, or would be, such as `214 jobs of o/r/7 would be restarted`.

    Args:
        name: Of the pull request.
        taken: What the update took.
        update: The update.
    """
    done = "restarted" if isinstance(update, RestartUpdate) else "cancelled"
    return f"{jobs_text(taken.jobs)} of {name} {verb(taken.jobs, done, preview=update.preview)}"


def taken_lines(
    name: str, taken: Taken | None, update: RestartUpdate | CancelUpdate
) -> Iterator[str]:
    """Yields the lines that show the result of an update of one pull request.

    Args:
        name: Of the pull request.
        taken: What the update took; None if it is accepted and not executed yet.
        update: The update.
    """
    if taken is None:
        yield pending_sentence(name)
        return
    yield taken_sentence(name, taken, update)
    if taken.total_seconds and isinstance(update, RestartUpdate):
        yield f"  {_last_run(taken)}"
    if len(taken.by_platform) > 1:
        for platform, number in sorted(taken.by_platform.items()):
            yield f"  {number:,} on {platform or 'no platform (analysis, lint)'}"
    shown = taken.first[:_IDS_SHOWN]
    for job in shown:
        yield f"  {job}"
    if taken.jobs > len(shown):
        yield f"  and {taken.jobs - len(shown):,} more; `opam-ci jobs {name}` lists jobs"


def _last_run(taken: Taken) -> str:
    """Returns how long jobs ran when they last ended: about as long as they will take."""
    whole = seconds(taken.total_seconds)
    if taken.jobs == 1:
        return f"it took {whole} when it last ran"
    longest = seconds(taken.longest_seconds)
    return f"when they last ran, the longest took {longest}, and all one after another {whole}"


def pending_sentence(name: str) -> str:
    """Returns the line that shows an update which is accepted and not executed yet."""
    return (
        f"{name}: accepted, and not done yet: the index may be "
        "unavailable. It is done as soon as the index is available; do not repeat it"
    )


def jobs_text(number: int) -> str:
    """Returns a number of jobs, such as `1 job`."""
    return f"{number:,} job{'' if number == 1 else 's'}"


def verb(number: int, done: str, *, preview: bool) -> str:
    """Returns what is done to jobs, or would be, such as `would be restarted`."""
    if preview:
        return f"would be {done}"
    return f"{'is' if number == 1 else 'are'} {done}"
