"""What a head came to, in words: numbers of builds and tests, the rest named apart."""

import re
from collections import Counter

from opam_ci.core.analysis_result import ChangeKind
from opam_ci.core.classify.telling import telling
from opam_ci.core.incidents.rejudge import is_rejudged
from opam_ci.core.installable import is_not_installable
from opam_ci.core.job import JobKind
from opam_ci.core.outcome import Failed, Outcome, SkipReason
from opam_ci.core.plan import BUILT_KINDS
from opam_ci.core.summary import BUILDS_NOTHING, UNDECIDED, Counts, Summary

SKIP_WORDS = {
    SkipReason.UNAVAILABLE: "not available here",
    SkipReason.NO_SOLUTION: "cannot be installed here",
    SkipReason.DEPEXT_UNAVAILABLE: "a system package does not exist here",
    SkipReason.NOT_MIRRORED: "not in the offline mirror",
    SkipReason.ACCEPTED_FAILURE: "the failure is accepted",
    SkipReason.NOT_BUILT: "the build did not pass",
}

CHANGE_WORDS = {
    ChangeKind.DELETED: "deleted",
    ChangeKind.UNAVAILABLE: "available on no platform",
    ChangeKind.INSIGNIFICANTLY_CHANGED: "no change that a build sees",
}

_APART_KINDS = {
    JobKind.ANALYSIS: "analysis",
    JobKind.LINT: "lint",
    JobKind.IMAGE: "the build image",
    JobKind.LIST_REVDEPS: "the listing of reverse dependencies",
}
_HELPS = {JobKind.IMAGE, JobKind.LIST_REVDEPS}
"""Kinds that only others need: they are named if something is wrong with them."""

_MARK = re.compile(r"^[-#|] +")
"""What opam puts before each line of a command's output."""

_APART_ORDER = ("failed", "errored", "cancelled", "under way", "skipped", "passed")


def printable(text: str) -> str:
    """Returns text without control characters: log lines are hostile to terminals."""
    return "".join(char if char.isprintable() else " " for char in text)


def flat(text: str) -> str:
    """Returns text on one line, without control characters."""
    return " ".join(printable(text).split())


def reason_line(outcome: Outcome) -> str:
    """Returns the one line that says why: the log's own words before ours.

    Where other jobs decided, what they say comes first: the log alone speaks for another
    verdict. Why a package cannot be installed is said better by the detail than by the log.
    """
    if outcome.kind == "cancelled":
        return {
            "superseded": "a newer head replaced this one",
            "closed": "the pull request was closed",
            "request": "cancelled on request",
        }[outcome.by]
    evidence = outcome.evidence
    blame = f"{outcome.blame}: " if isinstance(outcome, Failed) and outcome.blame else ""
    lines = [_MARK.sub("", line.text.strip()) for line in evidence.lines]
    if is_rejudged(outcome):
        return f"{evidence.detail}: {lines[0]}" if lines else f"{evidence.detail}"
    if outcome.kind == "skipped" and outcome.reason is SkipReason.ACCEPTED_FAILURE and lines:
        # What was accepted, without what is in the line anyway.
        return f"{(evidence.detail or '').partition(';')[0]}: {telling(lines)}"
    if evidence.detail and (outcome.kind == "skipped" or is_not_installable(outcome)):
        return flat(evidence.detail)
    if lines:
        return blame + telling(lines, evidence.detail)
    return blame + (evidence.detail or evidence.rule)


def tally(counts: Counts) -> str:
    """Returns numbers in words, the worst first."""
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


def apart(summary: Summary, *, passed: bool = True) -> str:
    """Returns how the jobs that build nothing stand, empty if nothing is to say.

    Args:
        summary: The state.
        passed: Whether to say, too, that nothing is wrong with them.
    """
    found: dict[JobKind, Counter[str]] = {kind: Counter() for kind in _APART_KINDS}
    for each in summary.tallies:
        if each.kind in found:
            word = "under way" if each.standing in UNDECIDED else each.standing.value
            found[each.kind][word] += each.number
    names: dict[str, list[str]] = {}
    for kind, name in _APART_KINDS.items():
        stand = found[kind]
        worst = next((word for word in _APART_ORDER if stand[word]), None)
        if worst is None or (kind in _HELPS and worst in {"passed", "skipped"}):
            continue
        many = (
            f" ({stand[worst]} of {stand.total()})" if worst != "passed" and len(stand) > 1 else ""
        )
        names.setdefault(worst, []).append(name + many)
    if not passed or len(names) > 1:
        names.pop("passed", None)
    said = (f"{' and '.join(names[word])} {word}" for word in _APART_ORDER if word in names)
    return "; ".join(said)


