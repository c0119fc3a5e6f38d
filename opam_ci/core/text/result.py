"""Texts of the result of a head: numbers of builds and tests, and the state of all other jobs."""

import re
from collections import Counter

from opam_ci.core.classify.salience import salient_line
from opam_ci.core.incidents.rejudge import is_rejudged
from opam_ci.core.jobs.hold import Hold
from opam_ci.core.jobs.installable import is_not_installable
from opam_ci.core.jobs.job import JobKind
from opam_ci.core.jobs.outcome import Failed, FailedWithout, OnBase, Outcome, SkipReason
from opam_ci.core.jobs.summary import BUILDS_NOTHING, UNDECIDED, Counts, Standing, Summary
from opam_ci.core.printable import flat
from opam_ci.core.submission.result import BUILT_KINDS, ChangeKind
from opam_ci.core.text.effect import effect_text

SKIP_TEXTS = {
    SkipReason.UNAVAILABLE: "not available here",
    SkipReason.NO_SOLUTION: "cannot be installed here",
    SkipReason.DEPEXT_UNAVAILABLE: "a system package does not exist here",
    SkipReason.DEPEXT_NOT_INSTALLED: "a system package is not installed here",
    SkipReason.NOT_MIRRORED: "not in the offline mirror",
    SkipReason.ACCEPTED_FAILURE: "the failure is accepted",
    SkipReason.NOT_BUILT: "the build did not pass",
    SkipReason.NOT_SERVED: "no worker for the platform",
    SkipReason.FAILS_ON_BASE: "fails without this change, too",
    SkipReason.STOPPED_EARLY: "not run",
    SkipReason.WAIVED: "the failure is waived",
}

ON_BASE_TEXTS = {
    OnBase.PASSES: "it passes: the change broke it",
    OnBase.FAILS: "it fails in the same way",
    OnBase.FAILS_OTHERWISE: "it fails, too, but in another way",
    OnBase.NOT_BUILT: "it cannot be installed",
    OnBase.UNKNOWN: "it has no verdict, since the CI is at fault",
}

CHANGE_TEXTS = {
    ChangeKind.DELETED: "deleted",
    ChangeKind.UNAVAILABLE: "available on no platform",
    ChangeKind.INSIGNIFICANTLY_CHANGED: "no change that a build sees",
}

_OTHER_KINDS = {
    JobKind.ANALYSIS: "analysis",
    JobKind.LINT: "lint",
    JobKind.IMAGE: "the build image",
    JobKind.LIST_REVDEPS: "the listing of reverse dependencies",
}
_AUXILIARY = {JobKind.IMAGE, JobKind.LIST_REVDEPS}
"""Kinds that only other jobs need: they are mentioned if something is wrong with them."""

_MARK = re.compile(r"^[-#|] +")
"""Opam's prefix of each line of a command's output."""

_WORST_FIRST = ("failed", "errored", "cancelled", "under way", "skipped", "passed")


def reason_line(outcome: Outcome) -> str:
    """Returns the reason of an outcome in one line, by preference a line of the log.

    For a revised verdict the evidence of other jobs comes first: the log alone suggests another
    verdict. Why a package cannot be installed is clearer in the detail than in the log.
    """
    if outcome.kind == "cancelled":
        return {
            "superseded": "a newer head replaced this one",
            "closed": "the pull request was closed",
            "request": "cancelled on request",
        }[outcome.by]
    evidence = outcome.evidence
    detail = evidence.detail
    if outcome.kind == "skipped" and outcome.reason is SkipReason.WAIVED and evidence.waiver:
        detail = evidence.waiver.because
    blame = f"{outcome.blame}: " if isinstance(outcome, Failed) and outcome.blame else ""
    lines = [_MARK.sub("", line.text.strip()) for line in evidence.lines]
    if is_rejudged(outcome):
        return f"{evidence.detail}: {lines[0]}" if lines else f"{evidence.detail}"
    if outcome.kind == "skipped" and outcome.reason is SkipReason.ACCEPTED_FAILURE and lines:
        # Only the first part of the detail: the rest repeats the line.
        return f"{(evidence.detail or '').partition(';')[0]}: {salient_line(lines)}"
    if detail and (outcome.kind == "skipped" or is_not_installable(outcome)):
        return flat(detail)
    if lines:
        return blame + salient_line(lines, detail)
    return blame + (detail or evidence.rule)


