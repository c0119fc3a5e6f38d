"""What proves a package failure although no code of a package ran: one table.

Whatever else fails before package code runs is the CI's affair, however often it is repeated. Each
row has a test: tests/unit/test_positive_proofs.py.
"""

from opam_ci.core.classify.rule import PACKAGE_PHASES
from opam_ci.core.job import Phase
from opam_ci.core.model import Frozen
from opam_ci.core.outcome import Failed, FailureReason


class Proof(Frozen):
    """A failure that needs no package code to have run.

    Attributes:
        reason: Of the failure.
        phase: Where it is found.
        rules: Rules that prove it there.
        why: Why it can only be the submission's, or its dependency's.
    """

    reason: FailureReason
    phase: Phase
    rules: frozenset[str]
    why: str


_GONE = frozenset(
    {"source-not-found", "repository-gone", "ref-missing", "submodule-missing", "source-archive"}
)

PROOFS = (
    Proof(
        reason=FailureReason.MERGE_CONFLICT,
        phase=Phase.CHECKOUT,
        rules=frozenset({"merge-conflict"}),
        why="git merged two commits that it has and names the files that conflict",
    ),
    *(
        Proof(
            reason=FailureReason.OPAM_FILE,
            phase=phase,
            rules=frozenset({"opam-file-unreadable"}),
            why="opam read the file of the submission and says where its syntax is wrong",
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
    Proof(
        reason=FailureReason.NOT_INSTALLED,
        phase=Phase.VERIFY,
        rules=frozenset({"not-installed"}),
        why="opam's report says that it installed the package, whose commands have run",
    ),
)


def is_proven(outcome: Failed) -> bool:
    """Whether a failure of a build job rests on package code that ran, or on a positive proof."""
    evidence = outcome.evidence
    return evidence.phase in PACKAGE_PHASES or any(
        proof.reason is outcome.reason
        and proof.phase is evidence.phase
        and evidence.rule in proof.rules
        for proof in PROOFS
    )
