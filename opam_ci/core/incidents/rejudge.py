"""Replacing a verdict that is in doubt."""

from datetime import timedelta

from opam_ci.core.incidents.fingerprint import SAME_FAILURE
from opam_ci.core.incidents.verdicts import Doubt
from opam_ci.core.jobs.outcome import Cause, Errored, Failed, Outcome


def is_rejudged(outcome: Outcome | None) -> bool:
    """Whether a verdict was revised in the light of other jobs' verdicts."""
    return isinstance(outcome, Errored) and outcome.evidence.rule == SAME_FAILURE


def rejudged(outcome: Failed, detail: str) -> Errored:
    """Returns the verdict that replaces a failure.

    Args:
        outcome: The failure.
        detail: Why it is replaced.
    """
    was = f"{outcome.blame}: {outcome.evidence.detail}" if outcome.blame else None
    known = (detail, was or outcome.evidence.detail)
    evidence = outcome.evidence.model_copy(
        update={"rule": SAME_FAILURE, "detail": "; ".join(filter(None, known))}
    )
    return Errored(cause=Cause.UNKNOWN, evidence=evidence)


def doubt_detail(doubt: Doubt) -> str:
    """Returns why verdicts are in doubt, as a sentence."""
    minutes = max(1, -(-doubt.span // timedelta(minutes=1)))
    within = "a minute" if minutes == 1 else f"{minutes} minutes"
    return f"{doubt.pull_requests} unrelated pull requests failed the same way within {within}"