def counts_text(counts: Counts) -> str:
    """Returns numbers as text, the worst first."""
    parts = [
        f"{number} {word}"
        for number, word in (
            (counts.failed, "failed"),
            (counts.errored, "errored"),
            (counts.cancelled, "cancelled"),
            (counts.skipped, "skipped"),
            (counts.passed, "passed"),
        )
        if number
    ]
    return ", ".join(parts) or "no builds"


def ran_text(summary: Summary) -> str:
    """Returns the numbers of builds and tests, those that do not count apart."""
    skips: Counter[str] = Counter()
    for each in summary.tallies:
        if each.standing is Standing.SKIPPED:
            skips[each.why] += each.number
    apart = {
        SkipReason.STOPPED_EARLY: "not run: all before fail alike",
        SkipReason.WAIVED: "waived",
        SkipReason.FAILS_ON_BASE: (
            "fails without this change, too"
            if skips[SkipReason.FAILS_ON_BASE] == 1
            else "fail without this change, too"
        ),
    }
    known = sum(skips[each] for each in apart)
    others = summary.ran.model_copy(update={"skipped": summary.ran.skipped - known})
    numbers = [counts_text(others)] if others.decided or not known else []
    numbers += [f"{skips[each]:,} {text}" for each, text in apart.items() if skips[each]]
    return ", ".join(numbers)


def fixed_text(summary: Summary) -> str:
    """Returns how many jobs pass that fail without the change; empty for none."""
    who = "it fails" if summary.fixed == 1 else "they fail"
    return f"{summary.fixed:,} fixed: {who} without this change" if summary.fixed else ""


def fixes_line(without: FailedWithout) -> str:
    """Returns how a job that passed fails without the change."""
    return f"without this change it fails: {flat(without.line)}"


def other_jobs(summary: Summary, *, passed: bool = True) -> str:
    """Returns the state of the jobs that build nothing, empty if there is nothing to report.

    Args:
        summary: The state.
        passed: Whether to mention those that all passed.
    """
    found: dict[JobKind, Counter[str]] = {kind: Counter() for kind in _OTHER_KINDS}
    for each in summary.tallies:
        waits = summary.hold is not None and each.standing is Standing.QUEUED
        if each.kind in found and not waits:
            word = "under way" if each.standing in UNDECIDED else each.standing.value
            found[each.kind][word] += each.number
    names: dict[str, list[str]] = {}
    for kind, name in _OTHER_KINDS.items():
        numbers = found[kind]
        worst = next((word for word in _WORST_FIRST if numbers[word]), None)
        if worst is None or (kind in _AUXILIARY and worst in {"passed", "skipped"}):
            continue
        is_mixed = worst != "passed" and len(numbers) > 1
        share = f" ({numbers[worst]} of {numbers.total()})" if is_mixed else ""
        names.setdefault(worst, []).append(name + share)
    if not passed or len(names) > 1:
        names.pop("passed", None)
    return "; ".join(
        f"{' and '.join(names[word])} {word}" for word in _WORST_FIRST if word in names
    )


def unserved_text(summary: Summary) -> str:
    """Returns how many platforms no worker serves; empty if each is served."""
    number = summary.unserved
    return f"{number} platform{'s' * (number != 1)} not served" if number else ""


