"""How a verdict that was given is judged again: pure, from the row that has it."""

from datetime import timedelta

from opam_ci.core.incidents.messages import RejudgedJob
from opam_ci.core.incidents.signature import SAME_FAILURE, signature
from opam_ci.core.incidents.verdicts import Doubt
from opam_ci.core.outcome import Cause, Errored, Evidence, Failed, FailureReason, Outcome
from opam_ci.core.plan import FOLLOWED
from opam_ci.core.summary import JobStatus

OWN_FAULT = "own-fault"
"""Rule of a fault that three workers met: no index reports it any more (ADR 0015); open workflows
have it in their histories."""

REJUDGED = frozenset({SAME_FAILURE, OWN_FAULT})
"""Rules of verdicts that were given on the word of other jobs."""


def is_rejudged(outcome: Outcome | None) -> bool:
    """Whether a verdict was given on the word of other jobs."""
    return isinstance(outcome, Failed | Errored) and outcome.evidence.rule in REJUDGED


def rejudged(row: JobStatus, said: RejudgedJob) -> Failed | Errored | None:
    """Returns the verdict that a job gets instead; None where its own stands.

    It stands when the job has gone on to another round, was judged again before, or is in
    no state of which the word can be true.
    """
    if row.round != said.round or is_rejudged(row.outcome):
        return None
    if said.rule == OWN_FAULT:
        return _own(row, said.detail)
    outcome = row.outcome
    if not isinstance(outcome, Failed) or signature(outcome, row.job) is None:
        return None
    was = f"{outcome.blame}: {outcome.evidence.detail}" if outcome.blame else None
    known = (said.detail, was or outcome.evidence.detail)
    evidence = outcome.evidence.model_copy(
        update={"rule": SAME_FAILURE, "detail": "; ".join(filter(None, known))}
    )
    return Errored(cause=Cause.UNKNOWN, evidence=evidence)


def _own(row: JobStatus, detail: str) -> Failed | None:
    outcome = row.outcome
    evidence: Evidence
    if outcome is None and row.faults:
        evidence = row.faults[-1].evidence
    elif isinstance(outcome, Errored) and outcome.evidence.rule not in FOLLOWED:
        evidence = outcome.evidence
    else:
        return None
    known = filter(None, (detail, evidence.detail))
    return Failed(
        reason=FailureReason.OWN_FAULT,
        evidence=evidence.model_copy(update={"rule": OWN_FAULT, "detail": "; ".join(known)}),
    )


def doubted_jobs(doubt: Doubt) -> tuple[RejudgedJob, ...]:
    """Returns what the jobs of a doubt are told."""
    minutes = max(1, -(-doubt.span // timedelta(minutes=1)))
    within = "a minute" if minutes == 1 else f"{minutes} minutes"
    detail = f"{doubt.pull_requests} unrelated pull requests failed the same way within {within}"
    return tuple(
        RejudgedJob(job=each.job, round=each.round, rule=SAME_FAILURE, detail=detail)
        for each in doubt.verdicts
    )
