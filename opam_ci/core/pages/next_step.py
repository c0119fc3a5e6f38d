"""What to do about a job, from the witnesses on its page."""

from opam_ci.core.jobs.summary import Standing
from opam_ci.core.pages.model import JobPage

_NOTABLE = 3
"""Other pull requests from which on what they share is probably not this one's."""


def next_step(page: JobPage) -> str:
    """Returns what to do, in one or two sentences; empty where there is nothing to do.

    The base is not known: what is said of it is nothing.
    """
    if page.newest_head is not None:
        return f"A newer head is tested: {page.newest_head.head[:12]}."
    match page.job.standing:
        case Standing.FAILED:
            return _after_failure(page)
        case Standing.ERRORED:
            return _after_error(page)
        case Standing.RETRYING:
            return "Nothing to do: the job is tried again by itself."
        case Standing.CANCELLED:
            return "Restart it if its result is still wanted."
        case _:
            return ""


def _after_failure(page: JobPage) -> str:
    others = 0 if page.elsewhere is None else page.elsewhere.pull_requests
    if others >= _NOTABLE:
        since = ""
        if page.elsewhere is not None and page.elsewhere.first_seen_at is not None:
            since = f", first seen {page.elsewhere.first_seen_at:%Y-%m-%d %H:%M} UTC"
        return (
            f"{others} other open pull requests fail the same way{since}: look for what they "
            "share before you change your package."
        )
    previous = page.previous
    if previous is None:
        return "Read the log from the evidence; the script at its head reproduces the job."
    head = previous.head.head[:12]
    match previous.job.standing:
        case Standing.PASSED:
            return f"It passed on the previous head {head}: compare what was pushed since."
        case Standing.FAILED if previous.is_alike:
            return f"It fails as it did on the previous head {head}: that is not mended yet."
        case Standing.FAILED:
            return f"It failed in another way on the previous head {head}: read the log again."
        case _:
            return "Read the log from the evidence; the script at its head reproduces the job."


def _after_error(page: JobPage) -> str:
    if page.incident is not None and page.incident.is_open:
        text = (
            f"Nothing to do: it is restarted once the incident is over, which was noticed at "
            f"{page.incident.first_seen_at:%Y-%m-%d %H:%M} UTC."
        )
    else:
        text = "Restart it, or comment /opam-ci restart errors: its attempts are used up."
    if page.worker is not None and page.worker.faults > 1:
        text += (
            f" Its worker met {page.worker.faults} faults in {page.worker.attempts} attempts "
            "around that time."
        )
    return text
