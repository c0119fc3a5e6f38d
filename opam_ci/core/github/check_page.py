"""From a summary to a check run: its conclusion, page, annotations and buttons."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from opam_ci.core.github.checks import (
    BUTTON_ERRORS,
    BUTTON_FAILED,
    Annotation,
    Button,
    CheckOutput,
    CheckRun,
    Conclusion,
)
from opam_ci.core.github.status import About, Context, part_of, status_of
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Cause, SkipReason
from opam_ci.core.jobs.requests import PullRequestRef
from opam_ci.core.jobs.summary import Standing, State, Summary, why_counted
from opam_ci.core.lint.finding import LintFinding, Severity
from opam_ci.core.pages.causes import RowGroup, group_rows
from opam_ci.core.printable import clip, flat
from opam_ci.core.submission.effect import Effect
from opam_ci.core.text.effect import effect_notices, lost_text
from opam_ci.core.text.status import CAUSE_TEXTS, mark, why

_CONCLUSIONS: dict[State, Conclusion] = {
    State.SUCCESS: "success",
    State.FAILURE: "failure",
    # Checks have no "error". GitHub counts neutral as passed, so that would be green
    # without evidence; this one blocks a merge and asks for action.
    State.ERROR: "action_required",
}

_SECTION_ROWS = 40
_LINE = 100
_PLATFORMS = 100
_PROBLEMS = frozenset({Standing.FAILED, Standing.ERRORED, Standing.RETRYING})

_PAGE = 60_000
"""Bytes after which no further section is shown; GitHub accepts 65,535 characters, and the
largest table and the last line need the rest."""


def check_run(  # noqa: PLR0913 - as many as a check run is made from
    summary: Summary,
    context: Context,
    contexts: tuple[Context, ...],
    *,
    pull_request: PullRequestRef,
    maximum_attempts: int,
    target_url: str | None = None,
    findings: Iterable[LintFinding] = (),
) -> CheckRun:
    """Returns the check run of one context.

    Args:
        summary: Of all jobs of a head.
        context: The context.
        contexts: All contexts, to know which are advisory.
        pull_request: The head's pull request.
        maximum_attempts: Attempts of a job.
        target_url: Page of the pull request.
        findings: Of lint, for annotations in the linter's context. GitHub adds them to those
            that the check run has already, so pass them only once.
    """
    part = part_of(summary, context, contexts)
    status = status_of(part, context, maximum_attempts=maximum_attempts)
    conclusion = _CONCLUSIONS.get(status.state)
    begun = [job.started_at for job in part.jobs if job.started_at is not None]
    decided = [job.decided_at for job in part.jobs if job.decided_at is not None]
    counts = part.counts
    has_begun = counts.total > counts.queued
    return CheckRun(
        name=context.name,
        head_sha=summary.head,
        external_id=pull_request.workflow_id,
        status=None if conclusion else "in_progress" if has_begun else "queued",
        conclusion=conclusion,
        details_url=target_url,
        started_at=min(begun, default=None),
        completed_at=max(decided, default=None) if conclusion else None,
        output=CheckOutput(
            title=status.description,
            summary=page(part),
            annotations=tuple(
                annotation(finding) for finding in findings if context.about is About.LINTER
            ),
        ),
        actions=_buttons(part),
    )


def annotation(finding: LintFinding) -> Annotation:
    """Returns a finding as an annotation, on line 1 if it is not about one line."""
    line = finding.line or 1
    return Annotation(
        path=finding.file,
        start_line=line,
        end_line=line,
        annotation_level="failure" if finding.severity is Severity.ERROR else "warning",
        message=f"{finding.message}\n\n{finding.explanation}".strip()[:16_000],
        title=f"{finding.package}: {finding.check}"[:255],
    )


def page(part: Summary) -> str:
    """Returns a check's page in markdown: a table, then failed and errored jobs by reason."""
    numbers: Counter[tuple[Standing, str]] = Counter()
    for each in part.tallies:
        if each.standing in _PROBLEMS or each.why == SkipReason.NOT_SERVED:
            numbers[each.standing, each.why] += each.number
    groups: dict[tuple[Standing, str], list[RowGroup]] = defaultdict(list)
    for group in group_rows(part.jobs):
        groups[group.group.standing, group.why].append(group)
    shown = Counter((job.standing, why_counted(job)) for job in part.jobs)
    # The largest first; names decide between equals, so that a page does not jump.
    ordered = sorted(numbers, key=lambda kind: (-numbers[kind], _title(*kind)))
    sections = [*_effect(part.effect), _table(part)]
    size = sum(len(section.encode()) for section in sections)
    for place, kind in enumerate(ordered):
        some, hidden = groups[kind][:_SECTION_ROWS], groups[kind][_SECTION_ROWS:]
        listed = shown[kind] - sum(len(group.members) for group in hidden)
        if not some and listed == numbers[kind]:
            # All of them are named with what they need.
            continue
        section = _section(_title(*kind), numbers[kind], listed, some)
        size += len(section.encode()) + 2
        if size > _PAGE:
            sections.append(f"… and {len(ordered) - place} more kinds of problems")
            break
        sections.append(section)
    return "\n\n".join(sections)


