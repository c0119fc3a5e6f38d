"""Texts of statuses, tables and the Temporal Web UI."""

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from opam_ci.core.incidents.model import Incident, Scope
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause, Outcome, fixes_of, label
from opam_ci.core.jobs.summary import UNDECIDED, JobState, JobStatus, Standing, Summary
from opam_ci.core.printable import clip
from opam_ci.core.text.effect import effect_notices
from opam_ci.core.text.result import fixes_line, reason_line, standing

_MARKS = {
    "passed": "✅",
    "failed": "❌",
    "skipped": "⏭",
    "errored": "🔧",
    "cancelled": "🛑",
    "queued": "·",
    "running": "▶",
    "retrying": "↻",
}

WORST_FIRST = (
    Standing.FAILED,
    Standing.ERRORED,
    Standing.RETRYING,
    Standing.RUNNING,
    Standing.QUEUED,
    Standing.CANCELLED,
    Standing.SKIPPED,
    Standing.PASSED,
)
"""Standings as people want to see them."""

CAUSE_TEXTS = {
    Cause.NETWORK: "network failure",
    Cause.DNS: "DNS resolution failed",
    Cause.GIT: "git failed",
    Cause.SOURCE_HOST: "a source host is down",
    Cause.PACKAGE_MIRROR: "a system package mirror is down",
    Cause.DISK_FULL: "disk full",
    Cause.OUT_OF_MEMORY: "out of memory",
    Cause.WORKER_LOST: "a build worker was lost",
    Cause.SANDBOX: "the sandbox does not start",
    Cause.IMAGE: "build image unavailable",
    Cause.OPAM_INTERNAL: "internal error of opam",
    Cause.SOLVER_TIMEOUT: "solver timeout",
    Cause.REPOSITORY_STATE: "the CI's copy of the repository is broken",
    Cause.GITHUB: "GitHub request failed",
    Cause.STORAGE: "the CI's storage is down",
    Cause.UNKNOWN: "unknown cause",
}


def _cell(text: str) -> str:
    """Returns text that cannot break out of a markdown table cell."""
    flat = " ".join(text.split())
    for char in "\\`*_{}[]<>|~":
        flat = flat.replace(char, f"\\{char}")
    return flat


def verdict(status: JobStatus) -> str:
    """Returns the outcome or state of a job, such as `failed(test)` or `retrying(dns)`."""
    if status.outcome is not None:
        return label(status.outcome)
    if status.state is JobState.RETRYING and status.faults:
        return f"retrying({status.faults[-1].cause})"
    return status.state.value


def mark(standing: str) -> str:
    """Returns the one-character mark of a standing."""
    return _MARKS[standing]


def why(status: JobStatus) -> str:
    """Returns the one line that explains a job's state, empty if it needs no explanation."""
    if status.outcome is not None and status.outcome.kind != "passed":
        return reason_line(status.outcome)
    if (fixes := fixes_of(status.outcome)) is not None:
        return fixes_line(fixes)
    if status.faults:
        fault = status.faults[-1]
        detail = fault.evidence.detail or (
            fault.evidence.lines[0].text if fault.evidence.lines else CAUSE_TEXTS[fault.cause]
        )
        if status.outcome is not None:
            return f"recovered by retry from {fault.cause} (attempt {fault.attempt}): {detail}"
        return f"attempt {fault.attempt}: {detail}"
    return ""


def worst_first(rows: Iterable[JobStatus]) -> list[JobStatus]:
    """Returns rows sorted for people, the worst first; equals keep their order."""
    return sorted(rows, key=lambda row: WORST_FIRST.index(row.standing))


def markdown_matrix(summary: Summary, *, rows: int = 60) -> str:
    """Returns the job matrix as markdown for the Temporal Web UI.

    Args:
        summary: The state to show.
        rows: Maximum number of rows, worst first: the payload must stay small.
    """
    lines = [
        f"**{summary.state.value}** — {_cell(standing(summary))}",
        "",
        "| | job | platform | attempt | result | why |",
        "|---|---|---|---|---|---|",
    ]
    chosen = worst_first(summary.jobs)[:rows]
    lines += [
        f"| {mark(job.standing)} | {_cell(job.job.title)} "
        f"| {_cell(job.job.platform or 'repository')} | {job.attempt} "
        f"| {_cell(verdict(job))} | {_cell(clip(why(job), 160))} |"
        for job in chosen
    ]
    if (more := summary.counts.total - len(chosen)) > 0:
        lines.append(f"\n… and {more} more")
    notices = (*effect_notices(summary.effect), *summary.notices[-5:])
    lines += [f"\n> {_cell(notice)}" for notice in notices]
    return "\n".join(lines)


