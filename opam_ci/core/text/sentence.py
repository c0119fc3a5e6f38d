"""The state of a head, or of a job, in one sentence: for pages, statuses and the command line."""

from collections import Counter
from datetime import datetime

from opam_ci.core.jobs.outcome import (
    Cause,
    Failed,
    Outcome,
    Reused,
    Skipped,
    SkipReason,
    fixes_of,
    reused_of,
)
from opam_ci.core.jobs.summary import JobState, JobStatus, Standing, State, Summary
from opam_ci.core.printable import clip, flat
from opam_ci.core.text.durations import until_text
from opam_ci.core.text.result import (
    SKIP_TEXTS,
    all_counts_text,
    fixes_line,
    is_stopped,
    progress,
    reason_line,
    result,
)
from opam_ci.core.text.status import CAUSE_TEXTS

STATUS_LIMIT = 140
"""Characters that GitHub accepts in a status description; one more is a 422."""

SENTENCE_LIMIT = 200
"""Characters of the sentence of a page."""

_NAME_LIMIT = 60
"""Characters of a branch's name in a sentence."""

_LINE_LIMIT = 500
"""Characters of the sentence on a terminal."""


def _main_cause(summary: Summary) -> Cause:
    """Returns the cause of most errored or retrying jobs."""
    return _most(summary.cause_counts)


def _most(causes: Counter[Cause]) -> Cause:
    return min(causes, key=lambda cause: (-causes[cause], cause)) if causes else Cause.UNKNOWN


def _next_retry(summary: Summary) -> tuple[datetime, JobStatus] | None:
    waiting = [
        (job.next_attempt_at, job)
        for job in summary.jobs
        if job.state is JobState.RETRYING and job.next_attempt_at is not None
    ]
    return min(waiting, key=lambda pair: pair[0]) if waiting else None


def _retry_text(summary: Summary, maximum_attempts: int | None) -> str:
    """Returns the text about the next automatic retry, empty if no job waits for one."""
    # Not `cause_counts`: jobs that are errored may be so for another cause.
    causes: Counter[Cause] = Counter()
    for each in summary.tallies:
        if each.standing is Standing.RETRYING:
            causes[Cause(each.why)] += each.number
    if not causes.total():
        return ""
    text = f"; {causes.total()} retry, CI fault: {CAUSE_TEXTS[_most(causes)]}"
    if (retry := _next_retry(summary)) is not None:
        at, job = retry
        of_all = "" if maximum_attempts is None else f" of {maximum_attempts}"
        text += f" (attempt {job.attempt + 1}{of_all} at {at:%H:%M} UTC)"
    return text


def _estimate_text(summary: Summary) -> str:
    """Returns by when a head is decided; empty without an estimate, and once that is over."""
    until, now = summary.estimated_until, summary.updated_at
    # One that waits for an approval is decided no sooner.
    if until is None or now is None or until <= now or summary.hold is not None:
        return ""
    return f"; all expected {until_text(until, now)}"


def _stopped(summary: Summary) -> str:
    """Returns why jobs were stopped."""
    by = {each.why for each in summary.tallies if each.standing is Standing.CANCELLED}
    if "closed" in by:
        return "Stopped: the pull request was closed"
    return "Stopped on request" if "request" in by else "Stopped: a newer head is tested"


def sentence(
    summary: Summary,
    *,
    limit: int,
    maximum_attempts: int | None = None,
    builds: bool = True,
) -> str:
    """Returns the state of a head in one sentence: the same on its page and in its statuses.

    Args:
        summary: Its state.
        limit: Characters at most.
        maximum_attempts: Attempts of a job, for "attempt k of n"; None if they are not known.
        builds: Whether its jobs are meant to build something.
    """
    match summary.state:
        case State.PENDING if is_stopped(summary):
            text = f"{_stopped(summary)} ({all_counts_text(summary)})"
        case State.PENDING:
            text = progress(summary) + _retry_text(summary, maximum_attempts)
            if builds and len(estimated := text + _estimate_text(summary)) <= limit:
                text = estimated
        case State.ERROR if not summary.cause_counts:
            text = f"The CI lacks workers, not your package's fault: {result(summary)}"
        case State.ERROR:
            text = (
                f"Internal CI error, not your package: {CAUSE_TEXTS[_main_cause(summary)]}"
                f" ({all_counts_text(summary)}); it is restarted once repaired"
            )
        case State.FAILURE | State.SUCCESS:
            text = result(summary, builds=builds)
            if len(text) > limit:
                text = result(summary, builds=builds, fixes=False)
    return clip(text[0].upper() + text[1:], limit)