def _unbuilt(summary: Summary) -> str:
    """Returns why nothing was built; empty if something was."""
    ran = summary.ran
    if ran.total > ran.skipped:
        return ""
    if not ran.total:
        if summary.unserved:
            return "nothing was built"
        if any(changed.kind in BUILT_KINDS for changed in summary.packages):
            return "nothing was built: no build was requested"
        kinds = dict.fromkeys(changed.kind for changed in summary.packages)
        why = ", ".join(CHANGE_TEXTS[kind] for kind in kinds if kind in CHANGE_TEXTS)
        return "nothing needed a build" + (f" ({why})" if why else "")
    skips = [each for each in summary.tallies if each.kind not in BUILDS_NOTHING and each.number]
    reasons: Counter[SkipReason] = Counter()
    for each in skips:
        reasons[SkipReason(each.why)] += each.number
    if len(reasons) > 1:
        # A skip that follows from another one is not a reason of its own.
        reasons.pop(SkipReason.NOT_BUILT, None)
    words = ", ".join(SKIP_TEXTS[reason] for reason, _ in reasons.most_common(2))
    only_builds = all(each.kind is JobKind.BUILD for each in skips)
    what = ("build" if only_builds else "job") + "s" * (ran.skipped != 1)
    return f"nothing was built: {ran.skipped} {what} skipped ({words})"


def result(summary: Summary, *, builds: bool = True, fixes: bool = True) -> str:
    """Returns the result of a head: the numbers of builds and tests, then the other jobs.

    Args:
        summary: Its state.
        builds: Whether its jobs are meant to build something.
        fixes: Whether to mention what it fixes.
    """
    analysis = next((row.outcome for row in summary.jobs if row.job.kind is JobKind.ANALYSIS), None)
    if isinstance(analysis, Failed):
        return f"analysis failed: {flat(reason_line(analysis))}"
    builds_text = (_unbuilt(summary) or ran_text(summary)) if builds else ""
    effect = effect_text(summary.effect)
    fixed = fixed_text(summary) if fixes else ""
    parts = (builds_text, fixed, effect, unserved_text(summary), other_jobs(summary))
    return _joined(*parts) or "nothing to do"


def all_counts_text(summary: Summary) -> str:
    """Returns the numbers, and what is wrong with the other jobs, for use in parentheses."""
    numbers = ran_text(summary) if summary.ran.total else ""
    others = other_jobs(summary, passed=not numbers)
    return _joined(numbers, unserved_text(summary), others) or "no builds"


def is_stopped(summary: Summary) -> bool:
    """Whether jobs were cancelled and none is under way any more."""
    counts = summary.counts
    return counts.cancelled > 0 and not counts.undecided


def _conclusion(summary: Summary) -> str:
    """Returns the step that follows once every job is decided; empty if it is done."""
    is_due = not summary.concluded and not summary.counts.undecided
    return "comparing results across platforms" if is_due else ""


def _joined(*texts: str) -> str:
    return "; ".join(filter(None, texts))


def hold_text(hold: Hold | None) -> str:
    """Returns what queued jobs wait for, and who may say so; empty if they wait for nothing."""
    if hold is None:
        return ""
    if hold.until is None:
        return "new author: the rest waits for /opam-ci ok by somebody with triage or write access"
    return (
        f"revdeps wait until {hold.until:%H:%M} UTC or /opam-ci ok by a maintainer: "
        f"the author's jobs used {hold.used:.1f} of {hold.hours:g} CPU hours today"
    )


def progress(summary: Summary) -> str:
    """Returns the progress of a head: numbers of builds and tests, and the other jobs."""
    if not summary.planned:
        return "queueing the jobs" if summary.is_analysed else "analysing the change"
    ran = summary.ran
    done = f"{ran.decided}/{ran.total} done" if ran.total else ""
    if ran.failed:
        done += f", {ran.failed} failed"
    others = other_jobs(summary, passed=not done)
    unserved, hold = unserved_text(summary), hold_text(summary.hold)
    return _joined(done, unserved, hold, others, _conclusion(summary))


def standing(summary: Summary) -> str:
    """Returns the progress of an undecided head, or the result of a decided one."""
    if not summary.planned and not is_stopped(summary):
        return progress(summary)
    if summary.counts.undecided or _conclusion(summary):
        numbers = ran_text(summary) if summary.ran.decided else ""
        to_go = f"{summary.ran.undecided} to go" if summary.ran.undecided else ""
        others = other_jobs(summary, passed=False)
        unserved = unserved_text(summary)
        hold = hold_text(summary.hold)
        return _joined(numbers, to_go, unserved, hold, others, _conclusion(summary))
    return result(summary)