def hidden_lines(summary: Summary, rows: Sequence[JobStatus]) -> list[str]:
    """Returns a line for each standing of which some jobs are not shown, and how to list them all.

    Args:
        summary: The state, with the true numbers.
        rows: Those that are shown.
    """
    if summary.counts.total <= len(rows):
        return []
    words = {standing: standing.value for standing in Standing} | dict.fromkeys(
        # The worker knows better than the workflow which of them run at the moment.
        UNDECIDED,
        "to go",
    )
    shown = Counter(words[row.standing] for row in rows)
    all_of: Counter[str] = Counter()
    for each in summary.tallies:
        all_of[words[each.standing]] += each.number
    repository, _, branch = summary.pull_request.partition(":")
    named = f"{repository}/heads/{branch}" if branch else repository.replace("#", "/")
    listed = f"opam-ci jobs {shlex.quote(named)} --standing"
    return [
        f"{all_of[word]} {word}, {shown[word]} shown"
        + ("" if word == "to go" else f"; all: {listed} {word}")
        for word in dict.fromkeys(words[standing] for standing in WORST_FIRST)
        if all_of[word] > shown[word]
    ]


def activity_summary(kind: JobKind, title: str) -> str:
    """Returns the one-line summary that the Temporal Web UI shows for a job's activity."""
    return clip(f"{kind.value}: {title}" if kind is JobKind.ANALYSIS else title, 200)


def verdict_line(outcome: Outcome) -> str:
    """Returns the last line of an attempt's log: the verdict and why."""
    if outcome.kind == "passed":
        return "\n==== opam-ci: verdict: passed\n"
    rule = "" if outcome.kind == "cancelled" else f" [{outcome.evidence.rule}]"
    return f"\n==== opam-ci: verdict: {label(outcome)}{rule}: {reason_line(outcome)}\n"


def problems(error: ValidationError) -> str:
    """Returns a validation error in one line."""
    found = [
        f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['msg']}"
        for item in error.errors(include_url=False)[:3]
    ]
    return clip("; ".join(found), 300)


def incident_title(incident: Incident) -> str:
    """Returns an incident in one line: cause, place, and affected jobs."""
    place = incident.place
    where = f"worker {place.worker}" if place.worker else f"pool {place.pool}"
    if place.scope is Scope.ALL:
        where = "several pools"
    hit = f"{incident.jobs} jobs of {incident.pull_requests} pull requests"
    return f"{CAUSE_TEXTS[incident.cause]} ({incident.cause}) on {where}: {hit}"


def incident_details(incident: Incident, hit: int, undecided: int, notes: Sequence[str]) -> str:
    """Returns an incident as markdown for the Temporal Web UI.

    Args:
        incident: The incident.
        hit: Number of its jobs that are errored.
        undecided: Number of its jobs that are under way again.
        notes: Further notes.
    """
    state = "open"
    if incident.resolved_at is not None:
        state = f"resolved at {incident.resolved_at:%Y-%m-%d %H:%M} UTC by {incident.resolved_by}"
    evidence = incident.evidence
    quote = evidence.lines[0].text if evidence.lines else evidence.detail or evidence.rule
    seen = f"{incident.first_seen_at:%Y-%m-%d %H:%M} UTC, last {incident.last_seen_at:%H:%M} UTC"
    lines = [
        f"**{_cell(incident_title(incident))}** — {_cell(state)}",
        "",
        f"First seen {seen}, {incident.faults} faults; {hit} jobs errored, {undecided} under way.",
        "",
        f"> {_cell(clip(quote, 300))}",
    ]
    lines += [f"\n- {_cell(note)}" for note in notes]
    return "\n".join(lines)