def sentence_line(summary: Summary) -> str:
    """Returns the sentence behind the head that it is about, for a terminal."""
    text = sentence(summary, limit=_LINE_LIMIT)
    return f"{summary.pull_request} at {summary.head[:12]}: {text}"


def job_sentence(row: JobStatus) -> str:
    """Returns what a job ended with and why, or its state, in at most 200 characters."""
    outcome = row.outcome
    if outcome is None:
        return clip(_undecided(row), SENTENCE_LIMIT)
    match outcome.kind:
        case "passed":
            fixes = fixes_of(outcome)
            text = f"Passed{_as_before(outcome)}" + (f"; {fixes_line(fixes)}" if fixes else ".")
        case "failed":
            before = f"{_as_before(outcome)}{_unbuilt(outcome)}{_waiver(outcome)}"
            text = f"Failed ({outcome.reason}){before}: {flat(reason_line(outcome))}"
        case "skipped":
            why = f"{SKIP_TEXTS[outcome.reason]}{_as_before(outcome)}{_waiver(outcome)}"
            text = f"Skipped, {why}: {flat(reason_line(outcome))}"
        case "errored":
            cause = CAUSE_TEXTS[outcome.cause]
            text = f"Internal CI error, not your package: {cause}: {flat(reason_line(outcome))}"
        case "cancelled":
            text = f"Cancelled: {reason_line(outcome)}."
    return clip(text, SENTENCE_LIMIT)


def _as_before(outcome: Outcome) -> str:
    """Returns where a job ran whose verdict this is; empty if it is the job's own."""
    if (reused := reused_of(outcome)) is None:
        return ""
    return f", as with the same inputs {when(reused)}"


def _unbuilt(outcome: Failed) -> str:
    """Returns where a dependency was built last that this job did not build; empty if it did."""
    if (seen := outcome.evidence.seen_in) is None:
        return ""
    return f", not built as it failed twice, the last time {when(seen)}"


def when(ran: Reused) -> str:
    """Returns for what an attempt ran, and on which day."""
    where = f"#{ran.number}" if ran.branch is None else clip(ran.branch, _NAME_LIMIT)
    return f"for {where} on {ran.ended_at:%d %B %Y}"


def _waiver(outcome: Failed | Skipped) -> str:
    """Returns by whom a failure is waived and until when, or was; empty if there is no waiver."""
    waiver = outcome.evidence.waiver
    if waiver is None or (outcome.kind == "skipped" and outcome.reason is not SkipReason.WAIVED):
        return ""
    by, day = clip(flat(waiver.login), _NAME_LIMIT), f"{waiver.expires_at:%d %B %Y}"
    if outcome.kind == "failed":
        return f", the waiver by {by} expired on {day}"
    return f" by {by} until {day}"


def _undecided(row: JobStatus) -> str:
    if row.state is JobState.RETRYING:
        cause = row.faults[-1].cause if row.faults else Cause.UNKNOWN
        text = f"CI fault, not your package: {CAUSE_TEXTS[cause]}. Attempt {row.attempt + 1}"
        if row.next_attempt_at is not None:
            text += f" at {row.next_attempt_at:%H:%M} UTC"
        return f"{text}."
    if row.state is JobState.RUNNING:
        return f"Running: {row.phase}." if row.phase is not None else "Running."
    return "Queued."