def _effect(effect: Effect | None) -> list[str]:
    """Returns the section of what the head does to other packages, if it does something."""
    if effect is None or effect == Effect(ocaml=effect.ocaml, left_out=effect.left_out):
        return []
    lines = ["### Other packages (advisory)", *(f"- {one}" for one in effect_notices(effect))]
    if effect.lost:
        lines += ["", *(f"- {_code(one.package)}: {lost_text(one)}" for one in effect.lost)]
    if effect.more:
        lines.append(f"- … and {effect.more:,} more")
    return ["\n".join(lines)]


def _buttons(part: Summary) -> tuple[Button, ...]:
    counts = part.counts
    return ((BUTTON_ERRORS,) if counts.errored or counts.cancelled else ()) + (
        (BUTTON_FAILED,) if counts.failed else ()
    )


def _table(part: Summary) -> str:
    """Returns the table of numbers by platform and kind."""
    cells: dict[tuple[str, JobKind], Counter[str]] = defaultdict(Counter)
    for each in part.tallies:
        cells[each.platform, each.kind][mark(each.standing)] += each.number
    if not cells:
        return "No jobs."
    found = {kind for _, kind in cells}
    kinds = [kind for kind in JobKind if kind in found]
    platforms = dict.fromkeys(platform for platform, _ in cells)
    lines = [
        "| | " + " | ".join(kinds) + " |",
        "|---" * (len(kinds) + 1) + "|",
    ]
    for platform in list(platforms)[:_PLATFORMS]:
        row = [
            " ".join(f"{number} {sign}" for sign, number in sorted(cells[platform, kind].items()))
            for kind in kinds
        ]
        lines.append(f"| {platform or 'repository'} | " + " | ".join(row) + " |")
    if len(platforms) > _PLATFORMS:
        lines.append(f"\n… and {len(platforms) - _PLATFORMS} more platforms")
    return "\n".join(lines)


def _title(standing: Standing, reason: str) -> str:
    """Returns the heading of jobs with the same standing and reason."""
    if standing is Standing.FAILED:
        return f"failed({reason})"
    if standing is Standing.SKIPPED:
        return "Not served: the CI has no worker for these platforms"
    cause = CAUSE_TEXTS[Cause(reason)]
    if standing is Standing.RETRYING:
        return f"Retried automatically: {cause}"
    return f"CI error, not the package's fault: {cause}"


def _section(title: str, number: int, listed: int, groups: list[RowGroup]) -> str:
    """Returns the section of jobs with the same standing and reason.

    Args:
        title: Of the section.
        number: Number of all such jobs.
        listed: Number of those that are in a group here, or in the cascade of a group.
        groups: Those that are shown.
    """
    shown = f", {listed} shown" if listed < number else ""
    lines = [f"### {title} ({number}{shown})"]
    for group in groups:
        job = group.first.job
        where = f" on {job.platform}" if job.platform else ""
        lines.append(f"- {_code(job.title)}{where}{group.others}: {_code(why(group.first))}")
    return "\n".join(lines)


def _code(text: str) -> str:
    """Returns text as code: text of a log must neither format the page nor mention people."""
    line = clip(flat(text.replace("`", "'")), _LINE)
    return f"`{line or '—'}`"