def unbuilt(summary: Summary) -> str:
    """Returns that nothing was built, and why; empty if something was."""
    ran = summary.ran
    if ran.total > ran.skipped:
        return ""
    if not ran.total:
        if any(changed.kind in BUILT_KINDS for changed in summary.packages):
            return "nothing was built: no build was asked for"
        kinds = dict.fromkeys(changed.kind for changed in summary.packages)
        why = ", ".join(CHANGE_WORDS[kind] for kind in kinds if kind in CHANGE_WORDS)
        return "nothing needed a build" + (f" ({why})" if why else "")
    skips = [each for each in summary.tallies if each.kind not in BUILDS_NOTHING and each.number]
    reasons: Counter[SkipReason] = Counter()
    for each in skips:
        reasons[SkipReason(each.why)] += each.number
    if len(reasons) > 1:
        # What followed from another skip is no reason of its own.
        reasons.pop(SkipReason.NOT_BUILT, None)
    words = ", ".join(SKIP_WORDS[reason] for reason, _ in reasons.most_common(2))
    only_builds = all(each.kind is JobKind.BUILD for each in skips)
    what = ("build" if only_builds else "job") + "s" * (ran.skipped != 1)
    return f"nothing was built: {ran.skipped} {what} skipped ({words})"


def result(summary: Summary, *, builds: bool = True) -> str:
    """Returns in words what came of a head: the numbers of builds and tests, then the rest.

    Args:
        summary: Its state.
        builds: Whether the jobs that it has are meant to build something.
    """
    analysis = next((row.outcome for row in summary.jobs if row.job.kind is JobKind.ANALYSIS), None)
    if isinstance(analysis, Failed):
        return f"analysis failed: {flat(reason_line(analysis))}"
    words = (unbuilt(summary) or tally(summary.ran)) if builds else ""
    return "; ".join(filter(None, (words, apart(summary)))) or "nothing was to be done"


def tally_of_all(summary: Summary) -> str:
    """Returns the numbers, and what is wrong with the rest, for brackets."""
    numbers = tally(summary.ran) if summary.ran.total else ""
    return "; ".join(filter(None, (numbers, apart(summary, passed=not numbers)))) or "no builds"


def is_stopped(summary: Summary) -> bool:
    """Whether nothing is under way any more, since jobs were cancelled."""
    counts = summary.counts
    return counts.cancelled > 0 and not counts.undecided


def _left(summary: Summary) -> str:
    """Returns what is still to be decided once every job is."""
    is_left = not summary.concluded and not summary.counts.undecided
    return "comparing results across platforms" if is_left else ""


def progress(summary: Summary) -> str:
    """Returns how far a head is: how many builds and tests are done, and what else is not."""
    if not summary.planned:
        return "queueing the jobs" if summary.is_analysed else "analysing the change"
    ran = summary.ran
    done = f"{ran.decided}/{ran.total} done" if ran.total else ""
    if ran.failed:
        done += f", {ran.failed} failed"
    return "; ".join(filter(None, (done, apart(summary, passed=not done), _left(summary))))


def standing(summary: Summary) -> str:
    """Returns how a head stands, be it decided or not."""
    if not summary.planned and not is_stopped(summary):
        return progress(summary)
    if summary.counts.undecided or _left(summary):
        numbers = tally(summary.ran) if summary.ran.decided else ""
        to_go = f"{summary.ran.undecided} to go" if summary.ran.undecided else ""
        words = (numbers, to_go, apart(summary, passed=False), _left(summary))
        return "; ".join(filter(None, words))
    return result(summary)
