"""How a verdict that was given is judged again."""

from datetime import timedelta

from opam_ci.core.incidents.signature import SAME_FAILURE
from opam_ci.core.incidents.verdicts import Doubt
from opam_ci.core.outcome import Cause, Errored, Failed, Outcome


def is_rejudged(outcome: Outcome | None) -> bool:
    """Whether a verdict was given on the word of other jobs."""
    return isinstance(outcome, Errored) and outcome.evidence.rule == SAME_FAILURE


def rejudged(outcome: Failed, detail: str) -> Errored:
    """Returns the verdict that a job gets instead.

    Args:
        outcome: Its own.
        detail: Why, in words.
    """
    was = f"{outcome.blame}: {outcome.evidence.detail}" if outcome.blame else None
    known = (detail, was or outcome.evidence.detail)
    evidence = outcome.evidence.model_copy(
        update={"rule": SAME_FAILURE, "detail": "; ".join(filter(None, known))}
    )
    return Errored(cause=Cause.UNKNOWN, evidence=evidence)


def doubt_in_words(doubt: Doubt) -> str:
    """Returns why verdicts are in doubt."""
    minutes = max(1, -(-doubt.span // timedelta(minutes=1)))
    within = "a minute" if minutes == 1 else f"{minutes} minutes"
    return f"{doubt.pull_requests} unrelated pull requests failed the same way within {within}"
