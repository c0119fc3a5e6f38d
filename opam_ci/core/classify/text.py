"""Judges a text by the rules alone: for logs without facts, be they of this CI or of another."""

from collections.abc import Sequence

from opam_ci.core.classify.attribution import attribute
from opam_ci.core.classify.exits import OpamExit
from opam_ci.core.classify.lines import Line, clean
from opam_ci.core.classify.matching import TextVerdict
from opam_ci.core.classify.rulebook import every_rule
from opam_ci.core.job import Phase
from opam_ci.core.outcome import Cause, FailureReason

_OF_SOMEBODY = {
    FailureReason.BUILD,
    FailureReason.TEST,
    FailureReason.SOURCE,
    FailureReason.CHECKSUM,
}
"""Reasons that may be a dependency's as well as the package's own."""


def classify_text(text: str, *, exit_code: int | None, phase: Phase | None) -> TextVerdict:
    """Judges a log, or an excerpt of one, by its words alone.

    Args:
        text: The text, escape codes and all.
        exit_code: Exit code of what wrote it, if known.
        phase: Phase it comes from, if known; None makes every rule a candidate.

    Returns:
        The verdict. Words alone cannot prove success, and unknown words prove nothing.
    """
    lines = clean(text)
    verdict = every_rule().first_match(lines, phase)
    if verdict is None or (verdict.outcome == "unknown" and exit_code in _EXITS):
        verdict = _of_exit(exit_code)
    return blamed(verdict, lines)


_EXITS = {
    OpamExit.LOCKED: Cause.OPAM_INTERNAL,
    OpamExit.CONFIGURATION_ERROR: Cause.OPAM_INTERNAL,
    OpamExit.SOLVER_FAILURE: Cause.SOLVER_TIMEOUT,
    OpamExit.INTERNAL_ERROR: Cause.OPAM_INTERNAL,
}
"""Exit codes that no other program has a use for, and that mean one thing."""


def _of_exit(exit_code: int | None) -> TextVerdict:
    """Judges by an exit code alone, where no word says anything."""
    if exit_code in _EXITS:
        return TextVerdict(
            outcome="errored",
            cause=_EXITS[OpamExit(exit_code)],
            rule=f"exit-{exit_code}",
            rationale="opam's own exit code for a fault that no package can cause.",
        )
    return TextVerdict(outcome="unknown")


def blamed(verdict: TextVerdict, lines: Sequence[Line]) -> TextVerdict:
    """Turns a failure into a dependency's, where the log says that one failed."""
    if verdict.outcome != "failed" or verdict.reason not in _OF_SOMEBODY:
        return verdict
    package = attribute(lines).blame
    if package is None:
        return verdict
    return verdict.model_copy(update={"reason": FailureReason.DEPENDENCY, "package": package})
