"""Verdicts of jobs with the same inputs."""

from opam_ci.core.jobs.known_verdict import KnownVerdict
from opam_ci.core.jobs.outcome import Failed, Passed, Reused
from tests.support.samples.known_failures import failed, seen

RAN = Reused.model_validate(seen().model_dump())
"""The attempt that has them."""


def known_verdict(outcome: Passed | Failed | None = None) -> KnownVerdict:
    """The verdict, by default that a dependency fails."""
    outcome = outcome or failed()
    evidence = outcome.evidence.model_copy(update={"reused": RAN})
    return KnownVerdict(outcome=outcome.model_copy(update={"evidence": evidence}), log="logs/l")
