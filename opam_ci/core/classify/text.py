"""Judging a text by the rules alone: for logs without facts, of this CI or of another."""

from collections.abc import Sequence

from opam_ci.core.classify.attribution import attribute
from opam_ci.core.classify.exits import OpamExit
from opam_ci.core.classify.lines import Line, clean
from opam_ci.core.classify.matching import TextVerdict
from opam_ci.core.classify.rulebook import every_rule
from opam_ci.core.jobs.job import Phase
from opam_ci.core.jobs.outcome import Cause, FailureReason

_DEPENDENCY_TOO = {
    FailureReason.BUILD,
    FailureReason.TEST,
    FailureReason.SOURCE,
    FailureReason.CHECKSUM,
}
"""Reasons that may be those of a dependency as well as of the package itself."""


def classify_text(text: str, *, exit_code: int | None, phase: Phase | None) -> TextVerdict:
    """Judge a log, or an excerpt of one, by its text alone.

    Args:
        text: The text, with its escape codes.
        exit_code: Exit code of the command that wrote it, if known.
        phase: Phase it is from, if known; None makes every rule a candidate.

    Returns:
        The verdict. Text alone cannot prove success, and unknown text proves nothing.
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
"""Exit codes that no other program uses, and that have one meaning."""


def _of_exit(exit_code: int | None) -> TextVerdict:
    """Judge by an exit code alone, if no rule matches."""
    if exit_code in _EXITS:
        return TextVerdict(
            outcome="errored",
            cause=_EXITS[OpamExit(exit_code)],
            rule=f"exit-{exit_code}",
            rationale="opam's own exit code for a fault that no package can cause.",
        )
    return TextVerdict(outcome="unknown")


def blamed(verdict: TextVerdict, lines: Sequence[Line]) -> TextVerdict:
    """Turn a failure into that of a dependency, if the log shows that one failed."""
    if verdict.outcome != "failed" or verdict.reason not in _DEPENDENCY_TOO:
        return verdict
    package = attribute(lines).blame
    if package is None:
        return verdict
    return verdict.model_copy(update={"reason": FailureReason.DEPENDENCY, "package": package})
