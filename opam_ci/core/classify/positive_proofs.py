"""Proofs of a package failure although no code of a package ran: one table.

Every other failure before package code runs is an infrastructure fault, however often it repeats.
Each row has a test: tests/unit/core/jobs/test_positive_proofs.py.
"""

from opam_ci.core.classify.rulebook import RULES
from opam_ci.core.jobs.job import PACKAGE_PHASES, Phase
from opam_ci.core.jobs.outcome import Failed, FailureReason, SkipReason
from opam_ci.core.model import Frozen
from opam_ci.core.submission.admission import CHANGE_REFUSED


class Proof(Frozen):
    """A failure that needs no package code to have run.

    Attributes:
        reason: Of the failure.
        phase: The phase that finds it; None if no build job does.
        rules: Rules that prove it there.
        why: Why it can only be a fault of the submission, or of its dependency.
    """

    reason: FailureReason
    phase: Phase | None
    rules: frozenset[str]
    why: str


_GONE = frozenset(
    {"source-not-found", "repository-gone", "ref-missing", "submodule-missing", "source-archive"}
)

_SKIPS = frozenset(
    {
        *("solver-conflict", "solver-unavailable", "package-unavailable"),
        *(rule.id for rule in RULES if rule.reason is SkipReason.DEPEXT_UNAVAILABLE),
    }
)

KNOWN_FAILURE = "dependency-known-to-fail"
"""Rule of a job that was ended since a dependency is known to fail."""

PROOFS = (
    Proof(
        reason=FailureReason.MERGE_CONFLICT,
        phase=Phase.CHECKOUT,
        rules=frozenset({"merge-conflict"}),
        why="git has both commits, and names the files that conflict",
    ),
    *(
        Proof(
            reason=FailureReason.OPAM_FILE,
            phase=phase,
            rules=frozenset({"opam-file-unreadable"}),
            why="opam read the file of the submission and reports where its syntax is wrong",
        )
        for phase in (Phase.SETUP, Phase.SOLVE)
    ),
    Proof(
        reason=FailureReason.SOURCE,
        phase=Phase.FETCH,
        rules=_GONE,
        why="the host that the opam file names answered, and does not have the source",
    ),
    Proof(
        reason=FailureReason.CHECKSUM,
        phase=Phase.FETCH,
        rules=frozenset({"source-checksum"}),
        why="the host serves the same bytes again, and their checksum is not the opam file's",
    ),
    Proof(
        reason=FailureReason.DEPENDENCY,
        phase=Phase.FETCH,
        rules=_GONE | {"source-checksum"},
        why="the same, of a dependency",
    ),
    *(
        Proof(
            reason=FailureReason.DEPENDENCY,
            phase=phase,
            rules=frozenset({KNOWN_FAILURE}),
            why="in two attempts commands of the dependency, made of the same, failed alike",
        )
        for phase in (Phase.SOLVE, Phase.DEPEXTS)
    ),
    Proof(
        reason=FailureReason.NOT_INSTALLED,
        phase=Phase.VERIFY,
        rules=frozenset({"not-installed"}),
        why="opam reports that it installed the package, whose commands have run",
    ),
    Proof(
        reason=FailureReason.ANALYSIS,
        phase=Phase.CHECKOUT,
        rules=frozenset({CHANGE_REFUSED}),
        why="the change is public, and the message names the path or the limit",
    ),
    Proof(
        reason=FailureReason.LINT,
        phase=None,
        rules=frozenset({"lint-findings"}),
        why="each finding names what is wrong in the opam file",
    ),
    *(
        Proof(
            reason=FailureReason.NOT_INSTALLABLE,
            phase=phase,
            rules=_SKIPS,
            why="the solver answered on every platform, over all packages of the merge",
        )
        for phase in (Phase.SOLVE, Phase.DEPEXTS)
    ),
)
"""The table. `merge-conflict` is found in the analysis."""


def is_proven(outcome: Failed) -> bool:
    """Whether package code ran before a failure, or a positive proof supports it."""
    evidence = outcome.evidence
    return evidence.phase in PACKAGE_PHASES or any(
        proof.reason is outcome.reason
        and proof.phase is evidence.phase
        and evidence.rule in proof.rules
        for proof in PROOFS
    )
